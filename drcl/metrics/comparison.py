"""Whether one system is better than another, by the measures of every query."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from drcl.checks import check_count, check_level, check_option, check_seed
from drcl.metrics.estimates import SAMPLES
from drcl.metrics.results import RetrievalMetrics
from drcl.metrics.statistics import bootstrap, cluster_sums, flipped_signs, holm
from drcl.tables import counted
from drcl.tensors import as_tensor

PerQuery: TypeAlias = RetrievalMetrics | Any  # or numbers (Q,)
TESTS = ("permutation", "bootstrap")
LARGEST = 1e150


class Comparison(NamedTuple):
    """Mean of a less mean of b, its interval, and the two-sided p of no difference."""

    difference: float
    low: float
    high: float
    p: float


def compare(
    a: PerQuery,
    b: PerQuery,
    *,
    measure: str = "mAP@all",
    test: str = "permutation",
    clusters: Any = None,
    samples: int = SAMPLES,
    seed: int = 0,
    interval: float = 0.95,
) -> Comparison:
    """Test whether two systems differ on the same queries, by a measure's value of every query.

    ``d = Σ_q (a_q − b_q) / Q`` over the queries that count. With ``"permutation"``, p is the share
    of the ways to swap the two systems, query by query, that leave d as far from 0 or farther; the
    interval holds every δ with which the same test of ``a − δ`` and ``b`` has a p above
    1 − ``interval``. With ``"bootstrap"``, queries are drawn with replacement; p is the share of
    the resamples in which ``|d* − d| / error*`` is at least ``|d| / error``, and the interval is
    ``d ± t·error`` with the ``interval``-quantile t of the former. Either way 0 is outside the
    interval where p is at most 1 − ``interval``.

    Args:
        a, b: :class:`RetrievalMetrics` of the same queries, or numbers (Q,) of any real dtype, NaN
            where a query does not count.
        measure: of RetrievalMetrics, as their ``summary()`` calls it.
        test: ``"permutation"`` assumes that without a difference the two could be swapped and is
            then exact for any Q; ``"bootstrap"`` assumes that there are many queries.
        clusters: integers or names (Q,) of what the queries were sampled by: captions of one image,
            queries of one class. Clusters are swapped, or drawn, as a whole.
        samples: ways to swap that are drawn, beside the observed one, or resamples. Of up to 16
            queries or clusters all ways to swap are tried.
        seed: of these draws.
        interval: its level.

    With fewer than 6 queries or clusters a permutation interval at 0.95 is unbounded; that of the
    bootstrap, where more than 1 − ``interval`` of the resamples repeat one difference.

    Raises ValueError for arrays of different lengths, for queries that count in one alone, for
    fewer than two that count, for differences above 1e150, and for settings that are not known;
    TypeError for what is no array of numbers. Sources: Fisher, *The Design of Experiments* (1935);
    Smucker, Allan and Carterette, *A Comparison of Statistical Significance Tests for Information
    Retrieval Evaluation* (2007); Efron and Tibshirani, *An Introduction to the Bootstrap* (1993),
    chapters 12 and 16.

    >>> compare([0.9, 0.8, 0.7, 0.9, 0.6, 0.8], [0.7, 0.7, 0.6, 0.4, 0.5, 0.7]).p  # 2 of 2⁶
    0.03125
    """
    check_option("test", test, TESTS)
    samples, seed = check_count("samples", samples), check_seed(seed)
    level = check_level("interval", interval)
    one, other = (_values(part, name, measure) for part, name in ((a, "a"), (b, "b")))
    if one.shape != other.shape:
        queries = counted(len(one), "query", "queries")
        raise ValueError(f"b: expected {queries}, as in a, got {len(other)}")
    kept = ~np.isnan(one)
    if (kept != ~np.isnan(other)).any():
        query = int((kept != ~np.isnan(other)).argmax())
        raise ValueError(f"b: expected the same queries to count as in a, got others: {query}")
    with np.errstate(over="ignore"):
        differences = (one - other)[kept][:, None]
    if np.abs(differences).max(initial=0.0) > LARGEST:  # squares of larger ones leave the range
        raise ValueError(f"a, b: expected differences of at most {LARGEST:g}, got larger ones")
    sums, sizes = cluster_sums(differences, kept, clusters)
    difference = float(differences.mean())
    if test == "permutation":
        flipped = flipped_signs(sums[:, 0], sizes, samples, seed)
        return Comparison(difference, *flipped.interval(level), flipped.p)
    drawn = bootstrap(sums, sizes, samples, seed)
    low, high = drawn.interval(level)
    return Comparison(difference, float(low[0]), float(high[0]), float(drawn.p[0]))


def compare_all(
    systems: Mapping[str, PerQuery], *, against: str | None = None, **options: Any
) -> dict[tuple[str, str], Comparison]:
    """:func:`compare` of several systems, with Holm's correction of the p-values.

    Args:
        systems: name -> what :func:`compare` takes; at least two.
        against: compare one system with each of the others; by default all pairs are compared.
        options: those of :func:`compare`.

    Returns (name, name) -> comparison of the first with the second, whose p is
    ``max_{j ≤ i} min(1, (m − j + 1) p_(j))`` with the m p-values rising; intervals are not
    corrected. Raises what :func:`compare` raises, and ValueError for fewer than two systems or an
    ``against`` that is none of them. Source: Holm, *A Simple Sequentially Rejective Multiple Test
    Procedure* (1979).

    >>> found = compare_all({"old": [0.1] * 8, "new": [0.9] * 8, "same": [0.1] * 8}, against="new")
    >>> found["new", "old"].p  # twice 2/2⁸
    0.015625
    """
    if len(systems) < 2:
        raise ValueError(f"systems: expected at least two, got {list(systems)}")
    if against is None:
        pairs = list(itertools.combinations(systems, 2))
    elif against in systems:
        pairs = [(against, name) for name in systems if name != against]
    else:
        raise ValueError(f"against: expected one of {list(systems)}, got {against!r}")
    found = [compare(systems[a], systems[b], **options) for a, b in pairs]
    corrected = holm([one.p for one in found])
    return {pair: one._replace(p=p) for pair, one, p in zip(pairs, found, corrected, strict=True)}


def _values(given: PerQuery, name: str, measure: str) -> npt.NDArray[np.float64]:
    if isinstance(given, RetrievalMetrics):
        tables = given.tables()
        if measure not in tables:
            raise ValueError(f"measure: expected one of {', '.join(tables)}, got {measure!r}")
        return tables[measure].numpy()
    values = as_tensor(given, name)
    if values.ndim != 1 or values.is_complex() or bool(values.isinf().any()):
        raise ValueError(
            f"{name}: expected RetrievalMetrics or finite numbers (Q,), got {values.dtype} of "
            f"shape {tuple(values.shape)}"
        )
    return values.cpu().double().numpy()
