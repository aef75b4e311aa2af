"""Small evaluations of plain tensors (drcl/metrics/plain.py): the bits of the general way, and what
goes there."""

from __future__ import annotations

import pytest
import torch
from forced import forced
from torch import nn

from drcl import metrics
from drcl.dispatch import use_backend
from drcl.metrics import plain, scores
from drcl.ops import inner_products as op
from drcl.precision import network_precision


@pytest.fixture
def tables(monkeypatch):
    """What the small form returned, call by call."""
    forced("native")
    found, ranked = [], plain.ranked

    def spied(*args):
        found.append(ranked(*args))
        return found[-1]

    monkeypatch.setattr(plain, "ranked", spied)
    return found


def sides(queries=40, items=300, width=24, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(queries, width, generator=generator)
    gallery = torch.randn(items, width, generator=generator) * 3
    ids = torch.randint(classes, (queries + items,), generator=generator)
    return query, gallery, ids[:queries], ids[queries:]


def in_general(query, gallery, query_labels, gallery_labels, **options):
    """The gallery as a list of one piece, which is no plain tensor."""
    return metrics.retrieval_metrics(query, [gallery], query_labels, gallery_labels, **options)


@pytest.mark.parametrize("ks", [(None,), (10,), (1, None, 5), (5, 5, 1000), ()])
@pytest.mark.parametrize(
    "shape",
    [{}, {"width": 513}, {"classes": 1}, {"queries": 500}, {"queries": 70, "items": 20_000}],
)
def test_small_evaluations_have_the_bits_of_the_general_way(tables, shape, ks):
    given = sides(**shape)
    found, expected = metrics.retrieval_metrics(*given, ks=ks), in_general(*given, ks=ks)
    assert len(tables) == 1
    assert tables[0] is not None
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        mine = getattr(found, name)
        if isinstance(value, torch.Tensor):
            assert mine.shape == value.shape and torch.equal(mine, value), name
            assert mine.is_contiguous() and value.is_contiguous(), name
        else:
            assert mine == value, name
    if ks:
        assert metrics.mean_average_precision(*given, k=ks[0]) == next(
            iter(found.summary().values())
        )


def changed(name):
    query, gallery, query_labels, gallery_labels = sides()
    if name == "repeated rows":
        gallery[100:103] = gallery[7]
    elif name == "a zero row":
        gallery[3] = 0.0
    elif name == "a zero query":
        query[3] = 0.0
    elif name == "a long row":
        gallery[3] *= 1e16
    elif name == "a short query":
        query[3] *= 1e-16
    elif name == "unlabelled":
        query_labels[0] = gallery_labels[5] = -1
    elif name == "signs":
        query_labels, gallery_labels = (2 * (one % 2) - 1 for one in (query_labels, gallery_labels))
    elif name == "large ids":
        query_labels, gallery_labels = query_labels * 10**6, gallery_labels * 10**6
    elif name == "first entries":
        gallery[:, :2] = gallery[:, :2].sign()
    return query, gallery, query_labels, gallery_labels


@pytest.mark.parametrize(
    "name",
    ["repeated rows", "a zero row", "a zero query", "a long row", "a short query", "unlabelled",
     "signs", "large ids", "first entries"],
)  # fmt: skip
def test_what_is_irregular_is_ranked_the_general_way(tables, name, monkeypatch):
    if name in ("repeated rows", "first entries"):  # equal rows are looked for
        monkeypatch.setattr(op, "multiplies_panels", lambda: False)
    given = changed(name)
    found, expected = metrics.retrieval_metrics(*given), in_general(*given)
    assert tables == [None]
    assert torch.equal(
        found.average_precision.nan_to_num(-1.0), expected.average_precision.nan_to_num(-1.0)
    )


def test_equal_rows_stay_there_where_their_products_are_equal(tables, monkeypatch):
    monkeypatch.setattr(op, "multiplies_panels", lambda: True)
    given = changed("repeated rows")
    found, expected = metrics.retrieval_metrics(*given), in_general(*given)
    assert tables[0] is not None
    assert torch.equal(found.average_precision, expected.average_precision)


def test_first_ranks_beyond_the_depth_are_found(tables):
    given = sides(classes=40)
    found, expected = metrics.retrieval_metrics(*given, ks=(1,)), in_general(*given, ks=(1,))
    assert tables[0] is not None
    assert torch.equal(found.first_rank, expected.first_rank) and (found.first_rank > 1).any()


def test_where_a_search_pays_there_is_one(tables, monkeypatch):
    monkeypatch.setattr(plain, "search_pays", lambda *sizes: sizes[:4] == (40, 300, 24, 10))
    given = sides()
    for k in (10, 9):
        metrics.mean_average_precision(*given, k=k)
    assert tables[0] is None and tables[1] is not None


def test_blocks_of_panels_are_small_and_have_the_same_bits(monkeypatch):
    monkeypatch.setattr(op, "multiplies_panels", lambda: True)
    forced("native")
    given = sides(queries=500)
    whole = in_general(*given)
    blocks, block = [], scores.Scorer.block
    monkeypatch.setattr(scores, "_BLOCK_BYTES", 100 * 4 * 304)
    monkeypatch.setattr(
        scores.Scorer, "block", lambda self, rows: blocks.append(len(rows)) or block(self, rows)
    )
    found = in_general(*given)
    assert blocks == [96, 96, 96, 96, 96, 20]
    assert torch.equal(found.average_precision, whole.average_precision)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_values_that_are_not_finite_are_refused(tables, side, value):
    given = dict(zip(("query", "gallery", "query_labels", "gallery_labels"), sides(), strict=True))
    given[side][5, 3] = value
    with pytest.raises(ValueError, match=f"{side}: row 5 holds NaN or infinite"):
        metrics.mean_average_precision(**given)
    assert tables == [None]


def test_other_inputs_do_not_go_there(tables):
    query, gallery, query_labels, gallery_labels = given = sides()
    own = metrics.mean_average_precision(*given)
    assert len(tables) == 1
    others = [
        (query.double(), gallery, query_labels, gallery_labels),
        (query.numpy(), gallery, query_labels, gallery_labels),
        (nn.Parameter(query), gallery, query_labels, gallery_labels),
        (query, gallery, query_labels.int(), gallery_labels),
        (query, gallery, query_labels[:, None], gallery_labels),
        (query, gallery, [str(one) for one in query_labels], [str(one) for one in gallery_labels]),
    ]
    for other in others:
        assert metrics.mean_average_precision(*other) == pytest.approx(own, abs=1e-6)
    for option in ({"exclude_self": False}, {"metric": "dot"}, {"ties": "average"}):
        metrics.mean_average_precision(*given, **option)
    assert len(tables) == 1
    with use_backend("eager"):
        assert metrics.mean_average_precision(*given) == pytest.approx(own, abs=1e-12)
    assert tables[1:] == [None]
    for wrong in ((query, gallery[:, 1:]), (query[:0], gallery), (query[:3], gallery)):
        with pytest.raises(ValueError, match=r"query|one width"):
            metrics.mean_average_precision(*wrong, query_labels, gallery_labels)


@pytest.mark.parametrize("on_empty", ["zero", "nan"])
def test_means_of_queries_that_do_not_count(on_empty):
    query, gallery, query_labels, gallery_labels = sides()
    none = torch.full_like(query_labels, -1)
    found = metrics.mean_average_precision(query, gallery, none, gallery_labels, on_empty=on_empty)
    assert found == 0.0 if on_empty == "zero" else found != found
    with pytest.raises(ValueError, match="got none of 40 queries"):
        metrics.mean_average_precision(query, gallery, none, gallery_labels)


def test_what_is_asked_of_products_counts(tables):
    given = sides()
    with network_precision("highest"):
        metrics.mean_average_precision(*given)
    assert tables[0] is not None
    with network_precision("high"), network_precision("highest"):
        metrics.mean_average_precision(*given)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        metrics.mean_average_precision(*given)
        with network_precision("highest"):  # the user's own setting holds again after it
            metrics.mean_average_precision(*given)
    finally:
        torch.set_float32_matmul_precision(before)
    assert tables[1:] == [None, None, None]
