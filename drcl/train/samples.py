"""A user's samples, checked and brought to tensors, or to rows that are read when needed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.arrays import as_tensor
from drcl.data.dataset import Labelled as OfDataset
from drcl.labels import (
    Label,
    class_list,
    encode_labels,
    find_classes,
    is_labelled,
    known_ids,
    parse_labels,
)
from drcl.pages import is_mapped
from drcl.train.checkpoint import check_name
from drcl.train.config import Config
from drcl.train.datasets import Loadable, LoadedSamples, is_loadable, read_labels
from drcl.train.mapped import MappedRows

Labelled: TypeAlias = tuple[npt.ArrayLike | Loadable, Any]
Data: TypeAlias = Labelled | Loadable

# What is looked at in one go: large enough to be fast, small beside any set worth the care.
CHUNK_BYTES = 2**25


class Samples(NamedTuple):
    """One modality: features (N, d) float32 and targets, ids (N,) int64 or rows (N, C) float32."""

    features: Tensor | MappedRows
    targets: Tensor

    @property
    def shape(self) -> torch.Size:
        """The features' shape, (N, …)."""
        return self.features.shape

    def labelled(self) -> Samples:
        """The samples with a label; the others have no part in any loss."""
        known = is_labelled(self.targets)
        if bool(known.all()):
            return self
        if isinstance(self.features, MappedRows):
            return Samples(self.features.select(known), self.targets[known])
        return Samples(self.features[known], self.targets[known])


Modality: TypeAlias = Samples | LoadedSamples


