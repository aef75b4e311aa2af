"""Labels of any kind, read into one form."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.labels.encoded import UNLABELLED, computable
from drcl.tensors import as_tensor

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
    """Labels of any kind in one form; see :mod:`drcl.labels`.

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


def clean_name(name: str) -> str:
    """A class name in composed Unicode (NFC) without blanks at its ends: what looks alike is one.

    >>> len(clean_name("e\u0301le\u0300ve "))
    5
    """
    return unicodedata.normalize("NFC", name).strip()


def _read(labels: Any, name: str) -> tuple[npt.NDArray[Any] | Tensor, npt.NDArray[np.bool_] | None]:
    """Any array as an array of NumPy or, if it is one, a tensor; and what is masked of it."""
    if isinstance(labels, Tensor):
        tensor = as_tensor(labels, name)
        if tensor.is_complex():
            raise TypeError(f"{name}: expected class ids or rows, got {tensor.dtype}")
        if tensor.dtype != torch.uint64 or tensor.ndim != 1:  # NumPy has them, but no rows of them
            tensor = computable(name, tensor)
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
            f"{name}: expected numbers in label rows (N, C), got {array.dtype} of shape "
            f"{array.shape}; names are (N,), one a row"
        )
    missing = np.zeros(len(array), bool)
    if masked is not None:
        missing = np.asarray(masked.all(axis=1))
        if (partly := masked.any(axis=1) & ~missing).any():
            row = int(partly.argmax())
            raise ValueError(f"{name}: row {row} is partly masked: expected all or nothing of it")
        array = np.where(missing[:, None], 0, array)
    rows = as_tensor(array, name)
    rows = computable(name, rows)
    if rows.dtype != torch.bool:
        _check_values(rows, name, soft)
    return rows, missing


def _check_values(rows: Tensor, name: str, soft: bool) -> None:
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
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
