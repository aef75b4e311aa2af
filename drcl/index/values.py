"""Ids and values of metadata: what they may be, and which are equal.

There is one rule, for :meth:`Index.find`, :meth:`Index.remove` and ``where`` alike. Numbers are
equal where their values are, whatever their types: 2, 2.0 and ``np.float32(2)`` are one value, and
so are 0.0 and −0.0. Strings, truth values and None equal only their like: neither "2" nor True is a
number, "01" is not "1", and "" is not None. Scalars of NumPy and
PyTorch count as the values they hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_WORDS = "strings, finite numbers, truth values or None"


def listed(name: str, values: Any) -> list[Any]:
    """A sequence, array, tensor or column of a frame as a list of Python's own values.

    What a column of pandas lacks is None.
    """
    missing: Any = None
    if hasattr(values, "columns"):
        raise TypeError(f"{name}: expected a sequence, got {type(values).__name__}; take a column")
    if hasattr(values, "isna"):
        missing = values.isna().tolist()
    if hasattr(values, "tolist"):
        values = values.tolist()
    elif hasattr(values, "to_list"):
        values = values.to_list()
    if isinstance(values, str):
        raise TypeError(f"{name}: expected a sequence, got str; of one it is [{values!r}]")
    if isinstance(values, (bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a sequence, got {type(values).__name__}")
    if missing is None:
        return [_plain(value) for value in values]
    return [None if gone else _plain(value) for value, gone in zip(values, missing, strict=True)]


def as_json(name: str, value: Any) -> str:
    """A value as text, which :func:`json.loads` makes the same value of; ValueError if it has none.

    >>> as_json("n", np.float64(2)), as_json("n", "ö"), as_json("n", None)
    ('2.0', '"ö"', 'null')
    """
    value = _plain(value)
    plain = value is None or isinstance(value, (str, bool, int, float))
    if not plain or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name}: expected {_WORDS}, got {value!r}")
    try:
        return json.dumps(value, ensure_ascii=False)
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"{name}: expected {_WORDS} ({error})") from error


def spellings(name: str, value: Any) -> set[str]:
    """The texts of all values that equal this one; ValueError if it cannot be one.

    >>> sorted(spellings("n", 2)), sorted(spellings("n", -0.0)), spellings("n", True)
    (['2', '2.0'], ['-0.0', '0', '0.0'], {'true'})
    """
    text = as_json(name, value)
    value = json.loads(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {text}
    found = {text}
    if value == int(value):
        found.add(json.dumps(int(value)))
    try:
        if float(value) == value:
            found.add(json.dumps(float(value)))
    except OverflowError:  # an integer beyond every float
        pass
    return found | {"0.0", "-0.0"} if value == 0 else found


def id_of(value: Any, kind: str) -> int | str | None:
    """The id of a kind that a value equals, None if there is none.

    >>> id_of(np.int8(1), "integers"), id_of("01", "integers"), id_of("01", "strings")
    (1, None, '01')
    """
    value = _plain(value)
    if kind == "strings":
        return str(value) if isinstance(value, str) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and -(2**63) <= value < 2**63 else None


def _plain(value: Any) -> Any:
    """Python's own value of a scalar of NumPy or PyTorch."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def integers(values: list[Any]) -> npt.NDArray[np.int64]:
    """Ids that are integers (n,), of :func:`listed`; ValueError for any other value."""
    for value in values:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not -(2**63) <= value < 2**63:
            raise ValueError(
                f"ids: expected all strings, or all integers of 64 bits, got {value!r}"
            )
    return np.array(values, np.int64)
