"""The rows that an index holds: segments one after the other, and which rows are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drcl.index.segment import Segment, key_of
from drcl.index.values import id_of, listed
from drcl.metrics.embeddings import Embeddings
from drcl.storage.mmap import check_size, is_mapped


class Held:
    """Segments, and what follows from them; it never changes: an index that does has another.

    Rows are numbered from 0 through all segments, removed ones among them.
    """

    def __init__(
        self, segments: Sequence[Segment] = (), removed: npt.NDArray[np.int64] | None = None
    ) -> None:
        self.segments = tuple(segments)
        self.removed = np.empty(0, np.int64) if removed is None else removed
        self.starts = np.cumsum([0, *map(len, self.segments)])
        self.total = int(self.starts[-1])
        pieces = [part.arrays["rows"] for part in self.segments]
        self.rows = Embeddings(pieces, "index") if pieces else None
        self.width = None if self.rows is None else self.rows.width
        self.kind = self.segments[0].ids.kind if self.segments else None
        # The arrays of a segment's file are of one mapping.
        arrays = [next(filter(is_mapped, p.arrays.values()), None) for p in self.segments]
        self._mapped = [array for array in (*arrays, self.removed) if is_mapped(array)]
        empty = np.empty(0, np.int64)
        self.copies, self.firsts = (
            torch.from_numpy(np.concatenate([empty, *(p.arrays[name] for p in self.segments)]))
            for name in ("copies", "firsts")
        )

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Of the rows that are not removed, rising."""
        return np.delete(np.arange(self.total), self.removed)

    def filled(self) -> Embeddings:
        """All rows, removed ones among them; ValueError if none were ever added."""
        if self.rows is None:
            raise ValueError("index: expected rows, got none; add() some first")
        return self.rows

    def parts(self, step: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Numbers and rows of those that are not removed, ``step`` at a time."""
        rows, numbers = self.filled(), self.kept
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            yield part, rows.at(torch.from_numpy(part), torch.float32).numpy()

    @property
    def modalities(self) -> tuple[str, ...]:
        names = (part.modality for part in self.segments)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.segments for name in part.columns))

    def check_files(self) -> None:
        """Before arrays are read: OSError if a file that holds some has become shorter."""
        for array in self._mapped:
            check_size(array, "index")

    def keys(self) -> npt.NDArray[np.int64]:
        """The keys of all ids (total,)."""
        return np.concatenate([np.empty(0, np.int64), *(p.ids.keys for p in self.segments)])

    def positions(self, ids: Sequence[int | str]) -> dict[int | str, int]:
        """Of those ids that are there, and not removed, where they stand."""
        wanted = np.array([key_of(one) for one in ids], np.int64)
        places = np.isin(self.keys(), wanted).nonzero()[0]
        places = places[~np.isin(places, self.removed)]
        return dict(zip(self.ids_at(places).tolist(), places.tolist(), strict=True))

    def find(self, ids: Any) -> npt.NDArray[np.int64]:
        """Where rows with some ids stand (n,); ValueError for one that is not there."""
        values = listed("ids", ids)
        wanted = [id_of(value, self.kind or "integers") for value in values]
        there = self.positions([one for one in wanted if one is not None])
        for value, one in zip(values, wanted, strict=True):
            if one is None or one not in there:
                why = f"; all are {self.kind}" if one is None and self.kind else ""
                raise ValueError(f"ids: expected ids of the index, got {value!r}{why}")
        return np.array([there[one] for one in wanted if one is not None], np.int64)

    def ids_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The ids of some rows, in an array of their shape."""
        found = np.empty(positions.shape, object if self.kind == "strings" else np.int64)
        part = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(part).tolist():
            inside = part == number
            found[inside] = self.segments[number].ids.at(positions[inside] - self.starts[number])
        return found

    def record(self, position: int) -> dict[str, Any]:
        """What is known of a row."""
        part = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self.segments[part].record(position - int(self.starts[part]))

    def numbers(self, indices: Any) -> npt.NDArray[np.int64]:
        """Numbers of rows (n,) that a user gives; ValueError if they are none."""
        numbers = np.asarray(indices)
        if numbers.size == 0 and numbers.ndim == 1:
            return np.empty(0, np.int64)
        fits = numbers.ndim == 1 and numbers.dtype.kind in "iu"
        if not fits or numbers.min() < 0 or numbers.max() >= self.total:
            raise ValueError(
                f"indices: expected numbers (n,) of rows below {self.total}, got {indices!r}"
                f"{'; find() has those of ids' if numbers.dtype.kind in 'UO' else ''}"
            )
        return numbers.astype(np.int64)
