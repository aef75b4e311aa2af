"""Targets: :mod:`drcl.metrics`, against a loop over the ranks of float64 scores.

Two scores closer than the rounding of a product may come in either order, in ours and in any other
float32 ranking; a query with such a pair is held to what any order gives: values in [0, 1]. Scores
that are equal for a reason, those of equal rows and of products of small integers, must tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import literal_measures as literal
import numpy as np
import torch
from arrays import INTEGERS, laid_out, numpy_form, spoil, tensor, values
from bad_arguments import Faults, of_count, of_word, refuses
from fuzzing import Draw, array, refused, target

from drcl import metrics, use_backend
from drcl.metrics.measures import ndcg
from drcl.metrics.names import MEASURES
from drcl.reference.average_precision import (
    precision_recall,
    ranking,
    ranking_measures,
    tie_orders,
)

KINDS = (
    "normal",
    "small integers",
    "equal rows",
    "some zero rows",
    "unit rows",
    "zero",
    "denormal",
)
SIZES = {"Q": 5, "N": 17, "D": 8}
FORMS = ("labels", "rows", "pairs", "graded pairs", "sparse", "function")


class Case(NamedTuple):
    """Arguments of :func:`drcl.metrics.retrieval_metrics`, and what they say."""

    arguments: dict[str, Any]
    gains: np.ndarray  # (Q, N)
    queries: np.ndarray  # (Q,) bool: whether the query counts
    ranked: np.ndarray  # (Q, N) bool: what the query ranks
    x: np.ndarray
    y: np.ndarray
    exact: bool  # products are exact in every dtype


def draw_rows(draw: Draw, label: str, rows: int, width: int, kind: str, numpy: bool) -> Any:
    x = values(draw, label, rows, width, kind)
    more = INTEGERS if kind == "small integers" else ()
    if numpy:
        numbers = "f4", "f8", "f2", "g", *(["i8", "i1"] if more else [])
        dtype = draw.choose(f"{label} dtype", *numbers)
        if draw.choose(f"{label} in records", False, True):
            records = np.zeros(rows, dtype=[("label", "i1"), ("row", dtype, (width,))])
            records["row"] = x
            return records["row"]
        return numpy_form(draw, label, x.astype(dtype))
    if more and draw.choose(f"{label} integers", False, True):
        dtype = draw.choose(f"{label} dtype", *more)
        return laid_out(draw, label, torch.from_numpy(np.abs(x)).to(dtype))
    return tensor(draw, label, x)


def exact_values(rows: Any) -> np.ndarray:
    return rows.astype(np.float64) if isinstance(rows, np.ndarray) else array(rows)


def draw_case(draw: Draw) -> Case:
    queries, items = draw.integer("Q", 1, 5), draw.choose("N", 5, 1, 2, 6, 9, 17)
    # The widest gallery is beyond a quarter of the least memory, and so read in tiles.
    width = draw.choose("D", *(3, 1, 2, 8) * 4, 4096)
    numpy = draw.choose("arrays", "torch", "numpy") == "numpy"
    kind = draw.choose("kind", *KINDS)
    arguments: dict[str, Any] = {
        "ks": draw.choose("ks", (None,), (1,), (3, None), (2, 50, 2), ()),
        "metric": draw.choose("metric", "cosine", "dot", "euclidean"),
        "divisor": draw.choose("divisor", "hits", "min", "relevant"),
        "no_relevant": draw.choose("no_relevant", "zero", "skip", "one"),
        "ndcg": draw.choose("ndcg", False, True),
        "max_bytes": 2**20 if width == 4096 else draw.choose("max_bytes", 2**28, 2**20),
        "precision": draw.choose("precision", "highest", "high"),
    }
    if draw.choose("ties", "index", "average") == "average":
        arguments["ties"], items = "average", min(items, 5)
    else:
        arguments["recall_levels"] = draw.choose("recall_levels", 0, 2, 11)
        if draw.choose("measures", False, True):
            arguments["measures"] = (*MEASURES, ndcg)
        else:
            arguments["adaptive_k"] = draw.choose("adaptive_k", True, False)
    query = draw_rows(draw, "query", queries, width, kind, numpy)
    own = draw.choose("exclude_self", False, True)
    if own:
        gallery, items = query, queries
        mask = np.ones(items, bool)
        arguments["exclude_self"] = draw.choose("queries", True, np.arange(items), mask)
    else:
        gallery = draw_rows(draw, "gallery", items, width, kind, numpy)
    x, y = exact_values(query), exact_values(gallery)
    arguments["query"], arguments["gallery"] = query, in_some_form(draw, gallery)
    counted, kept = np.ones(queries, bool), np.ones(items, bool)
    form = draw.choose("relevance", *FORMS)
    random = draw.random
    if form in ("labels", "rows"):
        gains, counted, kept = draw_labels(draw, form, arguments, queries, items, numpy)
    else:
        gains = random.integers(0, 4 if form != "pairs" else 2, size=(queries, items))
        gains[random.random(gains.shape) < 0.5] = 0
        arguments["relevance"] = relevance(draw, form, gains)
    ranked = np.ones((queries, items), bool) & kept
    if draw.choose("groups", False, True):
        groups = random.integers(2, size=queries), random.integers(3, size=items)
        arguments["query_groups"], arguments["gallery_groups"] = groups
        ranked &= groups[0][:, None] == groups[1]
    if own:
        ranked &= ~np.eye(queries, dtype=bool)
    if draw.choose("excluded groups", False, True):
        groups = random.integers(2, size=queries), random.integers(3, size=items)
        arguments["excluded_groups"] = groups
        ranked &= groups[0][:, None] != groups[1]
    if draw.choose("excluded", False, True):
        excluded = random.random((queries, items)) < 0.3
        ranked &= ~excluded
        matrix = torch.from_numpy(excluded)
        arguments["excluded"] = draw.choose("excluded as", matrix, lambda rows: matrix[rows])
    # Of a Euclidean distance the squared lengths are rounded.
    integer = kind == "zero" or (kind == "small integers" and arguments["metric"] == "dot")
    return Case(arguments, gains, counted, ranked, x, y, integer)


def in_some_form(draw: Draw, gallery: Any) -> Any:
    """The same rows in one piece, in chunks, or from an iterator that gives them once."""
    form = draw.choose("gallery in", "one", "chunks", "an iterator")
    cut = len(gallery) // 2
    parts = [gallery[:cut], gallery[cut:]]
    if form == "an iterator":
        return (part for part in parts)
    return parts if form == "chunks" else gallery


def draw_labels(
    draw: Draw, form: str, arguments: dict[str, Any], queries: int, items: int, numpy: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gains, which queries count, which items are ranked."""
    random, classes = draw.random, draw.choose("classes", 3, 1, 2)
    own = "exclude_self" in arguments
    if form == "rows":
        classes = max(classes, 2)
        one = (random.random((queries, classes)) < 0.4).astype(float)
        other = one if own else (random.random((items, classes)) < 0.4).astype(float)
        gains = (one @ other.T).astype(int)
        counted, kept = np.ones(queries, bool), np.ones(items, bool)
    else:
        share = draw.choose("unlabelled", 0.0, 0.3)
        one = np.where(random.random(queries) < share, -1, random.integers(classes, size=queries))
        other = np.where(random.random(items) < share, -1, random.integers(classes, size=items))
        other = one if own else other
        if {*one.tolist(), *other.tolist()} == {-1, 1}:  # which would be two classes
            one, other = np.minimum(one, 0), np.minimum(other, 0)
        gains = ((one[:, None] == other) & (one[:, None] >= 0)).astype(int)
        counted, kept = one >= 0, other >= 0
        if draw.choose("as a column", False, True):
            one, other = one[:, None], other[:, None]
    dtype = draw.choose("labels dtype", "i8", "f4", "i4", "i1", "f8")
    found = one.astype(dtype), other.astype(dtype)
    if not numpy:
        found = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    arguments["query_labels"], arguments["gallery_labels"] = found
    return gains, counted, kept


