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
from drcl.metrics.estimates import estimates
from drcl.metrics.statistics import bounded_mean, exact_share

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


def test_equal_systems_have_no_difference():
    assert compare([0.5] * 20, [0.5] * 20) == Comparison(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("difference", [0.0, 0.1, 0.25])
def test_resamples_of_equal_differences_say_nothing(difference):
    """Twenty equal differences leave open how rare others are; 0.1 has rounding in its sums."""
    a, b = np.full(20, 0.5 + difference), np.full(20, 0.5)
    found = compare(a, b, test="bootstrap", samples=999)
    assert found == pytest.approx((difference, -math.inf, math.inf, 1.0))
    assert compare(a, b).low == pytest.approx(difference)  # were they swapped, signs would differ


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
    kinds = set()
    for name, estimate in summary.items():
        values = systems["fair"].tables()[name]
        zeros = torch.where(values.isnan(), values, 0.0)
        options = {"test": "bootstrap", "clusters": clusters, "seed": 3, "interval": 0.9}
        alone = compare(values, zeros, **options)
        assert estimate.mean == systems["fair"].summary()[name]
        counted = ~values.isnan().numpy()
        place = np.arange(120) if clusters is None else clusters
        values = values.numpy()[counted]
        sums, sizes = (
            np.bincount(place[counted], part)[np.unique(place[counted])]
            for part in (values, np.ones(len(values)))
        )
        ends = [(max(alone.low, 0.0), min(alone.high, 1.0)), bounded_mean(sums, sizes, 0.9)]
        expected = min(ends, key=lambda pair: pair[1] - pair[0])
        if clusters is None and np.isin(values, (0, 1)).all():
            expected = exact_share(int(values.sum()), len(values), 0.9)
        kinds.add(expected == ends[0])
        assert estimate[1:] == pytest.approx(expected)
    assert kinds == {True, False}


def test_the_interval_of_a_share_stays_between_zero_and_one():
    x = torch.eye(4)
    found = metrics.retrieval_metrics(x, x, torch.arange(4), torch.tensor([0, 1, 2, 0]), ks=(1,))
    summary = found.summary(interval=0.99)
    assert all(0 <= one.low <= one.mean <= one.high <= 1 for one in summary.values())
    perfect = metrics.retrieval_metrics(x, x, torch.arange(4), torch.arange(4), ks=(1,))
    # 4 of 4: by Clopper and Pearson the least is 0.025^(1/4)
    assert perfect.summary(interval=0.95)["mAP@1"] == pytest.approx(Estimate(1, 0.025**0.25, 1))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.1] * 3, [0.2] * 4), {}, "b: expected 3 queries, as in a, got 4"),
        (([0.1, math.nan], [0.2] * 2), {}, "b: expected the same queries to count as in a"),
        (([0.1], [0.2]), {}, "queries: expected at least two that count, got 1"),
        (([math.nan] * 2, [math.nan] * 2), {}, "queries: expected at least two that count, got 0"),
        (([[0.1]], [0.2]), {}, "a: expected RetrievalMetrics or finite numbers"),
        (([0.1, 0.2], [0.2, math.inf]), {}, "b: expected RetrievalMetrics or finite numbers"),
        (([1e308] * 3, [-1e308] * 3), {}, "a, b: expected differences of at most 1e[+]150"),
        (([1e200] * 30, [0.0] * 30), {"test": "bootstrap"}, "a, b: expected differences"),
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


RATES = (0.005, 0.02, 0.98, 0.995)


def rare(draw: np.random.Generator, rate: float, count: int, kind: str) -> tuple[np.ndarray, float]:
    """Values of which a share of ``rate`` is not 0, or above ½ is 1, and their expectation."""
    some = draw.random(count) < rate
    if kind == "shares":
        return some.astype(float), rate
    others = draw.beta(0.8, 2.0, count)  # of which the mean is 0.8 / 2.8
    if rate < 0.5:
        return np.where(some, others, 0.0), rate * 0.8 / 2.8
    return np.where(some, 1.0, others), rate + (1 - rate) * 0.8 / 2.8


