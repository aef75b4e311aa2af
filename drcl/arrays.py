"""Arrays of any kind as tensors, without a copy where torch can read them as they are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
# torch has no long doubles.
_NARROWER = {"g": np.dtype(np.float64), "G": np.dtype(np.complex128)}


def as_tensor(array: Any, name: str = "array") -> Tensor:
    """A tensor of any numbers NumPy understands; long doubles as doubles.

    A memory-mapped array that torch can read as it is stays on its disk.

    Raises TypeError or ValueError naming ``name`` for what is no array of numbers.

    >>> as_tensor(np.arange(3)[::-1])
    tensor([2, 1, 0])
    """
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_meta:
            what = "on the meta device" if array.is_meta else f"of layout {array.layout}"
            raise ValueError(f"{name}: expected a dense tensor with values, got one {what}")
        return array.detach()
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths ({error})") from error
    if array.dtype.char not in _NUMBERS:  # by kind, another library's float8 may be a float too
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    dtype = _NARROWER.get(array.dtype.char, array.dtype.newbyteorder("="))
    # torch reads neither foreign byte orders nor strides that are negative or, as those of a record
    # array's field, no multiple of an item.
    if dtype.char != array.dtype.char or not array.dtype.isnative or _has_odd_strides(array):
        # A copy in any case: an array of one row counts as contiguous whatever its strides are.
        array = np.array(array, dtype, order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(array)


def _has_odd_strides(array: npt.NDArray[Any]) -> bool:
    return any(stride < 0 or stride % array.itemsize for stride in array.strides)