def relevance(draw: Draw, form: str, gains: np.ndarray) -> Any:
    if form == "function":
        matrix = torch.from_numpy(gains)
        matrix = matrix > 0 if gains.max(initial=0) < 2 else matrix
        return lambda rows: matrix[rows]
    if form == "sparse":
        import scipy.sparse

        kind = draw.choose("sparse", scipy.sparse.csr_matrix, scipy.sparse.coo_array)
        dtypes = ("i8", "f4", "u1") if gains.max(initial=0) > 1 else ("i8", "f4", "u1", "?")
        return kind(gains.astype(draw.choose("sparse dtype", *dtypes)))
    pairs = np.argwhere(gains > 0)
    if form == "graded pairs":
        pairs = np.column_stack([pairs, gains[gains > 0]])
    if pairs.shape == gains.shape:  # which may be a matrix as well
        return gains > 0 if form == "pairs" else gains.astype(float)
    pairs = draw.random.permutation(pairs)
    return (
        pairs if draw.choose("pairs in", "numpy", "torch") == "numpy" else torch.from_numpy(pairs)
    )


def similarity(case: Case) -> np.ndarray:
    metric, x, y = case.arguments["metric"], case.x, case.y
    if metric == "dot":
        return x @ y.T
    if metric == "euclidean":
        return x @ y.T - (y**2).sum(axis=1) / 2
    return unit(x) @ unit(y).T


def unit(x: np.ndarray) -> np.ndarray:
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def is_clear(case: Case, scores: np.ndarray, ranked: np.ndarray) -> bool:
    """Whether no two different items of a query are so close that rounding decides."""
    if case.exact:
        return True
    order = np.argsort(-scores[ranked], kind="stable")
    kept = np.flatnonzero(ranked)[order]
    gaps = -np.diff(scores[kept])
    same = (case.y[kept[1:]] == case.y[kept[:-1]]).all(axis=1)
    size = np.abs(case.x).max() * np.abs(case.y).max() + np.abs(case.y).max() ** 2
    near = 1e-5 * (1.0 if case.arguments["metric"] == "cosine" else size) * case.x.shape[1]
    if case.arguments["precision"] == "high":
        near *= 100
    return bool((same | (gaps > near)).all())


def exact_scores(case: Case) -> np.ndarray:
    """Scores whose items of equal rows tie exactly, as they do in ours."""
    scores = similarity(case)
    rows, first = np.unique(case.y + 0.0, axis=0, return_inverse=True)
    del rows
    for group in np.unique(first):
        members = np.flatnonzero(first.reshape(-1) == group)
        scores[:, members] = scores[:, members[:1]]
    return scores