def in_chunks(features: Tensor | MappedRows) -> Iterator[Tensor]:
    """All rows in order, :data:`CHUNK_BYTES` of them at a time."""
    rows = max(1, CHUNK_BYTES // (4 * max(1, features.shape[1:].numel())))
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


class Standardizer(NamedTuple):
    """Column means and standard deviations (d,); a constant column has deviation 1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor | MappedRows) -> Standardizer:
        # Chunks are merged through their means and squared deviations: one pass, nothing cancels.
        count = 0
        mean = squares = torch.zeros(features.shape[1:], dtype=torch.float64)
        for chunk in in_chunks(features):
            exact = chunk.double()
            own = exact.mean(dim=0)
            shift, share = own - mean, len(exact) / (count + len(exact))
            mean = mean + shift * share
            squares = squares + (exact - own).square_().sum(dim=0) + shift.square() * share * count
            count += len(exact)
        std = (squares / count).sqrt().float()
        return cls(mean.float(), torch.where(std > 0, std, torch.ones_like(std)))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean.to(features)) / self.std.to(features)


def fit_standardizers(samples: Mapping[str, Modality], config: Config) -> dict[str, Standardizer]:
    """A standardizer per modality if the settings ask for it, else none."""
    if not config.standardize:
        return {}
    found = {}
    for name, part in samples.items():
        if isinstance(part, LoadedSamples):
            raise ValueError(
                f"standardize: {name} comes from a {type(part.data).__name__}, which has to "
                "standardize its samples itself"
            )
        found[name] = Standardizer.fit(part.features)
    return found


def standardize(
    samples: Mapping[str, Modality], standardizers: Mapping[str, Standardizer]
) -> dict[str, Modality]:
    """The samples with standardized features, where there is a standardizer."""
    return {
        name: Samples(_standardized(part.features, standardizers[name]), part.targets)
        if name in standardizers and isinstance(part, Samples)
        else part
        for name, part in samples.items()
    }


def _standardized(features: Tensor | MappedRows, standardizer: Standardizer) -> Tensor | MappedRows:
    if isinstance(features, MappedRows):
        return features.transformed(standardizer.__call__)
    return standardizer(features)


def check_features(features: npt.ArrayLike | Tensor, name: str) -> Tensor | MappedRows:
    """Features (N, …) as a finite float32 tensor; the error names the first bad row.

    A memory-mapped array is looked through once, and stays where it is. A float32 array is not
    copied.
    """
    rows = MappedRows(features) if is_mapped(features) else _to_tensor(features, name)
    if rows.ndim < 2 or 0 in rows.shape:
        raise ValueError(
            f"{name}: expected a non-empty array (N, d), got shape {tuple(rows.shape)}"
        )
    if isinstance(rows, MappedRows):
        if rows.array.dtype.kind not in "iuf":
            raise ValueError(f"{name}: expected real numbers, got {rows.array.dtype}")
    elif rows.is_complex() or rows.dtype == torch.bool:
        raise ValueError(f"{name}: expected real numbers, got {rows.dtype}")
    else:
        rows = rows.float().contiguous()
    seen = 0
    for chunk in in_chunks(rows):
        finite = chunk.isfinite().flatten(1).all(dim=1)
        if not bool(finite.all()):
            row = seen + int((~finite).nonzero()[0])
            raise ValueError(f"{name}: row {row} holds NaN or infinite values (as float32)")
        seen += len(chunk)
    return rows


def _to_tensor(features: npt.ArrayLike, name: str) -> Tensor:
    """Any real array (other byte orders, reversed, read-only) as a tensor; float32 unless bool."""
    if isinstance(features, Tensor):
        return features.detach()
    try:
        array = np.asarray(features)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths ({error})") from error
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, refused later
            array = array.astype(np.float32, order="C", copy=False)
    return as_tensor(array)


def with_labels(data: Mapping[str, Data], split: str) -> dict[str, Labelled]:
    """Every modality as (features, parsed labels); a Dataset or DataLoader is passed over for them.

    Rows to train on may be probabilities; those that are ranked are 0 and 1.
    """
    check_pairs(data, split)
    soft = split == "train"
    found: dict[str, Labelled] = {}
    for name, one in data.items():
        if is_loadable(one):
            found[name] = one, read_labels(one, f"{split} {name}", soft)
        else:
            # With the number of rows known, one row of N labels is told from N columns.
            count = next(iter(getattr(one[0], "shape", ())), None)
            where = f"{split} {name} labels"
            parsed = parse_labels(one[1], where, count=count, soft=soft)
            # In a data set of the package −1 is never a class.
            found[name] = one[0], known_ids(parsed) if isinstance(one, OfDataset) else parsed
    return found


def choose_classes(
    pairs: Mapping[str, Labelled], classes: Iterable[Label] | None, config: Config
) -> tuple[Label, ...]:
    """The classes asked for, or those that occur; two at least and no more than dimensions."""
    found = (
        find_classes([labels for _, labels in pairs.values()])
        if classes is None
        else class_list(classes)
    )
    if len(found) < 2:
        raise ValueError(f"train: needs at least two classes, got {list(found)}")
    if config.dim < len(found):
        raise ValueError(
            f"dim: {config.dim} is below the number of classes ({len(found)}); the prior needs a "
            "direction for each"
        )
    return found


def check_pairs(data: Mapping[str, Data], split: str) -> None:
    """Refuse what is no mapping of modalities to (features, labels), Datasets or DataLoaders."""
    if not isinstance(data, Mapping):
        raise TypeError(
            f"{split}: expected a mapping from modality to (features, labels), got "
            f"{type(data).__name__}"
        )
    for modality, one in data.items():
        if not is_loadable(one) and not (isinstance(one, (tuple, list)) and len(one) == 2):
            raise TypeError(
                f"{split} {modality}: expected (features, labels), got {type(one).__name__}"
            )


def check_widths(
    train: Mapping[str, Modality], validation: Mapping[str, Modality], networks: Container[str]
) -> None:
    """Refuse validation features of another width, but for networks that may take any."""
    for modality, part in validation.items():
        if modality in networks or modality not in train:
            continue
        shape, expected = part.shape[1:], train[modality].shape[1:]
        if shape != expected:
            raise ValueError(
                f"validation {modality} features: rows of shape {tuple(shape)}, expected "
                f"{tuple(expected)} as in train"
            )


def prepare(data: Mapping[str, Data], classes: Sequence[Label], split: str) -> dict[str, Modality]:
    """Checked samples of every modality; errors name the split and the modality."""
    prepared: dict[str, Modality] = {}
    for modality, (features, labels) in with_labels(data, split).items():
        where = f"{split} {check_name(modality)}"
        y = torch.from_numpy(encode_labels(labels, classes, soft=True))
        if is_loadable(features):
            prepared[modality] = LoadedSamples(features, tuple(classes), where, y)
        else:
            x = check_features(features, f"{where} features")
            if len(x) != len(y):
                raise ValueError(f"{where}: {len(x)} rows of features but {len(y)} labels")
            prepared[modality] = Samples(x, y)
        if not bool(is_labelled(y).any()):
            raise ValueError(f"{where}: all {len(y)} samples are unlabelled")
    return prepared
