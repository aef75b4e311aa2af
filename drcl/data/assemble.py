"""From a table that says which file holds which array to a checked dataset.

The built-in sets and the user's manifest are both such tables; this is the one place that reads
them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset, Labelled, Split
from drcl.data.files import Variable, pick, read_variable
from drcl.data.splits import stratified_holdout
from drcl.labels import ParsedLabels, parse_labels
from drcl.storage.text import whole_number


class ArrayAt(NamedTuple):
    """An array in a file; ``key`` is None where the file holds a single one."""

    path: Path
    key: str | None


class SamplesAt(NamedTuple):
    """Where one modality of one split lies.

    Attributes:
        features: (N, d) numbers, or (N, …).
        labels: what :func:`drcl.labels.parse_labels` takes, in a file or already read; None
            where nothing is labelled.
        rows: ``"start:stop"`` of both, as in Python; either end may be left out.
        transpose: whether the features are stored (d, N).
    """

    features: ArrayAt
    labels: ArrayAt | np.ndarray | None
    rows: str = ":"
    transpose: bool = False


Reader = Callable[[ArrayAt], np.ndarray]


def assemble(
    name: str, sources: Mapping[str, Mapping[str, SamplesAt]], classes: ClassList | None = None
) -> CrossModalDataset:
    """Read every source once and map its labels to class ids.

    Where any labels are multi-hot, all become multi-hot.

    Args:
        name: of the dataset.
        sources: split (``train``, ``validation``, ``test``) → modality → :class:`SamplesAt`.
        classes: what the labels stand for; by default the sorted labels that occur.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unreadable, or its arrays are not a
            dataset; see :func:`drcl.data.files.read_array` and :class:`CrossModalDataset`.
    """
    # Each variable is read once: splits are often rows of one array, modalities share labels.
    variable: Callable[[Path, str | None], Variable] = functools.cache(read_variable)

    def read(at: ArrayAt) -> np.ndarray:
        return pick(at.path, at.key, variable)

    found = {
        (split, modality): _read(source, read, f"{name}: {split}/{modality}")
        for split, modalities in sources.items()
        for modality, source in modalities.items()
    }
    if classes is None:
        classes = ClassList.from_labels(labels for _, labels in found.values())
    splits: dict[str, Any] = {"train": {}, "validation": {}, "test": {}}
    multi_hot = any(labels.rows is not None for _, labels in found.values())
    for (split, modality), (features, parsed) in found.items():
        labels = classes.encode(parsed)
        labels = classes.as_rows(labels) if multi_hot else labels
        splits[split][modality] = Labelled(features, labels)
    return CrossModalDataset(name, classes.names, **splits)


def hold_out_validation(data: CrossModalDataset, share: float, seed: int) -> CrossModalDataset:
    """The same set with a stratified part of every training modality moved to validation.

    Raises:
        ValueError: ``share`` is not between 0 and 1, or a modality has no class of two rows.
    """
    train: Split = {}
    validation: Split = {}
    for modality, (features, labels) in data.train.items():
        kept, held = stratified_holdout(labels, share, seed)
        if not len(held):
            raise ValueError(
                f"{data.name}: train/{modality} has no class with two labelled rows, so no "
                "validation rows can be held out; give a validation split"
            )
        train[modality] = Labelled(features[kept], labels[kept])
        validation[modality] = Labelled(features[held], labels[held])
    return replace(data, train=train, validation=validation)


def _read(source: SamplesAt, read: Reader, where: str) -> tuple[np.ndarray, ParsedLabels]:
    features = read(source.features)
    if features.ndim < 2 or (source.transpose and features.ndim > 2):
        expected = "(width, samples)" if source.transpose else "(samples, width)"
        raise ValueError(f"{where} features: expected shape {expected}, got {features.shape}")
    if source.transpose:
        features = features.T
    if features.dtype.kind not in "biuf":
        raise ValueError(f"{where} features: expected numbers, got {features.dtype}")
    if not features.size:  # before its rows, which cost no bytes in a file, are counted
        raise ValueError(
            f"{where} features: expected at least one value, got shape {features.shape}"
        )
    count = len(features)
    raw: np.ndarray
    if source.labels is None:
        raw = np.full(count, np.nan)
    else:
        raw = read(source.labels) if isinstance(source.labels, ArrayAt) else source.labels
    labels = file_labels(raw, features.shape, where, "write transpose = true in its table")
    rows = _parse_rows(source.rows, count, where)
    if not len(labels[rows]):
        raise ValueError(f"{where} rows: expected at least one, got {source.rows!r} of {count}")
    # A value too large for float32 becomes infinite and is reported with its row by the dataset.
    with np.errstate(over="ignore"):
        return features[rows].astype(np.float32, copy=False), labels[rows]


def file_labels(
    raw: np.ndarray, features: tuple[int, ...], where: str, remedy: str
) -> ParsedLabels:
    """The labels of ``features`` (N, d) that a file holds, which may have them turned: rows (C, N).

    Raises:
        ValueError: they are no labels, or not N. Where they are d, the error gives the ``remedy``
            for features that are stored turned.
    """
    count = features[0]
    if raw.ndim == 2 and raw.shape[1] == count != raw.shape[0]:
        raw = raw.T
    if count not in raw.shape and raw.ndim in (1, 2) and features[1] in raw.shape:
        raise ValueError(
            f"{where}: features of shape {features} have labels of shape {raw.shape}: if they are "
            f"stored (d, N), {remedy}"
        )
    return parse_labels(raw, where, count=count)


def _parse_rows(text: str, count: int, where: str) -> slice:
    try:
        start, stop = (whole_number(end) if end.strip() else None for end in text.split(":"))
    except ValueError:
        raise ValueError(f"{where} rows: expected 'start:stop', got {text!r}") from None
    if any(end is not None and abs(end) > count for end in (start, stop)):
        raise ValueError(f"{where} rows: expected some of {count}, got {text!r}")
    return slice(start, stop)
