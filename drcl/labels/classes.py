"""Which classes label arrays hold, and labels as positions among them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drcl.labels.encoded import NO_CLASS, UNLABELLED, Label, shortened
from drcl.labels.parse import ParsedLabels, clean_name, parse_labels


def find_classes(labels: Iterable[Any]) -> tuple[Label, ...]:
    """The sorted classes of several label arrays: the ids or names that occur, or columns 0..C−1.

    >>> find_classes([[3, 1, -1], [7, 3]])
    (1, 3, 7)
    >>> find_classes([["owl", "ant"], [None, "owl"]])
    ('ant', 'owl')
    """
    parsed = [parse_labels(one, soft=True) for one in labels]
    if functools.reduce(operator.or_, (one.signs for one in parsed), 0) == 3:
        return (-1, 1)
    arrays = resolve(parsed)
    widths = {one.rows.shape[1] for one in arrays if one.rows is not None}
    if widths:
        return tuple(range(widths.pop()))
    if (named := next((one.names for one in arrays if one.names), None)) is not None:
        return named
    found = [np.unique(one.ids[~one.missing]) for one in arrays]
    return tuple(np.unique(np.concatenate(found)).tolist()) if found else ()


def resolve(arrays: Sequence[ParsedLabels], signs: int | None = None) -> list[ParsedLabels]:
    """Several label arrays made comparable: one form, and what is unlabelled marked as missing.

    Names become places in one list of all names; −1 and 1, where they are all there is, become 0
    and 1. ``signs`` are those of all arrays (:attr:`ParsedLabels.signs` joined by or), where more
    belong together than are given.

    Raises ValueError for forms that do not go together and for ids below −1.

    >>> [one.ids.tolist() for one in resolve([parse_labels(["b", "a"]), parse_labels(["a", ""])])]
    [[1, 0], [0, -1]]
    """
    # A wholly unlabelled array says nothing about the form, unless it has rows.
    telling = [one for one in arrays if one.rows is not None or one.signs & 6]
    widths = {None if one.rows is None else one.rows.shape[1] for one in telling}
    if len(widths) > 1 or (widths - {None} and len(telling) < len(arrays)):
        raise ValueError(
            f"{_called(arrays)}: expected one form, class ids or names (N,) or multi-hot rows "
            f"(N, C) with one C; got shapes {[one.shape for one in arrays]}"
        )
    if widths - {None}:
        return list(arrays)
    if len({one.names is None for one in telling}) > 1:
        raise ValueError(
            f"{_called(arrays)}: expected labels that are all strings or all numbers, got both"
        )
    if any(one.names for one in telling):
        names = tuple(sorted({name for one in telling for name in one.names or ()}))
        place = {name: index for index, name in enumerate(names)}
        return [
            replace(one, ids=look_up(one, place, ""), names=names, missing=_unlabelled(one))
            for one in arrays
        ]
    if signs is None:
        signs = functools.reduce(operator.or_, (one.signs for one in arrays), 0)
    if signs == 3:  # −1 and 1, and nothing else
        return [replace(one, ids=np.where(one.missing, -1, one.ids > 0)) for one in arrays]
    for one in arrays:
        if len(one.ids) and (lowest := int(one.ids.min())) < UNLABELLED:
            row = int(one.ids.argmin())
            raise ValueError(
                f"{one.name}: row {row} has label {lowest}; class ids are 0 or larger, and −1 "
                "means unlabelled (to make classes of others, list them in classes=)"
            )
    return [replace(one, missing=_unlabelled(one)) for one in arrays]


def encode_labels(
    labels: Any,
    classes: Sequence[Label],
    name: str | None = None,
    *,
    count: int | None = None,
    soft: bool = False,
) -> npt.NDArray[Any]:
    """Labels as positions in ``classes`` (N,) int64, −1 for unlabelled; rows (N, C) as float32.

    Raises what :func:`parse_labels` raises, and ValueError for a label outside the classes and for
    rows whose width is not the number of classes.

    >>> encode_labels([7, 1, -1], classes=(1, 3, 7))
    array([ 2,  0, -1])
    >>> encode_labels(["owl", None], classes=("ant", "owl"))
    array([ 1, -1])
    """
    parsed = parse_labels(labels, name or "labels", count=count, soft=soft)
    if parsed.rows is not None:
        check_row_width(parsed, len(classes))
        return parsed.rows.to("cpu", torch.float32).numpy()
    table = {label: index for index, label in enumerate(classes)}
    return look_up(parsed, table, f"the {len(classes)} classes {shortened(classes)}")


def check_row_width(parsed: ParsedLabels, classes: int) -> None:
    """Refuse label rows that have not a column for each class."""
    assert parsed.rows is not None
    if parsed.rows.shape[1] != classes:
        raise ValueError(
            f"{parsed.name}: label rows have {parsed.rows.shape[1]} columns: expected one for each "
            f"of the {classes} classes"
        )


def join(parts: Sequence[ParsedLabels]) -> ParsedLabels:
    """Label arrays one after the other, as they are: what −1 means is left open."""
    widths = {one.shape[1:] for one in parts}
    if len(widths) > 1:
        raise ValueError(
            f"{parts[0].name}: expected one form throughout, got rows of shapes {sorted(widths)}"
        )
    if len({one.names is None for one in parts if one.signs & 6}) > 1:
        raise ValueError(
            f"{parts[0].name}: expected labels that are all strings or all numbers, got both"
        )
    missing = np.concatenate([one.missing for one in parts])
    if parts[0].rows is not None:
        rows = torch.cat([one.rows.cpu() for one in parts if one.rows is not None])
        return replace(parts[0], rows=rows, missing=missing)
    names = tuple(dict.fromkeys(name for one in parts for name in one.names or ()))
    place = {name: index for index, name in enumerate(names)}
    ids = [look_up(one, place, "") if names else one.ids for one in parts]
    return replace(parts[0], ids=np.concatenate(ids), names=names or None, missing=missing)


def look_up(parsed: ParsedLabels, table: Mapping[Any, int], among: str) -> npt.NDArray[np.int64]:
    """What a table says of every id or name (N,), −1 where there is no label.

    ``among`` says in errors what the table holds.
    """
    values: Sequence[Label]
    if parsed.names is None:
        unique, inverse = np.unique(parsed.ids, return_inverse=True)
        values = unique.tolist()
    else:
        values, inverse = parsed.names, parsed.ids
    places = [table.get(value, NO_CLASS) for value in values]
    places += [UNLABELLED]  # for a missing name, whose place is −1
    if parsed.names is None and values and UNLABELLED in values and UNLABELLED not in table:
        places[list(values).index(UNLABELLED)] = UNLABELLED
    found = np.where(parsed.missing, UNLABELLED, np.array(places, np.int64)[inverse])
    if (found == NO_CLASS).any():
        row = int((found == NO_CLASS).argmax())
        raise ValueError(
            f"{parsed.name}: row {row} has label {values[inverse[row]]!r}, which is none of {among}"
        )
    return found


def known_ids(labels: Any, name: str = "labels") -> ParsedLabels:
    """Labels that are encoded already: ids in which −1 is no class, or rows.

    >>> find_classes([[1, -1]]), find_classes([known_ids([1, -1])])
    ((-1, 1), (1,))
    """
    parsed = parse_labels(labels, name, soft=True)
    return parsed if parsed.rows is not None else replace(parsed, missing=_unlabelled(parsed))


def class_list(classes: Iterable[Any], name: str = "classes") -> tuple[Label, ...]:
    """Class ids as plain integers, or class names in NFC; each once.

    >>> class_list(np.arange(3)), class_list(["ant", "owl "])
    ((0, 1, 2), ('ant', 'owl'))
    """
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Iterable):
        raise TypeError(
            f"{name}: expected a list of ids or names (range(10), say), got {classes!r}"
        )
    given = list(classes)
    found: list[Label]
    if given and all(isinstance(label, str) for label in given):
        found = [clean_name(label) for label in given]
        if "" in found:
            raise ValueError(f"{name}: expected names that are not empty, got {given!r}")
    else:
        try:
            found = [operator.index(label) for label in given]
        except TypeError as error:
            raise TypeError(f"{name}: expected integers or names, got {given!r}") from error
    if len(set(found)) < len(found):
        twice = next(label for label in found if found.count(label) > 1)
        raise ValueError(f"{name}: expected each class once, got {twice!r} twice")
    return tuple(found)


def _unlabelled(parsed: ParsedLabels) -> npt.NDArray[np.bool_]:
    return np.asarray(parsed.missing | (parsed.ids == UNLABELLED))


def _called(arrays: Sequence[ParsedLabels]) -> str:
    return " and ".join(dict.fromkeys(one.name for one in arrays))
