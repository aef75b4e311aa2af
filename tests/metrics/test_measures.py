"""Measures of the relevant items' ranks: literal loops, other libraries, forms of relevance."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any
from unittest import mock

import literal_measures as literal
import numpy as np
import pytest
import torch
from torch import Tensor

from drcl import metrics, use_backend
from drcl.backends import probe_native
from drcl.metrics import blocks, measures, trec
from drcl.metrics.names import MEASURES
from drcl.metrics.tied import EXPECTED
from drcl.reference.average_precision import ranking, tie_orders

NATIVE = probe_native()
BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)),
    "eager",
    "reference",
]
EVERY = (*MEASURES, measures.ndcg)
OF_TIES = (*(name for name, (one, _) in MEASURES.items() if one in EXPECTED), measures.ndcg)
KS = (1, 3, 10, None, 1000)


def problem(graded: bool = False, queries: int = 20, items: int = 60) -> tuple[Any, ...]:
    """Small integers, whose scores tie, and what is relevant to what (Q, N)."""
    x, y = (torch.randint(-2, 3, (n, 3)).double() for n in (queries, items))
    gains = torch.randint(0, 4 if graded else 2, (queries, items))
    gains[torch.rand(gains.shape) < 0.7] = 0
    gains[0], gains[1] = 0, 1  # nothing relevant, everything relevant
    return x, y, gains


def orders(x: Tensor, y: Tensor, gains: Tensor, kept: Tensor | None = None) -> list[list[float]]:
    """The gains of every query's ranking, best rank first."""
    kept = torch.ones_like(gains, dtype=torch.bool) if kept is None else kept
    return [ranking(s[m], g[m]) for s, g, m in zip(x @ y.T, gains, kept, strict=True)]


