"""Labels of any kind, read and checked in one place.

A label array is one of

- class ids (N,): whole numbers of any dtype (also as floats or bools), as a column or, where N is
  known, as a row;
- class names (N,): strings, in composed Unicode (NFC) and without blanks at their ends;
- multi-hot rows (N, C), C > 1, of 0 and 1 (for training also of probabilities).

It may be a tensor, a list, or anything that NumPy reads: a Series or Categorical of pandas or
Polars, an Arrow or HDF5 array. NaN, None, a masked entry, pandas' NA and an empty name mark a row
as unlabelled. What an id means depends on the classes:

- With a list of classes (a prior's, a manifest's, ``classes=``) the ids in the list are the
  classes, whatever they are. −1 means unlabelled unless it is listed; any other id is an error.
- Without one, ids from 0 are classes, −1 means unlabelled, and an id below −1 is an error, such as
  PyTorch's −100. Where −1 and 1 occur and nothing else does, they are two classes.

Losses take ids and rows as tensors and look at no value on a GPU or in compiled code: there an id
that is no class makes the loss NaN.
"""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import can_look_at, check_device, check_tensor
from drcl.tensors import as_tensor

UNLABELLED = -1
NO_CLASS = -2  # what an id that is no class becomes where its value cannot be looked at

Label: TypeAlias = int | str
AnyArray = TypeVar("AnyArray", Tensor, npt.NDArray[Any])

_CHUNK = 4096  # label rows that are looked at in one go


@dataclass(frozen=True, eq=False)
class ParsedLabels:
    """What :func:`parse_labels` makes of a label array of N rows.

    Attributes:
        name: what errors call it.
        ids: (N,) int64: class ids as they were given or, with ``names``, places among them. −1
            where ``missing``. Empty with ``rows``.
        names: the class names that occur, each once; None for ids and rows.
        rows: (N, C) label rows, where they were; None for ids and names.
        missing: (N,) bool: marked as unlabelled other than by −1.
        soft: whether rows may hold other values than 0 and 1.
    """

    name: str
    ids: npt.NDArray[np.int64]
    names: tuple[str, ...] | None
    rows: Tensor | None
    missing: npt.NDArray[np.bool_]
    soft: bool = False

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, part: slice) -> ParsedLabels:
        rows = None if self.rows is None else self.rows[part]
        return replace(self, ids=self.ids[part], rows=rows, missing=self.missing[part])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,) or (N, C)."""
        return self.ids.shape if self.rows is None else tuple(self.rows.shape)

    @cached_property
    def signs(self) -> int:
        """1 if an id −1 occurs, plus 2 if 1 does, plus 4 if any other or a name does."""
        if self.rows is not None or self.names is not None:
            return 4 * (self.rows is not None or bool(self.names))
        ids = self.ids[~self.missing] if self.missing.any() else self.ids
        other = ((ids != -1) & (ids != 1)).any()
        return int((ids == -1).any()) | int((ids == 1).any()) << 1 | int(other) << 2


def parse_labels(
    labels: Any, name: str = "labels", *, count: int | None = None, soft: bool = False
) -> ParsedLabels:
    """Labels of any kind in one form; see the module.

    Args:
        labels: ids, names or rows; what is parsed already is returned as it is.
        name: what errors call them.
        count: N, where it is known; another number is a ValueError.
        soft: whether rows may hold anything from 0 to 1 and not 0 and 1 alone.

    Raises ValueError, with the row, for values that are no labels, and TypeError for what is no
    array of numbers or strings.

    >>> parse_labels(["owl", None, "ant", "owl"]).ids.tolist()
    [0, -1, 1, 0]
    >>> parse_labels(np.array([[0.0], [2.0], [np.nan]])).ids.tolist()
    [0, 2, -1]
    """
    if isinstance(labels, ParsedLabels):
        _check_count(labels.shape, count, labels.name)
        if labels.rows is not None and labels.soft and not soft:
            _check_values(labels.rows, labels.name, soft)
        return labels
    array, masked = _read(labels, name)
    shape = tuple(array.shape)
    if len(shape) == 2 and (shape[1] == 1 or (shape == (1, count) and count != 1)):
        array, masked = array.reshape(-1), None if masked is None else masked.reshape(-1)
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise ValueError(f"{name}: expected shape (N,) or (N, C), got shape {shape}")
    _check_count(shape if array.ndim == 2 else tuple(array.shape), count, name)
    missing = np.zeros(len(array), bool) if masked is None else masked
    if array.ndim == 2:
        rows, missing = _rows(array, masked, name, soft)
        return ParsedLabels(name, np.empty(0, np.int64), None, rows, missing, soft)
    found = array.cpu().numpy() if isinstance(array, Tensor) else array
    if found.dtype.kind in "US":
        return _strings(found, missing, name)
    if found.dtype.kind == "O":
        return _objects(found, missing, name)
    return _numbers(found, missing, name)


def find_classes(labels: Iterable[Any]) -> tuple[Label, ...]:
    """The sorted classes of several label arrays: the ids or names that occur, or columns 0..C−1.

    >>> find_classes([[3, 1, -1], [7, 3]])
    (1, 3, 7)
    >>> find_classes([["owl", "ant"], [None, "owl"]])
    ('ant', 'owl')
    """
    parsed = [parse_labels(one, soft=True) for one in labels]
    if _joined(parsed) == 3:
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
            f"{_called(arrays)}: some labels are strings and some are numbers: expected one kind"
        )
    if any(one.names for one in telling):
        names = tuple(sorted({name for one in telling for name in one.names or ()}))
        place = {name: index for index, name in enumerate(names)}
        return [
            replace(one, ids=look_up(one, place, ""), names=names, missing=_unlabelled(one))
            for one in arrays
        ]
    if (_joined(arrays) if signs is None else signs) == 3:  # −1 and 1, and nothing else
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
    return look_up(parsed, table, f"the {len(classes)} classes {_shortened(classes)}")


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
        raise ValueError(f"{parts[0].name}: some labels are strings and some are numbers")
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


def clean_name(name: str) -> str:
    """A class name in composed Unicode (NFC) without blanks at its ends: what looks alike is one.

    >>> len(clean_name("e\u0301le\u0300ve "))
    5
    """
    return unicodedata.normalize("NFC", name).strip()


def is_labelled(labels: AnyArray) -> AnyArray:
    """Which rows of encoded labels have one (N,) bool: an id other than −1, a row with any mass.

    >>> is_labelled(np.array([0, -1, 2])).tolist(), is_labelled(torch.eye(2, 2) * 0.5).tolist()
    ([True, False, True], [True, True])
    """
    # Neither NaN nor an id that is no class is "unlabelled": it would vanish from a loss.
    return labels != UNLABELLED if labels.ndim == 1 else labels.sum(1) != 0


def target_rows(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Ids (B,) as one-hot rows (B, C), −1 as a zero row; rows as they are, in ``dtype``.

    An id that is no class gives a row with NaN.
    """
    if targets.ndim == 2:
        return targets.to(dtype)
    columns, outside = in_range(targets, classes)
    mass = is_labelled(targets).to(dtype).masked_fill(outside, float("nan"))
    rows = torch.zeros(targets.shape[0], classes, dtype=dtype, device=targets.device)
    return rows.scatter_(1, columns[:, None], mass[:, None])


