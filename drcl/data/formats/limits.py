"""How much memory a file may ask for.

Compressed formats, and those that store only what is not empty, let some bytes declare an array
larger than any memory. Deflate, the most used compression, reaches 1032 to 1; what goes far beyond
that is no data set. Nothing is allocated before :func:`allow` has seen its size or, where several
arrays are made of one file, a :class:`Budget` has seen what they come to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

FLOOR = 2**30
RATIO = 1000

OBJECT = 256
"""Bytes that a small array or string takes as a Python object, about."""


class Refused(ValueError):
    """A clear answer of our own, as opposed to whatever a library raises on damaged bytes."""


def allow(path: Path, shape: Iterable[int], itemsize: int) -> None:
    """Refuse an array that takes more than 1 GiB and more than 1000 times its file's size."""
    Budget(path).take(shape, itemsize)


class Budget:
    """What the arrays made of one file take, all together no more than one of them may.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     budget = Budget(Path(file.name))
    ...     budget.take((2**29,), 1)
    ...     budget.take((2**30,), 1)
    Traceback (most recent call last):
    ...
    drcl.data.formats.limits.Refused: an array of (1073741824,) would take 2 GiB with those before \
it, and the file holds 0 bytes: at most 1 GiB or 1000 times the file is read; store it uncompressed
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken = 0

    def take(self, shape: Iterable[int], itemsize: int) -> None:
        """Count one more array, before it is made; refuse it as :func:`allow` does."""
        shape = tuple(int(size) for size in shape)
        wanted = math.prod(shape) * max(itemsize, 1)
        total, stored = self.taken + wanted, self.path.stat().st_size
        if min(shape, default=0) < 0 or total > max(FLOOR, RATIO * stored):
            others = " with those before it" if self.taken else ""
            raise Refused(
                f"an array of {shape} would take {-(-total // 2**30)} GiB{others}, and the file "
                f"holds {stored} bytes: at most 1 GiB or {RATIO} times the file is read; store it "
                "uncompressed"
            )
        self.taken = total


def string_array(budget: Budget, strings: list[str]) -> np.ndarray:
    """Strings as an array, in which each takes the room of the longest."""
    budget.take((len(strings), max(map(len, strings), default=0)), 4)
    return np.array(strings, dtype=str)
