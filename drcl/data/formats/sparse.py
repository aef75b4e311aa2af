"""Sparse matrices of any file as dense arrays, with every index looked at before it is used."""

from __future__ import annotations

import numpy as np

from drcl.data.formats.limits import Budget


def dense_matrix(
    budget: Budget,
    shape: tuple[int, ...],
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """A dense matrix of ``values`` at ``(rows, columns)``; what lies at one place is added up.

    Raises:
        Refused: it would take more than the file may.
        ValueError: arrays of different lengths, or a place outside the matrix.
    """
    if len(shape) != 2 or {one.shape for one in (rows, columns, values)} != {(len(values),)}:
        raise ValueError(f"{values.shape} values of a sparse matrix of shape {shape}")
    for index, size in zip((rows, columns), shape, strict=True):
        if index.dtype.kind not in "iu":
            raise ValueError(f"places in a sparse matrix as {index.dtype}")
        if len(index) and not (index.min() >= 0 and index.max() < size):
            raise ValueError(f"a place outside a sparse matrix of shape {shape}")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{values.dtype} values in a sparse matrix")
    budget.take(shape, values.dtype.itemsize)
    dense = np.zeros(shape, values.dtype.newbyteorder("="), order="F")
    np.add.at(dense, (rows, columns), values)
    return dense


def dense_of_columns(
    budget: Budget, shape: tuple[int, ...], rows: np.ndarray, starts: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """A dense matrix of one in compressed columns: ``starts[j]:starts[j + 1]`` are those of column
    j. What lies behind the last column is room to spare. Raises as :func:`dense_matrix` does."""
    # The columns, and rows and starts as whole words.
    budget.take((len(starts) + len(rows), 4), 8)
    if len(shape) != 2 or starts.shape != (shape[1] + 1,) or starts.dtype.kind not in "iu":
        raise ValueError(f"column starts {starts.shape} in a sparse matrix of shape {shape}")
    starts = starts.astype(np.int64)
    counts, stored = np.diff(starts), int(starts[-1])
    rows, values = rows[:stored], values[:stored]
    # A start beyond int64 is below zero by now, so ascending from 0 they are what they were.
    ascending = starts[0] == 0 and (counts >= 0).all()
    if not ascending or len(rows) != stored or len(values) != stored:
        raise ValueError("the columns of a sparse matrix lie outside its values")
    return dense_matrix(budget, shape, rows, np.repeat(np.arange(shape[1]), counts), values)
