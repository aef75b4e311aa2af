"""Arrays that the user names as ``file`` or ``file:key``, and modalities made of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drcl.data.assemble import file_labels
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset, Labelled, is_multi_hot
from drcl.data.files import read_array
from drcl.data.splits import stratified_holdout
from drcl.labels import Label

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class AddedModality:
    """Where the samples of a modality lie that was added later: "file" or "file:key" of features
    and labels; None where there are none."""

    train: tuple[str, str]
    validation: tuple[str, str] | None = None
    test: tuple[str, str] | None = None


def read_added(added: AddedModality, data: CrossModalDataset) -> dict[str, Labelled]:
    """Split -> samples of an added modality.

    Labels are class names, or numbers: those of the manifest's table where it has one, the names
    where they are numbers, and otherwise the classes counted from 0. Without validation files a
    stratified tenth of the training rows is held out.
    """
    found = {
        split: _read_labelled(*files, data)
        for split, files in (
            ("train", added.train),
            ("validation", added.validation),
            ("test", added.test),
        )
        if files is not None
    }
    if added.validation is None:
        features, labels = found["train"]
        kept, held = stratified_holdout(labels, HELD_OUT_SHARE, seed=0)
        found["train"] = Labelled(features[kept], labels[kept])
        if len(held):
            found["validation"] = Labelled(features[held], labels[held])
    return found


def part_key(text: str) -> tuple[str, str, str]:
    """File, colon and key of "file" or "file:key"; a colon may be part of a file's own name."""
    drive, rest = os.path.splitdrive(text)  # C: on Windows
    if Path(text).is_file():
        return text, "", ""
    file, colon, key = rest.partition(":")
    return drive + file, colon, key


def read_file(text: str) -> np.ndarray:
    """The array at "file" or "file:key"; see :func:`drcl.data.files.read_array`."""
    file, _, key = part_key(text)
    return read_array(file, key or None)


def read_rows(text: str) -> np.ndarray:
    """Rows (N, d) of numbers at "file" or "file:key"."""
    rows = read_file(text)
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise ValueError(f"{text}: expected rows of numbers (N, d), got {rows.dtype} {rows.shape}")
    return rows


def read_features(text: str) -> np.ndarray:
    """Rows (N, d) float32 at "file" or "file:key"."""
    with np.errstate(over="ignore"):  # infinities are reported later, with their row
        return read_rows(text).astype(np.float32, copy=False)


def _read_labelled(features: str, labels: str, data: CrossModalDataset) -> Labelled:
    rows = read_features(features)
    classes = _class_list(data)
    remedy = f"save the transpose of {features}"
    encoded = classes.encode(file_labels(read_file(labels), rows.shape, labels, remedy))
    if any(is_multi_hot(samples.labels) for samples in data.train.values()):
        encoded = classes.as_rows(encoded)
    return Labelled(rows, encoded)


def _class_list(data: CrossModalDataset) -> ClassList:
    names = data.classes
    if data.numbers is not None:
        return ClassList.from_table(dict(zip(data.numbers, names, strict=True)))
    if all(re.fullmatch(r"[+-]?\d+", name) for name in names):
        ids: dict[Label, int] = {name: index for index, name in enumerate(names)}
        return ClassList(names, ids | {int(name): index for index, name in enumerate(names)})
    return ClassList.from_table(dict(enumerate(names)))