def expected(
    case: Case, scores: np.ndarray, query: int
) -> tuple[list[dict[str, float]], list[int], bool]:
    """The measures at every cut-off, the gains in ranking order, and whether the order is clear."""
    ranked = case.ranked[query]
    own = torch.from_numpy(scores[query, ranked])
    gains = torch.from_numpy(case.gains[query, ranked])
    n, divisor = int(ranked.sum()), case.arguments["divisor"]
    orders = [ranking(own, gains)]
    if case.arguments.get("ties") == "average":
        orders = list(tie_orders(own, gains))
    found = []
    for k in case.arguments["ks"]:
        each = [ranking_measures(order, n if k is None else k, divisor) for order in orders]
        found.append({name: float(np.mean([one[name] for one in each])) for name in each[0]})
    return found, orders[0], is_clear(case, scores[query], ranked)


def judge(case: Case, found: metrics.RetrievalMetrics) -> None:
    scores = exact_scores(case)
    ks = case.arguments["ks"]
    tables = {
        "average_precision": found.average_precision,
        "recall": found.recall,
        "precision": found.precision,
    }
    if case.arguments["ndcg"]:
        assert found.ndcg is not None
        tables["ndcg"] = found.ndcg
    curves: list[tuple[list[float], list[float]]] = []
    every_clear = True
    for i in range(len(case.queries)):
        relevant = int((case.gains[i, case.ranked[i]] > 0).sum())
        left_out = relevant == 0 and case.arguments["no_relevant"] == "skip"
        if relevant == 0 and case.arguments["no_relevant"] == "one" and case.queries[i]:
            assert all(bool((table[i] == 1).all()) for table in tables.values())
            assert all(bool((table[i] == 1).all()) for table in found.measures.values())
            continue
        if not case.queries[i] or left_out:
            assert all(bool(table[i].isnan().all()) for table in tables.values())
            assert math.isnan(float(found.relevant[i]))
            continue
        wanted, order, clear = expected(case, scores, i)
        every_clear &= clear
        assert float(found.relevant[i]) == relevant
        for column, measures in enumerate(wanted):
            for name, table in tables.items():
                value = float(table[i, column])
                assert -1e-12 <= value <= 1 + 1e-12, (name, value)
                if clear:
                    exact = measures[name]
                    k, n = ks[column], int(case.ranked[i].sum())
                    if name == "precision" and not case.arguments.get("adaptive_k", True):
                        exact *= min(1.0, n / (k or n or 1))
                    assert math.isclose(value, exact, rel_tol=1e-11, abs_tol=1e-12), (
                        f"query {i}, k = {ks[column]}, {name}: got {value}, expected {exact}"
                    )
        if clear:
            judge_measures(found, i, order)
        if clear and case.arguments.get("ties") != "average":
            first = next((rank for rank, gain in enumerate(order, 1) if gain > 0), 0)
            assert float(found.first_rank[i]) == first
            assert math.isclose(float(found.reciprocal_rank[i]), 1 / first if first else 0.0)
        if relevant and case.arguments.get("recall_levels"):
            curves.append(precision_recall(order, case.arguments["recall_levels"]))
    if not case.arguments.get("recall_levels"):
        assert found.interpolated is None and found.raw is None
        return
    for place, curve in enumerate((found.interpolated, found.raw)):
        if not curves:
            assert curve is None
        elif every_clear:
            assert curve is not None
            mean = np.mean([pair[place] for pair in curves], axis=0)
            np.testing.assert_allclose(curve.precision.numpy(), mean, rtol=1e-11)


def judge_measures(found: metrics.RetrievalMetrics, query: int, order: list[int]) -> None:
    """Those asked for by name, against loops over the ranks."""
    gains = [float(gain) for gain in order]
    for name, table in found.measures.items():
        exact = literal.of(name, gains, found.ks)
        np.testing.assert_allclose(
            table[query].reshape(-1).numpy(), exact, rtol=1e-11, atol=1e-12, err_msg=name
        )


def faults_of(draw: Draw, case: Case) -> Faults:
    given, (queries, items) = case.arguments, case.gains.shape
    x, width = torch.from_numpy(case.x).float(), case.x.shape[1]
    bad, _ = spoil(draw, x[case.queries]) if case.queries.any() else (torch.full((1, 1), 0.0), 0)
    faults: Faults = {
        "query: None": lambda: None,
        "query: a number": lambda: 3,
        "query: words": lambda: np.array([["a"] * width] * queries),
        "query: objects": lambda: np.array([[None] * width] * queries, dtype=object),
        "query: 1-D": lambda: x[0],
        "query: 3-D": lambda: x[None],
        "query: no rows": lambda: x[:0],
        "query: no columns": lambda: x[:, :0],
        "query/widths: too wide": lambda: torch.zeros(queries, width + 1),
        "query: ragged rows": lambda: [[0.0] * width, [0.0] * (width + 1)],
        "query: complex": lambda: x.to(torch.complex64),
        "query: sparse": x.to_sparse,
        "query: on meta": lambda: x.to("meta"),
        "gallery: None": lambda: None,
        "gallery: ragged chunks": lambda: [torch.zeros(2, width), torch.zeros(2, width + 1)],
        "gallery: no chunks": list,
        "gallery: an empty iterator": lambda: iter(()),
        "gallery: complex": lambda: torch.zeros(items, width, dtype=torch.complex64),
        "gallery: on meta": lambda: torch.zeros(items, width, device="meta"),
        **of_word("metric"),
        **of_word("divisor"),
        **of_word("ties"),
        **of_word("no_relevant"),
        **of_word("on_empty"),
        "excluded: too few": lambda: torch.ones(queries + 1, items, dtype=torch.bool),
        "excluded: fractions": lambda: fractions(queries, items),
        "excluded_groups: one side": lambda: (torch.zeros(queries).long(),),
        "excluded_groups: too many": lambda: (torch.zeros(queries + 1), torch.zeros(items)),
        "exclude_self: too far": lambda: np.full(queries, items),
        "exclude_self: fractions": lambda: np.full(queries, 0.5),
        "exclude_self: None": lambda: None,
        **of_word("precision"),
        **{f"recall_levels: {v!r}": lambda v=v: v for v in (1, -1, 2.5, "3", None)},
        **{f"max_bytes: {v!r}": lambda v=v: v for v in (0, 2**20 - 1, -1, "1", None, math.nan)},
        "ks/k: a number": lambda: 3,
        "ks/k: zero": lambda: (0,),
        "ks/k: half": lambda: (1.5,),
        "ks/k: text": lambda: ("1",),
        "query_groups/gallery_groups: too many": lambda: torch.zeros(queries + 1).long(),
        "query_groups/gallery_groups: halves": lambda: torch.full((queries,), 0.5),
    }
    if (case.ranked.any(axis=1) & case.queries).all():
        faults["query: NaN or infinite"] = lambda: bad
        faults["gallery: NaN"] = lambda: torch.full((items, width), math.nan)
        faults["gallery: infinite"] = lambda: torch.full((items, width), math.inf)
    if "query_labels" in given:
        labels = torch.zeros(items)
        faults |= {
            "gallery_labels: missing": lambda: None,
            "gallery_labels: too few": lambda: labels[1:],
            "gallery_labels: 0-D": lambda: torch.tensor(1),
            "gallery_labels: 3-D": lambda: labels[:, None, None],
            "gallery_labels: no columns": lambda: torch.zeros(items, 0),
            "gallery_labels: fractions": lambda: labels + 0.5,
            "gallery_labels: NaN": lambda: labels * math.nan,
            "gallery_labels: infinite": lambda: labels + math.inf,
            "gallery_labels: beyond 64 bits": lambda: labels + 1e30,
            "gallery_labels: below -1": lambda: labels - 100,
            "gallery_labels: fractions in rows": lambda: torch.full((items, 3), 0.3),
            "gallery_labels: negative rows": lambda: -torch.ones(items, 2),
            "gallery_labels: NaN rows": lambda: torch.full((items, 2), math.nan),
            "gallery_labels: wide": lambda: torch.ones(items, 7),
            "gallery_labels: complex": lambda: labels.to(torch.complex64),
            "gallery_labels: words": lambda: np.array(["a"] * items),
            "gallery_labels: on meta": lambda: labels.to("meta"),
            "relevance: beside labels": lambda: torch.zeros(0, 2).long(),
        }
    else:
        faults |= {
            "relevance: floats": lambda: torch.zeros(queries + 1, 2),
            "relevance: a bool matrix too large": lambda: torch.ones(queries, items + 1).bool(),
            "relevance: a matrix of NaN": lambda: torch.full((queries, items), math.nan),
            "relevance: 1-D": lambda: torch.zeros(2).long(),
            "relevance: four columns": lambda: torch.zeros(queries + 1, 4).long(),
            "relevance: an item too far": lambda: torch.tensor([[0, items]]),
            "relevance: a query too far": lambda: torch.tensor([[queries, 0]]),
            "relevance: negative": lambda: torch.tensor([[-1, 0]]),
            "relevance: twice": lambda: torch.tensor([[0, 0], [0, 0]]),
            "relevance: a gain beyond 32 bits": lambda: torch.tensor([[0, 0, 2**31]]),
            "relevance: words": lambda: np.array([["a", "b"]]),
            "relevance: on meta": lambda: torch.zeros(1, 2, dtype=torch.int64, device="meta"),
            "relevance: complex": lambda: torch.ones(queries, items).to(torch.complex64),
            "relevance: a sparse matrix too small": lambda: fractions(queries + 1, items),
            "relevance: a function of None": lambda: lambda rows: None,
            "relevance: a function of floats": lambda: lambda rows: torch.zeros(len(rows), items),
            "relevance: a function of too many": lambda: (
                lambda rows: torch.zeros(len(rows), items + 1).long()
            ),
        }
        if not (case.ranked.any(axis=1) & case.queries).all():
            del faults["relevance: a function of None"]
            del faults["relevance: a function of floats"]
            del faults["relevance: a function of too many"]
    return faults


def fractions(queries: int, items: int) -> Any:
    import scipy.sparse

    return scipy.sparse.csr_matrix(np.full((queries, items), 0.5))


def draw_nothing_left(case: Case) -> bool:
    """Whether no gallery item is labelled, which is refused."""
    labels = case.arguments.get("gallery_labels")
    return labels is not None and labels.ndim == 1 and bool((labels < 0).all())


