"""Paired tests and intervals of per-query measures, by hand, beside SciPy and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from drcl import metrics
from drcl.metrics import Comparison, Estimate, compare, compare_all

TESTS = ("permutation", "bootstrap")
KS = (None, 1, 5)


@pytest.fixture(scope="module")
def systems() -> dict[str, metrics.RetrievalMetrics]:
    """One gallery and 120 queries, embedded with little and with much noise."""
    draw = np.random.default_rng(0)
    labels = draw.integers(-1, 6, 120)
    gallery, gallery_labels = draw.normal(size=(6, 8)), np.arange(6)
    found = {}
    for name, noise in (("good", 0.8), ("fair", 1.3), ("poor", 3.0)):
        queries = gallery[labels] + noise * draw.normal(size=(120, 8))
        found[name] = metrics.retrieval_metrics(queries, gallery, labels, gallery_labels, ks=KS)
    return found


def every_swap(sums: np.ndarray, sizes: np.ndarray, shift: float) -> float:
    """p of a mean of ``shift``, from its definition: every pattern of signs, one after another."""
    rest = sums - shift * sizes
    patterns = list(itertools.product((-1, 1), repeat=len(rest)))
    far = [abs(np.dot(signs, rest)) >= abs(rest.sum()) - 1e-12 for signs in patterns]
    return float(np.mean(far))


@pytest.mark.parametrize("clusters", [None, [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6]])
def test_a_permutation_interval_holds_the_differences_that_the_test_accepts(clusters):
    draw = np.random.default_rng(1)
    a, b = draw.normal(0.4, 1, 11), draw.normal(0, 1, 11)
    found = compare(a, b, clusters=clusters, interval=0.9)
    place = np.arange(11) if clusters is None else np.array(clusters)
    sums, sizes = np.bincount(place, a - b), np.bincount(place)
    assert found.difference == pytest.approx((a - b).mean(), abs=1e-15)
    assert found.p == pytest.approx(every_swap(sums, sizes, 0.0), abs=1e-15)
    width = found.high - found.low
    for inside in np.linspace(found.low + 1e-9, found.high - 1e-9, 7):
        assert every_swap(sums, sizes, inside) > 0.1
    for outside in (found.low - 1e-9, found.low - width, found.high + 1e-9, found.high + width):
        assert every_swap(sums, sizes, outside) <= 0.1


@pytest.mark.parametrize("test", TESTS)
def test_many_queries_are_judged_as_by_the_t_test(test):
    draw = np.random.default_rng(2)
    a, b = draw.normal(0.1, 1, 400), draw.normal(0, 1, 400)
    found, expected = compare(a, b, test=test, samples=40_000), stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_the_bootstrap_draws_as_its_definition_says():
    """Beside resamples written out one by one; both are random, so close and not equal."""
    draw = np.random.default_rng(3)
    values, place = draw.exponential(size=90) - 0.8, np.repeat(np.arange(30), 3)
    found = compare(values, np.zeros(90), test="bootstrap", clusters=place, samples=20_000)
    sums, sizes = np.bincount(place, values), np.bincount(place)

    def mean_and_error(some: np.ndarray) -> tuple[float, float]:
        mean = sums[some].sum() / sizes[some].sum()
        rest = sums[some] - mean * sizes[some]
        count = len(some)
        return mean, math.sqrt(count / (count - 1) * (rest**2).sum()) / sizes[some].sum()

    mean, error = mean_and_error(np.arange(30))
    far = []
    for _ in range(20_000):
        moved, spread = mean_and_error(draw.integers(0, 30, 30))
        far.append(abs(moved - mean) / spread)
    assert found.difference == pytest.approx(mean)
    assert found.p == pytest.approx(np.mean(np.array(far) >= abs(mean) / error), abs=0.01)
    assert found.high - mean == pytest.approx(np.quantile(far, 0.95) * error, rel=0.03)
    assert mean - found.low == pytest.approx(found.high - mean)


@pytest.mark.parametrize("test", TESTS)
def test_zero_is_outside_the_interval_where_p_is_small(test):
    draw = np.random.default_rng(4)
    for _ in range(60):
        a = draw.normal(0.35, 1, 30)
        found = compare(a, np.zeros(30), test=test, samples=500)
        assert (found.low <= 0 <= found.high) == (found.p > 0.05)


@pytest.mark.parametrize("test", TESTS)
def test_changing_sides_changes_the_sign(test):
    draw = np.random.default_rng(5)
    a, b = draw.random(40), draw.random(40)
    one, other = compare(a, b, test=test), compare(b, a, test=test)
    assert other.p == one.p
    assert (-other.difference, -other.high, -other.low) == pytest.approx(one[:3], abs=1e-14)


@pytest.mark.parametrize("test", TESTS)
def test_one_query_a_cluster_is_no_cluster(test):
    draw = np.random.default_rng(6)
    a, b = draw.random(25), draw.random(25)
    named = [f"query {index:02}" for index in range(25)]
    assert compare(a, b, test=test, clusters=named) == pytest.approx(compare(a, b, test=test))


@pytest.mark.parametrize("test", TESTS)
def test_equal_systems_have_no_difference(test):
    assert compare([0.5] * 20, [0.5] * 20, test=test) == Comparison(0.0, 0.0, 0.0, 1.0)


def test_a_difference_that_is_always_the_same_has_a_narrow_interval():
    found = compare([0.75] * 20, [0.5] * 20, test="bootstrap", samples=999)
    assert found == pytest.approx((0.25, 0.25, 0.25, 1 / 1000))


def test_few_pairs_leave_a_difference_unbounded():
    assert compare([1.0] * 5, [0.0] * 5) == Comparison(1.0, -math.inf, math.inf, 2 / 2**5)
    assert compare([1.0] * 6, [0.0] * 6) == Comparison(1.0, 1.0, 1.0, 2 / 2**6)


def test_measures_of_two_rankings_are_compared_query_by_query(systems):
    found = compare(systems["good"], systems["poor"], measure="recall@5")
    one, other = systems["good"].recall[:, 2], systems["poor"].recall[:, 2]
    assert found == compare(one, other) == compare(one.tolist(), other.numpy())
    means = [systems[name].summary()["recall@5"] for name in ("good", "poor")]
    assert found.difference == pytest.approx(means[0] - means[1])
    assert found.low < found.difference < found.high


def test_queries_that_do_not_count_are_left_out(systems):
    one, other = systems["good"].tables()["MRR"], systems["poor"].tables()["MRR"]
    kept = ~one.isnan()
    assert 0 < int(kept.sum()) < len(kept)
    assert compare(one, other) == compare(one[kept], other[kept])
    place = np.arange(120) // 7
    found = compare(one, other, clusters=place)
    assert found == compare(one[kept], other[kept], clusters=place[kept.numpy()])


def test_several_systems_are_corrected_by_holm(systems):
    found = compare_all(systems, measure="mAP@all", samples=2000)
    assert list(found) == [("good", "fair"), ("good", "poor"), ("fair", "poor")]
    alone = {(a, b): compare(systems[a], systems[b], samples=2000) for a, b in found}
    least = min(one.p for one in alone.values())
    assert min(one.p for one in found.values()) == 3 * least
    for pair, one in found.items():
        assert one[:3] == alone[pair][:3] and alone[pair].p <= one.p <= 3 * alone[pair].p
    best = compare_all(systems, against="fair", samples=2000)
    assert list(best) == [("fair", "good"), ("fair", "poor")]


@pytest.mark.parametrize("clusters", [None, np.arange(120) // 4])
def test_the_interval_of_a_mean_is_that_of_its_difference_from_zero(systems, clusters):
    summary = systems["fair"].summary(interval=0.9, clusters=clusters, seed=3)
    assert list(summary) == list(systems["fair"].summary())
    for name, estimate in summary.items():
        values = systems["fair"].tables()[name]
        zeros = torch.where(values.isnan(), values, 0.0)
        options = {"test": "bootstrap", "clusters": clusters, "seed": 3, "interval": 0.9}
        alone = compare(values, zeros, **options)
        assert estimate.mean == systems["fair"].summary()[name]
        assert estimate[1:] == pytest.approx((max(alone.low, 0.0), min(alone.high, 1.0)))


def test_the_interval_of_a_share_stays_between_zero_and_one():
    x = torch.eye(4)
    found = metrics.retrieval_metrics(x, x, torch.arange(4), torch.tensor([0, 1, 2, 0]), ks=(1,))
    summary = found.summary(interval=0.99)
    assert all(0 <= one.low <= one.mean <= one.high <= 1 for one in summary.values())
    perfect = metrics.retrieval_metrics(x, x, torch.arange(4), torch.arange(4), ks=(1,))
    assert perfect.summary(interval=0.95)["mAP@1"] == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.1] * 3, [0.2] * 4), {}, "b: expected 3 queries, as in a, got 4"),
        (([0.1, math.nan], [0.2] * 2), {}, "b: expected the same queries to count as in a"),
        (([0.1], [0.2]), {}, "queries: expected at least two that count, got 1"),
        (([math.nan] * 2, [math.nan] * 2), {}, "queries: expected at least two that count, got 0"),
        (([[0.1]], [0.2]), {}, "a: expected RetrievalMetrics or finite numbers"),
        (([0.1, 0.2], [0.2, math.inf]), {}, "b: expected RetrievalMetrics or finite numbers"),
        (([0.1] * 3, [0.2] * 3), {"test": "t"}, "test: expected one of"),
        (([0.1] * 3, [0.2] * 3), {"clusters": [0, 1]}, "clusters: expected 3"),
        (([0.1] * 3, [0.2] * 3), {"clusters": [0, 0, 0]}, "clusters: expected at least two"),
        (([0.1] * 3, [0.2] * 3), {"clusters": [0, 1, None]}, "clusters: expected 3 integers or n"),
        (([0.1] * 3, [0.2] * 3), {"samples": 0}, "samples: expected an integer >= 1, got 0"),
        (([0.1] * 3, [0.2] * 3), {"interval": 95.0}, "interval: expected a level between 0 and 1"),
        (([0.1] * 3, [0.2] * 3), {"seed": "now"}, "seed: expected an integer of 64 bits"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        compare(*arguments, **options)


def test_unknown_measures_and_systems_are_refused(systems):
    with pytest.raises(ValueError, match=r"measure: expected one of mAP@all, .*, got 'mAP@7'"):
        compare(systems["good"], systems["poor"], measure="mAP@7")
    with pytest.raises(ValueError, match="systems: expected at least two"):
        compare_all({"good": systems["good"]})
    with pytest.raises(ValueError, match="against: expected one of"):
        compare_all(systems, against="best")
    with pytest.raises(ValueError, match="interval: expected a level"):
        systems["good"].summary(interval=1)


def simulated_pair(
    draw: np.random.Generator, clustered: bool, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Two systems' AP of 200 queries, skewed; the first is better by ``gain`` on average.

    A query is as difficult for both. What is particular to a system is drawn for each query and,
    clustered, also for each cluster of 1 to 9 queries; of both systems from one distribution.
    """
    count = 200
    place = np.repeat(np.arange(count), draw.integers(1, 10, count))[:count]
    common, shared = draw.beta(0.8, 2.0, (count, 1)), draw.beta(0.8, 2.0, (count, 2))
    particular = draw.beta(0.8, 2.0, (count, 2))
    if clustered:
        particular = (particular + shared[place]) / 2
    values = (common + 2 * particular) / 3
    return values[:, 0] + gain, values[:, 1], place if clustered else None