def coverage(rate: float, count: int, kind: str, size: int, repeats: int) -> float:
    """Of 95 % intervals of the mean; clusters of ``size`` queries have one value."""
    draw, covered = np.random.default_rng(9), 0
    clusters = None if size == 1 else np.repeat(np.arange(count // size), size)
    for seed in range(repeats):
        values, mean = rare(draw, rate, count // size, kind)
        values = torch.from_numpy(np.repeat(values, size))
        given = {"m": values}, {"m": float(values.mean())}
        found = estimates(*given, 0.95, clusters, samples=200, seed=seed)["m"]
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert found.high - found.low < 1 or count // size <= 10
        covered += found.low <= mean <= found.high
    return covered / repeats


@pytest.mark.parametrize("size", [1, 5], ids=["queries", "clusters"])
@pytest.mark.parametrize("kind", ["shares", "values"])
@pytest.mark.parametrize("count", [50, 400])
@pytest.mark.parametrize("rate", RATES)
def test_intervals_of_rare_and_of_near_perfect_measures_cover(rate, count, kind, size):
    """If 95 % cover, 60 have fewer than 50 that do (83 %) once in 2,500 times."""
    assert coverage(rate, count, kind, size, repeats=60) >= 50 / 60


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 5], ids=["queries", "clusters"])
@pytest.mark.parametrize("kind", ["shares", "values"])
@pytest.mark.parametrize("count", [50, 400])
@pytest.mark.parametrize("rate", (*RATES, 0.1, 0.9))
def test_intervals_of_rare_and_of_near_perfect_measures_cover_94_percent(rate, count, kind, size):
    assert coverage(rate, count, kind, size, repeats=2000) >= 0.94


@pytest.mark.parametrize("rate", (*RATES, 0.2, 0.5))
@pytest.mark.parametrize("count", [2, 50, 400])
def test_exact_intervals_of_shares_cover_whatever_the_rate(rate, count):
    """No simulation: the chance of each number of hits is known."""
    hits = np.arange(count + 1)
    near = np.abs(hits - rate * count) <= 6 * math.sqrt(count)  # where all but e⁻⁷² are
    hits = hits[near]
    ends = np.array([exact_share(int(number), count, 0.95) for number in hits])
    for number in (0, 1, count // 2, count - 1, count):
        known = stats.binomtest(number, count).proportion_ci(0.95, "exact")
        assert exact_share(number, count, 0.95) == pytest.approx((known.low, known.high), abs=1e-12)
    inside = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
    covered = stats.binom.pmf(hits, count, rate)[inside].sum()
    assert covered >= 0.95
    assert covered < 0.97 or count * min(rate, 1 - rate) < 50


def test_a_few_successes_are_bounded_and_so_is_none():
    """3, 1 and 0 of 400, and 0 of 3 clusters."""
    for hits, high in ((3, 0.0218), (1, 0.0139), (0, 0.0092)):
        values = torch.zeros(400, dtype=torch.float64)
        values[:hits] = 1
        given = {"m": values}, {"m": hits / 400}
        found = estimates(*given, 0.95, None, samples=100, seed=0)["m"]
        assert found.high == pytest.approx(high, abs=1e-4) and found.low <= hits / 400
    sizes = np.array([100, 150, 150])
    given[0]["m"] = torch.zeros(400, dtype=torch.float64)
    found = estimates(*given, 0.95, np.repeat(np.arange(3), sizes), samples=100, seed=0)["m"]
    # misses sum to 400/150, above 2 of 3
    least = 450 / 400 * stats.beta.ppf(0.025 / math.e, 2, 2)
    assert found.low == 0 and found.high == pytest.approx(1 - least)


def test_the_bound_of_few_values_is_that_of_its_inequality():
    """⌊S⌋ of n at the chance 0.025 / e, by SciPy's beta distribution, from both sides."""
    values = np.random.default_rng(10).beta(0.3, 0.2, 30)
    tail, total = 0.025 / math.e, values.sum()
    below, above = math.floor(total), math.floor(30 - total)
    low = stats.beta.ppf(tail, below, 31 - below)
    high = 1 - stats.beta.ppf(tail, above, 31 - above)
    assert bounded_mean(values, np.ones(30), 0.95) == pytest.approx((low, high), abs=1e-12)


def test_without_clusters_a_clustered_sample_raises_false_alarms():
    """The simulation is one that clusters matter in: ignoring them doubles the alarms."""
    draw = np.random.default_rng(8)
    pairs = [simulated_pair(draw, True, 0.0)[:2] for _ in range(300)]
    alarms = np.mean([compare(a, b, samples=400).p <= 0.05 for a, b in pairs])
    assert alarms > 0.1
