"""From the labels a file holds to class ids ``0..C-1`` and a stored class list.

Sets number their classes from 0, from 1 or with gaps, as integers, floats, columns, strings or
multi-hot rows: what :mod:`drcl.labels` reads. The list of classes is kept beside the ids, so
nothing depends on which labels happened to occur in one split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from drcl.labels import Label, ParsedLabels, check_row_width, clean_name, find_classes, look_up


@dataclass(frozen=True)
class ClassList:
    """Class names, and which label of the files stands for which class.

    Attributes:
        names: class names; the index is the class id.
        ids: label as found in the files (whole number or string) → class id.

    >>> from drcl.labels import parse_labels
    >>> birds = ClassList.from_table({1: "sparrow", 7: "owl"})
    >>> birds.encode(parse_labels([7, 1, -1])).tolist()
    [1, 0, -1]
    >>> birds.encode(parse_labels(["owl", ""])).tolist()
    [1, -1]
    """

    names: tuple[str, ...]
    ids: Mapping[Label, int]

    @classmethod
    def from_table(cls, table: Mapping[int, str]) -> ClassList:
        """Classes in ascending order of their label; a name may stand for its label.

        A label −1 that is in the table is a class, and no mark of unlabelled rows.
        """
        labels = sorted(table)
        names = tuple(clean_name(table[label]) for label in labels)
        ids: dict[Label, int] = {label: index for index, label in enumerate(labels)}
        return cls(names, ids | {name: index for index, name in enumerate(names)})

    @classmethod
    def from_labels(cls, found: Iterable[ParsedLabels]) -> ClassList:
        """The sorted labels that occur in ``found``.

        With multi-hot rows among them every column is a class, and ids count the columns from 0.

        Raises:
            ValueError: nothing is labelled, strings beside numbers, or rows of different widths.

        >>> from drcl.labels import parse_labels
        >>> ClassList.from_labels([parse_labels([5, 1, -1]), parse_labels([2])]).names
        ('1', '2', '5')
        """
        found = list(found)
        classes = find_classes([labels for labels in found if labels.rows is not None] or found)
        if not classes:
            raise ValueError("labels: expected a labelled row, got none")
        return cls.from_table(
            {index if isinstance(c, str) else c: str(c) for index, c in enumerate(classes)}
        )

    def encode(self, labels: ParsedLabels) -> np.ndarray:
        """Class ids (N,) int64, −1 where unlabelled; multi-hot rows as uint8.

        Raises:
            ValueError: a label outside the classes (value and first row are named), or rows of
                another width.
        """
        if labels.rows is not None:
            check_row_width(labels, len(self.names))
            return labels.rows.numpy().astype(np.uint8)
        among = f"the {len(self.names)} classes: expected one of {_shorten(self.ids)}"
        return look_up(labels, self.ids, among)

    def as_rows(self, labels: np.ndarray) -> np.ndarray:
        """(N, C) uint8 one-hot rows of class ids, all zero where a row is unlabelled."""
        if labels.ndim == 2:
            return labels
        return (labels[:, None] == np.arange(len(self.names))).astype(np.uint8)


def _shorten(ids: Mapping[Label, int], limit: int = 12) -> str:
    labels = [repr(label) for label in ids]
    return ", ".join(labels[:limit]) + (", …" if len(labels) > limit else "")
