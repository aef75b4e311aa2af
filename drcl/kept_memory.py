"""Large blocks of memory on a CPU, kept from one step of a training to the next.

malloc maps a large block anew at every call: each of its pages is then fetched from the system and
zeroed, before a number is written. At B = 65,536 and D = 512 that was a seventh of a step's
processor time.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["new", "release"]

# glibc keeps blocks of up to 32 MiB by itself, once one of that size has been freed.
HEAP, SMALL = 2**25, 2**17
# A step holds four at once: features, a matrix of their products, the gradient, and it unmixed.
KEPT = 4
# PyTorch's own tensors begin at such an address.
ALIGNMENT = 64
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}

# Each with the array that a tensor reads, which goes when nothing uses the tensor's memory any
# more; the last one given out is at the end.
_blocks: list[tuple[np.ndarray[Any, Any], weakref.ref[Any]]] = []
_lock = threading.Lock()


def new(like: Tensor, *sizes: int) -> Tensor:
    """``like.new_empty(sizes)``, on a CPU in memory that is kept when nothing uses it any more.

    Beyond 32 MiB up to four blocks are kept, the last ones given out, until :func:`release`.

    >>> new(torch.zeros(1), 2, 3).shape
    torch.Size([2, 3])
    """
    dtype = DTYPES.get(like.dtype)
    if type(like) is not Tensor or like.device.type != "cpu" or dtype is None:
        return like.new_empty(sizes)
    count = math.prod(sizes) * like.element_size()
    if count < HEAP:
        if count >= SMALL:
            _let_heap_keep()
        return like.new_empty(sizes)
    with _lock:
        try:
            block = _unused(count + ALIGNMENT)
        except MemoryError:
            _blocks.clear()
            return like.new_empty(sizes)
        start = -block.ctypes.data % ALIGNMENT
        array = block[start : start + count].view(dtype).reshape(sizes)
        _blocks.append((block, weakref.ref(array)))
        del _blocks[:-KEPT]
    return torch.from_numpy(array)


def release() -> None:
    """Give back what is kept; memory in use goes with its tensor.

    >>> release()
    """
    with _lock:
        _blocks.clear()


def _unused(count: int) -> np.ndarray[Any, Any]:
    for i, (block, lent) in enumerate(_blocks):
        if len(block) == count and lent() is None:
            del _blocks[i]
            return block
    return np.empty(count, np.uint8)


@functools.cache
def _let_heap_keep() -> None:
    """Free one large block, which is never written.

    From then on glibc takes blocks of up to its size from the heap, and keeps up to twice as much
    free there. Both limits start at 128 KiB, with which a step of B = 256 and D = 2,048 takes a
    thousand page faults.
    """
    torch.empty(HEAP - 2**16, dtype=torch.uint8)
