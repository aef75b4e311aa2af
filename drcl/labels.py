"""Labels of any kind, brought to one form: ids 0..C−1 with −1 for unlabelled, or rows (N, C)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UNLABELLED = -1


def find_classes(labels: Iterable[npt.ArrayLike]) -> tuple[int, ...]:
    """The sorted classes of several label arrays: ids that occur but −1, or columns 0..C−1.

    >>> find_classes([[3, 1, -1], [7, 3]])
    (1, 3, 7)
    """
    arrays = [np.asarray(one) for one in labels]
    for array in arrays:
        if array.ndim not in (1, 2):
            raise ValueError(f"labels: expected shape (N,) or (N, C), got {array.shape}")
    widths = {array.shape[1] for array in arrays if array.ndim == 2 and array.shape[1] != 1}
    if widths:
        if len(widths) > 1 or any(array.ndim == 1 or array.shape[1] == 1 for array in arrays):
            raise ValueError(
                "labels: all modalities need the same form: class ids (N,), or multi-hot rows "
                f"(N, C) with one C; got shapes {[array.shape for array in arrays]}"
            )
        return tuple(range(widths.pop()))
    ids = {label for array in arrays for label in np.unique(_integers(array)).tolist()}
    return tuple(label for label in sorted(ids) if label != UNLABELLED)


def encode_labels(
    labels: npt.ArrayLike, classes: Sequence[int], name: str = "labels"
) -> npt.NDArray[Any]:
    """Labels as positions in ``classes`` (N,) int64, −1 kept; multi-hot rows (N, C) as float32.

    Raises ValueError naming ``name`` for a label outside the classes (other than −1), a row width
    that is not the number of classes, or negative or non-finite row entries.

    >>> encode_labels([7, 1, -1], classes=(1, 3, 7))
    array([ 2,  0, -1])
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] != 1:
        if array.shape[1] != len(classes):
            raise ValueError(
                f"{name}: label rows have {array.shape[1]} columns, expected one per class "
                f"({len(classes)})"
            )
        rows = array.astype(np.float32)
        if not np.isfinite(rows).all() or (rows < 0).any():
            raise ValueError(f"{name}: label rows must be finite and not negative")
        return rows
    ids = _integers(array, name)
    order = np.argsort(np.asarray(classes))
    ordered = np.asarray(classes)[order]
    place = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
    known = ordered[place] == ids
    outside = ~known & (ids != UNLABELLED)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{name}: row {first} has label {ids[first]}, which is none of the {len(classes)} "
            f"classes {_shortened(classes)} (−1 means unlabelled)"
        )
    return np.where(known, order[place], UNLABELLED).astype(np.int64)


def _integers(array: npt.NDArray[Any], name: str = "labels") -> npt.NDArray[np.int64]:
    """(N,) or (N, 1) labels as int64; floats are taken when they hold whole numbers."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,) or (N, C), got {array.shape}")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name}: expected integer class ids, got dtype {array.dtype}")
    if array.dtype.kind == "f":
        fits = (array == array.round()).all() and (np.abs(array) < np.float64(2**63)).all()
    else:  # as integers: the largest of 64 bits are none of float64
        fits = array.dtype.kind != "u" or (array < 2**63).all()
    if not fits:
        raise ValueError(
            f"{name}: class ids must be whole numbers of 64 bits, got {array.dtype} with fractions "
            "or larger ones"
        )
    return array.astype(np.int64)


def _shortened(classes: Sequence[int]) -> str:
    shown = ", ".join(str(label) for label in classes[:10])
    return f"[{shown}{', …' if len(classes) > 10 else ''}]"
