"""Measures that need the highest scores alone: the numbers of all scores, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from drcl import backends, metrics
from drcl.metrics import blocks, screening, search
from drcl.metrics.embeddings import embeddings
from drcl.metrics.scores import Scorer
from drcl.ops import inner_products as op

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
pytestmark = pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")

QUERIES, ITEMS, CLASSES = 40, 900, 6


@pytest.fixture(params=[True, False], ids=["bfloat16", "int16"])
def used(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Screens on any processor, in narrow tiles and blocks; how many queries each has left."""
    for module in (screening, search):
        monkeypatch.setattr(module, "FEWEST", 1)
        monkeypatch.setattr(module, "NARROWEST", 1)
    for name in ("SMALLEST", "PAIRS"):
        monkeypatch.setattr(search, name, 1)
    monkeypatch.setattr(screening, "multiplies_bfloat16", lambda: request.param)
    monkeypatch.setattr(screening, "multiplies_int16", lambda: True)
    monkeypatch.setattr(search, "ROWS", 16)
    monkeypatch.setattr(blocks, "_TOGETHER", 5)
    made, by_highest = search.Search.__init__, blocks._by_highest
    left: list[int] = []

    def narrow(self: search.Search, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self._tile = self._wide_tile = 400

    def noted(*given: Any, **more: Any) -> Any:
        others = yield from by_highest(*given, **more)
        left.append(len(others))
        return others

    monkeypatch.setattr(search.Search, "__init__", narrow)
    monkeypatch.setattr(blocks, "_by_highest", noted)
    return left


def problem() -> list[Tensor]:
    """Whole numbers, whose products float32 has exactly; some rows have no label."""
    centres = torch.randint(-9, 10, (CLASSES, 20))
    labels = [torch.randint(-1, CLASSES, (count,)) for count in (QUERIES, ITEMS)]
    rows = [centres[y] + torch.randint(-40, 41, (len(y), 20)) for y in labels]
    return [*(x.float() for x in rows), *labels]


def both_ways(monkeypatch: pytest.MonkeyPatch, sides: Any, **options: Any) -> None:
    found = metrics.retrieval_metrics(*sides, **options)
    with monkeypatch.context() as all_scores:
        all_scores.setattr(blocks, "highest_scores", lambda *_: None)
        expected = metrics.retrieval_metrics(*sides, **options)
    for (name, one), other in zip(found.tables().items(), expected.tables().values(), strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1)), name


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("ks", [(1,), (1, 3), (3,)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ndcg": True},
        {"divisor": "min", "no_relevant": "skip"},
        {"exclude_self": torch.arange(QUERIES) * 3},
        {"adaptive_k": False},
        {"max_bytes": 2**20},
    ],
)
def test_the_highest_scores_give_the_same_bits_as_all(
    metric: str, ks: tuple[int, ...], options: dict[str, Any], used: list[int], monkeypatch: Any
) -> None:
    both_ways(monkeypatch, problem(), ks=ks, metric=metric, **options)
    assert len(used) == 1
    assert 0 < used[0] < QUERIES or ks == (1,)  # queries without a hit were ranked once more


def test_where_most_queries_have_no_hit_the_others_are_not_tried(
    used: list[int], monkeypatch: Any
) -> None:
    query, gallery, ones, others = problem()
    both_ways(monkeypatch, (query, -gallery, ones, others), ks=(1,))
    assert used and used[0] > QUERIES - 16


def test_of_graded_relevance(used: list[int], monkeypatch: Any) -> None:
    query, gallery, *_ = problem()
    rows = [(torch.rand(count, CLASSES) < 0.3).long() for count in (QUERIES, ITEMS)]
    both_ways(monkeypatch, (query, gallery, *rows), ks=(2, 3), ndcg=True)
    pairs = torch.randint(0, QUERIES, (3000, 3))
    pairs[:, 1] = torch.randperm(3000) % ITEMS
    pairs[:, 2] = pairs[:, 2] % 3 + 1
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    pairs = torch.stack(
        list({(int(q), int(i)): row for row in pairs for q, i, _ in [row]}.values())
    )
    both_ways(monkeypatch, (query, gallery), ks=(3,), relevance=pairs, ndcg=True)
    assert len(used) == 2


