"""Where the batches of a training come from: a device's memory, a disk, or a user's loader."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from drcl.labels import is_labelled
from drcl.storage.mmap import MappedRows
from drcl.train.datasets import LoadedSamples, in_order, shuffled
from drcl.train.ranks import Ranks
from drcl.train.samples import Modality, Samples
from drcl.train.standardize import in_chunks

# Batches that are read while the device works on another one.
AHEAD = 2
# Of the free memory of a GPU, the share that one modality's features may take.
RESIDENT_SHARE = 0.4

RowIndex: TypeAlias = Tensor | slice


class Batch(NamedTuple):
    """One batch: what :meth:`SampleSource.load` makes features and targets of, and how many.

    Under data parallelism ``rows`` are those of the global batch.
    """

    parts: tuple[Tensor, ...]
    rows: int


class SampleSource(Protocol):
    """The samples of one modality, in batches on ``device``.

    ``epoch`` is one pass in a random order that depends on the generator (and, for a loader of the
    user's, torch's global one) alone; a batch of fewer rows than ``least`` joins another. ``load``
    turns a batch into features and targets on the device; it runs inside the step, so that a CUDA
    graph can hold it. ``chunks`` is one pass in order over what has a label, for evaluation, and
    ``content`` what identifies the samples.
    """

    count: int
    device: torch.device

    def epoch(
        self, size: int, generator: torch.Generator, drop_last: bool, least: int = 1
    ) -> Iterator[Batch]: ...  # pragma: no cover

    def load(self, *parts: Tensor) -> tuple[Tensor, Tensor]: ...  # pragma: no cover

    def chunks(
        self, size: int, rows: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]: ...  # pragma: no cover

    def content(self) -> Iterator[Tensor]: ...  # pragma: no cover


def make_source(
    samples: Modality, device: torch.device, ranks: Ranks | None = None
) -> SampleSource:
    """The source for some samples: resident where they fit the device's memory, else streamed.

    With ``ranks`` its batches hold the rank's own rows of each.
    """
    if isinstance(samples, LoadedSamples):
        if ranks is not None:
            raise ValueError(
                f'{samples.name}: expected arrays with parallel="data", got a Dataset or '
                "DataLoader; give every process its own, and a network in DistributedDataParallel"
            )
        return Loaded(samples, device)
    features = samples.features
    if isinstance(features, MappedRows):
        return Streamed(samples, device, ranks)
    if device.type == "cuda" and features.device.type == "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        if features.nbytes > RESIDENT_SHARE * free:
            return Streamed(samples, device, ranks)
    return Resident(Samples(features.to(device), samples.targets.to(device)), ranks)


def batches(
    count: int, size: int, generator: torch.Generator, drop_last: bool, least: int = 1
) -> Iterator[Tensor]:
    """A random order of ``count`` rows, cut into batches; at least one batch.

    A last batch of fewer than ``least`` rows is a part of the one before.
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    for start in range(0, count, size):
        batch = order[start : start + size]
        left = count - start - size
        if 0 < left < least and not drop_last:
            yield order[start:]
            return
        if not (drop_last and start > 0 and len(batch) < size):
            yield batch


def _own(rows: Tensor, ranks: Ranks | None) -> Tensor:
    return rows if ranks is None else rows[ranks.rows(len(rows))]