def simulated(pairs: int, test: str, clustered: bool, samples: int) -> tuple[float, np.ndarray]:
    """Share of 95 % intervals that hold the difference, and the p-values without a difference."""
    draw = np.random.default_rng(7)
    covered, p_values = [], []
    for seed in range(pairs):
        a, b, clusters = simulated_pair(draw, clustered, gain=0.0)
        options = {"test": test, "clusters": clusters, "samples": samples, "seed": seed}
        p_values.append(compare(a, b, **options).p)
        a, b, options["clusters"] = simulated_pair(draw, clustered, gain=0.03)
        found = compare(a, b, **options)
        covered.append(found.low <= 0.03 <= found.high)
    return float(np.mean(covered)), np.array(p_values)


def judge(pairs: int, covered: float, p_values: np.ndarray, reach: float) -> None:
    """Coverage within ``reach`` of 95 %, and p-values that no test of uniformity refuses."""
    assert abs(covered - 0.95) <= reach
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    for level in (0.01, 0.05, 0.1):
        four_errors = 4 * math.sqrt(level * (1 - level) / pairs)
        assert abs(np.mean(p_values <= level) - level) <= four_errors


@pytest.mark.parametrize("clustered", [False, True], ids=["queries", "clusters"])
@pytest.mark.parametrize("test", TESTS)
def test_intervals_cover_and_p_values_are_uniform(test, clustered):
    """Of 300 intervals that cover with .95, the share is within .05 but for one case in 10,000."""
    judge(300, *simulated(300, test, clustered, samples=400), reach=0.05)


@pytest.mark.long
@pytest.mark.parametrize("clustered", [False, True], ids=["queries", "clusters"])
@pytest.mark.parametrize("test", TESTS)
def test_intervals_cover_93_to_97_percent_of_2000_pairs(test, clustered):
    judge(2000, *simulated(2000, test, clustered, samples=4000), reach=0.02)


def test_without_clusters_a_clustered_sample_raises_false_alarms():
    """The simulation is one that clusters matter in: ignoring them doubles the alarms."""
    draw = np.random.default_rng(8)
    pairs = [simulated_pair(draw, True, 0.0)[:2] for _ in range(300)]
    alarms = np.mean([compare(a, b, samples=400).p <= 0.05 for a, b in pairs])
    assert alarms > 0.1
