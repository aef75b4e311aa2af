"""What a page knows of an index: its items, or some of them, where they lie, and their classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drcl.index import Index
from drcl.report.results import PICTURE
from drcl.tables import shortened

MAX_ITEMS = 5000  # that a page draws and lists
_MAX_CLASSES = 50  # different values of a column that is offered as a filter
_LABEL = 80  # letters
_SAFE = 2**53  # integers from here on are not exact in JavaScript
_DIGITS = re.compile(r"([0-9]{1,400})")
_LARGE = re.compile(r"-?[1-9][0-9]{15,399}")


def sample(index: Index) -> npt.NDArray[np.int64]:
    """Numbers of the items of a page: all, or so many of them at equal distances."""
    numbers = index.numbers
    if len(numbers) <= MAX_ITEMS:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, MAX_ITEMS).astype(np.int64)]


def items_of(index: Index, version: str) -> bytes:
    """The items of a page as JSON."""
    numbers = sample(index)
    return to_json({"version": version, **overview(index, numbers, index.records(numbers))})


def overview(
    index: Index, numbers: npt.NDArray[np.int64], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Items with their labels, classes and places on the map; which classes there are."""
    places = principal_plane(index.rows(numbers).numpy()) if len(numbers) else np.empty((0, 2))
    records = [{name: public_value(value) for name, value in one.items()} for one in records]
    classes = _classes(records)
    items = [
        {
            "id": record["id"],
            "label": _label(record),
            "modality": record["modality"],
            "classes": [record.get(column) for column in classes],
            "place": [float(f"{x:.4g}") for x in place],
        }
        for record, place in zip(records, places.tolist(), strict=True)
    ]
    return {
        "count": len(index),
        "space": index.space,
        "modalities": index.modalities,
        "classes": classes,
        "items": items,
    }


def principal_plane(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(n, D) rows to (n, 2): their coordinates on the two principal axes, from the mean.

    Of each axis the direction is the one in which its largest component is positive.

    >>> principal_plane(np.array([[3.0, 0, 1], [-3, 0, 1], [0, 1, 1], [0, -1, 1]])).tolist()
    [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    """
    x = np.asarray(rows, np.float64)
    x = np.pad(x - x.mean(axis=0), ((0, 0), (0, max(0, 2 - x.shape[1]))))
    if len(x) < x.shape[1]:  # the smaller of two problems with the same answer
        _, vectors = np.linalg.eigh(x @ x.T)
        axes = x.T @ vectors[:, ::-1][:, :2]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), np.finfo(np.float64).tiny)
    else:
        _, vectors = np.linalg.eigh(x.T @ x)
        axes = vectors[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    signs = np.where(np.take_along_axis(axes, largest[None], axis=0) < 0, -1.0, 1.0)
    found = x @ (axes * signs)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def public_value(value: Any) -> Any:
    """A value as JSON can carry it to any reader: integers that some would round are strings.

    >>> public_value(2**53), public_value(7), public_value(0.5)
    ('9007199254740992', 7, 0.5)
    """
    return str(value) if isinstance(value, int) and abs(value) >= _SAFE else value


def large_integer(value: Any) -> int | None:
    """The integer that :func:`public_value` shows as this string, None if there is none.

    >>> large_integer("9007199254740993"), large_integer("7"), large_integer(2**53)
    (9007199254740993, None, None)
    """
    if not isinstance(value, str) or not _LARGE.fullmatch(value):
        return None
    return int(value) if abs(int(value)) >= _SAFE else None


def public_record(record: dict[str, Any]) -> dict[str, Any]:
    """What is known of an item, without what is empty, and without the path of its picture."""
    return {
        name: public_value(value)
        for name, value in record.items()
        if value not in (None, "") and name != PICTURE
    }


def to_json(value: Any) -> bytes:
    """Compact JSON in ASCII; what is not finite has no business here."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _label(record: dict[str, Any]) -> str:
    for column in ("name", "text"):
        if (value := record.get(column)) not in (None, ""):
            return shortened(" ".join(str(value).split()), _LABEL)
    return str(record["id"])


def _classes(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns that sort the items into classes, and their values: few, and most of several items.

    Names count as classes where nothing else does, texts and pictures never do.
    """
    columns = dict.fromkeys(name for record in records for name in record)
    found = {}
    for column in columns:
        if column in ("id", "modality", "text", PICTURE):
            continue
        values = [record[column] for record in records if record.get(column) not in (None, "")]
        kinds = {json.dumps(value): value for value in values}
        if 2 <= len(kinds) <= _MAX_CLASSES and len(values) >= 2 * len(kinds):
            found[column] = sorted(kinds.values(), key=_natural)
    if len(found) > 1:
        found.pop("name", None)
    return found


def _natural(value: Any) -> tuple[Any, ...]:
    """A key that sorts values as a reader does: what is a number in a text counts as one.

    >>> sorted(["10", "2", "class 10", "class 9"], key=_natural)
    ['2', '10', 'class 9', 'class 10']
    """
    kind = str(type(value))
    if not isinstance(value, str):
        return kind, value
    parts = _DIGITS.split(value)  # texts and digits in turn
    return kind, [int(part) if odd % 2 else part for odd, part in enumerate(parts)], value