class Resident:
    """Features in the device's memory; batches are gathered there."""

    def __init__(self, samples: Samples, ranks: Ranks | None = None) -> None:
        features, self.targets = samples
        self.ranks = ranks
        assert isinstance(features, Tensor)
        self.features = features
        self.count, self.device = len(features), features.device

    def epoch(
        self, size: int, generator: torch.Generator, drop_last: bool, least: int = 1
    ) -> Iterator[Batch]:
        for rows in batches(self.count, size, generator, drop_last, least):
            yield Batch((_own(rows, self.ranks),), len(rows))

    def load(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        (rows,) = parts
        return self.features.index_select(0, rows), self.targets.index_select(0, rows)

    def chunks(self, size: int, rows: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        features, targets = self.features[rows], self.targets[rows]
        return zip(features.split(size), targets.split(size), strict=True)

    def content(self) -> Iterator[Tensor]:
        yield from in_chunks(self.features)
        yield self.targets


class Streamed:
    """Features on a disk, or too large for the device: a thread reads the next batches meanwhile.

    On a GPU they are read into pinned memory and copied while the device computes.
    """

    def __init__(self, samples: Samples, device: torch.device, ranks: Ranks | None = None) -> None:
        self.features, self.targets = samples
        self.ranks = ranks
        self.count, self.device = len(self.features), device

    def epoch(
        self, size: int, generator: torch.Generator, drop_last: bool, least: int = 1
    ) -> Iterator[Batch]:
        drawn = list(batches(self.count, size, generator, drop_last, least))
        read = self._read_ahead(_own(rows, self.ranks).cpu() for rows in drawn)
        for rows, (features, targets) in zip(drawn, read, strict=True):
            yield Batch((features, targets), len(rows))

    def load(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        features, targets = parts
        return features, targets

    def chunks(self, size: int, rows: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        first, last, _ = rows.indices(self.count)
        starts = range(first, last, size)
        return self._read_ahead(slice(start, min(start + size, last)) for start in starts)

    def content(self) -> Iterator[Tensor]:
        yield from in_chunks(self.features)
        yield self.targets

    def _read_ahead(self, order: Iterator[RowIndex]) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as pool:
            waiting = deque(pool.submit(self._read, rows) for rows in islice(order, AHEAD))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(self._read, rows) for rows in islice(order, 1))
                features, targets = (part.to(self.device, non_blocking=True) for part in batch)
                yield features, targets

    def _read(self, rows: RowIndex) -> tuple[Tensor, Tensor]:
        batch = self.features[rows], self.targets[rows]
        if self.device.type != "cuda":
            return batch
        return batch[0].pin_memory(), batch[1].pin_memory()


class Loaded:
    """A user's Dataset or DataLoader, which may do anything to its samples as they pass."""

    def __init__(self, samples: LoadedSamples, device: torch.device) -> None:
        if samples.standardizer is not None:
            samples = samples._replace(standardizer=samples.standardizer.to(device))
        self.samples, self.device = samples, device
        self.count = len(samples.targets)

    def epoch(
        self, size: int, generator: torch.Generator, drop_last: bool, least: int = 1
    ) -> Iterator[Batch]:
        loader = shuffled(self.samples.data, self.count, size, generator, drop_last)
        for features, targets in _joined(self.samples.batches(loader), least):
            yield Batch(self._moved(features, targets), len(features))

    def load(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        features, targets = parts
        return features, targets

    def chunks(self, size: int, rows: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        assert rows == slice(None)  # see make_source
        for features, targets in self.samples.batches(in_order(self.samples.data, size)):
            known = is_labelled(targets)
            if bool(known.any()):
                yield self._moved(features[known], targets[known])

    def content(self) -> Iterator[Tensor]:
        # A loader cannot be held to yielding the same features twice; how often which label occurs
        # does not depend on the order in which it yields them.
        kinds, counts = self.samples.targets.unique(dim=0, return_counts=True)
        yield from (kinds, counts, *(self.samples.standardizer or ()))

    def _moved(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        features, targets = (
            part.to(self.device, non_blocking=True) for part in (features, targets)
        )
        return self.samples.as_input(features), targets


def _joined(
    batches: Iterator[tuple[Tensor, Tensor]], least: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; one of fewer than ``least`` rows joins the next, or the last one before it."""
    if least == 1:
        yield from batches
        return
    held: list[tuple[Tensor, Tensor]] = []  # a whole batch, a small one, or both
    for batch in batches:
        if held and len(held[-1][0]) < least:
            batch = _cat([held.pop(), batch])
        if held and len(batch[0]) >= least:
            yield held.pop()
        held.append(batch)
    if held:
        yield _cat(held)


def _cat(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, targets = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(targets)
