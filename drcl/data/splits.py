"""Holding rows out of a training set, class by class and the same on every machine."""

from __future__ import annotations

import numpy as np

from drcl.data.dataset import is_multi_hot
from drcl.labels import is_labelled


def stratified_holdout(
    labels: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers in two, the second with about ``share`` of every class.

    A class with two rows or more gives at least one and keeps at least one. Unlabelled rows and
    classes of a single row are all kept. A multi-hot row counts for its first class.

    Args:
        labels: (N,) class ids or (N, C) rows, see :class:`drcl.data.Labelled`.
        share: part of each class to hold out, between 0 and 1.
        seed: of the choice within each class.

    Returns:
        Row numbers kept and held out, each ascending, int64.

    Raises:
        ValueError: ``share`` is not between 0 and 1.

    >>> kept, held = stratified_holdout(np.array([0, 0, 0, 0, 1, 1, -1]), share=0.25, seed=0)
    >>> len(kept), len(held), 6 in kept
    (5, 2, True)
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    strata = labels.argmax(axis=1) if is_multi_hot(labels) else labels
    rows = np.flatnonzero(is_labelled(labels))
    rows = rows[np.argsort(strata[rows], kind="stable")]
    random = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for members in np.split(rows, np.flatnonzero(np.diff(strata[rows])) + 1):
        if len(members) > 1:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held[random.permutation(members)[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
