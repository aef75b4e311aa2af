"""Embeddings wherever they are: one array, chunks, an iterator of chunks, or a mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.precision import with_float64
from drcl.storage.mmap import check_size, is_mapped
from drcl.tensors import as_features, as_tensor, check_unmasked, is_array

Array: TypeAlias = Tensor | npt.NDArray[np.generic]
Gallery: TypeAlias = Array | Iterable[Array]

TILE_BYTES = 16 * 2**20  # of rows that are read together


class Embeddings:
    """Rows (N, D), in pieces, as tensors of the dtype that products are made in.

    ``axes`` is what errors call the two.
    """

    def __init__(
        self,
        array: Gallery,
        name: str,
        *,
        may_be_empty: bool = False,
        axes: tuple[str, str] = ("N", "D"),
    ) -> None:
        self.name = name
        parts = array if isinstance(array, (list, tuple)) else [array]
        self._mapped = [part for part in parts if is_mapped(part)]
        self.pieces = _pieces(array, name, may_be_empty, axes)
        self.starts = np.cumsum([0, *(len(piece) for piece in self.pieces)])
        # Half precision and integers are widened.
        double = torch.float64 in [piece.dtype for piece in self.pieces]
        self.dtype = torch.float64 if double else torch.float32
        self.device = self.pieces[0].device

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def width(self) -> int:
        return self.pieces[0].shape[1]

    def whole(self, dtype: torch.dtype) -> Tensor | None:
        """All rows, if they are one tensor of that dtype already."""
        first = self.pieces[0]
        return first if len(self.pieces) == 1 and first.dtype == dtype else None

    def rows(self, kept: Tensor | None, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows start..stop, counted among the kept ones (rising), in a dtype."""
        self.check_files()
        if kept is not None:
            wanted = kept[start:stop]
            if len(wanted) == 0 or int(wanted[-1] - wanted[0]) != len(wanted) - 1:
                return self.at(wanted, dtype)
            start, stop = int(wanted[0]), int(wanted[-1]) + 1  # rising: the rows lie side by side
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, max(stop - 1, start), side="right")) - 1
        if first == last:
            offset = int(self.starts[first])
            return self.converted(self.pieces[first][start - offset : stop - offset], dtype)
        out = self.pieces[first].new_empty((stop - start, self.width), dtype=dtype)
        for p in range(first, last + 1):
            offset = int(self.starts[p])
            piece = self.pieces[p][max(start - offset, 0) : stop - offset]
            self.write(piece, out[max(offset - start, 0) :][: len(piece)])
        return out

    def at(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows at some positions, in a dtype."""
        self.check_files()
        if len(self.pieces) == 1:
            return self.converted(self.pieces[0][positions.to(self.device)], dtype)
        out = self.pieces[0].new_empty((len(positions), self.width), dtype=dtype)
        piece = torch.bucketize(positions, torch.from_numpy(self.starts[1:]), right=True)
        for p in piece.unique().tolist():
            inside = piece == p
            rows = self.pieces[p][positions[inside] - int(self.starts[p])]
            out[inside] = self.converted(rows, dtype)
        return out

    def converted(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a piece as products take them."""
        return rows.to(dtype)

    def write(self, rows: Tensor, out: Tensor) -> None:
        """Rows of a piece, as products take them, in ``out``."""
        out.copy_(rows)

    def check_files(self) -> None:
        """Before rows are read: OSError if a file that they are mapped from has become shorter."""
        for array in self._mapped:
            check_size(array, self.name)

    def norms(
        self, kept: Tensor | None, count: int, dtype: torch.dtype, max_bytes: int = 8 * TILE_BYTES
    ) -> Tensor:
        """Euclidean lengths (count,) in float64; rows with NaN or infinite entries are refused.

        So many rows are looked at together that it takes no more than ``max_bytes`` beside them.
        """
        step = max(1, min(TILE_BYTES, max_bytes // 8) // (8 * self.width))
        found = torch.empty(count, dtype=torch.float64, device=self.device)
        for start in range(0, count, step):
            rows = self.rows(kept, start, min(start + step, count), dtype)
            norms = torch.linalg.vector_norm(rows, dim=1).double()
            # Squares of very large or small entries leave the dtype's range: once more in double.
            odd = ((norms > 1e15) | (norms < 1e-15) | ~norms.isfinite()).nonzero()[:, 0]
            if len(odd):
                wide = rows[odd].double()
                if not bool(wide.isfinite().all()):
                    row = start + int(odd[(~wide.isfinite().all(dim=1)).nonzero()[0, 0]])
                    row = row if kept is None else int(kept[row])
                    raise ValueError(f"{self.name}: row {row} holds NaN or infinite values")
                largest = wide.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
                norms[odd] = torch.linalg.vector_norm(wide / largest, dim=1) * largest[:, 0]
            found[start : start + step] = norms
        return found


class Codes(Embeddings):
    """Binary codes, eight bits a byte (N, bits/8): rows of −1 and 1, whose products are exact.

    The product of two rows is the number of bits less twice the Hamming distance.
    """

    def __init__(self, array: Gallery, name: str, *, may_be_empty: bool = False) -> None:
        super().__init__(array, name, may_be_empty=may_be_empty)
        for piece in self.pieces:
            check_codes(name, piece)
        self.dtype = torch.float32

    @property
    def width(self) -> int:
        return 8 * super().width

    def whole(self, dtype: torch.dtype) -> Tensor | None:
        return None

    def converted(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        out = torch.empty(len(rows), 8 * rows.shape[1], dtype=dtype, device=rows.device)
        self.write(rows, out)
        return out

    def write(self, rows: Tensor, out: Tensor) -> None:
        bits = out.unflatten(1, (-1, 8))
        for place in range(8):  # all at once, the bits would take more than the rows
            bits[:, :, place] = rows.bitwise_and(128 >> place).ne_(0)
        out.mul_(2).sub_(1)

    def norms(
        self, kept: Tensor | None, count: int, dtype: torch.dtype, max_bytes: int = 8 * TILE_BYTES
    ) -> Tensor:
        length = float(self.width) ** 0.5
        return torch.full((count,), length, dtype=torch.float64, device=self.device)


def check_codes(name: str, array: Tensor) -> None:
    """Refuse what is no packed code."""
    if array.dtype != torch.uint8:
        raise ValueError(
            f'{name}: expected codes (N, bits/8) of uint8 for metric="hamming", as '
            f"np.packbits(bits, axis=1) makes them, got {array.dtype}"
        )


def embeddings(array: Gallery, name: str, metric: str, *, may_be_empty: bool = False) -> Embeddings:
    """Embeddings, or codes where the metric is of codes."""
    kind = Codes if metric == "hamming" else Embeddings
    return kind(array, name, may_be_empty=may_be_empty)


def _pieces(array: Gallery, name: str, may_be_empty: bool, axes: tuple[str, str]) -> list[Tensor]:
    count, width = axes
    if is_array(array):
        pieces = [as_features(array, name)]
    elif isinstance(array, Sequence):
        if len(array) and np.ndim(array[0]) == 1:
            check_unmasked(array, name)  # one by one, rows would all be the first
        pieces = [as_features(piece, name) for piece in array]
        if pieces and pieces[0].ndim == 1:  # rows written as lists
            for row, piece in enumerate(pieces):
                if piece.shape != pieces[0].shape:
                    raise ValueError(
                        f"{name}: expected rows of one length, got {tuple(pieces[0].shape)} and, "
                        f"row {row}, {tuple(piece.shape)}"
                    )
            pieces = [torch.stack(pieces)]
    elif isinstance(array, Iterable):
        pieces = [_spooled(array, name, axes)]
    else:
        raise TypeError(f"{name}: expected an array or chunks, got {type(array).__name__}")
    for piece in pieces:
        if piece.ndim != 2 or piece.shape[1] == 0 or piece.shape[1:] != pieces[0].shape[1:]:
            raise ValueError(
                f"{name}: expected ({count}, {width}) arrays of one width, got {tuple(piece.shape)}"
            )
    if may_be_empty and pieces and not any(len(piece) for piece in pieces):
        return [pieces[0].to(with_float64(pieces[0].device))]
    if sum(len(piece) for piece in pieces) == 0:
        shape = tuple(pieces[0].shape) if pieces else ()
        raise ValueError(f"{name}: expected a non-empty ({count}, {width}) array, got {shape}")
    return [piece.to(with_float64(piece.device)) for piece in pieces if len(piece)]


def _spooled(chunks: Iterable[Array], name: str, axes: tuple[str, str]) -> Tensor:
    """Chunks that come once, written to a temporary file: a gallery is read once a query block."""
    with tempfile.TemporaryFile(prefix="drcl-gallery-") as file:
        count, width, dtype = 0, None, None
        for chunk in chunks:
            # A copy in any case: bytes are read, and one row is contiguous whatever its strides.
            tensor = as_features(chunk, name).cpu().clone(memory_format=torch.contiguous_format)
            if tensor.ndim != 2 or tensor.shape[1] == 0 or width not in (None, tensor.shape[1]):
                raise ValueError(
                    f"{name}: expected chunks ({axes[0].lower()}, {width or axes[1]}), got "
                    f"{tuple(tensor.shape)}"
                )
            if dtype not in (None, tensor.dtype):
                raise ValueError(f"{name}: expected one dtype, got {dtype} and {tensor.dtype}")
            width, dtype, count = tensor.shape[1], tensor.dtype, count + len(tensor)
            file.write(tensor.view(torch.uint8).numpy().data)
        if width is None or dtype is None or count == 0:
            raise ValueError(f"{name}: expected a chunk with a row, got none")
        file.flush()
        rows = np.memmap(file, dtype=np.uint8, mode="r", shape=(count, width * dtype.itemsize))
    return as_tensor(rows).view(dtype)
