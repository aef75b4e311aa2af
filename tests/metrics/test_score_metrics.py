"""Measures of a score matrix: those of the embeddings whose products it holds, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor

from drcl import metrics, use_backend
from drcl.metrics import retrieval_metrics, score_metrics

QUERIES, ITEMS = 30, 90


def whole_numbers(*shape: int, seed: int) -> Tensor:
    """Embeddings whose products are exact, and tie often."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


X, Y = whole_numbers(QUERIES, 4, seed=0), whole_numbers(ITEMS, 4, seed=1)
SCORES = X @ Y.T
QUERY, GALLERY = torch.arange(QUERIES) % 6, torch.arange(ITEMS) % 5
QUERY[7] = GALLERY[[4, 50]] = -1
LABELS = {"query_labels": QUERY, "gallery_labels": GALLERY}
EVERY: dict[str, Any] = {
    "ks": (1, 5, None, 200),
    "measures": tuple(metrics.measures.MEASURES),
    "ndcg": True,
}
ONE_SET = {"query_labels": QUERY, "gallery_labels": QUERY, "exclude_self": True}
MATRIX = torch.rand(QUERIES, ITEMS, generator=torch.Generator().manual_seed(2)) < 0.1


def assert_same(found: metrics.RetrievalMetrics, expected: metrics.RetrievalMetrics) -> None:
    assert found.tables().keys() == expected.tables().keys()
    for name, column in expected.tables().items():
        assert torch.equal(found.tables()[name].nan_to_num(-1), column.nan_to_num(-1)), name
    assert torch.equal(found.first_rank.nan_to_num(-1), expected.first_rank.nan_to_num(-1))
    for curve, other in ((found.interpolated, expected.interpolated), (found.raw, expected.raw)):
        assert (curve is None) == (other is None)
        if curve is not None and other is not None:
            assert torch.equal(curve.precision, other.precision)


@pytest.mark.parametrize("backend", ["native", "eager"])
@pytest.mark.parametrize(
    "options",
    [
        {**LABELS, "recall_levels": 11},
        {**LABELS, "ties": "average"},
        {**LABELS, "ks": (2,), "divisor": "min", "measures": (), "max_bytes": 2**20},
        {"relevance": MATRIX, "no_relevant": "skip"},
        {"relevance": lambda rows: MATRIX[rows].int() * 2},
        {"relevance": MATRIX * torch.linspace(0.5, 3, ITEMS), "adaptive_k": False},
        {**LABELS, "excluded": ~MATRIX},
        {**LABELS, "excluded_groups": (QUERY % 3, GALLERY % 3)},
        {**LABELS, "query_groups": QUERY % 3, "gallery_groups": GALLERY % 2},
    ],
    ids=[
        *("labels", "ties", "top", "matrix", "function", "real gains", "excluded"),
        *("excluded groups", "groups"),
    ],
)
def test_all_measures_are_those_of_the_embeddings(backend: str, options: dict[str, Any]) -> None:
    options = EVERY | options
    with use_backend(backend):
        expected = retrieval_metrics(X, Y, metric="dot", **options)
        given = SCORES.clone()
        assert_same(score_metrics(given, **options), expected)
    assert torch.equal(given, SCORES)


def test_one_set_searched_with_itself() -> None:
    expected = retrieval_metrics(X, X, metric="dot", **EVERY, **ONE_SET)
    assert_same(score_metrics(X @ X.T, **EVERY, **ONE_SET), expected)


def forms(path: Path) -> Iterator[tuple[str, Any]]:
    rows, columns = SCORES.split([1, 20, 9]), SCORES.split([60, 1, 29], dim=1)
    np.save(path, SCORES.numpy())
    yield "rows", SCORES.double()
    yield "rows", SCORES.numpy()
    yield "rows", SCORES.half()
    yield "rows", SCORES.long()
    yield "rows", SCORES.T.contiguous().T
    yield "rows", SCORES.tolist()
    yield "rows", np.load(path, mmap_mode="r")
    yield "rows", rows
    yield "rows", iter(rows)
    yield "columns", columns
    yield "columns", [part.numpy() for part in columns]
    yield "columns", iter(columns)
    yield "columns", SCORES  # one block of all


def test_any_array_and_blocks_of_rows_or_columns(tmp_path: Path) -> None:
    expected = score_metrics(SCORES, **LABELS, **EVERY)
    for blocks, form in forms(tmp_path / "scores.npy"):
        assert_same(score_metrics(form, **LABELS, **EVERY, blocks=blocks), expected)


def test_blocks_without_a_row_or_a_column_change_nothing() -> None:
    expected = score_metrics(SCORES, **LABELS, **EVERY)
    for blocks, parts in (
        ("rows", [SCORES[:0], SCORES]),
        ("columns", [SCORES[:, :0], SCORES]),
        ("columns", [SCORES[:, :40], SCORES[:, :0], SCORES[:, 40:]]),
    ):
        for form in (parts, iter(parts)):
            assert_same(score_metrics(form, **LABELS, **EVERY, blocks=blocks), expected)


