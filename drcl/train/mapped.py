"""Features that stay on their disk: rows of a memory-mapped array, read when they are needed."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.pages import check_size, file_name, find_mapping, read_rows

Transform: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MappedRows:
    """Rows (N, …) of a memory-mapped array as float32, a few at a time and never copied whole.

    Args:
        array: a NumPy array over an ``np.memmap``, of any real dtype.
        index: the rows that count, in their order; None for all.
        transform: applied to rows as they are read, a standardizer for example.
    """

    array: npt.NDArray[Any]
    index: npt.NDArray[np.int64] | None = None
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.array if self.index is None else self.index)

    @property
    def shape(self) -> torch.Size:
        """(N, …), as of a tensor."""
        return torch.Size((len(self), *self.array.shape[1:]))

    @property
    def ndim(self) -> int:
        """Number of dimensions, as of a tensor."""
        return self.array.ndim

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some rows, as a float32 tensor of its own; OSError if the file has them no more."""
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        if self.index is not None:
            chosen = self.index[chosen]
        in_order = isinstance(chosen, slice)
        # Reading ahead of a row here and a row there, the system would read many times the rows.
        self._advise("MADV_NORMAL" if in_order else "MADV_RANDOM")
        check_size(self.array, "features")
        try:
            read = read_rows(self.array, chosen)
        except OSError as error:
            file = file_name(self.array, "features")
            raise OSError(error.errno, f"{file}: {error.strerror}") from error
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, refused later
            values = read.astype(np.float32, copy=False)
        # Pages that were read count as this process's memory until the system wants them back,
        # which on a large machine is never. They stay in the system's cache.
        self._advise("MADV_DONTNEED")
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor if self.transform is None else self.transform(tensor)

    def select(self, mask: Tensor) -> MappedRows:
        """Only the rows where ``mask`` (N,) is True; nothing is read."""
        rows = mask.nonzero()[:, 0].numpy()
        return replace(self, index=rows if self.index is None else self.index[rows])

    def transformed(self, transform: Transform) -> MappedRows:
        """The same rows, with ``transform`` applied as they are read."""
        return replace(self, transform=transform)

    def _advise(self, advice: str) -> None:
        """Tell the system how the mapping is used, where it can be told."""
        mapping = find_mapping(self.array)
        if mapping is not None and hasattr(mmap, advice):
            mapping.madvise(getattr(mmap, advice))
