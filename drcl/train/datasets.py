"""Samples that a user's ``Dataset`` or ``DataLoader`` yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from drcl.labels import Label, ParsedLabels, encode_labels, join, parse_labels
from drcl.tensors import as_features, check_finite, check_unmasked, is_array
from drcl.train.standardize import Moments, Standardizer

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Loadable: TypeAlias = Dataset[Any] | DataLoader[Any]


class Scanned(NamedTuple):
    """A Dataset or DataLoader, and what one pass over it tells of its features.

    ``first`` is a batch of no rows, of the first batch's dtype and width; ``moments`` are taken
    where features are to be standardized.
    """

    data: Loadable
    first: Tensor
    moments: Moments | None


class LoadedSamples(NamedTuple):
    """What :func:`drcl.train.samples.prepare` makes of a Dataset or DataLoader.

    ``targets`` are those of one pass over it. ``integers`` says whether the network takes token
    ids as they are.
    """

    data: Loadable
    classes: tuple[Label, ...]
    name: str
    targets: Tensor
    first: Tensor
    moments: Moments | None
    integers: bool = False
    standardizer: Standardizer | None = None

    @property
    def shape(self) -> torch.Size:
        """The features' shape, (N, …), as the first batch has it."""
        return torch.Size((len(self.targets), *self.first.shape[1:]))

    def as_input(self, features: Tensor) -> Tensor:
        """Features of a batch as the network takes them."""
        return as_input(features, self.integers, self.standardizer)

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


def in_order(data: Loadable, size: int, collate: Any = None) -> DataLoader[Any]:
    """A loader of all samples in order; a user's own loader is taken as it is."""
    if isinstance(data, DataLoader):
        return data
    return DataLoader(data, batch_size=size, collate_fn=collate)


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
        if not is_array(features):
            raise ValueError(
                f"{name}: expected features that collate to a tensor, got {type(features).__name__}"
            )
        if features.ndim == 0 or getattr(labels, "ndim", 1) == 0:
            raise ValueError(
                f"{name}: expected batches, got single samples; its DataLoader needs a batch_size"
            )
        rows = as_features(features, f"{name} features")
        if len(rows) != len(labels):
            raise ValueError(
                f"{name}: expected {len(rows)} labels, one for each row of the batch, got "
                f"{len(labels)}"
            )
        yield rows, labels


def as_input(
    features: Tensor, integers: bool = False, standardizer: Standardizer | None = None
) -> Tensor:
    """Rows as a network takes them, whatever source they are from: float32, standardized.

    With ``integers``, int32 and int64 stay as they are unless they are standardized: token ids.
    """
    if standardizer is None and integers and features.dtype in (torch.int32, torch.int64):
        return features
    rows = features.float()
    return rows if standardizer is None else standardizer(rows)


def _named(loader: DataLoader[Any], name: str) -> Iterator[Any]:
    try:
        yield from loader
    except (RuntimeError, ConnectionError, EOFError) as error:  # which of them depends on timing
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise RuntimeError(f"{name}: a worker of its DataLoader was lost ({error})") from error


def scan(
    data: Loadable, name: str, standardize: bool, soft: bool = False
) -> tuple[Scanned, ParsedLabels]:
    """What training needs to know in advance, and all labels, from one pass over the samples.

    Every pass draws the same from torch's generator, so that statistics do not depend on what else
    was drawn from it: an interrupted run that is taken up again standardizes as before.
    """
    labels: list[Any] = []
    moments = Moments(name) if standardize else None
    first, seen = torch.empty(0), 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for features, part in read_pairs(in_order(data, 1024, unmasked(name)), name):
            rows = as_input(features)
            check_finite(rows, f"{name} features", seen)
            if moments is not None:
                moments.add(rows)
            if not labels:
                first = features.new_empty((0, *features.shape[1:]))
            labels.append(part)
            seen += len(rows)
    return Scanned(data, first, moments), join_labels(labels, name, soft)


def join_labels(batches: Iterable[Any], name: str, soft: bool = False) -> ParsedLabels:
    """The labels of all batches as those of one array."""
    parts = [parse_labels(part, f"{name} labels", soft=soft) for part in batches]
    if not parts:
        raise ValueError(f"{name}: expected samples, got none")
    return join(parts)


def unmasked(name: str) -> Callable[[list[Any]], Any]:
    """Collates as PyTorch does, which would drop the masks of rows; these are refused."""
    seen = 0

    def collate(samples: list[Any]) -> Any:
        nonlocal seen
        for row, sample in enumerate(samples, seen):
            if isinstance(sample, (tuple, list)) and sample:
                check_unmasked(sample[0], f"{name} features", row)
        seen += len(samples)
        return default_collate(samples)

    return collate
