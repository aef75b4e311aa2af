"""A user's samples, checked and brought to tensors, or to rows that are read when needed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import check_modalities, check_pair
from drcl.data.dataset import Labelled
from drcl.labels import (
    Label,
    ParsedLabels,
    class_list,
    encode_labels,
    find_classes,
    is_labelled,
    known_ids,
    parse_labels,
)
from drcl.storage.files import check_name
from drcl.storage.mmap import MappedRows, is_mapped
from drcl.tensors import as_features, check_finite, check_unmasked, row_count
from drcl.train.config import Config
from drcl.train.datasets import Loadable, LoadedSamples, Scanned, is_loadable, scan
from drcl.train.standardize import in_chunks

Data: TypeAlias = tuple[npt.ArrayLike, Any] | Loadable
# A Dataset has been passed over once.
Parsed: TypeAlias = tuple[npt.ArrayLike | Scanned, ParsedLabels]


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


def check_features(features: npt.ArrayLike | Tensor, name: str) -> Tensor | MappedRows:
    """Features (N, …) as a finite float32 tensor; the error names the first bad row.

    A memory-mapped array is looked through once, and stays where it is. A float32 array is not
    copied.
    """
    rows: Tensor | MappedRows
    if is_mapped(features):
        check_unmasked(features, name)
        rows = MappedRows(np.asarray(features))
        if rows.array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected real numbers, got {rows.array.dtype}")
    else:
        rows = as_features(features, name)
    if rows.ndim < 2 or 0 in rows.shape:
        raise ValueError(
            f"{name}: expected a non-empty array (N, d), got shape {tuple(rows.shape)}"
        )
    if isinstance(rows, Tensor):
        rows = rows.float().contiguous()
    seen = 0
    for chunk in in_chunks(rows):
        check_finite(chunk, name, seen)
        seen += len(chunk)
    return rows


def parse(data: Mapping[str, Data], split: str, standardize: bool = False) -> dict[str, Parsed]:
    """Every modality as (features, parsed labels); one pass over a Dataset or DataLoader finds its.

    With ``standardize`` the pass takes the statistics of its features, too. Rows to train on may be
    probabilities; those that are ranked must be 0 and 1.
    """
    soft = split == "train"
    found: dict[str, Parsed] = {}
    for name, one in data.items():
        if is_loadable(one):
            found[name] = scan(one, f"{split} {name}", standardize, soft)
        else:
            # With the number of rows known, one row of N labels is told from N columns.
            where = f"{split} {name} labels"
            labels = parse_labels(one[1], where, count=row_count(one[0]), soft=soft)
            # In a data set of the package −1 is never a class.
            found[name] = one[0], known_ids(labels) if isinstance(one, Labelled) else labels
    return found


def choose_classes(
    parsed: Mapping[str, Parsed], classes: Iterable[Label] | None, config: Config
) -> tuple[Label, ...]:
    """The classes asked for, or those that occur; two at least and no more than dimensions."""
    found = (
        find_classes([labels for _, labels in parsed.values()])
        if classes is None
        else class_list(classes)
    )
    if len(found) < 2:
        raise ValueError(f"train: expected at least two classes, got {list(found)}")
    if config.dim < len(found):
        raise ValueError(
            f"dim: expected at least {len(found)}, one direction of the prior for each class, got "
            f"{config.dim}"
        )
    return found


def check_pairs(data: Any, split: str) -> None:
    """Refuse anything but a mapping of modalities to pairs, Datasets or DataLoaders."""
    instead = f"its .{split}" if hasattr(data, split) else '{"image": (features, labels), …}'
    check_modalities(split, data, "(features, labels)", f"; give {instead}")
    for modality, one in data.items():
        if is_loadable(one):
            continue
        where = f"{split} {modality}"
        check_pair(where, one, "(features, labels), a Dataset or a DataLoader")
        if is_loadable(one[0]):
            raise TypeError(
                f"{where}: expected a {type(one[0]).__name__} alone, as it has labels, got a pair"
            )


def prepare(
    data: Mapping[str, Parsed], classes: Sequence[Label], split: str, integers: Container[str] = ()
) -> dict[str, Modality]:
    """Checked samples of every modality; errors name the split and the modality.

    The networks of the modalities in ``integers`` take token ids as they are.
    """
    prepared: dict[str, Modality] = {}
    for modality, (features, labels) in data.items():
        where = f"{split} {check_name(modality)}"
        y = torch.from_numpy(encode_labels(labels, classes, soft=True))
        if isinstance(features, Scanned):
            loadable, first, moments = features
            prepared[modality] = LoadedSamples(
                loadable, tuple(classes), where, y, first, moments, modality in integers
            )
        else:
            x = check_features(features, f"{where} features")
            if len(x) != len(y):
                raise ValueError(
                    f"{where}: expected {len(x)} labels, one for each row of features, got {len(y)}"
                )
            prepared[modality] = Samples(x, y)
        if not bool(is_labelled(y).any()):
            raise ValueError(f"{where}: expected a labelled sample, got {len(y)} unlabelled ones")
    return prepared
