"""Samples that a user's ``Dataset`` or ``DataLoader`` yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from drcl.labels import Label, ParsedLabels, encode_labels, join, parse_labels

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Loadable: TypeAlias = Dataset[Any] | DataLoader[Any]


class LoadedSamples(NamedTuple):
    """What :func:`drcl.train.samples.prepare` makes of a Dataset or DataLoader.

    ``targets`` are those of one pass over it.
    """

    data: Loadable
    classes: tuple[Label, ...]
    name: str
    targets: Tensor

    @property
    def shape(self) -> torch.Size:
        """The features' shape, (N, …), as the first batch has it."""
        with torch.random.fork_rng(devices=[]):
            features, _ = next(read_pairs(in_order(self.data, 1), self.name))
        return torch.Size((len(self.targets), *features.shape[1:]))

    def batches(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Features as they come and labels as targets."""
        for features, labels in read_pairs(loader, self.name):
            codes = encode_labels(labels, self.classes, f"{self.name} labels", soft=True)
            yield features, torch.from_numpy(codes)

    def labelled(self) -> LoadedSamples:
        """Itself: rows without a label have no part in any loss."""
        return self


def is_loadable(data: object) -> TypeIs[Loadable]:
    """Whether this is a Dataset or DataLoader and not a pair of arrays."""
    return isinstance(data, (Dataset, DataLoader))


def in_order(data: Loadable, size: int) -> DataLoader[Any]:
    """A loader of all samples in order; a user's own loader is taken as it is."""
    return data if isinstance(data, DataLoader) else DataLoader(data, batch_size=size)


def shuffled(
    data: Loadable, count: int, size: int, generator: torch.Generator, drop_last: bool
) -> DataLoader[Any]:
    """A loader in a random order; a DataLoader, or a dataset without an index, has its own."""
    if isinstance(data, (DataLoader, IterableDataset)):
        return in_order(data, size)
    order = torch.randperm(count, generator=generator, device=generator.device).tolist()
    cut = [order[start : start + size] for start in range(0, count, size)]
    if drop_last and len(cut) > 1 and len(cut[-1]) < size:
        cut.pop()
    return DataLoader(data, batch_sampler=cut)


def read_pairs(loader: DataLoader[Any], name: str) -> Iterator[tuple[Tensor, Any]]:
    """The (features, labels) of every batch; anything else is a ValueError that names ``name``.

    So does the RuntimeError of a worker process that was lost.
    """
    for batch in _named(loader, name):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"{name}: expected a Dataset or DataLoader of (features, labels), got batches of "
                f"{type(batch).__name__}"
            )
        features, labels = batch
        if not isinstance(features, Tensor):
            raise ValueError(
                f"{name}: expected features that collate to a tensor, got {type(features).__name__}"
            )
        if features.ndim == 0 or getattr(labels, "ndim", 1) == 0:
            raise ValueError(
                f"{name}: yields samples one by one; its DataLoader needs a batch_size"
            )
        # What NumPy's arrays collate to: like arrays, it is computed with in float32.
        yield features.float() if features.dtype == torch.float64 else features, labels


def _named(loader: DataLoader[Any], name: str) -> Iterator[Any]:
    try:
        yield from loader
    except (RuntimeError, ConnectionError, EOFError) as error:  # which one is a matter of moments
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise RuntimeError(f"{name}: a worker of its DataLoader was lost ({error})") from error


def read_labels(data: Loadable, name: str, soft: bool = False) -> ParsedLabels:
    """All labels, from one pass over the samples."""
    with torch.random.fork_rng(devices=[]):
        return join_labels((part for _, part in read_pairs(in_order(data, 1024), name)), name, soft)


def join_labels(batches: Iterable[Any], name: str, soft: bool = False) -> ParsedLabels:
    """The labels of all batches as those of one array."""
    parts = [parse_labels(part, f"{name} labels", soft=soft) for part in batches]
    if not parts:
        raise ValueError(f"{name}: yields no samples")
    return join(parts)
