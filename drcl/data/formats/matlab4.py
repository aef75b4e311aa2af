"""MATLAB files of version 4 (``save -v4``): matrices of numbers, text and sparse matrices.

A variable is five words (type, rows, columns, whether it is complex, letters of its name), the name
and the numbers, column by column. The type is a number of four digits: byte order, 0, type of the
numbers, and 0 for numbers, 1 for text or 2 for a sparse matrix, which is a list of rows, columns
and values, with the shape as its last entry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from drcl.data.formats.limits import Budget, Refused
from drcl.data.formats.matlab5 import text_rows
from drcl.data.formats.sparse import dense_matrix

NUMBERS = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}
TEXT, SPARSE = 1, 2
LETTERS = 2**12


class Variable(NamedTuple):
    """What stands before the numbers of a variable, and where these begin."""

    dtype: np.dtype
    kind: int
    shape: tuple[int, int]
    complex: bool
    start: int


def is_matlab4(path: Path) -> bool:
    """Whether a file begins as no later version does: a word below 5000 in either byte order."""
    with path.open("rb") as file:
        head = file.read(20)
    return len(head) == 20 and _order(head) is not None


def read_matlab4(budget: Budget, choose: Callable[[list[str]], str]) -> np.ndarray:
    """The variable that ``choose`` picks among the names.

    Raises:
        Refused: it is complex.
        ValueError: the file is damaged.
    """
    with budget.path.open("rb") as file:
        variables = _variables(file)
        name = choose(list(variables))
        variable = variables[name]
        if variable.complex:
            raise Refused(f"{name!r} is complex: expected real numbers, so save real(x)")
        rows, columns = variable.shape
        budget.take((rows, columns), 2 * variable.dtype.itemsize)
        file.seek(variable.start)
        values = np.frombuffer(file.read(rows * columns * variable.dtype.itemsize), variable.dtype)
    array = values.astype(variable.dtype.newbyteorder("=")).reshape(variable.shape, order="F")
    if variable.kind == TEXT:
        return text_rows(budget, _whole(array, 255).astype(np.uint8))
    return _sparse(budget, array) if variable.kind == SPARSE else array


def _order(head: bytes) -> str | None:
    for order in "<>":
        (kind,) = struct.unpack(f"{order}I", head[:4])
        numbers, contents = divmod(kind - 1000 * "<>".index(order), 10)
        if numbers in NUMBERS and contents <= SPARSE:
            return order
    return None


def _variables(file: BinaryIO) -> dict[str, Variable]:
    found = {}
    end = file.seek(0, os.SEEK_END)
    start = 0
    while start < end:
        file.seek(start)
        head = file.read(20)
        order = _order(head) if len(head) == 20 else None
        if order is None:
            raise ValueError(f"no variable at byte {start}")
        kind, rows, columns, imaginary, letters = struct.unpack(f"{order}5I", head)
        dtype = np.dtype(order + NUMBERS[kind % 100 // 10])
        size = rows * columns * dtype.itemsize * (2 if imaginary else 1)
        if not 1 <= letters <= LETTERS or start + 20 + letters + size > end or imaginary > 1:
            raise ValueError(f"{size} bytes of numbers at byte {start}")
        name = file.read(letters).partition(b"\0")[0].decode("utf-8", "replace")
        start += 20 + letters
        found[name] = Variable(dtype, kind % 10, (rows, columns), bool(imaginary), start)
        start += size
    return found


def _whole(array: np.ndarray, most: float) -> np.ndarray:
    if not ((array >= 0) & (array <= most) & (array == np.floor(array))).all():
        raise ValueError(f"a number that is not a whole one from 0 to {most:g}")
    return array


def _sparse(budget: Budget, entries: np.ndarray) -> np.ndarray:
    """The last entry gives the shape; rows and columns count from 1."""
    if entries.shape[1:] == (4,):
        raise Refused("a complex sparse matrix: expected real numbers, so save real(x)")
    if entries.shape[1:] != (3,) or not len(entries):
        raise ValueError(f"a sparse matrix of {entries.shape} numbers")
    budget.take(entries.shape, 2 * 8)
    places = _whole(entries[:, :2].astype(np.float64), 2**53).astype(np.int64)
    rows, columns = places[:-1].T - 1
    return dense_matrix(budget, (*places[-1].tolist(),), rows, columns, entries[:-1, 2])