def measured(draw: Draw, call: Any) -> Iterator[tuple[Case, metrics.RetrievalMetrics]]:
    """A case and its result, unless it was to be refused, which is checked."""
    case = draw_case(draw)
    backend = draw.choose("backend", "native", "eager", "reference")
    # Blocks of any size give what the oracle gives.
    block = draw.choose("rows of a block", 1024, 1, 2)
    with (
        use_backend(backend),
        mock.patch("drcl.metrics.blocks.queries_per_block", return_value=block),
    ):
        if draw_nothing_left(case) or bool(
            "gallery_labels" in case.arguments
            and (exact_values(case.arguments["gallery_labels"]) < 0).all()
        ):
            with refused("gallery_labels"):
                call(**case.arguments)
            return
        if refuses(draw, call, case.arguments, faults_of(draw, case)):
            return
        yield case, call(**case.arguments)


@target("drcl.metrics.retrieval_metrics")
def retrieval_metrics(draw: Draw) -> None:
    for case, found in measured(draw, metrics.retrieval_metrics):
        judge(case, found)
        counted = ~found.reciprocal_rank.isnan()
        if bool(counted.any()):
            for name, mean in found.summary().items():
                assert mean >= 0 or math.isnan(mean) or "utility" in name, name
                unbounded = any(one in name for one in ("DCG", "hits", "num_", "utility"))
                assert mean <= 1 + 1e-12 or unbounded or math.isnan(mean), name
        else:
            with refused("query_labels"):
                found.summary()


def plain_case(draw: Draw) -> tuple[dict[str, Any], metrics.RetrievalMetrics | None]:
    """Arguments without those that the short functions set themselves, and all measures."""
    case = draw_case(draw)
    not_theirs = ("ks", "recall_levels", "ndcg", "measures")
    given = {k: v for k, v in case.arguments.items() if k not in not_theirs}
    if not isinstance(given["gallery"], (torch.Tensor, np.ndarray, list)):
        given["gallery"] = list(given["gallery"])  # it is read twice here
    try:
        return given, metrics.retrieval_metrics(**given, ks=(2, None))
    except ValueError as error:
        assert "gallery_labels" in str(error)
        return given, None


@target("drcl.metrics.average_precision")
def average_precision(draw: Draw) -> None:
    given, found = plain_case(draw)
    if refuses(draw, metrics.average_precision, {**given, "k": 1}, of_count("k")) or found is None:
        return
    for column, k in enumerate((2, None)):
        value = metrics.average_precision(**given, k=k)
        torch.testing.assert_close(
            value, found.average_precision[:, column], rtol=1e-12, atol=1e-13, equal_nan=True
        )


@target("drcl.metrics.mean_average_precision")
def mean_average_precision(draw: Draw) -> None:
    given, found = plain_case(draw)
    call = metrics.mean_average_precision
    if refuses(draw, call, {**given, "k": 1}, of_count("k")) or found is None:
        return
    same_mean(lambda: call(**given), found.average_precision[:, 1])


def same_mean(call: Callable[[], float], values: torch.Tensor) -> None:
    """A mean over the queries that count is that of their values; refused where none does."""
    values = values[~values.isnan()]
    if len(values) == 0:
        with refused("query_labels"):
            call()
        return
    assert math.isclose(call(), float(values.mean()), rel_tol=1e-12, abs_tol=1e-13)


@target("drcl.metrics.recall_at_k")
def recall_at_k(draw: Draw) -> None:
    given, found = plain_case(draw)
    given.pop("no_relevant", None)  # not its choice
    faults = {**of_count("k"), "k: None": lambda: None, "no_relevant: given": lambda: "skip"}
    if refuses(draw, metrics.recall_at_k, {**given, "k": 1}, faults) or found is None:
        return
    same_mean(lambda: metrics.recall_at_k(**given, k=2), found.recall[found.relevant > 0, 0])


@target("drcl.metrics.hit_at_k")
def hit_at_k(draw: Draw) -> None:
    given, found = plain_case(draw)
    faults = {**of_count("k"), "k: None": lambda: None}
    if refuses(draw, metrics.hit_at_k, {**given, "k": 1}, faults) or found is None:
        return
    found = metrics.retrieval_metrics(**given, ks=(2,), measures=("hit",))
    same_mean(lambda: metrics.hit_at_k(**given, k=2), found.measures["hit"][:, 0])


@target("drcl.metrics.cmc_curve")
def cmc_curve(draw: Draw) -> None:
    given, found = plain_case(draw)
    given.pop("no_relevant", None)  # not its choice
    given.pop("ties", None)
    faults = {**of_count("k"), "no_relevant: given": lambda: "skip"}
    if refuses(draw, metrics.cmc_curve, {**given, "k": 1}, faults) or found is None:
        return
    if not bool((found.relevant > 0).any()):
        with refused("query_labels"):
            metrics.cmc_curve(**given)
        return
    curve = metrics.cmc_curve(**given, k=9)
    assert len(curve) == 9 and bool((curve.diff() >= 0).all())
    for k in (1, 9):
        hit = metrics.hit_at_k(**given, k=k, no_relevant="skip")
        assert math.isclose(curve[k - 1], hit, rel_tol=1e-12)