def in_range(ids: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Ids that can be indexed with, and which (B,) are neither a class nor −1."""
    return ids.clamp(0, classes - 1), (ids < UNLABELLED) | (ids >= classes)


def check_targets(
    targets: Any, features: Tensor, classes: int | None, numbering: Any = None
) -> Tensor:
    """Targets of a loss: ids (B,) int64, −1 for unlabelled, or non-negative rows (B, C).

    Args:
        targets: ids of any integer dtype, bools or whole floats, (B,) or (B, 1); or rows.
        features: (B, …), for the number of rows and the device.
        classes: C, or None where the rows say it.
        numbering: a :class:`drcl.Prior`, whose classes the ids are; by default they are columns.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"targets: expected a tensor, got {type(targets).__name__}; make one with "
            "torch.as_tensor, of names with Prior.positions"
        )
    check_tensor("targets", targets)
    check_device("targets", targets, "features", features)
    if targets.ndim == 0 or targets.shape[0] != features.shape[0]:
        raise ValueError(
            f"targets: shape {tuple(targets.shape)} for {features.shape[0]} rows of features; "
            f"expected ({features.shape[0]},) or ({features.shape[0]}, {classes or 'C'})"
        )
    if targets.ndim == 2 and targets.shape[1] == (classes or targets.shape[1]):
        if targets.is_complex() or 0 in targets.shape:
            raise ValueError(
                f"targets: expected real rows (B, C), got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        if can_look_at(targets) and not bool((targets >= 0).all() & targets.isfinite().all()):
            raise ValueError("targets: rows must be finite and not negative")
        return targets
    if targets.shape[1:] not in ((), (1,)) or targets.is_complex():
        raise ValueError(
            f"targets: expected ids (B,) or rows (B, {classes or 'C'}), got {targets.dtype} of "
            f"shape {tuple(targets.shape)}"
        )
    if classes is None:
        raise ValueError("classes: needed when targets are class ids")
    given = targets.reshape(-1)
    ids = _as_ids(given)
    if numbering is not None:
        ids = numbering.columns_of(ids)
    if can_look_at(ids):
        _, outside = in_range(ids, classes)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            expected = f"class ids in 0..{classes - 1}"
            if numbering is not None and numbering.is_renumbered:
                expected = f"ids among the prior's classes {_shortened(numbering.classes)}"
            raise ValueError(
                f"targets: expected {expected}, or −1 for unlabelled; got {given[row].item()} in "
                f"row {row}"
            )
    return ids


def _as_ids(targets: Tensor) -> Tensor:
    """Ids of any real dtype as int64; what int64 does not hold as no class."""
    if targets.dtype == torch.int64:
        return targets
    if targets.is_floating_point():
        whole = (targets == targets.round()) & (targets.abs() < 2.0**63)
        return torch.where(whole, targets, NO_CLASS).long()
    ids = targets.long()
    return ids if targets.dtype != torch.uint64 else ids.where(ids >= 0, NO_CLASS)


def _read(labels: Any, name: str) -> tuple[npt.NDArray[Any] | Tensor, npt.NDArray[np.bool_] | None]:
    """Any array as an array of NumPy or, if it is one, a tensor; and what is masked of it."""
    if isinstance(labels, Tensor):
        tensor = as_tensor(labels, name)
        if tensor.is_complex():
            raise TypeError(f"{name}: expected class ids or rows, got {tensor.dtype}")
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor), None
    if hasattr(labels, "tocoo"):
        raise TypeError(f"{name}: is a sparse matrix; expected a dense one, its .toarray()")
    masked = np.ma.getmaskarray(labels) if np.ma.isMaskedArray(labels) else None
    try:
        array = np.asarray(labels)
        # A list of strings and missing values would become an array with a name "nan" or "None".
        if array.dtype.kind in "UST" and not isinstance(labels, np.ndarray):
            array = np.array(labels, dtype=object)
        # Integers beside missing values are doubles by now, which do not hold all of them.
        elif (
            array.dtype.kind == "f"
            and array.ndim == 1
            and not isinstance(labels, np.ndarray)
            and (np.abs(array) >= 2.0**53).any()
        ):
            array = np.array(list(labels), dtype=object)
    except ValueError as error:
        raise ValueError(
            f"{name}: rows of different lengths ({error}); for several labels a sample give rows "
            "of 0 and 1 (N, C)"
        ) from error
    if array.dtype.kind == "T":
        array = array.astype(object)
    if array.dtype.kind == "O" and array.ndim == 2 and array.shape[1] > 1:
        array = np.array(array.tolist())  # columns of several types in a data frame
    if array.dtype.kind not in "biufUSO":
        raise TypeError(f"{name}: expected class ids, names or rows, got dtype {array.dtype}")
    return array, masked


