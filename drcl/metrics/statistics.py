"""Paired tests and intervals of means and shares, over single values or clusters of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drcl.labels import parse_labels

__all__ = [
    "bootstrap", "bounded_mean", "cluster_sums", "exact_share", "flipped_signs", "holm",
    "sign_flip_test",
]  # fmt: skip
__dir__ = __all__.copy

Array = npt.NDArray[np.float64]

EXACT = 16  # pairs up to which all 2ⁿ signs are tried
SAMPLES = 2**EXACT
_CELLS = 2**22  # numbers that are drawn together


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
    return flipped_signs(values, np.ones_like(values), SAMPLES, seed).p


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


def cluster_sums(
    values: Array, counted: npt.NDArray[np.bool_], clusters: Any
) -> tuple[Array, Array]:
    """Sums (C, M) of the values (n, M) of each cluster, and their numbers (C,).

    The values are those of the queries that are counted, the clusters those of all queries, or None
    where each is its own. Raises ValueError where there are fewer than two clusters.

    >>> values, every = np.array([[1.0], [2.0], [4.0]]), np.ones(3, bool)
    >>> sums, sizes = cluster_sums(values, every, ["ant", "bee", "ant"])
    >>> sums.tolist(), sizes.tolist()
    ([[5.0], [2.0]], [2.0, 1.0])
    """
    if clusters is None:
        sums, sizes = values, np.ones(len(values))
    else:
        parsed = parse_labels(clusters, "clusters", count=len(counted))
        if parsed.rows is not None or parsed.missing[counted].any():
            raise ValueError(
                f"clusters: expected {len(counted)} integers or names, got shape {parsed.shape} or "
                "NaN"
            )
        found, place = np.unique(parsed.ids[counted], return_inverse=True)
        sums = np.zeros((len(found), values.shape[1]))
        np.add.at(sums, place, values)
        sizes = np.bincount(place).astype(np.float64)
    if len(sizes) < 2:
        what = "queries" if clusters is None else "clusters"
        raise ValueError(f"{what}: expected at least two that count, got {len(sizes)}")
    return sums, sizes


class Flipped(NamedTuple):
    """Of :func:`flipped_signs`: p of a mean of 0, and for each pattern the ends (S,), lowest and
    highest first, of the means under which it is as extreme as what was observed."""

    p: float
    lows: Array
    highs: Array

    def interval(self, level: float) -> tuple[float, float]:
        """The means whose own p is above 1 − level: 0 is among them where ``p`` is."""
        rank = _rank(level, len(self.lows))
        return float(self.lows[rank]), float(self.highs[rank])


def flipped_signs(sums: Array, sizes: Array, samples: int, seed: int) -> Flipped:
    """The sign-flip test of the mean Σ sums / Σ sizes of clusters, and its inversion.

    A pattern flips the signs of some clusters. Under a mean of δ it is as extreme as the observed
    signs where ``Σ (sums − δ·sizes)`` over the kept clusters and over the flipped ones have
    opposite signs: where δ lies between the two parts' means. All 2ⁿ patterns of n ≤ 16 clusters,
    else ``samples`` drawn ones and the observed one. Source: Fisher (1935); the means of random
    parts as an interval: Hartigan, *Using Subsample Values as Typical Values* (1969).

    >>> flipped_signs(np.array([1.0, 2.0]), np.ones(2), samples=10, seed=0).p  # 2 of 2² patterns
    0.5
    """
    columns = np.stack([sums, sizes], axis=1)
    parts = _parts(len(sums), samples, seed)
    kept = np.concatenate([part.astype(np.float64) @ columns for part in parts])
    total, size = columns.sum(axis=0)
    # Sums of the same numbers in another order differ in their last bits.
    observed = abs(total) - 1e-12 * np.abs(sums).sum()
    p = float((np.abs(2 * kept[:, 0] - total) >= observed).mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = kept[:, 0] / kept[:, 1], (total - kept[:, 0]) / (size - kept[:, 1])
    empty = (kept[:, 1] == 0) | (kept[:, 1] == size)  # what is left of the sum is rounding
    lows = np.where(empty, -np.inf, np.minimum(one, other))
    highs = np.where(empty, np.inf, np.maximum(one, other))
    return Flipped(p, np.sort(lows), np.sort(highs)[::-1])


def _parts(count: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Rows of ``count`` zeros and ones in blocks."""
    if count <= EXACT:
        yield (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.uint8)
        return
    draw, words = np.random.default_rng(seed % 2**64), -(-count // 32)
    for rows in _blocks(samples, count):
        drawn = draw.integers(0, 2**32, (rows, words), dtype=np.uint32).view(np.uint8)
        yield np.unpackbits(drawn, axis=1, count=count)
    yield np.ones((1, count), dtype=np.uint8)


class Bootstrapped(NamedTuple):
    """Of :func:`bootstrap`: the means (M,), their standard errors (M,), and for each measure the
    distances (S, M) of the resampled means in standard errors of their own, farthest first."""

    means: Array
    errors: Array
    distances: Array

    def interval(self, level: float) -> tuple[Array, Array]:
        """The means (M,) whose own p is above 1 − level."""
        reach = self.distances[_rank(level, len(self.distances))]
        with np.errstate(invalid="ignore"):
            reach = np.where(np.isinf(reach), np.inf, reach * self.errors)
        return self.means - reach, self.means + reach

    @property
    def p(self) -> Array:
        """(M,) two-sided p of means of 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = np.nan_to_num(np.abs(self.means) / self.errors, nan=0.0, posinf=np.inf)
        return np.asarray((self.distances >= observed * (1 - 1e-12)).mean(axis=0))


def bootstrap(sums: Array, sizes: Array, samples: int, seed: int) -> Bootstrapped:
    """The studentised bootstrap of the means Σ sums / Σ sizes of C >= 2 clusters, sums (C, M).

    Clusters are drawn with replacement; a resample's distance is ``|mean* − mean| / error*``, with
    the standard error of a ratio of means ``√(C/(C−1) Σ (sums − mean·sizes)²) / Σ sizes``, infinite
    where that is 0. What was observed is one more resample, at an infinite distance. Source: Efron
    and Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 12; symmetric: Hall (1988).
    """
    count, measures = sums.shape
    means = sums.sum(axis=0) / sizes.sum()
    rest = sums - means * sizes[:, None]
    rest[np.abs(rest) <= 1e-12 * np.abs(sums)] = 0.0  # rounding of equal values has no spread
    scale = count / (count - 1)
    errors = np.sqrt(scale * np.square(rest).sum(axis=0)) / sizes.sum()
    columns = np.concatenate(
        [rest, np.square(rest), rest * sizes[:, None], np.stack([sizes, np.square(sizes)], axis=1)],
        axis=1,
    )
    found = []
    for weights in _weights(count, samples, seed):
        drawn = weights @ columns
        shifts, squares, crossed = (drawn[:, i * measures : (i + 1) * measures] for i in range(3))
        size, size_squares = drawn[:, -2:-1], drawn[:, -1:]
        moved = shifts / size
        spread = squares - 2 * moved * crossed + np.square(moved) * size_squares
        error = np.sqrt(scale * spread.clip(min=0)) / size
        # What equal values leave is rounding. Of how far off they are, they say nothing.
        error[spread <= 1e-12 * squares] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(error > 0, np.abs(moved) / error, np.inf))
    distances = np.concatenate([np.full((1, measures), np.inf), *found])
    return Bootstrapped(means, errors, np.sort(distances, axis=0)[::-1])


def exact_share(hits: int, count: int, level: float) -> tuple[float, float]:
    """The interval of a probability of which ``hits`` of ``count`` trials came true.

    It covers in at least ``level`` of all samples, whatever the probability. Source: Clopper and
    Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*
    (1934).

    >>> [round(end, 4) for end in exact_share(0, 400, 0.95)]
    [0.0, 0.0092]
    """
    tail = (1 - level) / 2
    return _least_share(hits, count, tail), 1 - _least_share(count - hits, count, tail)


def bounded_mean(sums: Array, sizes: Array, level: float) -> tuple[float, float]:
    """The interval of the mean Σ sums / Σ sizes of clusters of values from 0 to 1.

    It covers in at least ``level`` of all samples of independent clusters of these sizes, however
    few and whatever the values. With S the sum of C numbers from 0 to 1 and p its expectation over
    C, ``P(S ≥ s) ≤ e·P(B ≥ ⌊s⌋)`` for B binomial of C and p. Source: Bentkus, *On Hoeffding's
    inequalities* (2004).

    >>> [round(end, 4) for end in bounded_mean(np.full(20, 0.5), np.ones(20), 0.95)]
    [0.2362, 0.7638]
    """
    count, largest = len(sums), sizes.max()
    tail, scale = (1 - level) / (2 * math.e), count * largest / sizes.sum()

    def least(parts: Array) -> float:
        whole = math.floor(parts.sum() / largest * (1 + 1e-12))
        return min(1.0, scale * _least_share(whole, count, tail))

    return float(least(sums)), float(1 - least(sizes - sums))


def _least_share(hits: int, count: int, tail: float) -> float:
    """The p for which a binomial number of ``count`` is ``hits`` or more with the chance ``tail``,
    at most ½."""
    if hits == 0:
        return 0.0
    # Farther from what is expected, below p = hits / count, the chances are below e⁻²⁸⁸.
    numbers = np.arange(hits, min(count, hits + 12 * math.isqrt(count) + 12) + 1)
    ratios = np.log((count - numbers[:-1]) / (numbers[:-1] + 1))
    choose = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    choices = choose + np.append(0.0, ratios.cumsum())
    low, high = 0.0, hits / count
    for _ in range(60):
        p = (low + high) / 2
        logs = choices + numbers * math.log(p) + (count - numbers) * math.log1p(-p)
        low, high = (low, p) if np.exp(logs).sum() > tail else (p, high)
    return low


def _weights(count: int, samples: int, seed: int) -> Iterator[Array]:
    """How often each of ``count`` clusters is in a resample, (rows, count), in blocks."""
    draw = np.random.default_rng(seed % 2**64)
    for rows in _blocks(samples, count):
        drawn = draw.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count)
        yield counts.reshape(rows, count).astype(np.float64)


def _blocks(samples: int, count: int) -> Iterator[int]:
    step = max(1, _CELLS // count)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _rank(level: float, patterns: int) -> int:
    """The place, among falling values of all patterns, of the first that is not too rare."""
    return min(int((1 - level) * patterns + 1e-9), patterns - 1)
