"""Arrays of any kind as tensors, without a copy where torch can read them as they are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(array: Any) -> Tensor:
    """A tensor of anything NumPy understands; a memory-mapped array stays on its disk.

    >>> as_tensor(np.arange(3)[::-1])
    tensor([2, 1, 0])
    """
    if isinstance(array, Tensor):
        return array.detach()
    array = np.asarray(array)
    # torch reads neither foreign byte orders nor negative strides.
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(array)
