"""From the labels a file holds to class ids ``0..C-1`` and a stored class list.

Sets number their classes from 0, from 1 or with gaps, as integers, floats, columns, strings or
multi-hot rows. The list of classes is kept beside the ids, so nothing depends on which labels
happened to occur in one split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["ClassList", "tidy_labels", "unlabelled"]


def tidy_labels(raw: np.ndarray, rows: int, where: str) -> np.ndarray:
    """Bring labels as a file holds them into one of three shapes.

    Args:
        raw: (N,), (N, 1) or (1, N) integers, integral floats or strings; or (N, C) rows of 0 and 1.
        rows: N, the number of feature rows.
        where: named in errors.

    Returns:
        (N,) int64 (-1 = unlabelled), (N,) str (empty = unlabelled), or (N, C) uint8 rows.

    Raises:
        ValueError: another shape or length, a label that is no whole number or no text in UTF-8, a
            multi-hot row with another value than 0 and 1.

    >>> tidy_labels(np.array([[1.0], [4.0]]), rows=2, where="train/image").tolist()
    [1, 4]
    >>> tidy_labels(np.array([[0, 1, 1], [0, 0, 0]]), rows=2, where="train/image").dtype
    dtype('uint8')
    """
    if raw.ndim == 2 and 1 in raw.shape and raw.size == rows:
        raw = raw.reshape(-1)
    if raw.ndim not in (1, 2) or len(raw) != rows:
        raise ValueError(f"{where}: {rows} feature rows but labels of shape {raw.shape}")
    if raw.dtype.kind in "US" and raw.ndim == 1:
        return np.char.strip(_text(raw, where))
    if raw.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: labels of shape {raw.shape} and dtype {raw.dtype}: expected whole numbers, "
            "strings, or rows of 0 and 1"
        )
    if raw.ndim == 2:
        bad = np.flatnonzero(~np.isin(raw, (0, 1)).all(axis=1))
        if len(bad):
            raise ValueError(f"{where}: multi-hot label row {bad[0]} holds other values than 0, 1")
        return raw.astype(np.uint8)
    outside = np.abs(raw.astype(np.float64)) >= 2.0**63  # would turn into some other int64
    bad = np.flatnonzero(~np.isfinite(raw) | (raw != np.floor(raw)) | outside)
    if len(bad):
        raise ValueError(
            f"{where}: label {raw[bad[0]]} in row {bad[0]} is not a whole number "
            "(-1 marks an unlabelled row)"
        )
    return raw.astype(np.int64)


def _text(raw: np.ndarray, where: str) -> np.ndarray:
    try:
        return np.char.decode(raw, "utf-8") if raw.dtype.kind == "S" else raw
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: label {error.object!r} in row {raw.tolist().index(error.object)} is not "
            "text in UTF-8"
        ) from error


def unlabelled(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of :func:`tidy_labels` that carry no label (-1, an empty string, no 1).

    >>> unlabelled(np.array([3, -1])).tolist(), unlabelled(np.array(["", "owl"])).tolist()
    ([False, True], [True, False])
    """
    if labels.ndim == 2:
        return np.asarray(~labels.any(axis=1))
    return np.asarray(labels == ("" if labels.dtype.kind == "U" else -1))


@dataclass(frozen=True)
class ClassList:
    """Class names, and which label of the files stands for which class.

    Attributes:
        names: class names; the index is the class id.
        ids: label as found in the files (whole number or string) → class id.

    >>> birds = ClassList.from_table({1: "sparrow", 7: "owl"})
    >>> birds.encode(np.array([7, 1, -1]), where="train/image").tolist()
    [1, 0, -1]
    >>> birds.encode(np.array(["owl", ""]), where="train/text").tolist()
    [1, -1]
    """

    names: tuple[str, ...]
    ids: Mapping[int | str, int]

    @classmethod
    def from_table(cls, table: Mapping[int, str]) -> ClassList:
        """Classes in ascending order of their label; a name may stand for its label."""
        labels = sorted(table)
        names = tuple(table[label] for label in labels)
        ids: dict[int | str, int] = {label: index for index, label in enumerate(labels)}
        return cls(names, ids | {name: index for index, name in enumerate(names)})

    @classmethod
    def from_labels(cls, found: Iterable[np.ndarray]) -> ClassList:
        """The sorted labels that occur in ``found`` (each from :func:`tidy_labels`).

        With multi-hot rows among them every column is a class, and ids count the columns from 0.

        Raises:
            ValueError: nothing is labelled, strings beside numbers, or rows of different widths.

        >>> ClassList.from_labels([np.array([5, 1, -1]), np.array([2])]).names
        ('1', '2', '5')
        """
        # A wholly unlabelled array says nothing, not even whether labels are numbers or names.
        found = [labels for labels in found if labels.ndim == 2 or not unlabelled(labels).all()]
        widths = {labels.shape[1] for labels in found if labels.ndim == 2}
        if len(widths) > 1:
            raise ValueError(f"multi-hot labels of different widths: {sorted(widths)}")
        if widths:
            return cls.from_table({column: str(column) for column in range(widths.pop())})
        kinds = {labels.dtype.kind for labels in found}
        if len(kinds) > 1:
            raise ValueError("some labels are strings and some are numbers: expected one kind")
        if not found:
            raise ValueError("no row is labelled: a class list cannot be drawn up")
        unique = np.unique(np.concatenate([labels[~unlabelled(labels)] for labels in found]))
        if kinds == {"U"}:
            return cls.from_table(dict(enumerate(map(str, unique))))
        return cls.from_table({int(label): str(label) for label in unique})

    def encode(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Class ids of tidy labels; multi-hot rows pass through once their width is right.

        Raises:
            ValueError: a label outside the classes (value and first row are named).
        """
        if labels.ndim == 2:
            if labels.shape[1] != len(self.names):
                raise ValueError(
                    f"{where}: multi-hot rows have {labels.shape[1]} columns: expected one for "
                    f"each of the {len(self.names)} classes"
                )
            return labels
        values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        ids = np.full(len(values), -1, np.int64)
        for index in np.flatnonzero(~unlabelled(values)):
            value, row = values[index].item(), first[index]
            if value not in self.ids:
                raise ValueError(
                    f"{where}: label {value!r} in row {row} is outside the {len(self.names)} "
                    f"classes: expected one of {_shorten(self.ids)}"
                )
            ids[index] = self.ids[value]
        return ids[inverse]

    def as_rows(self, labels: np.ndarray) -> np.ndarray:
        """(N, C) uint8 one-hot rows of class ids, all zero where a row is unlabelled."""
        if labels.ndim == 2:
            return labels
        return (labels[:, None] == np.arange(len(self.names))).astype(np.uint8)


def _shorten(ids: Mapping[int | str, int], limit: int = 12) -> str:
    labels = [repr(label) for label in ids]
    return ", ".join(labels[:limit]) + (", …" if len(labels) > limit else "")
