"""Arrays of any kind as tensors, without a copy where torch can read them as they are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(array: Any, name: str = "array") -> Tensor:
    """A tensor of any numbers NumPy understands; a memory-mapped array stays on its disk.

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
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    # torch reads neither foreign byte orders nor negative strides.
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        # A copy in any case: an array of one row counts as contiguous whatever its strides are.
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(array)
