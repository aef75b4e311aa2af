"""Paired permutation tests over seeds, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_SEEDS = 5
EXACT = 16  # pairs up to which all 2ⁿ signs are tried
SAMPLES = 2**EXACT


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of "the differences are as likely positive as negative", by their mean.

    The share of sign patterns whose mean is at least as far from 0 as that of the differences
    themselves: of all 2ⁿ patterns up to n = 16, else of 65,536 drawn ones and the observed one. n
    pairs reach no p below 2/2ⁿ. Source: Fisher, *The Design of Experiments* (1935).

    >>> sign_flip_test([1.0, 2.0, 3.0])  # only the observed signs and their opposite
    0.25
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences: expected a list of numbers, got {differences!r}")
    if len(values) <= EXACT:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        signs = 2.0 * patterns - 1.0
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (SAMPLES, len(values)))
        signs = np.concatenate([2.0 * drawn - 1.0, np.ones((1, len(values)))])
    means = np.abs(signs @ values)
    # Sums of the same numbers in another order differ in their last bits.
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    return float((means >= observed).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: ``max_{j ≤ i} min(1, (m − j + 1) p_(j))``, p rising.

    Source: Holm, *A Simple Sequentially Rejective Multiple Test Procedure* (1979).

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected
