"""Equal rows of a gallery: all of them found, whatever their numbers look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forced import forced
from torch import Tensor

from drcl import metrics
from drcl.metrics import scores
from drcl.metrics.duplicates import equal_rows, row_hashes
from drcl.ops import inner_products as op

KINDS = {
    "signs": torch.randint(0, 2, (64, 24)).double() * 2 - 1,
    "powers": 2.0 ** torch.randint(-3, 4, (64, 24)).double(),
    "any": torch.randn(64, 24, dtype=torch.float64),
}


def first_equal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """By comparing every row with all that come before it."""
    same = (rows[:, None] == rows[None]).all(dim=2)
    first = same.float().argmax(dim=1)
    copies = (first < torch.arange(len(rows))).nonzero()[:, 0]
    return copies, first[copies]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_all_are_found(kind: str, dtype: torch.dtype) -> None:
    """Of signs a hash by products of bits alone would have two values."""
    rows = KINDS[kind][torch.randint(64, (300,))].to(dtype)
    found = equal_rows(
        lambda start, stop: rows[start:stop], lambda at: rows[at], len(rows), rows.shape[1]
    )
    expected = first_equal(rows)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_rows_that_share_a_hash_with_others_than_their_copies_are_found() -> None:
    """A hash of a few columns: here these are the same in all rows."""
    rows = torch.zeros(40, 24)
    rows[:, 1] = torch.arange(40) % 7  # no column of the hash
    hashes = row_hashes(lambda start, stop: rows[start:stop], len(rows), rows.shape[1])
    assert len(hashes.unique()) == 1
    found = equal_rows(
        lambda start, stop: rows[start:stop], lambda at: rows[at], len(rows), rows.shape[1]
    )
    expected = first_equal(rows)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Products of our own op, on any processor; equal rows are not looked for."""

    def sought(*_: Any) -> None:
        raise AssertionError("equal rows are looked for")

    monkeypatch.setattr(op, "multiplies_panels", lambda: True)
    monkeypatch.setattr(scores, "equal_rows", sought)
    with forced("native"):
        yield


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("queries", [op.FEWER, 40])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("options", [{}, {"max_bytes": 2**20}])
def test_equal_rows_tie_by_their_products(
    queries: int, metric: str, options: dict[str, Any]
) -> None:
    """The first, the second and the third of three equal rows are one rank apart."""
    rows = torch.randn(300, 257)
    gallery = torch.cat([rows, rows.flip(0), rows.roll(5, dims=0)])
    gallery[:, ::3] = 0.0
    gallery[300:, ::3] *= -1.0
    assert gallery[300:, ::3].signbit().all()
    query = torch.randn(queries, 257)
    places = [torch.arange(50, 50 + queries)]  # of a row's first copy, then of the other two
    places += [599 - places[0], (places[0] + 5) % 300 + 600]
    ranks = [
        metrics.retrieval_metrics(
            query,
            gallery,
            relevance=torch.stack([torch.arange(queries), place], dim=1),
            metric=metric,
            **options,
        ).first_rank
        for place in places
    ]
    assert torch.equal(ranks[1], ranks[0] + 1) and torch.equal(ranks[2], ranks[0] + 2)
    found = metrics.nearest(query, gallery, 900, metric=metric)
    for copies in torch.stack(places, dim=1).tolist():
        at = torch.stack([(found.indices == copy).nonzero()[:, 1] for copy in copies])
        assert torch.equal(at.diff(dim=0), torch.ones(2, queries, dtype=torch.int64))


@pytest.mark.usefixtures("known")
def test_equal_rows_are_looked_for_where_products_are_not_ours() -> None:
    labels = torch.ones(30, dtype=torch.int64)
    query, gallery = torch.randn(9, 5), [torch.randn(30, 5)]
    metrics.mean_average_precision(query, gallery, labels[:9], labels)
    for side, precision in ((query, "high"), (query.double(), "highest")):
        with pytest.raises(AssertionError, match="looked for"):
            metrics.mean_average_precision(side, gallery, labels[:9], labels, precision=precision)
