"""Arrays of any kind as tensors, without a copy where torch can read them as they are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import check_has_values, check_tensor

__all__ = ["as_features", "as_tensor", "check_finite", "check_unmasked", "is_array", "row_count"]
__dir__ = __all__.copy

_NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
# torch has no long doubles.
_NARROWER = {"g": np.dtype(np.float64), "G": np.dtype(np.complex128)}
# How much of an array in a file or a store is read at once.
_READ_BYTES = 2**25


def is_array(value: object) -> bool:
    """Whether this is one array, frame or matrix, and no sequence or iterator of them.

    >>> is_array(np.zeros(3)), is_array([np.zeros(3)])
    (True, False)
    """
    return hasattr(value, "shape")


def as_features(array: Any, name: str) -> Tensor:
    """:func:`as_tensor` of real numbers: of features, or of embeddings.

    >>> as_features([[1, 2]], "query")
    tensor([[1, 2]])
    """
    tensor = as_tensor(array, name)
    if tensor.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    return tensor


def as_tensor(array: Any, name: str = "array") -> Tensor:
    """A tensor of any numbers NumPy understands; long doubles as doubles.

    Takes tensors, arrays and nested lists; pandas and Polars frames of numbers; SciPy's sparse
    matrices; and whatever has a shape, a dtype and rows to slice, as arrays of h5py and zarr do. A
    memory-mapped array that torch can read as it is stays on its disk; all others are read whole.

    Raises TypeError or ValueError naming ``name`` for anything but an array of numbers, and for an
    array with masked entries.

    >>> as_tensor(np.arange(3)[::-1])
    tensor([2, 1, 0])
    """
    if isinstance(array, Tensor):
        check_tensor(name, array)
        check_has_values(name, array)
        return array.detach()
    array = _as_numpy(array, name)
    if array.dtype.char not in _NUMBERS:  # by kind, another library's float8 may be a float too
        items = "; np.stack() makes one array of many" if array.dtype == object else ""
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}{items}")
    dtype = _NARROWER.get(array.dtype.char, array.dtype.newbyteorder("="))
    # torch reads neither foreign byte orders nor strides that are negative or, as those of a record
    # array's field, no multiple of an item.
    odd = any(stride < 0 or stride % array.itemsize for stride in array.strides)
    if dtype.char != array.dtype.char or not array.dtype.isnative or odd:
        # A copy in any case: an array of one row counts as contiguous whatever its strides are.
        array = np.array(array, dtype, order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(array)


def check_unmasked(array: Any, name: str, row: int | None = None) -> None:
    """Refuse masked entries: NumPy hands on what lies below a mask as if it were a value.

    ``row`` is the number of the row that this is, if it is one.
    """
    if isinstance(array, (list, tuple)):
        for place, part in enumerate(array):
            if isinstance(part, np.ma.MaskedArray):
                check_unmasked(part, name, place if row is None else row)
    elif isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        row = int(np.argwhere(np.ma.getmaskarray(array))[0][0]) if row is None else row
        raise ValueError(
            f"{name}: row {row} is masked, expected values: leave it out, or use "
            "array.filled(value)"
        )


def check_finite(rows: Tensor, name: str, first: int = 0) -> None:
    """Refuse rows with NaN or infinite entries; ``first`` is the number of the first of them."""
    finite = rows.isfinite().reshape(len(rows), -1).all(dim=1)
    if not bool(finite.all()):
        row = first + int((~finite).nonzero()[0])
        raise ValueError(
            f"{name}: expected finite values (as float32), got NaN or infinity in row {row}"
        )


def _as_numpy(array: Any, name: str) -> npt.NDArray[Any]:
    check_unmasked(array, name)
    if hasattr(array, "to_numpy"):  # of pandas or Polars
        found = np.asarray(array.to_numpy())
        # Columns of several kinds: numbers beside truth values or missing ones, or no numbers.
        return _columns(array, name) if found.dtype == object and found.ndim == 2 else found
    if hasattr(array, "toarray"):  # one of SciPy's sparse matrices
        return np.asarray(array.toarray())
    in_file = is_array(array) and hasattr(array, "dtype") and not isinstance(array, np.ndarray)
    if in_file and array.shape and hasattr(array, "__getitem__"):
        return _read(array)
    try:
        return np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths ({error})") from error


def _columns(frame: Any, name: str) -> npt.NDArray[Any]:
    """A frame's columns, one by one, as float64; what is missing becomes NaN."""
    pandas = hasattr(frame, "items")
    found = []
    for column, values in (
        frame.items() if pandas else ((part.name, part) for part in frame.iter_columns())
    ):
        kind = values.dtype.kind if pandas else values.to_numpy().dtype.kind
        if not pandas and str(values.dtype) == "Boolean":
            values, kind = values.cast(int), "b"
        if kind not in "biuf":
            raise TypeError(f"{name}: column {column!r} is {values.dtype}, expected numbers")
        found.append(values.to_numpy(np.float64, na_value=np.nan) if pandas else values.to_numpy())
    return np.column_stack(found).astype(np.float64, copy=False)


def _read(array: Any) -> npt.NDArray[Any]:
    """All rows of an array in a file or a store, some at a time."""
    part = np.asarray(array[:1])
    found = np.empty(tuple(array.shape), part.dtype)
    size = max(1, _READ_BYTES // max(1, part.nbytes))
    for start in range(0, len(found), size):
        found[start : start + size] = np.asarray(array[start : start + size])
    return found


def row_count(rows: Any) -> int | None:
    """How many rows an array of any library has; None for what does not tell, such as iterators.

    >>> row_count(torch.zeros(3, 2)), row_count(iter([]))
    (3, None)
    """
    return next(iter(getattr(rows, "shape", ())), None)