@target("drcl.metrics.precision_recall_curve")
def precision_recall_curve(draw: Draw) -> None:
    given, found = plain_case(draw)
    given.pop("ties", None)
    given.pop("no_relevant", None)  # not its choice
    bad = (1, 0, -3, 2.5, "3", None)
    faults = {f"points: {v!r}": lambda v=v: v for v in bad}
    faults["no_relevant: given"] = lambda: "skip"
    call = metrics.precision_recall_curve
    if refuses(draw, call, {**given, "points": 5}, faults) or found is None:
        return
    if not bool((found.relevant > 0).any()):
        with refused("query_labels"):
            call(**given)
        return
    points = draw.integer("points", 2, 12)
    smooth = call(**given, points=points).precision
    raw = call(**given, points=points, interpolated=False).precision
    assert len(smooth) == points and bool((smooth >= raw - 1e-12).all())
    assert bool((smooth.diff() <= 1e-12).all()), "interpolated precision never rises"
    assert bool(((raw >= 0) & (smooth <= 1 + 1e-12)).all())


@target("drcl.metrics.nearest")
def nearest(draw: Draw) -> None:
    queries, items, width = (draw.integer(name, 1, most) for name, most in [*SIZES.items()])
    kind, numpy = draw.choose("kind", *KINDS), draw.choose("numpy", False, True)
    query = draw_rows(draw, "query", queries, width, kind, numpy)
    own = draw.choose("exclude_self", False, True)
    gallery = query if own else draw_rows(draw, "gallery", items, width, kind, numpy)
    metric = draw.choose("metric", "cosine", "dot", "euclidean")
    given = {"query": query, "gallery": gallery, "k": draw.integer("k", 1, 12), "metric": metric}
    given["exclude_self"] = own
    x = torch.from_numpy(exact_values(query)).float()
    faults: Faults = {
        **of_count("k"),
        **of_word("metric"),
        **of_word("precision"),
        "query: None": lambda: None,
        "query: 1-D": lambda: x[0],
        "query: no rows": lambda: x[:0],
        "query: NaN": lambda: torch.full_like(x, math.nan),
        "query/widths: too wide": lambda: torch.zeros(queries, width + 1),
        "gallery: no chunks": list,
        "gallery: infinite": lambda: torch.full((queries, width), math.inf),
        "exclude_self: too far": lambda: np.full(queries, len(gallery)),
        "exclude_self: None": lambda: None,
        **{f"max_bytes: {v!r}": lambda v=v: v for v in (0, -1, "1", None)},
    }
    given["gallery"] = in_some_form(draw, gallery)
    if refuses(draw, metrics.nearest, given, faults):
        return
    found = metrics.nearest(**given)
    y = exact_values(gallery)
    arguments = {"metric": metric, "precision": "highest"}
    exact = kind == "zero" or (kind == "small integers" and metric == "dot")
    ranked = np.ones((queries, len(y)), bool)
    if own:
        ranked &= ~np.eye(queries, dtype=bool)
    case = Case(arguments, ranked, ranked, ranked, exact_values(query), y, exact)
    scores = np.where(ranked, exact_scores(case), -np.inf)
    k = min(given["k"], len(y) - own)
    assert found.indices.shape == found.scores.shape == (queries, k)
    for row in range(queries):
        assert len(set(found.indices[row].tolist())) == k
        if is_clear(case, scores[row], ranked[row]):
            assert (
                found.indices[row].tolist() == np.argsort(-scores[row], kind="stable")[:k].tolist()
            )
    falling = -found.scores if metric == "euclidean" else found.scores
    assert bool((falling.diff(dim=1) <= 0).all())


@target("drcl.metrics.score_metrics")
def score_metrics(draw: Draw) -> None:
    """The products of rows with those of the unit matrix are the rows themselves."""
    queries, items = draw.integer("Q", 1, 5), draw.integer("N", 1, 17)
    scores = values(draw, "scores", queries, items, "normal", "small integers", "zero")
    gains = draw.random.integers(3, size=(queries, items)) * draw.choose("relevant", 0, 1)
    options: dict[str, Any] = {
        "relevance": lambda rows: torch.from_numpy(gains)[rows],
        "ks": draw.choose("ks", (1, None), (2, 40), ()),
        "ties": draw.choose("ties", "index", "average"),
        "no_relevant": draw.choose("no_relevant", "zero", "skip", "one"),
        "ndcg": True,
        "measures": draw.choose("measures", (), ("hit", "auroc", "err")),
    }
    excluded = draw.random.random((queries, items)) < draw.choose("excluded", 0.0, 0.4)
    if excluded.any():
        options["excluded"] = excluded
    blocks = draw.choose("blocks", "rows", "columns")
    form = draw.choose("form", "whole", "list", "iterator")
    parts = np.array_split(scores, min(3, scores.shape[blocks == "columns"]), blocks == "columns")
    given = {
        **options,
        "scores": {"whole": scores, "list": parts, "iterator": iter(parts)}[form],
        "blocks": blocks,
    }
    faults: Faults = {
        **of_word("blocks"),
        **of_word("ties"),
        **of_word("no_relevant"),
        **of_word("on_empty"),
        "metric: given": lambda: "dot",
        "scores: None": lambda: None,
        "scores: words": lambda: np.full((queries, items), "a"),
        "scores: 1-D": lambda: scores[0],
        "scores: 3-D": lambda: scores[None],
        "scores: no rows": lambda: scores[:0],
        "scores: no columns": lambda: scores[:, :0],
        "scores: no chunks": list,
        "scores: an empty iterator": lambda: iter(()),
        "scores: complex": lambda: scores + 0j,
        "scores: NaN": lambda: np.full((queries, items), math.nan),
        "scores: on meta": lambda: torch.zeros(queries, items, device="meta"),
        "query_labels/relevance: beside relevance": lambda: np.zeros(queries),
        "ks/k: zero": lambda: (0,),
    }
    with use_backend(draw.choose("backend", "native", "eager")):
        if refuses(draw, metrics.score_metrics, given, faults):
            return
        found = metrics.score_metrics(**given)
        rows = np.eye(items)
        wanted = metrics.retrieval_metrics(scores, rows, metric="dot", **options)
    for name, column in wanted.tables().items():
        torch.testing.assert_close(
            found.tables()[name], column, rtol=0, atol=0, equal_nan=True, msg=name
        )