@pytest.mark.parametrize("blocks", ["rows", "columns"])
def test_an_empty_gallery_in_blocks(blocks: str) -> None:
    options: dict[str, Any] = {"on_empty": "zero", "blocks": blocks}
    for scores in (np.zeros((2, 0)), [np.zeros((2, 0))]):
        found = score_metrics(scores, [0, 1], [], **options)
        assert found.summary()["mAP@all"] == 0.0 and len(found.relevant) == 2


def test_scores_that_float32_would_make_equal() -> None:
    """Two whole numbers, and two doubles, that differ behind the 24th bit."""
    for scores in (
        torch.tensor([[2**24, 2**24 + 1]]),
        torch.tensor([[1, 1 + 2**-40]], dtype=torch.float64),
    ):
        assert score_metrics(scores, [1], [0, 1]).first_rank.tolist() == [1.0]


def test_infinite_scores_are_first_and_last() -> None:
    scores = torch.tensor([[-torch.inf, 0.0, torch.inf], [-torch.inf, -torch.inf, 5.0]])
    found = score_metrics(scores, relevance=torch.tensor([[1, 0, 0], [0, 1, 0]]).bool())
    assert found.first_rank.tolist() == [3.0, 3.0]
    assert score_metrics(scores, [0, 0], [1, 1, 0]).first_rank.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_nan_is_refused_with_its_row_where_it_would_be_ranked(backend: str) -> None:
    scores = SCORES.clone()
    scores[7], scores[:, 4] = torch.nan, torch.nan  # neither is labelled
    with use_backend(backend):
        assert_same(score_metrics(scores, **LABELS), score_metrics(SCORES, **LABELS))
        scores[29, 3] = torch.nan
        with pytest.raises(ValueError, match=r"^scores: row 29 holds NaN"):
            score_metrics(scores, **LABELS)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        (SCORES[0], {}, ValueError, r"scores: expected \(Q, N\), got \(90,\)"),
        (SCORES[:, :80], {}, ValueError, "gallery_labels: expected 80"),
        (SCORES[:20], {}, ValueError, "query_labels: expected 20"),
        (SCORES, {"metric": "dot"}, TypeError, "metric: expected no such option here"),
        (SCORES, {"blocks": "diagonals"}, ValueError, "blocks: expected"),
        (iter(()), {}, ValueError, "scores: expected a chunk"),
        ([], {"blocks": "columns"}, ValueError, "scores: expected a block of columns, got none"),
        (
            [SCORES[:, :50], SCORES[1:, 50:]],
            {"blocks": "columns"},
            ValueError,
            r"scores: expected columns of all queries, got \[29, 30\] rows",
        ),
        (
            iter([SCORES[:, 0], SCORES[:, 1]]),
            {"blocks": "columns"},
            ValueError,
            r"scores: expected blocks of columns \(Q, n\), got \(30,\)",
        ),
        (
            [SCORES[:29, :0], SCORES],
            {"blocks": "columns"},
            ValueError,
            r"scores: expected columns of all queries, got \[29, 30\] rows",
        ),
        (iter([SCORES[0]]), {}, ValueError, r"scores: expected chunks \(q, N\), got \(90,\)"),
        (iter([SCORES[:, :0]]), {}, ValueError, r"scores: expected chunks \(q, N\), got \(30, 0\)"),
        (
            np.zeros((0, 3)),
            {},
            ValueError,
            r"scores: expected a non-empty \(Q, N\) array, got \(0, 3",
        ),
        (
            np.zeros((2, 0)),
            {},
            ValueError,
            r"scores: expected a non-empty \(Q, N\) array, got \(2, 0",
        ),
        (
            np.zeros((0, 0)),
            {"on_empty": "zero"},
            ValueError,
            r"scores: expected a non-empty \(Q, N\) array, got \(0, 0\)",
        ),
        (SCORES + 0j, {}, ValueError, "scores: expected real numbers"),
        (None, {}, TypeError, "scores: expected an array or chunks, got NoneType"),
    ],
)
def test_what_is_refused(
    scores: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score_metrics(scores, **LABELS, **options)


@pytest.mark.parametrize("items", [0, 3], ids=["empty", "unlabelled"])
def test_a_gallery_without_a_labelled_item(items: int) -> None:
    sides = torch.zeros(4, items), torch.arange(4), torch.full((items,), -1)
    with pytest.raises(ValueError, match="expected"):
        score_metrics(*sides)
    found = score_metrics(*sides, on_empty="nan", measures=("hit",))
    assert all(np.isnan(mean) for mean in found.summary().values())
    assert score_metrics(*sides, on_empty="zero").summary()["mAP@all"] == 0.0


def on_rank(rank: int, world: int, folder: Path) -> None:
    with process_group(rank, world, folder):
        own = slice(0, 61) if rank == 0 else slice(61, None)
        options = EVERY | {"query_labels": QUERY, "gallery_labels": GALLERY[own]}
        found = score_metrics(
            SCORES[:, own], **options, process_group=torch.distributed.group.WORLD
        )
    torch.save(found.tables(), folder / f"{rank}.pt")


def test_pieces_of_the_gallery_on_two_processes(tmp_path: Path) -> None:
    on_ranks(on_rank, 2, 2, tmp_path)
    expected = score_metrics(SCORES, **LABELS, **EVERY).tables()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, column in expected.items():
            torch.testing.assert_close(
                found[name], column, rtol=1e-13, atol=1e-15, equal_nan=True, msg=name
            )