def check_all(found: metrics.RetrievalMetrics, expected: list[list[float]]) -> None:
    assert set(found.measures) == {*literal.AT_CUTOFFS, *literal.OF_THE_WHOLE}
    for name, table in found.measures.items():
        for row, order in zip(table, expected, strict=True):
            wanted = literal.of(name, order, found.ks)
            torch.testing.assert_close(
                row.reshape(-1),
                torch.tensor(wanted, dtype=torch.float64),
                rtol=1e-12,
                atol=1e-13,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("graded", [False, True])
def test_every_measure_is_its_literal_loop(backend: str, graded: bool) -> None:
    x, y, gains = problem(graded)
    relevance = gains.bool() if not graded else gains.double()
    with use_backend(backend):
        found = metrics.retrieval_metrics(
            x, y, relevance=relevance, ks=KS, measures=EVERY, metric="dot"
        )
    check_all(found, orders(x, y, gains))


@pytest.mark.parametrize("form", ["function", "pairs", "multi-hot", "classes"])
def test_every_form_of_relevance(form: str) -> None:
    x, y, gains = problem(graded=form != "classes")
    given: dict[str, Any] = {"relevance": lambda rows: gains[rows]}
    if form == "pairs":
        place = gains.nonzero()
        given = {"relevance": torch.cat([place, gains[gains > 0][:, None]], dim=1)}
    elif form == "multi-hot":
        rows = [(torch.rand(n, 5) < 0.3).double() for n in (20, 60)]
        gains = (rows[0] @ rows[1].T).long()
        given = {"query_labels": rows[0], "gallery_labels": rows[1]}
    elif form == "classes":
        ids = [torch.randint(4, (n,)) for n in (20, 60)]
        gains = (ids[0][:, None] == ids[1]).long()
        given = {"query_labels": ids[0], "gallery_labels": ids[1]}
    found = metrics.retrieval_metrics(x, y, **given, ks=KS, measures=EVERY, metric="dot")
    check_all(found, orders(x, y, gains))


def test_little_memory_and_small_blocks_change_no_bit() -> None:
    x, y, gains = problem(graded=True)
    given: Any = {"relevance": gains.double(), "ks": KS, "measures": EVERY, "metric": "dot"}
    whole = metrics.retrieval_metrics(x, y, **given)
    with mock.patch.object(blocks, "_BYTES_PER_GRADED_RANK", 2**22):  # a query at a time
        single = metrics.retrieval_metrics(x, y, **given)
    with mock.patch.object(blocks, "queries_per_block", return_value=3):
        three = metrics.retrieval_metrics(x, y, **given)
    for name, other in itertools.product(whole.measures, (single, three)):
        assert torch.equal(
            whole.measures[name].nan_to_num(-1), other.measures[name].nan_to_num(-1)
        ), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ties", ["index", "average"])
@pytest.mark.parametrize("form", ["matrix", "function", "labels", "rows", "excluded", "groups"])
def test_no_cut_off_bounds_mrr(form: str, ties: str, backend: str) -> None:
    """MRR is that of the whole ranking whatever the ks, and MRR@k is cut at k."""
    x, y, gains = problem(queries=40, items=90)
    given: Any = {"relevance": gains, "metric": "dot", "ties": ties}
    if form == "function":
        given["relevance"] = lambda queries: gains[queries]
    elif form in ("labels", "rows"):
        del given["relevance"]
        ids = torch.randint(0, 9, (130,))
        rows = torch.nn.functional.one_hot(ids, 9)
        labels = rows if form == "rows" else ids
        given |= {"query_labels": labels[:40], "gallery_labels": labels[40:]}
    elif form == "excluded":
        given["excluded"] = torch.rand(gains.shape) < 0.3
    elif form == "groups":
        given |= {"query_groups": torch.arange(40) % 3, "gallery_groups": torch.arange(90) % 3}
    with use_backend(backend):
        whole = metrics.retrieval_metrics(x, y, **given, ks=(1, 2, None))
        assert bool((whole.first_rank > 2).any() and (whole.first_rank == 1).any())
        # Blocks of three: after one with many misses the next are ranked to the end.
        for extra, size in itertools.product(((), ("r_precision",)), (3, 1024)):
            with mock.patch.object(blocks, "queries_per_block", return_value=size):
                cut = metrics.retrieval_metrics(x, y, **given, ks=(1, 2), measures=extra)
            for name in ("relevant", "first_rank", "reciprocal_rank"):
                assert torch.equal(getattr(cut, name), getattr(whole, name)), name
            for name in ("average_precision", "recall", "precision"):
                assert torch.equal(getattr(cut, name), getattr(whole, name)[:, :2]), name
        both = metrics.retrieval_metrics(x, y, **given, ks=(1,), measures=("reciprocal_rank",))
    assert both.summary()["MRR"] == whole.summary()["MRR"] > both.summary()["MRR@1"]
    assert both.summary()["MRR@1"] == pytest.approx(both.summary()["precision@1"])


@pytest.mark.parametrize("ties", ["index", "average"])
@pytest.mark.parametrize("name", ["dcg_exponential", "ndcg_exponential"])
def test_exponential_gains_end_where_their_sum_is_no_double(name: str, ties: str) -> None:
    """2¹⁰²³ + 2¹⁰²² is one, 2¹⁰²³ + 2¹⁰²³ and 2¹⁰²⁴ are none."""
    x = torch.eye(4)
    for gains, fits in (((1023, 1022), True), ((1023, 1023), False), ((1024, 0), False)):
        relevance = torch.zeros(4, 4)
        relevance[0, :2] = torch.tensor(gains)
        given: Any = {"relevance": relevance, "measures": (name,), "ties": ties}
        if fits:
            assert bool(metrics.retrieval_metrics(x, x, **given).measures[name].isfinite().all())
            continue
        message = f"relevance: expected gains whose 2ᵍ sum .* got gains up to {gains[0]}"
        with pytest.raises(ValueError, match=message):
            metrics.retrieval_metrics(x, x, **given)
        run, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": gains[0], "b": gains[1]}}
        with pytest.raises(ValueError, match=message):
            trec.run_metrics(run, qrels, measures=(name,))


@pytest.mark.parametrize("ties", ["index", "average"])
def test_err_takes_gains_of_any_size(ties: str) -> None:
    """Half of the users stop at the first item, of a gain one below the greatest, then all."""
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    for top in (60, 1024, 2000, 2**31 - 1):
        relevance = torch.zeros(1, 3, dtype=torch.float64)
        relevance[0, :2] = torch.tensor([top - 1, top])
        given: Any = {"relevance": relevance, "measures": ("err",), "ties": ties}
        found = metrics.retrieval_metrics(x[:1], x, **given).measures["err"]
        assert float(found[0, 0]) == pytest.approx(1 / 2 + 1 / 2 * 1 / 2, abs=1e-12)


def test_mrr_means_one_thing_at_every_entrance() -> None:
    x, y, gains = problem()
    order = orders(x, y, gains)
    firsts = [next((1 / r for r, g in enumerate(o, 1) if g > 0), 0.0) for o in order]
    given: Any = {"relevance": gains, "metric": "dot"}
    for ks in ((), (1,), (1, 5), (None,)):
        found = metrics.retrieval_metrics(x, y, **given, ks=ks)
        assert found.reciprocal_rank.tolist() == pytest.approx(firsts)
    scores = x @ y.T - torch.arange(60) * 1e-9  # ties by index, whatever the names
    run = {f"{q}": {f"{i}": float(s) for i, s in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {f"{q}": {f"{i}": int(g) for i, g in enumerate(row)} for q, row in enumerate(gains)}
    found = trec.run_metrics(run, qrels, ks=(1,))
    assert found.reciprocal_rank.tolist() == pytest.approx(firsts)
    ids = torch.randint(0, 9, (80,))
    metric = metrics.RetrievalMetric(ks=(1,), metric="dot")
    metric.update(x, ids[:20], side="query")
    metric.update(y, ids[20:], side="gallery")
    alone = metrics.retrieval_metrics(x, y, ids[:20], ids[20:], metric="dot")
    assert metric.compute().summary()["MRR"] == alone.summary()["MRR"]


@pytest.mark.parametrize("form", ["matrix", "sparse"])
def test_fractional_gains_match_the_literal_measures(form: str) -> None:
    x, y, gains = problem(graded=True)
    real = gains * torch.rand(gains.shape).double() - 0.1 * (gains == 0)
    relevance: Any = real
    if form == "sparse":
        relevance = pytest.importorskip("scipy.sparse").coo_array(real.numpy())
    given: Any = {"relevance": relevance, "ks": KS, "metric": "dot", "ndcg": True}
    found = metrics.retrieval_metrics(x, y, **given, measures=EVERY)
    check_all(found, orders(x, y, real))
    assert found.ndcg is not None and torch.equal(found.ndcg, found.measures["ndcg"])
    alone = metrics.retrieval_metrics(x, y, **given)
    assert alone.ndcg is not None and torch.equal(found.ndcg, alone.ndcg)
    assert dict(alone.measures) == {}
    for name in ("average_precision", "recall", "precision", "first_rank"):
        yes = metrics.retrieval_metrics(x, y, relevance=real > 0, ks=KS, metric="dot")
        assert torch.equal(getattr(found, name), getattr(yes, name))
    with pytest.raises(ValueError, match="relevance: expected real numbers as gains"):
        metrics.retrieval_metrics(x, y, relevance=torch.full((20, 60), torch.nan))


def test_asking_for_measures_changes_no_other_number() -> None:
    x, y, gains = problem(graded=True)
    given: Any = {"relevance": gains.double(), "ks": KS, "metric": "dot", "ndcg": True}
    given["recall_levels"] = 11
    plain = metrics.retrieval_metrics(x, y, **given)
    more = metrics.retrieval_metrics(x, y, **given, measures=EVERY)
    for name in ("relevant", "first_rank", "reciprocal_rank", "average_precision", "ndcg"):
        assert torch.equal(getattr(plain, name), getattr(more, name)), name
    assert plain.interpolated is not None and plain.raw is not None
    assert more.interpolated is not None and more.raw is not None
    assert torch.equal(plain.interpolated.precision, more.interpolated.precision)
    assert torch.equal(plain.raw.precision, more.raw.precision)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["binary", "whole", "real"])
def test_averaged_ties_are_the_mean_over_all_orders_of_equal_scores(
    backend: str, kind: str
) -> None:
    scores = torch.randint(3, (8, 6)).double()
    scores[0], scores[1] = 1, torch.arange(6)
    gains = torch.randint(0, 4, (8, 6)).double()
    gains[2], gains[3] = 0, gains[3].clamp(min=1)
    gains = {"binary": (gains > 1).double(), "whole": gains, "real": gains * 0.7}[kind]
    ks = (1, 2, 3, 5, None)
    partials = partial(measures.rbp, p=0.5), partial(measures.err, max_gain=4)
    with use_backend(backend):
        found = metrics.retrieval_metrics(
            torch.eye(8).double(),
            scores.T,
            relevance=gains if kind != "binary" else gains.bool(),
            ks=ks,
            measures=(*OF_TIES, *partials),
            metric="dot",
            ties="average",
            ndcg=True,
        )
    assert found.ndcg is not None
    torch.testing.assert_close(found.ndcg, found.measures["ndcg"], rtol=1e-12, atol=1e-13)
    for query, (row, gain) in enumerate(zip(scores, gains, strict=True)):
        orders = list(tie_orders(row, gain))
        for name, table in found.measures.items():
            if name in ("RBP(p=0.5)", "ERR(max_gain=4)"):
                one = partial(literal.rbp, p=0.5) if name[0] == "R" else None
                each = [
                    [one(order)] if one else [literal.err(order, k or 6, 4) for k in ks]
                    for order in orders
                ]
            else:
                each = [literal.of(name, order, ks) for order in orders]
            torch.testing.assert_close(
                table[query].reshape(-1),
                torch.tensor(each, dtype=torch.float64).mean(dim=0),
                rtol=1e-12,
                atol=1e-13,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def test_average_precision_over_the_first_hits_is_that_of_the_hashing_papers() -> None:
    """Hits at ranks 1, 3, 4, 5 and k = 3: (1 + 2/3 + 3/4) / 3, beside 5/6, 5/9 and 5/12."""
    angles = torch.linspace(0, 1, 5).double()
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    sides = torch.tensor([[1.0, 0.0]]).double(), gallery
    labels = torch.tensor([1]), torch.tensor([1, 0, 1, 1, 1])
    found = metrics.retrieval_metrics(*sides, *labels, ks=(3,), measures=("ap_first_hits",))
    assert float(found.measures["ap_first_hits"]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    for divisor, expected in (("hits", 5 / 6), ("min", 5 / 9), ("relevant", 5 / 12)):
        value = metrics.average_precision(*sides, *labels, k=3, divisor=divisor)
        assert float(value) == pytest.approx(expected)


def test_a_users_measure_is_evaluated_and_named() -> None:
    def median_rank(found: metrics.Ranks) -> Tensor:
        return found.ranks[:, 0]

    def deep(found: metrics.Ranks, k: Tensor) -> Tensor:
        return found.hits(k).double() / k

    x, y, gains = problem()
    own = (median_rank, deep, partial(measures.rbp, p=0.5), partial(measures.err, max_gain=2))
    found = metrics.retrieval_metrics(
        x, y, relevance=gains.bool(), ks=(2, 5), measures=own, metric="dot"
    )
    assert list(found.measures) == ["median_rank", "deep", "RBP(p=0.5)", "ERR(max_gain=2)"]
    torch.testing.assert_close(found.measures["deep"], found.precision)
    for row, order in enumerate(orders(x, y, gains)):
        assert found.measures["RBP(p=0.5)"][row] == pytest.approx(literal.rbp(order, 0.5))
        expected = [literal.err(order, k, 2) for k in (2, 5)]
        assert found.measures["ERR(max_gain=2)"][row].tolist() == pytest.approx(expected)
    assert {"deep@2", "deep@5", "RBP(p=0.5)"} <= found.summary().keys()


def test_the_default_device_of_torch_changes_nothing() -> None:
    x, y, _ = problem(graded=True)
    y[30:] = y[:30]
    labels = np.arange(20) % 4, np.arange(60) % 4
    camera = np.arange(60) % 3
    rng = np.random.default_rng(0)
    excluded, real = rng.random((20, 60)) < 0.3, rng.random((20, 60)) - 0.5
    codes = [rng.integers(256, size=(n, 9), dtype=np.uint8) for n in (20, 60)]
    options: list[dict[str, Any]] = [
        {"excluded": excluded},
        {"excluded_groups": (labels[0], camera)},
        {"excluded_groups": (np.stack([labels[0]] * 2, 1), np.stack([labels[1], camera], 1))},
        {"exclude_self": np.arange(20), "recall_levels": 3},
    ]

    def all_of_them() -> list[Any]:
        found: list[Any] = []
        for one in options:
            tables = metrics.retrieval_metrics(x, y, *labels, ks=(1, 5), measures=EVERY, **one)
            found += [tables.summary("median"), tables.summary("class_mean", classes=labels[0])]
        tables = metrics.retrieval_metrics(x, y, relevance=real, measures=("err",), ndcg=True)
        found += [tables.summary(), metrics.cmc_curve(x, y, *labels, k=3).tolist()]
        found.append(metrics.cmc_curve(x, y, labels[0] + 9, labels[1], k=3, on_empty="zero"))
        for one in ({}, {"exclude_self": np.arange(20)}):
            found += [part.tolist() for part in metrics.nearest(x, y, 50, **one)]
        found.append(metrics.nearest(*codes, 5, metric="hamming").indices.tolist())
        for backend in ("native", "eager") if NATIVE.available else ("eager",):
            with use_backend(backend):
                hashed = metrics.hamming_metrics(*codes, *labels, excluded=excluded)
            found += [hashed.mean_average_precision(), hashed.precision_recall().recall.tolist()]
        return [one.tolist() if isinstance(one, Tensor) else one for one in found]

    expected = all_of_them()
    torch.set_default_device("meta")
    try:
        found = all_of_them()
    finally:
        torch.set_default_device(None)
    assert repr(found) == repr(expected)  # as NaN is not itself


def test_measures_that_cannot_be_are_refused() -> None:
    x, y, gains = problem(graded=True)
    call = partial(metrics.retrieval_metrics, x, y, relevance=gains.double(), metric="dot")
    with pytest.raises(ValueError, match="measures: expected functions or names of hit, "):
        call(measures=("hit_rate",))
    with pytest.raises(TypeError, match="measures: expected a sequence"):
        call(measures="hit")
    with pytest.raises(ValueError, match=r"measures: expected \(20,\) from total, got \(20, 1\)"):

        def total(found: metrics.Ranks) -> Tensor:
            return found.ranks[:, :1]

        call(measures=(total,))
    with pytest.raises(ValueError, match=r'measures: .* ties="average".* got total'):
        call(measures=("hit", total), ties="average")
    with pytest.raises(ValueError, match="max_gain: expected at least 3"):
        call(measures=(partial(measures.err, max_gain=2),))
    with pytest.raises(ValueError, match="p: expected a number between 0 and 1, got 1"):
        call(measures=(partial(measures.rbp, p=1),))


class TestHits:
    def test_hit_at_k_is_the_share_of_queries_with_a_hit(self) -> None:
        x, y, gains = problem()
        for k in (1, 2, 7, 100):
            expected = np.mean([literal.hit(order, k) for order in orders(x, y, gains)])
            found = metrics.hit_at_k(x, y, relevance=gains.bool(), k=k, metric="dot")
            assert found == pytest.approx(expected)

    def test_the_cmc_curve_is_hit_at_every_k_without_queries_that_find_nothing(self) -> None:
        x, y, gains = problem()
        curve = metrics.cmc_curve(x, y, relevance=gains.bool(), k=70, metric="dot")
        rows = orders(x, y, gains)[1:]
        expected = [np.mean([literal.hit(order, k) for order in rows]) for k in range(1, 71)]
        assert curve.tolist() == pytest.approx(expected)

    def test_averaged_ties_are_the_mean_over_their_orders(self) -> None:
        scores, gains = torch.randint(2, (5, 6)), torch.randint(2, (5, 6))
        gains[0], gains[1:, 0] = 0, 1
        expected = [
            [np.mean([literal.hit(order, k) for order in tie_orders(s, g)]) for k in (1, 2, 3)]
            for s, g in zip(scores, gains, strict=True)
        ]
        given: Any = {"relevance": gains.bool(), "metric": "dot", "ties": "average"}
        sides = torch.eye(5), scores.T.float()
        curve = metrics.cmc_curve(*sides, k=3, **given)
        assert curve.tolist() == pytest.approx(np.mean(expected[1:], axis=0).tolist(), rel=1e-12)
        found = metrics.hit_at_k(*sides, k=2, **given)
        assert found == pytest.approx(np.mean(expected, axis=0)[1], rel=1e-12)

    def test_five_captions_an_image(self) -> None:
        """The R@1 of image-text tables counts an image whose nearest caption is one of its five."""
        image = torch.eye(3)
        text = image.repeat_interleave(5, dim=0) + 0.1 * torch.randn(15, 3)
        text[10:] = -image[2]  # the third image finds those of the others first
        pairs = torch.stack([torch.arange(15) // 5, torch.arange(15)], dim=1)
        assert metrics.hit_at_k(image, text, relevance=pairs, k=1) == pytest.approx(2 / 3)
        assert metrics.recall_at_k(image, text, relevance=pairs, k=1) == pytest.approx(2 / 15)


class TestSummaries:
    LABELS = torch.tensor([0, 0, 0, 1, 2, -1])

    @pytest.fixture
    def found(self) -> metrics.RetrievalMetrics:
        x, y = torch.randn(6, 4).double(), torch.randn(30, 4).double()
        gallery = torch.arange(30) % 2  # nothing of class 2
        return metrics.retrieval_metrics(
            x, y, self.LABELS, gallery, ks=(3, None), measures=("rbp",), no_relevant="skip"
        )

    def test_median(self, found: metrics.RetrievalMetrics) -> None:
        for name, column in found.tables().items():
            assert found.summary("median")[name] == np.nanmedian(column.numpy()), name

    def test_by_class_and_the_mean_of_class_means(self, found: metrics.RetrievalMetrics) -> None:
        each = found.by_class(self.LABELS)
        assert list(each) == [0, 1]  # class 2 finds nothing
        for name, column in found.tables().items():
            assert each[0][name] == pytest.approx(float(column[:3].mean()))
            assert each[1][name] == pytest.approx(float(column[3]))
            means = found.summary("class_mean", classes=self.LABELS)
            assert means[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
        names = ["ant", "ant", "ant", "bee", "cow", ""]
        assert found.by_class(names) == {"ant": each[0], "bee": each[1]}
        rows = torch.nn.functional.one_hot(self.LABELS.clamp(min=0), 3)
        rows[3, 0] = 1  # counts in two classes
        both = found.by_class(rows)
        assert both[0]["RBP"] == pytest.approx(float(found.measures["rbp"][:4].mean()))
        assert both[1] == each[1]

    def test_what_does_not_fit_is_refused(self, found: metrics.RetrievalMetrics) -> None:
        with pytest.raises(ValueError, match="average: "):
            found.summary("sum")
        with pytest.raises(ValueError, match=r'classes: expected labels .* "class_mean", got None'):
            found.summary("class_mean")
        with pytest.raises(ValueError, match=r"average: expected .* with classes, got 'mean'"):
            found.summary(classes=self.LABELS)
        with pytest.raises(ValueError, match="classes: expected 6"):
            found.by_class(self.LABELS[1:])
        x, nothing = torch.eye(2), torch.tensor([-1, -1])
        none = metrics.retrieval_metrics(x, x, nothing, [0, 1], on_empty="zero")
        assert none.summary("class_mean", classes=[0, 1])["mAP@all"] == 0.0
        with pytest.raises(ValueError, match="classes: expected 2"):
            none.summary("class_mean", classes=[0, 1, 2])


class TestNothingRelevant:
    X, Y = torch.eye(3), torch.eye(3)
    QUERY, GALLERY = torch.tensor([0, 1, 9]), torch.arange(3)

    @pytest.mark.parametrize(
        "rule, mean", [("zero", 2 / 3), ("one", 1.0), ("skip", 1.0)], ids=["zero", "one", "skip"]
    )
    def test_no_relevant_sets_what_the_query_counts(self, rule: str, mean: float) -> None:
        found = metrics.retrieval_metrics(
            self.X, self.Y, self.QUERY, self.GALLERY, ks=(1,), no_relevant=rule, measures=("hit",)
        )
        summary = found.summary()
        for name in ("mAP@1", "recall@1", "precision@1", "MRR", "hit@1"):
            assert summary[name] == pytest.approx(mean), name
        assert math.isnan(float(found.relevant[2])) == (rule == "skip")
        if rule == "one":
            assert float(found.relevant[2]) == float(found.first_rank[2]) == 0
            sides = self.X, self.Y, self.QUERY, self.GALLERY
            assert metrics.hit_at_k(*sides, k=1, no_relevant="one") == 1.0

    def test_no_relevant_error_names_the_first_query(self) -> None:
        with pytest.raises(ValueError, match=r"query_labels: .* got none for query 2"):
            metrics.mean_average_precision(
                self.X, self.Y, self.QUERY, self.GALLERY, no_relevant="error"
            )
        fine = self.QUERY[:2]
        assert metrics.mean_average_precision(
            self.X[:2], self.Y, fine, self.GALLERY, no_relevant="error"
        )

    CALLS: tuple[Any, ...] = (
        metrics.mean_average_precision,
        partial(metrics.recall_at_k, k=1),
        partial(metrics.hit_at_k, k=1),
        partial(metrics.cmc_curve, k=2),
        partial(metrics.precision_recall_curve, points=2),
    )

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("on_empty, value", [("zero", 0.0), ("nan", math.nan)])
    def test_a_mean_over_no_query(self, call: Any, on_empty: str, value: float) -> None:
        unlabelled, nothing = torch.tensor([-1, -1, -1]), torch.tensor([7, 8, 9])
        skip = {"no_relevant": "skip"} if call is metrics.mean_average_precision else {}
        for labels, options in ((unlabelled, {}), (nothing, skip)):
            if call is self.CALLS[2] and labels is nothing:
                options = {"no_relevant": "skip"}
            sides = self.X, self.Y, labels, self.GALLERY
            with pytest.raises(ValueError, match="query_labels: expected"):
                call(*sides, **options)
            found = call(*sides, **options, on_empty=on_empty)
            found = getattr(found, "precision", found)
            np.testing.assert_array_equal(np.asarray(found), np.full(np.shape(found), value))

    @pytest.mark.parametrize("gallery", [torch.zeros(0, 3), np.zeros((0, 3)), [torch.zeros(0, 3)]])
    def test_an_empty_gallery(self, gallery: Any) -> None:
        labels = self.QUERY, np.zeros(0, int)
        with pytest.raises(ValueError, match="gallery: expected a non-empty"):
            metrics.retrieval_metrics(self.X, gallery, *labels)
        with pytest.raises(ValueError, match="got none for query 0"):
            metrics.retrieval_metrics(self.X, gallery, *labels, no_relevant="error", on_empty="nan")
        for rule in ("zero", "one", "skip"):
            found = metrics.retrieval_metrics(
                *(self.X, gallery, *labels),
                ks=(1, None),
                measures=("hit", "fall_out"),
                no_relevant=rule,
                on_empty="nan",
            )
            assert all(bool(table.isnan().all()) for table in found.tables().values())
            assert all(math.isnan(mean) for mean in found.summary().values())
            assert math.isnan(found.summary("class_mean", classes=self.QUERY)["mAP@1"])

    def test_a_gallery_without_labels(self) -> None:
        labels = self.QUERY, torch.full((3,), -1)
        with pytest.raises(ValueError, match="gallery_labels: expected a labelled item"):
            metrics.mean_average_precision(self.X, self.Y, *labels)
        assert metrics.mean_average_precision(self.X, self.Y, *labels, on_empty="zero") == 0.0

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("items", [0, 3], ids=["empty", "unlabelled"])
    @pytest.mark.parametrize("on_empty, value", [("zero", 0.0), ("nan", math.nan)])
    def test_every_mean_in_a_gallery_without_a_labelled_item(
        self, call: Any, items: int, on_empty: str, value: float
    ) -> None:
        sides = self.X, self.Y[:items], self.QUERY, torch.full((items,), -1)
        found = call(*sides, on_empty=on_empty)
        found = getattr(found, "precision", found)
        np.testing.assert_array_equal(np.asarray(found), np.full(np.shape(found), value))

    @pytest.mark.parametrize("items", [0, 3], ids=["empty", "unlabelled"])
    @pytest.mark.parametrize("on_empty, value", [("zero", 0.0), ("nan", math.nan)])
    def test_codes_batches_and_reports_in_such_a_gallery(
        self, items: int, on_empty: str, value: float
    ) -> None:
        nothing = torch.full((items,), -1)
        codes = torch.arange(3, dtype=torch.uint8)[:, None]
        found = metrics.hamming_metrics(
            codes, codes[:items], self.QUERY, nothing, on_empty=on_empty
        )
        np.testing.assert_equal(found.mean_average_precision(), value)
        np.testing.assert_array_equal(found.precision_recall().recall, np.full(9, value))

        metric = metrics.RetrievalMetric(on_empty=on_empty)
        metric.update(self.X, self.QUERY, side="query")
        metric.update(self.Y[:items], nothing, side="gallery")
        np.testing.assert_equal(metric.compute().summary()["mAP@all"], value)

        if items:  # a modality without rows is refused as a query
            sides = {"image": (self.X, self.QUERY), "text": (self.Y, nothing)}
            report = metrics.retrieval_report(sides, ks=(1,), on_empty=on_empty)
            np.testing.assert_equal(report["mAP@1"]["image->text"], value)
            np.testing.assert_equal(report["mAP@1"]["text->image"], value)


class TestExclusions:
    def check(self, kept: Tensor, **options: Any) -> None:
        """The same as rankings without what is not kept, by every backend."""
        x, y, gains = self.problem
        for backend in ("native", "eager"):
            if backend == "native" and not NATIVE.available:
                continue
            with use_backend(backend):
                found = metrics.retrieval_metrics(
                    x, y, relevance=gains.bool(), ks=KS, measures=EVERY, metric="dot", **options
                )
            check_all(found, orders(x, y, gains, kept))

    @pytest.fixture(autouse=True)
    def _problem(self) -> None:
        self.problem = problem()
        self.kept = torch.rand(20, 60) < 0.6
        self.kept[2] = False  # one that finds nothing at all

    def test_as_a_matrix_pairs_or_a_function(self) -> None:
        self.check(self.kept, excluded=~self.kept)
        self.check(self.kept, excluded=(~self.kept).nonzero())
        self.check(self.kept, excluded=lambda rows: ~self.kept[rows])
        sparse = pytest.importorskip("scipy.sparse")
        self.check(self.kept, excluded=sparse.csr_matrix((~self.kept).numpy()))

    def test_groups_of_one_number_or_of_several(self) -> None:
        one, other = torch.randint(4, (20,)), torch.randint(4, (60,))
        same = one[:, None] == other
        self.check(~same, excluded_groups=(one, other))
        names = [np.array(["a", "b", "c", "d"])[ids.numpy()] for ids in (one, other)]
        self.check(~same, excluded_groups=names)
        camera, item_camera = torch.randint(2, (20,)), torch.randint(2, (60,))
        both = same & (camera[:, None] == item_camera)
        columns = torch.stack([one, camera], 1), torch.stack([other, item_camera], 1)
        self.check(~both, excluded_groups=columns)
        self.check(~both & self.kept, excluded_groups=columns, excluded=~self.kept)

    def test_queries_that_are_a_part_of_the_gallery(self) -> None:
        _, y, gains = self.problem
        place = torch.randperm(60)[:20]
        self.problem = y[place], y, gains
        kept = place[:, None] != torch.arange(60)
        self.check(kept, exclude_self=place)
        self.check(kept & self.kept, exclude_self=place.tolist(), excluded=~self.kept)
        mask = torch.zeros(60, dtype=torch.bool)
        mask[place] = True
        self.problem = y[mask], y, gains
        self.check(mask.nonzero() != torch.arange(60), exclude_self=mask.numpy())

    def test_with_query_groups_and_unlabelled_items(self) -> None:
        x, y, _ = self.problem
        labels = torch.randint(3, (20,)), torch.randint(-1, 3, (60,))
        groups = torch.randint(2, (20,)), torch.randint(2, (60,))
        kept = (groups[0][:, None] == groups[1]) & (labels[1] >= 0) & self.kept
        found = metrics.retrieval_metrics(
            x,
            y,
            *labels,
            ks=KS,
            measures=EVERY,
            metric="dot",
            excluded=~self.kept,
            query_groups=groups[0],
            gallery_groups=groups[1],
        )
        check_all(found, orders(x, y, (labels[0][:, None] == labels[1]).long(), kept))

    @pytest.mark.parametrize(
        "option, value, message",
        [
            ("exclude_self", torch.arange(19), r"exclude_self: expected a bool, the positions"),
            ("exclude_self", torch.rand(20), r"exclude_self: expected a bool, the positions"),
            ("exclude_self", torch.arange(20) + 41, r"exclude_self: expected positions in 0..59"),
            ("exclude_self", torch.ones(60) > 0, r"exclude_self: expected a bool, the positions"),
            ("exclude_self", True, "exclude_self: expected one set"),
            ("excluded", torch.ones(20, 61) > 0, "excluded: expected a matrix"),
            ("excluded", lambda rows: torch.ones(len(rows), 2) > 0, "excluded: expected bool"),
            ("excluded", torch.tensor([[0, 60]]), "excluded: expected item positions in 0..59"),
            ("excluded_groups", torch.zeros(20), "excluded_groups: expected a pair"),
            ("excluded_groups", (torch.zeros(20), torch.zeros(59)), "excluded_groups: expected 60"),
            (
                "excluded_groups",
                (["a"] * 20, torch.zeros(60)),
                "excluded_groups: expected one kind",
            ),
            (
                "excluded_groups",
                (torch.zeros(20, 2), torch.zeros(60, 2)),
                "excluded_groups: expected integer columns",
            ),
            (
                "excluded_groups",
                (torch.zeros(20, 2).long(), torch.zeros(60, 3).long()),
                r"excluded_groups: expected \(20, C\) and \(60, C\)",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, option: str, value: Any, message: str) -> None:
        x, y, gains = self.problem
        with pytest.raises(ValueError, match=message):
            metrics.retrieval_metrics(x, y, relevance=gains.bool(), **{option: value})


@pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"counts": [[3]]}, "counts: expected 0 to 2, got 3"),
        ({"counts": [[-1]]}, "counts: expected 0 to 2, got -1"),
        ({"counts": [[1], [1]]}, "counts: expected 1 contiguous rows"),
        ({"counts": [1]}, "counts: expected a matrix of int64"),
        ({"counts": [[1.0]]}, "counts: expected a matrix of int64"),
        ({"ranks": [[1.0, 4.0]]}, "ranks: expected 1 to 3, the weights there are"),
        ({"ranks": [[0.0, 2.0]]}, "ranks: expected 1 to 3"),
        ({"ranks": [[1.0, math.nan]]}, "ranks: expected 1 to 3"),
        ({"ranks": [[1.0, math.inf]]}, "ranks: expected 1 to 3"),
        ({"ranks": [[-(2.0**63), 2.0]]}, "ranks: expected 1 to 3"),
        ({"weights": []}, "ranks: expected 1 to 0"),
        ({"ranks": [1.0, 2.0]}, "ranks: expected a matrix of float64"),
        ({"ranks": [[1, 2]]}, "ranks: expected a matrix of float64"),
        ({"values": [[1, 2]]}, "values: expected a matrix of float64"),
        ({"values": [[1.0]]}, "values: expected those of 2 relevant items"),
        ({"values": [[1.0, 2.0]] * 2}, "values: expected those of 2 relevant items"),
        ({"weights": [[1.0, 0.5, 0.2]]}, "weights: expected a contiguous vector of float64"),
        ({"weights": [1, 0, 0]}, "weights: expected a contiguous vector of float64"),
    ],
)
def test_the_compiled_sums_read_nothing_that_is_not_there(changed: Any, message: str) -> None:
    given: dict[str, Any] = {
        "ranks": [[1.0, 3.0]],
        "values": [[1.0, 2.0]],
        "counts": [[2]],
        "weights": [1.0, 0.5, 0.2],
    }

    def run(lists: dict[str, Any]) -> Tensor:
        parts = [torch.from_numpy(np.array(part)) for part in lists.values()]
        result: Tensor = torch.ops.drcl.rank_sums(*parts)
        return result

    assert run(given).tolist() == [[1.0 + 2 * 0.2]]
    with pytest.raises(RuntimeError, match=message):
        run(given | changed)


@pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)
def test_ranks_beyond_the_counts_are_not_looked_at() -> None:
    """They are the padding's, infinity."""
    ranks = torch.tensor([[2.0, math.inf, math.nan]]).double()
    sums = torch.ops.drcl.rank_sums(
        ranks, torch.ones(1, 3).double(), torch.tensor([[0, 1]]), torch.tensor([1.0, 0.5]).double()
    )
    assert sums.tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize("ties", ["index", "average"])
def test_every_measure_without_a_cutoff(ties: str) -> None:
    x, labels = torch.eye(3), torch.tensor([0, 1, 0])
    found = metrics.retrieval_metrics(
        x, x, labels, labels, ks=(), measures=tuple(metrics.measures.MEASURES), ties=ties
    )
    assert set(found.tables()) == {"MRR", "R-precision", "mAP@R", "AUROC", "bpref", "RBP"}