def _check_count(shape: tuple[int, ...], count: int | None, name: str) -> None:
    if count is None or shape[0] == count:
        return
    turned = "; give its transpose, .T" if shape[1:] == (count,) else ""
    raise ValueError(f"{name}: expected {count} ids, names or rows, got shape {shape}{turned}")


def _numbers(array: npt.NDArray[Any], missing: npt.NDArray[np.bool_], name: str) -> ParsedLabels:
    if array.dtype.kind == "f":
        missing = missing | np.isnan(array)
        array = np.where(missing, -1, array)
        bad = (array != array.round()) | (np.abs(array) >= np.float64(2**63))
    else:  # as integers: the largest of 64 bits are none of float64
        bad = missing ^ missing if array.dtype != np.uint64 else (array >= 2**63) & ~missing
    if bad.any():
        row = int(bad.argmax())
        raise _not_whole(array[row], row, name)
    ids = array.astype(np.int64)
    if missing.any():
        ids[missing] = UNLABELLED
    return ParsedLabels(name, ids, None, None, missing)


def _objects(array: npt.NDArray[Any], missing: npt.NDArray[np.bool_], name: str) -> ParsedLabels:
    """Labels as Python objects: all names or all numbers, some of them missing."""
    seen: dict[Any, int] = {}
    places = []
    for row, value in enumerate(array.tolist()):
        if missing[row]:
            value = None
        if isinstance(value, Tensor) and value.ndim == 0:
            value = value.item()
        try:
            places.append(seen.setdefault(None if _is_missing(value) else value, len(seen)))
        except TypeError as error:  # lists, say, have no hash
            raise _no_label(value, row, name) from error
    values, inverse = list(seen), np.array(places, np.int64)
    first = np.unique(inverse, return_index=True)[1].tolist()
    kinds = {}
    for value, row in zip(values, first, strict=True):
        if isinstance(value, (str, bytes)):
            kinds["a string"] = row
        elif isinstance(value, (Real, np.bool_)):
            kinds["a number"] = row
        elif value is not None:
            raise _no_label(value, row, name)
    if len(kinds) > 1:
        (one, row), (other, second) = kinds.items()
        raise ValueError(
            f"{name}: row {row} is {one} and row {second} {other}: expected one kind of label"
        )
    if "a string" in kinds:
        return _named(values, inverse, name)
    table = [
        UNLABELLED if value is None else _whole(value, row, name)
        for value, row in zip(values, first, strict=True)
    ]
    absent = np.array([value is None for value in values], bool)[inverse]
    return _numbers(np.array(table, np.int64)[inverse], absent, name)


