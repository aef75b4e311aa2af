"""Running out of memory, on host or device: recognising it, and retrying in smaller pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

__all__ = ["first_line", "first_that_fits", "in_pieces", "is_out_of_memory"]
__dir__ = __all__.copy

T = TypeVar("T")

# What PyTorch and the libraries below it say in a plain RuntimeError.
_WORDS = (
    *("can't allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED"),
    "Storage size calculation overflowed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by Python or NumPy, by PyTorch's allocator, or on a GPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def in_pieces(work: Callable[[int, int], T], count: int, size: int) -> Iterator[T]:
    """``work(start, stop)`` over 0..count, ``size`` at a time, half as many if memory runs out.

    A piece that does not fit is done again in smaller ones, and the rest in these. They are of
    nearly one size: a product of very few rows may take another way, and round differently.

    Raises MemoryError if a piece of one does not fit.

    >>> def work(start, stop):
    ...     if stop - start > 3:
    ...         raise MemoryError
    ...     return stop - start
    >>> list(in_pieces(work, 9, 8))
    [3, 3, 3]
    """
    start, piece = 0, size
    while start < count:
        rest = count - start
        length = min(size, rest) if piece == size else -(-rest // -(-rest // piece))
        try:
            found = work(start, start + length)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if length == 1:
                raise MemoryError(
                    f"not even one row at a time fits: {first_line(error)}"
                ) from error
            piece = length // 2
            continue  # out of here first: the error holds on to what the failed piece had made
        start += length
        yield found


def first_that_fits(work: Callable[[int], T], size: int) -> T | None:
    """``work(size)``, or of half the size, a quarter, … if memory runs out; None if none fits.

    >>> def work(size):
    ...     if size > 3:
    ...         raise MemoryError
    ...     return size
    >>> first_that_fits(work, 8)
    2
    """
    while size >= 1:
        try:
            return work(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message; allocators write a page.

    >>> first_line(RuntimeError("out of memory\\nand much more"))
    'out of memory'
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