@target("drcl.metrics.hamming_metrics")
def hamming_metrics(draw: Draw) -> None:
    queries, items = draw.integer("Q", 1, 5), draw.integer("N", 1, 9)
    bits = draw.integer("bits", 1, 70)
    random = draw.random
    query, gallery = (random.integers(2, size=(n, bits)) for n in (queries, items))
    codes = [np.packbits(side, axis=1) for side in (query, gallery)]
    gains = random.random((queries, items)) < 0.4
    excluded = random.random((queries, items)) < draw.choose("excluded", 0.0, 0.4)
    given: dict[str, Any] = {
        "query": codes[0],
        "gallery": in_some_form(draw, codes[1]),
        "relevance": lambda rows: torch.from_numpy(gains)[rows],
        "no_relevant": draw.choose("no_relevant", "zero", "skip"),
    }
    if excluded.any():
        given["excluded"] = excluded
    faults: Faults = {
        **of_word("no_relevant"),
        **of_word("on_empty"),
        "query: bits": lambda: query,
        "query: no rows": lambda: codes[0][:0],
        "query/widths: too wide": lambda: np.zeros((queries, 20), np.uint8),
        "gallery: floats": lambda: codes[1].astype(float),
        "relevance: None": lambda: lambda rows: None,
        "ties: given": lambda: "average",
    }
    with use_backend(draw.choose("backend", "native", "eager")):
        if refuses(draw, metrics.hamming_metrics, given, faults):
            return
        found = metrics.hamming_metrics(**given)
    signs = {**given, "query": 2.0 * query - 1, "gallery": 2.0 * gallery - 1}
    expected = metrics.average_precision(**signs, metric="dot", ties="average")
    torch.testing.assert_close(
        found.average_precision, expected, rtol=1e-11, atol=1e-12, equal_nan=True
    )


@target("drcl.metrics.retrieval_report")
def retrieval_report(draw: Draw) -> None:
    names = draw.choose("modalities", ("a", "b"), ("a", "b", "c"), ("a",), ())
    width = draw.integer("D", 1, 4)
    ks = draw.choose("ks", (50,), (), (1, 3))
    embeddings = {}
    for name in names:
        rows = draw.integer(f"rows of {name}", 1, 6)
        x = draw_rows(draw, name, rows, width, draw.choose("kind", *KINDS), numpy=False)
        embeddings[name] = x, torch.from_numpy(draw.random.integers(-1, 3, size=rows))
    if {int(one) for _, labels in embeddings.values() for one in labels} == {-1, 1}:
        # which would be two classes
        embeddings = {name: (x, labels.clamp(max=0)) for name, (x, labels) in embeddings.items()}
    if len(names) < 2:
        with refused("embeddings"):
            metrics.retrieval_report(embeddings, ks=ks)
        return
    if any(bool((labels < 0).all()) for _, labels in embeddings.values()):
        with refused("gallery_labels", "query_labels"):
            metrics.retrieval_report(embeddings, ks=ks)
        return
    faults = {"ndcg: given": lambda: True, "recall_levels: given": lambda: 11}
    if refuses(draw, metrics.retrieval_report, {"embeddings": embeddings}, faults):
        return
    report = metrics.retrieval_report(embeddings, ks=ks)
    assert list(report) == ["mAP@all", *(f"mAP@{k}" for k in ks)]
    for name, table in report.items():
        k = None if name == "mAP@all" else int(name[4:])
        pairs = {key: value for key, value in table.items() if key != "mean"}
        assert math.isclose(table["mean"], float(np.mean(list(pairs.values()))), abs_tol=1e-13)
        for key, value in pairs.items():
            one, other = (embeddings[part] for part in key.split("->"))
            alone = metrics.mean_average_precision(one[0], other[0], one[1], other[1], k=k)
            assert math.isclose(value, alone, rel_tol=1e-12, abs_tol=1e-13)


def of_compare() -> Faults:
    words = {**of_word("test"), **of_count("samples")}
    words |= {f"interval: {v!r}": lambda v=v: v for v in (0.0, 1.0, 95, math.nan, "wide", None)}
    return words | {f"seed: {v!r}": lambda v=v: v for v in (0.5, "x", None, 2**70)}