def _strings(array: npt.NDArray[Any], missing: npt.NDArray[np.bool_], name: str) -> ParsedLabels:
    if missing.any():  # what lies under a mask is no name
        array = array.copy()
        array[missing] = ""
    unique, inverse = np.unique(array, return_inverse=True)
    return _named(unique.tolist(), inverse, name)


def _named(
    values: Sequence[str | bytes | None], inverse: npt.NDArray[np.int64], name: str
) -> ParsedLabels:
    """Names from their spellings, None among them, and each row's place in these."""
    place: dict[str, int] = {}
    to = []
    for index, value in enumerate(values):
        try:
            text = value.decode("utf-8") if isinstance(value, bytes) else value or ""
        except UnicodeDecodeError as error:
            row = int((inverse == index).argmax())
            raise ValueError(
                f"{name}: label {value!r} in row {row} is not text in UTF-8"
            ) from error
        text = clean_name(text)
        to.append(place.setdefault(text, len(place)) if text else UNLABELLED)
    ids = np.array(to, np.int64)[inverse]
    return ParsedLabels(name, ids, tuple(place), None, ids == UNLABELLED)


def _is_missing(value: Any) -> bool:
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return type(value).__name__ in ("NAType", "NaTType")  # pandas'


def _whole(value: Any, row: int, name: str) -> int:
    whole = int(value) if isinstance(value, Integral) or float(value).is_integer() else None
    if whole is None or not -(2**63) <= whole < 2**63:
        raise _not_whole(value, row, name)
    return whole


def _not_whole(value: Any, row: int, name: str) -> ValueError:
    return ValueError(
        f"{name}: label {value} in row {row} is not a whole number of 64 bits, as class ids are "
        "(−1 or NaN marks an unlabelled row)"
    )


def _no_label(value: Any, row: int, name: str) -> ValueError:
    return ValueError(
        f"{name}: row {row} holds {value!r}, a {type(value).__name__}: expected an id or a name"
    )


def _rows(
    array: npt.NDArray[Any] | Tensor, masked: npt.NDArray[np.bool_] | None, name: str, soft: bool
) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """Label rows as a tensor, where they are; and which are wholly masked."""
    if not isinstance(array, Tensor) and array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: label rows (N, C) are numbers, got {array.dtype} of shape {array.shape}; "
            "names are (N,), one a row"
        )
    missing = np.zeros(len(array), bool)
    if masked is not None:
        missing = np.asarray(masked.all(axis=1))
        if (partly := masked.any(axis=1) & ~missing).any():
            row = int(partly.argmax())
            raise ValueError(f"{name}: row {row} is partly masked: expected all or nothing of it")
        array = np.where(missing[:, None], 0, array)
    rows = as_tensor(array, name)
    if rows.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch does not compare them
        rows = rows.long()
    if rows.dtype != torch.bool:
        _check_values(rows, name, soft)
    return rows, missing


def _check_values(rows: Tensor, name: str, soft: bool) -> None:
    for start, part in zip(range(0, len(rows), _CHUNK), rows.split(_CHUNK), strict=True):
        good = (part >= 0) & (part <= 1) if soft else (part == 0) | (part == 1)
        if not bool(good.all()):
            row, column = (int(at) for at in (~good).nonzero()[0])
            raise ValueError(
                f"{name}: row {start + row} of shape {tuple(rows.shape)} holds "
                f"{part[row, column].item():g}; expected "
                + (
                    "values from 0 to 1 in label rows (N, C)"
                    if soft
                    else "0 and 1 in multi-hot rows (N, C), or class ids (N,); of probabilities "
                    "take labels.argmax(1), of −1 and 1 labels > 0"
                )
            )


def _joined(arrays: Iterable[ParsedLabels]) -> int:
    signs = 0
    for one in arrays:
        signs |= one.signs
    return signs


def _unlabelled(parsed: ParsedLabels) -> npt.NDArray[np.bool_]:
    return np.asarray(parsed.missing | (parsed.ids == UNLABELLED))


def _called(arrays: Sequence[ParsedLabels]) -> str:
    return " and ".join(dict.fromkeys(one.name for one in arrays))


def _shortened(classes: Sequence[Label]) -> str:
    shown = ", ".join(repr(label) for label in classes[:10])
    return f"[{shown}{', …' if len(classes) > 10 else ''}]"
