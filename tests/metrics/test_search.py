"""The nearest items: against a sort of all scores, in tiles, from files, with equal rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drcl.eager.top_k import first
from drcl.metrics import nearest, retrieval_metrics, search
from drcl.ops.top_k import top_k


def by_sorting(query: Tensor, gallery: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Scores in float64 from the definitions, and the order of a stable sort."""
    x, y = query.double(), gallery.double()
    if metric == "cosine":
        x, y = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-300) for v in (x, y))
    scores = -(x[:, None] - y[None]).norm(dim=2) if metric == "euclidean" else x @ y.T
    found = scores.sort(dim=1, descending=True, stable=True)
    return found.values[:, :k] * (-1 if metric == "euclidean" else 1), found.indices[:, :k]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven columns at a time, five queries."""
    monkeypatch.setattr(search, "ROWS", 5)
    made = search.Search.__init__

    def init(self: Any, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self._tile = min(self._tile, 7)

    monkeypatch.setattr(search.Search, "__init__", init)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k", [1, 4, 7, 8, 60, 500])
def test_search_equals_a_full_sort(metric: str, k: int) -> None:
    query, gallery = torch.randn(23, 6).double(), torch.randn(60, 6).double()
    found = nearest(query, gallery, k, metric=metric)
    scores, indices = by_sorting(query, gallery, k, metric)
    assert torch.equal(found.indices, indices)
    torch.testing.assert_close(found.scores, scores, rtol=1e-10, atol=1e-7)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k", [1, 4, 7, 8, 60, 500])
def test_search_in_tiles_equals_a_full_sort(metric: str, k: int) -> None:
    test_search_equals_a_full_sort(metric, k)


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_in_long_rows_ties_go_to_the_lower_index(k: int, left_out: bool) -> None:
    """Of small integers, so that many items share every score."""
    query, gallery = torch.randint(-2, 3, (3, 4)).float(), torch.randint(-2, 3, (20_011, 4)).float()
    gallery[20_005] = 9.0  # after the last whole block
    scores = query @ gallery.T
    if left_out:
        scores[:, 500:] = -torch.inf  # fewer than k blocks have anything
    values, indices = first(scores, k)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(indices, expected.indices[:, :k])
    assert torch.equal(values, expected.values[:, :k])
    if not left_out:
        assert torch.equal(nearest(query, gallery, k, metric="dot").indices, indices)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("k", [1, 3, 9, 40, 100])
def test_ties_go_to_the_lower_index_across_tiles(dtype: torch.dtype, k: int) -> None:
    """Scores of a few small integers; rows that are equal, and rows that tie but are not."""
    query = torch.randint(-1, 2, (12, 3)).to(dtype)
    gallery = torch.randint(-1, 2, (100, 3)).to(dtype)
    found = nearest(query, gallery, k, metric="dot")
    scores, indices = by_sorting(query, gallery, k, "dot")
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.scores.double(), scores)


@pytest.mark.usefixtures("small_tiles")
def test_equal_rows_follow_one_another_by_index() -> None:
    """Whatever their products round to in different tiles."""
    rows = torch.randn(4, 129)
    gallery = rows[torch.arange(50) % 4]
    found = nearest(rows, gallery, 20)
    for query in range(4):
        assert found.indices[query, :12].tolist() == list(range(query, 48, 4))
        assert len(found.scores[query, :12].unique()) == 1


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", ["bool", "positions", "mask"])
def test_a_query_does_not_find_itself(form: str) -> None:
    gallery = torch.randint(-1, 2, (40, 3)).float()  # most rows occur more than once
    place = torch.arange(40) if form == "bool" else torch.randperm(40)[:15].sort().values
    own: Any = True if form == "bool" else place
    if form == "mask":
        own = torch.zeros(40, dtype=torch.bool)
        own[place] = True
    for k in (1, 5, 39, 40):
        found = nearest(gallery[place], gallery, k, metric="dot", exclude_self=own)
        scores = gallery[place] @ gallery.T
        scores[torch.arange(len(place)), place] = -torch.inf
        expected = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(found.indices, expected.indices[:, : min(k, 39)])
        assert torch.equal(found.scores, expected.values[:, : min(k, 39)])


def test_from_files_chunks_and_an_iterator_in_little_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(40, 64)), rng.normal(size=(9000, 64))
    scores, indices = by_sorting(torch.from_numpy(query), torch.from_numpy(gallery), 5, "cosine")
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    chunks = [gallery[i : i + 1000] for i in range(0, 9000, 1000)]
    for form in (gallery, mapped, chunks, iter(chunks)):
        found = nearest(query, form, 5, max_bytes=2**20)
        assert torch.equal(found.indices, indices)
        torch.testing.assert_close(found.scores, scores)


def test_the_memory_of_a_tile_does_not_grow_with_the_gallery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = 0

    def seen(scores: Tensor, *given: Any, **more: Any) -> None:
        nonlocal largest
        largest = max(largest, scores.numel() * scores.itemsize)
        top_k(scores, *given, **more)

    monkeypatch.setattr(search, "top_k", seen)
    nearest(torch.randn(300, 2), torch.randn(50_000, 2), 3, max_bytes=2**20)
    assert 2**14 < largest <= 2**18


def test_nearest_agrees_with_precision_at_k() -> None:
    x, y = torch.randn(50, 8), torch.randn(300, 8)
    labels = torch.randint(4, (50,)), torch.randint(4, (300,))
    found = retrieval_metrics(x, y, *labels, ks=(10,))
    hits = labels[1][nearest(x, y, 10).indices] == labels[0][:, None]
    assert torch.equal(found.precision[:, 0], hits.double().mean(dim=1))


def test_lengths_beyond_squares_and_zero_rows() -> None:
    gallery = torch.eye(3)
    query = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1e25, 0.0], [0.0, 0.0, 1e-25]])
    cosines = nearest(query, gallery, 1)
    assert cosines.indices[:, 0].tolist() == [0, 1, 2]
    torch.testing.assert_close(cosines.scores[:, 0], torch.tensor([0.0, 1.0, 1.0]))
    dots = nearest(query, gallery, 1, metric="dot")
    torch.testing.assert_close(dots.scores[:, 0], torch.tensor([0.0, 1e25, 1e-25]))


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2.0**90, torch.float32), (2.0**-90, torch.float32), (2.0**560, torch.float64)],
)
def test_ties_stay_ties_for_queries_of_any_length(size: float, dtype: torch.dtype) -> None:
    """Products leave the dtype's range, or come near it: whole numbers, so that many are equal."""
    query, gallery = (
        torch.randint(-9, 10, (20, 3)).to(dtype),
        torch.randint(-2, 3, (300, 3)).to(dtype),
    )
    found = nearest(query * size, gallery, 50, metric="dot")
    scores, indices = by_sorting(query, gallery, 50, "dot")
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.scores.double() / size, scores)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 0}, "k: expected"),
        ({"metric": "l2"}, "metric: expected"),
        ({"precision": "low"}, "precision: expected"),
        ({"max_bytes": 1}, "max_bytes: expected"),
        ({"query": torch.ones(2, 4)}, "query and gallery: expected one width, got 4 and 3"),
        ({"gallery": torch.full((2, 3), torch.nan)}, "gallery: row 0 holds NaN"),
        ({"query": torch.full((2, 3), torch.inf)}, "query: row 0 holds NaN or infinite"),
        ({"gallery": torch.ones(0, 3)}, "gallery: expected a non-empty"),
        ({"exclude_self": True}, "exclude_self: expected one set"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"query": torch.ones(2, 3), "gallery": torch.ones(5, 3)}
    with pytest.raises(ValueError, match=message):
        nearest(**{**given, **change})