def test_a_function_of_relevance_is_asked_a_few_queries_at_a_time_and_once(
    used: list[int], monkeypatch: Any
) -> None:
    query, gallery, *_ = problem()
    relevant = torch.rand(QUERIES, ITEMS) < 0.99
    asked: list[Tensor] = []

    def relevance(queries: Tensor) -> Tensor:
        asked.append(queries)
        return relevant[queries]

    metrics.retrieval_metrics(query, gallery, ks=(3,), relevance=relevance)
    assert used == [0]
    assert torch.cat(asked).tolist() == list(range(QUERIES))
    assert max(map(len, asked)) == blocks._TOGETHER
    both_ways(monkeypatch, (query, gallery), ks=(3,), relevance=relevance)


def test_each_query_in_its_own_group(used: list[int], monkeypatch: Any) -> None:
    groups = torch.arange(QUERIES) % 2, torch.arange(ITEMS) % 2
    both_ways(monkeypatch, problem(), ks=(2,), query_groups=groups[0], gallery_groups=groups[1])
    assert len(used) == 2


def test_of_a_mean_alone(used: list[int], monkeypatch: Any) -> None:
    sides = problem()
    found = metrics.mean_average_precision(*sides, k=3)
    assert used == [0]  # first ranks are not asked for
    assert found == metrics.retrieval_metrics(*sides, ks=(3,), metric="cosine").summary()["mAP@3"]


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "euclidean"},
        {"ties": "average"},
        {"measures": ("hit",)},
        {"recall_levels": 11},
        {"excluded": torch.tensor([[0, 1], [1, 2], [2, 500], [39, 899]])},
        {"ks": (8,)},
        {"ks": (1, None)},
    ],
)
def test_all_scores_are_ranked_where_the_highest_do_not_suffice(
    options: dict[str, Any], used: list[int], monkeypatch: Any
) -> None:
    both_ways(monkeypatch, problem(), **{"ks": (2,), **options})
    assert not used


@pytest.mark.parametrize("panels", [False, True])
def test_equal_rows_of_the_gallery(panels: bool, used: list[int], monkeypatch: Any) -> None:
    """They are in the way only where they have to be looked for."""
    monkeypatch.setattr(op, "multiplies_panels", lambda: panels)
    query, gallery, ones, others = problem()
    gallery[450:] = gallery[:450]
    both_ways(monkeypatch, (query, gallery, ones, others), ks=(3,))
    assert bool(used) == panels


def test_items_so_alike_that_all_have_to_be_computed(used: list[int], monkeypatch: Any) -> None:
    query, gallery, ones, others = problem()
    both_ways(monkeypatch, (query, gallery + 4096, ones, others), ks=(3,), metric="dot")
    assert len(used) == 1


@pytest.mark.parametrize(
    ("queries", "items", "width", "k", "bfloat16", "int16"),
    [
        (256, 100_000, 128, 50, True, True),
        (255, 100_000, 128, 50, False, False),
        (256, 100_000, 127, 50, False, False),
        (256, 20_000, 128, 50, True, False),
        (500, 20_000, 128, 50, True, True),
        (256, 30_000, 128, 48, True, True),
        (256, 30_000, 128, 49, True, False),
        (5_000, 9_999, 128, 10, True, False),
        (5_000, 12_800, 128, 100, True, True),
        (5_000, 12_799, 128, 100, False, False),
    ],
)
def test_the_highest_scores_are_sought_where_that_is_the_faster_way(
    queries: int, items: int, width: int, k: int, bfloat16: bool, int16: bool, monkeypatch: Any
) -> None:
    sides = (embeddings(torch.randn(n, width), "rows", "dot") for n in (1, items))
    limits = {"precision": "highest", "max_bytes": 2**28, "max_rows": 16}
    scorer = Scorer(*sides, None, metric="dot", **limits)
    monkeypatch.setattr(screening, "multiplies_int16", lambda: True)
    for has_bfloat16, expected in ((True, bfloat16), (False, int16)):
        monkeypatch.setattr(screening, "multiplies_bfloat16", lambda one=has_bfloat16: one)
        found = search.highest_scores(scorer, queries, k, 2**28)
        assert (found is not None) == expected
