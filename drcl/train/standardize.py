"""Features to mean 0 and variance 1 per column: the statistics, of whatever source, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.distributed import gather, group_device
from drcl.storage.mmap import MappedRows

# Read at once: large enough to be fast, small compared to any set that does not fit in memory.
CHUNK_BYTES = 2**25


def in_chunks(features: Tensor | MappedRows) -> Iterator[Tensor]:
    """All rows in order, :data:`CHUNK_BYTES` of them at a time."""
    rows = _chunk_rows(features.shape[1:])
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def _chunk_rows(shape: torch.Size) -> int:
    return max(1, CHUNK_BYTES // (4 * max(1, shape.numel())))


class Standardizer(NamedTuple):
    """Column means and standard deviations (d,); a constant column has deviation 1."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """The rows, scaled; float64 stays so, all else becomes float32.

        Raises ValueError for rows of another shape.
        """
        if features.shape[1:] != self.mean.shape:  # a single column would be broadcast
            raise ValueError(
                f"features: expected rows of shape {tuple(self.mean.shape)}, as standardized in "
                f"training, got {tuple(features.shape[1:])}"
            )
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return (features - self.mean.to(features)) / self.std.to(features)

    def to(self, device: torch.device) -> Standardizer:
        """The same numbers on a device."""
        return Standardizer(self.mean.to(device), self.std.to(device))


class Moments:
    """Count, means and squared deviations of the columns of rows that come a few at a time.

    They are taken of chunks, which are merged: one pass, nothing cancels. The chunks are the same
    however many rows come at once, so that the statistics are, to the last bit.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.mean = self.squares = torch.empty(0)
        self._waiting: list[Tensor] = []
        self._held = 0  # rows of those

    @classmethod
    def of(cls, features: Tensor | MappedRows) -> Moments:
        """Those of all rows, which are read in chunks."""
        moments = cls("features")
        for chunk in in_chunks(features):
            moments.add(chunk)
        return moments

    def add(self, rows: Tensor) -> None:
        """Take further rows (n, …), all of one shape, into account."""
        if len(rows) == 0:
            return
        shape, size = rows.shape[1:], _chunk_rows(rows.shape[1:])
        before = self._waiting[0].shape[1:] if self._waiting else self.mean.shape
        if (self.count or self._waiting) and shape != before:
            raise ValueError(
                f"{self.name}: expected rows of one shape to standardize, got {tuple(shape)} after "
                f"{tuple(before)}"
            )
        self._waiting.append(rows)
        self._held += len(rows)
        if self._held < size:
            return
        for chunk in self._drained().split(size):
            if len(chunk) == size:
                self._take(chunk)
            else:
                self._waiting, self._held = [chunk], len(chunk)

    def standardizer(self) -> Standardizer:
        """Of all rows so far."""
        self._finish()
        std = (self.squares / self.count).sqrt().float()
        return Standardizer(self.mean.float(), torch.where(std > 0, std, torch.ones_like(std)))

    def over(self, group: ProcessGroup) -> Moments:
        """Those of the rows of all processes of a group, the same on each."""
        self._finish()
        own = torch.stack([torch.full_like(self.mean, self.count), self.mean, self.squares])
        found = Moments(self.name)
        for count, mean, squares in gather(own.to(group_device(group)), group):
            found._merge(int(count.flatten()[0]), mean.cpu(), squares.cpu())
        return found

    def _finish(self) -> None:
        if self._waiting:
            self._take(self._drained())

    def _drained(self) -> Tensor:
        waiting, self._waiting, self._held = self._waiting, [], 0
        return waiting[0] if len(waiting) == 1 else torch.cat(waiting)

    def _take(self, chunk: Tensor) -> None:
        exact = chunk.double()
        own = exact.mean(dim=0)
        self._merge(len(exact), own, (exact - own).square_().sum(dim=0))

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.count == 0:
            self.mean = self.squares = torch.zeros_like(mean)
        shift, share = mean - self.mean, count / (self.count + count)
        self.mean = self.mean + shift * share
        self.squares = self.squares + squares + shift.square() * share * self.count
        self.count += count