def draw_per_query(draw: Draw, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of two systems, some tied, the same queries not counted."""
    kind = draw.choose("values", "shares", "equal", "far apart", "large")
    a, b = draw.random.random((2, rows)).round(draw.integer("digits", 0, 12))
    if kind == "equal":
        b = a.copy()
    elif kind != "shares":
        a = a + {"far apart": 3.0, "large": 1e100}[kind]
    missing = draw.random.random(rows) < draw.choose("missing", 0.0, 0.3)
    missing[:2] = False
    a[missing] = b[missing] = math.nan
    return a, b


@target("drcl.metrics.compare")
def compare(draw: Draw) -> None:
    rows = draw.integer("Q", 2, 40)
    a, b = draw_per_query(draw, rows)
    given: dict[str, Any] = {
        "a": draw.choose("a form", a, a.tolist(), torch.from_numpy(a)),
        "b": draw.choose("b form", b, b.tolist(), torch.from_numpy(b)),
        "test": draw.choose("test", "permutation", "bootstrap"),
        "samples": draw.choose("samples", 50, 1, 200),
        "seed": draw.choose("seed", 0, -1, 2**64 - 1),
        "interval": draw.choose("interval", 0.95, 0.5, 0.999),
    }
    if draw.choose("clustered", False, True):
        ids = draw.random.integers(0, 9, size=rows)
        ids[:2] = 0, 1
        given["clusters"] = draw.choose("clusters", ids, [f"c{i}" for i in ids])
    faults = {
        **of_compare(),
        "a: 2-D": lambda: a[None],
        "a: infinite": lambda: np.full(rows, np.inf),
        "a: complex": lambda: a + 1j,
        "a: None": lambda: None,
        "a: words": lambda: ["x"] * rows,
        "b: longer": lambda: np.zeros(rows + 1),
        "b: others count": lambda: np.where(np.arange(rows) == 0, math.nan, b),
        "clusters: longer": lambda: np.zeros(rows + 1, dtype=int),
        "clusters: one": lambda: np.zeros(rows, dtype=int),
        "clusters: missing": lambda: [None] * rows,
    }
    if refuses(draw, metrics.compare, given, faults):
        return
    found = metrics.compare(**given)
    kept = ~np.isnan(a)
    mean = (a - b)[kept].mean()
    assert math.isclose(found.difference, mean, rel_tol=1e-12, abs_tol=1e-13)
    slack = 1e-9 * max(1.0, abs(mean))
    assert found.low <= found.difference + slack and found.difference <= found.high + slack
    assert 0 < found.p <= 1
    if min(abs(found.low), abs(found.high)) > slack:
        outside = not found.low <= 0 <= found.high
        assert outside == (found.p <= 1 - given["interval"] + 1e-12)


@target("drcl.metrics.compare_all")
def compare_all(draw: Draw) -> None:
    rows, count = draw.integer("Q", 2, 20), draw.integer("systems", 0, 4)
    values = draw.random.random((count, rows)).round(2)
    systems = {f"s{i}": row for i, row in enumerate(values)}
    if count < 2:
        with refused("systems"):
            metrics.compare_all(systems)
        return
    against = draw.choose("against", None, "s0", "s1")
    given: dict[str, Any] = {"systems": systems, "against": against, "samples": 50}
    bad = ("", "s9", 0)
    if refuses(draw, metrics.compare_all, given, {f"against: {v!r}": lambda v=v: v for v in bad}):
        return
    found = metrics.compare_all(**given)
    pairs = count * (count - 1) // 2 if against is None else count - 1
    assert len(found) == pairs
    for (one, other), result in found.items():
        alone = metrics.compare(systems[one], systems[other], samples=50)
        assert result[:3] == alone[:3]
        assert alone.p <= result.p <= min(1.0, pairs * alone.p + 1e-12)


@target("drcl.metrics.RetrievalMetric")
def streamed(draw: Draw) -> None:
    count, width = draw.integer("rows", 1, 12), draw.integer("D", 1, 4)
    x = draw_rows(draw, "x", count, width, draw.choose("kind", *KINDS), numpy=False)
    y = torch.from_numpy(draw.random.integers(0, 3, size=count))
    ks = draw.choose("ks", (1, None), (), (3,))
    options: dict[str, Any] = draw.choose("options", {}, {"metric": "dot"}, {"ties": "average"})
    faults = {
        "exclude_self: given": lambda: True,
        "relevance: given": lambda: [[0, 0]],
        "metric: a word": lambda: "euclid",
        "max_bytes: few": lambda: 5,
        "ks: a number": lambda: 5,
    }
    if refuses(draw, metrics.RetrievalMetric, {"ks": ks, **options}, faults):
        return
    metric = metrics.RetrievalMetric(ks=ks, **options)
    order = torch.from_numpy(draw.random.permutation(count))
    with_ids = draw.choose("ids", False, True)
    at = draw.integer("batch", 1, count)
    for part in torch.arange(count).split(at):
        given = {"ids": order[part]} if with_ids else {}
        metric.update(x[part], y[part], **given)
    fault = draw.fault("embeddings", "labels", "side", "modality", "ids")
    if fault:
        bad: dict[str, Any] = {"embeddings": x, "labels": y, "ids": order if with_ids else None}
        bad[fault] = {
            "embeddings": x[:, None],
            "labels": y[:0],
            "side": "left",
            "modality": "image",
            "ids": torch.zeros(count + 1).long(),
        }[fault]
        with refused(fault):
            metric.update(**bad)
    place = order.argsort() if with_ids else torch.arange(count)
    found = metric.compute()
    whole = metrics.retrieval_metrics(x[place], x[place], y[place], y[place], ks=ks, **options)
    for name, table in whole.tables().items():
        assert torch.equal(found.tables()[name], table), name
