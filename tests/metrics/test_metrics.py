"""Retrieval metrics against the authors' embeddings, scikit-learn, SciPy and hand-made rankings."""

from __future__ import annotations

import math

import numpy as np
import numpy_oracle as oracle
import pytest
import torch

from drcl import functional, metrics
from drcl.metrics import blocks
from drcl.metrics import mean_average_precision as mean_ap


def ranking(*relevance: int) -> tuple[np.ndarray, ...]:
    """A query and a gallery that it ranks in the order given; relevant items have its class."""
    angles = np.linspace(0, 1, len(relevance))
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.array([[1.0, 0.0]]), gallery, np.array([1]), np.array(relevance)


def random_sets(queries=20, items=50, dim=8, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(queries, dim)),
        rng.normal(size=(items, dim)),
        rng.integers(classes, size=queries),
        rng.integers(classes, size=items),
    )


# --- ground truth from outside


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "source, target, at_all, at_all_exact, at_50",
    [(0, 1, 0.56189, 0.56191602, 0.55988), (1, 0, 0.53758, 0.53758629, 0.68476)],
    ids=["image->text", "text->image"],
)
def test_map_of_the_published_embeddings_is_reproduced(
    data_root, source, target, at_all, at_all_exact, at_50, dtype
):
    folder = data_root / "drcl_wikipedia_embeddings"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    loadmat = pytest.importorskip("scipy.io").loadmat
    sets = [loadmat(folder / f"wiki_{index}.mat") for index in (source, target)]
    x, y = (one["test_fea"].astype(dtype) for one in sets)
    labels = [one["test_lab"].ravel() for one in sets]
    everything = mean_ap(x, y, *labels)
    assert everything == pytest.approx(at_all, abs=1e-4)
    assert everything == pytest.approx(at_all_exact, abs=1e-7)
    assert mean_ap(x, y, *labels, k=50) == pytest.approx(at_50, abs=1e-4)


def test_average_precision_agrees_with_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    x, y, lx, ly = random_sets()
    cosines = oracle.cosines(x, y)
    expected = [score(ly == label, row) for label, row in zip(lx, cosines, strict=True)]
    ours = metrics.average_precision(x, y, lx, ly)
    assert ours.tolist() == pytest.approx(expected, rel=1e-12)
    assert mean_ap(x, y, lx, ly) == pytest.approx(np.mean(expected), rel=1e-12)


def test_multi_label_agrees_with_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").label_ranking_average_precision_score
    x, y, *_ = random_sets(seed=1)
    rng = np.random.default_rng(2)
    lx, ly = rng.random((20, 6)) < 0.25, rng.random((50, 6)) < 0.25
    lx[:, 0] |= ~lx.any(axis=1)
    ly[:6] = np.eye(6, dtype=bool)
    expected = score(lx.astype(int) @ ly.T.astype(int) > 0, oracle.cosines(x, y))
    assert mean_ap(x, y, lx.astype(np.uint8), ly.astype(np.float32)) == pytest.approx(expected)


@pytest.mark.parametrize("k", [None, 1, 5, 200])
def test_ties_agree_with_ordinal_ranks_of_scipy(k):
    rankdata = pytest.importorskip("scipy.stats").rankdata
    rng = np.random.default_rng(0)
    scores, relevant = rng.integers(5, size=(40, 30)) / 4.0, rng.random((40, 30)) < 0.2
    relevant[0] = False
    ours = functional.average_precision(torch.from_numpy(scores), torch.from_numpy(relevant), k=k)
    for value, row, hits in zip(ours.tolist(), scores, relevant, strict=True):
        ranks = np.sort(rankdata(-row, method="ordinal")[hits])
        ranks = ranks[ranks <= (k or len(row))]
        expected = np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0
        assert value == pytest.approx(expected, rel=1e-12)


# --- by hand


@pytest.mark.parametrize(
    "relevance, k, expected",
    [
        ((1, 0, 1), None, (1 + 2 / 3) / 2),
        ((0, 1, 0, 1), None, (1 / 2 + 2 / 4) / 2),
        ((0, 1, 0, 1), 2, 1 / 2),  # divided by the one hit found, not by the two there are
        ((0, 0, 1), 2, 0.0),
        ((0, 1), 10, 1 / 2),
        ((1, 1, 1), 1, 1.0),
        ((0, 0), None, 0.0),
    ],
)
def test_small_rankings(relevance, k, expected):
    assert mean_ap(*ranking(*relevance), k=k) == pytest.approx(expected, rel=1e-15)


def test_ties_are_ranked_by_gallery_index():
    query, gallery = np.ones((1, 2)), np.ones((4, 2))
    values = [mean_ap(query, gallery, [1], np.eye(4, dtype=int)[hit]) for hit in range(4)]
    assert values == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("items", [5, 37, 463, 1001])
def test_identical_gallery_rows_tie_wherever_they_lie(items, dtype):
    # A matrix product may sum a row in another order at the ragged end of a block: the scores of
    # equal rows then differ in the last bit, and the later one can overtake.
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(1, 2048)), items, axis=0).astype(dtype)
    query = rng.normal(size=(40, 2048)).astype(dtype)
    labels = np.zeros(items, dtype=int)
    labels[-1] = 1
    values = metrics.average_precision(query, gallery, np.ones(40, dtype=int), labels)
    assert values.tolist() == pytest.approx([1 / items] * 40, rel=1e-12)


def test_nothing_relevant_under_both_rules():
    x, y, lx, ly = random_sets()
    lx[:5] = 99
    zero = metrics.average_precision(x, y, lx, ly)
    skip = metrics.average_precision(x, y, lx, ly, no_relevant="skip")
    assert (zero[:5] == 0).all() and skip[:5].isnan().all() and torch.equal(zero[5:], skip[5:])
    assert mean_ap(x, y, lx, ly) == pytest.approx(float(zero.sum()) / 20)
    assert mean_ap(x, y, lx, ly, no_relevant="skip") == pytest.approx(float(zero.sum()) / 15)
    with pytest.raises(ValueError, match="query_labels"):
        mean_ap(x[:5], y, lx[:5], ly, no_relevant="skip")
    # Relevant items beyond the first k are no reason to skip.
    assert mean_ap(*ranking(0, 0, 1), k=2, no_relevant="skip") == 0.0


def test_multi_label_relevance_is_one_shared_label():
    query, gallery, *_ = ranking(0, 0, 0, 0)
    labels = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert mean_ap(query, gallery, np.array([[1, 1, 0]]), labels) == pytest.approx(
        (1 / 2 + 2 / 4) / 2
    )
    assert mean_ap(query, gallery, np.array([[0, 0, 0]]), labels) == 0.0


def test_unlabelled_items_take_no_part():
    x, y, lx, ly = random_sets()
    lx[3], ly[::4] = -1, -1
    kept = ly >= 0
    values = metrics.average_precision(x, y, lx, ly)
    assert values.isnan().nonzero().flatten().tolist() == [3]
    expected = metrics.average_precision(x, y[kept], lx, ly[kept])
    assert values.nan_to_num(-1).tolist() == expected.nan_to_num(-1).tolist()
    assert mean_ap(x, y, lx, ly) == pytest.approx(float(values.nanmean()))
    with pytest.raises(ValueError, match="gallery_labels"):
        mean_ap(x, y, lx, np.full(len(y), -1))
    with pytest.raises(ValueError, match="query_labels"):
        mean_ap(x, y, np.full(len(x), -1), ly)


def test_a_zero_row_has_cosine_0():
    query = np.array([[1.0, 0.0], [0.0, 0.0]])
    gallery = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    values = metrics.average_precision(query, gallery, [1, 1], [0, 1, 0])
    assert values.tolist() == pytest.approx([1 / 2, 1 / 2])  # between the two; all tied


def test_exclude_self():
    x, _, labels, _ = random_sets(queries=12)
    labels[0] = 99  # alone in its class: finds nothing but itself
    values = metrics.average_precision(x, x, labels, labels, exclude_self=True)
    for i in range(12):
        others = np.arange(12) != i
        expected = metrics.average_precision(
            x[i : i + 1], x[others], labels[i : i + 1], labels[others]
        )
        assert float(values[i]) == pytest.approx(float(expected[0]), rel=1e-12)
    labels[3] = -1
    values = metrics.average_precision(x, x, labels, labels, exclude_self=True, no_relevant="skip")
    assert values.isnan()[[0, 3]].all()


# --- properties


def test_any_block_size_gives_the_same(monkeypatch):
    x, y, lx, ly = random_sets()
    whole = metrics.average_precision(x, y, lx, ly)
    curve = metrics.precision_recall_curve(x, y, lx, ly)
    monkeypatch.setattr(blocks, "queries_per_block", lambda device: 1)
    assert torch.allclose(metrics.average_precision(x, y, lx, ly), whole, rtol=1e-12)
    again = metrics.precision_recall_curve(x, y, lx, ly)
    assert torch.allclose(again.precision, curve.precision, rtol=1e-12)


def test_ranking_gets_a_quarter_of_the_memory_and_room_for_the_relevant_items_there_are(
    monkeypatch,
):
    asked = []

    def rank(scores, relevance, request, **options):
        asked.append((relevance.max_relevant, options["max_bytes"]))
        return rank_block(scores, relevance, request, **options)

    rank_block = blocks.average_precision
    monkeypatch.setattr(blocks, "average_precision", rank)
    x = torch.randn(400, 8)
    hot = torch.zeros(400, 5, dtype=torch.bool)
    hot[:7, 0] = hot[5:20, 1] = hot[:300, 2] = True
    labels = {"query_labels": hot[::100], "gallery_labels": hot}  # of labels 0 and 2, then 2 alone
    metrics.retrieval_metrics(x[::100], x, **labels, max_bytes=2**22)
    assert asked == [(307, (2**22 - 32 * 400) // 4)]


def test_invariant_under_monotone_maps_gallery_order_and_scale():
    x, y, lx, ly = random_sets()
    scores = torch.from_numpy(oracle.cosines(x, y))
    relevant = torch.from_numpy(lx[:, None] == ly)
    expected = functional.average_precision(scores, relevant, k=7)
    order = torch.randperm(len(y))
    for other, hits in (
        (scores.exp() * 5 - 2, relevant),
        (scores**3, relevant),
        (scores[:, order], relevant[:, order]),
    ):
        assert torch.equal(functional.average_precision(other, hits, k=7), expected)
    scale = np.random.default_rng(3).uniform(1e-3, 1e3, size=(len(y), 1))
    assert mean_ap(x, y * scale, lx, ly) == pytest.approx(mean_ap(x, y, lx, ly), rel=1e-12)


def test_tensors_arrays_and_dtypes_alike():
    x, y, lx, ly = random_sets()
    expected = mean_ap(x, y, lx, ly)
    tensors = [torch.from_numpy(part) for part in (x, y, lx, ly)]
    assert mean_ap(*tensors) == expected
    assert mean_ap(tensors[0].requires_grad_(), y, lx[:, None], tensors[3].int()) == expected
    assert mean_ap(x, y, lx.astype(float), ly.astype(np.uint8)) == expected
    assert mean_ap(x.astype(np.float32), y.astype(np.float32), lx, ly) == pytest.approx(
        expected, rel=1e-3
    )
    assert mean_ap(x.astype(np.float16), y.astype(np.float16), lx, ly) == pytest.approx(
        expected, rel=1e-2
    )


@pytest.mark.parametrize(
    "turn", [lambda a: a[::-1], lambda a: a.astype(">f8")], ids=["reversed", ">"]
)
def test_any_memory_layout_of_numpy(turn):
    x, y, lx, ly = random_sets()
    expected = mean_ap(x[::-1].copy(), y, lx[::-1].copy(), ly)
    flipped = turn(x)
    labels = lx[::-1] if flipped.strides[0] < 0 else lx[::-1].copy()
    given = flipped if flipped.strides[0] < 0 else np.ascontiguousarray(x[::-1]).astype(">f8")
    assert mean_ap(given, y, labels, ly) == expected


def test_fields_of_a_record_array():
    x, y, lx, ly = random_sets()
    rows = np.zeros(len(x), dtype=[("label", "i1"), ("row", "f8", x.shape[1])])  # 65 bytes each
    rows["label"], rows["row"] = lx, x
    assert mean_ap(rows["row"], y, rows["label"], ly) == mean_ap(x, y, lx, ly)
    wide = np.zeros(len(x), dtype=[("label", "i8"), ("odd", "i1")])
    wide["label"] = lx
    assert mean_ap(x, y, wide["label"], ly) == mean_ap(x, y, lx, ly)


def test_long_doubles_are_taken_as_doubles():
    x, y, lx, ly = random_sets()
    long = np.longdouble
    assert mean_ap(x.astype(long), y, lx.astype(long), ly) == mean_ap(x, y, lx, ly)


def test_numbers_that_torch_has_no_dtype_for_are_refused_by_name():
    x, y, lx, ly = random_sets()
    with pytest.raises(TypeError, match="query: expected numbers, got dtype object"):
        mean_ap(x.astype(object), y, lx, ly)
    with pytest.raises(ValueError, match=r"gallery: expected real numbers, got torch\.complex128"):
        mean_ap(x, y.astype(np.clongdouble), lx, ly)


def test_a_dtype_of_another_library_is_refused_by_name():
    x, y, lx, ly = random_sets()
    float8 = pytest.importorskip("ml_dtypes").float8_e5m2  # of NumPy's kind "f"
    with pytest.raises(TypeError, match="gallery: expected numbers, got dtype float8"):
        mean_ap(x, y.astype(float8), lx, ly)


@pytest.mark.parametrize("magnitude", [1e-25, 1e25])
def test_float32_rows_of_any_magnitude(magnitude):
    x, y, lx, ly = (part.astype(np.float32) for part in random_sets())
    expected = mean_ap(x, y, lx, ly)
    assert mean_ap(x, y * np.float32(magnitude), lx, ly) == pytest.approx(expected, rel=1e-6)


# --- precision–recall, recall, report


@pytest.mark.parametrize("points", [2, 11, 101])
def test_precision_recall_curve_equals_a_literal_one(points):
    x, y, lx, ly = random_sets(queries=12, items=31)
    lx[0] = 99  # left out
    precisions = []
    for label, row in zip(lx[1:], oracle.cosines(x, y)[1:], strict=True):
        hits = (ly == label)[np.argsort(-row, kind="stable")]
        found = np.cumsum(hits)
        precision, recall = found / np.arange(1, len(hits) + 1), found / found[-1]
        levels = [j / (points - 1) for j in range(points)]
        precisions.append([precision[recall >= level - 1e-12].max() for level in levels])
    curve = metrics.precision_recall_curve(x, y, lx, ly, points=points)
    assert curve.recall.tolist() == pytest.approx(levels)
    assert curve.precision.tolist() == pytest.approx(np.mean(precisions, axis=0), rel=1e-12)
    assert (curve.precision.diff() <= 1e-12).all()


@pytest.mark.parametrize("k", [1, 3, 31, 500])
def test_recall_at_k(k):
    x, y, lx, ly = random_sets(queries=12, items=31)
    lx[0] = 99
    recalls = []
    for label, row in zip(lx[1:], oracle.cosines(x, y)[1:], strict=True):
        hits = (ly == label)[np.argsort(-row, kind="stable")]
        recalls.append(hits[:k].sum() / hits.sum())
    assert metrics.recall_at_k(x, y, lx, ly, k=k) == pytest.approx(np.mean(recalls), rel=1e-6)


def test_retrieval_report():
    x, y, lx, ly = random_sets()
    z = random_sets(queries=17, seed=5)
    report = metrics.retrieval_report(
        {"image": (x, lx), "text": (y, ly), "3d": (z[0], z[2])}, ks=(5, 10)
    )
    pairs = ["image->text", "image->3d", "text->image", "text->3d", "3d->image", "3d->text"]
    assert list(report) == ["mAP@all", "mAP@5", "mAP@10"]
    for name, k in (("mAP@all", None), ("mAP@5", 5)):
        assert sorted(report[name]) == sorted([*pairs, "mean"])
        assert report[name]["image->text"] == mean_ap(x, y, lx, ly, k=k)
        assert report[name]["mean"] == pytest.approx(np.mean([report[name][p] for p in pairs]))
    assert all(type(value) is float for part in report.values() for value in part.values())


# --- bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["query", "gallery"])
def test_non_finite_rows_are_refused_by_name(name, bad):
    x, y, lx, ly = random_sets()
    (x if name == "query" else y)[4, 2] = bad
    with pytest.raises(ValueError, match=f"{name}: row 4"):
        mean_ap(x, y, lx, ly)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda x, y, lx, ly: mean_ap(x[:, :3], y, lx, ly), "query and gallery"),
        (lambda x, y, lx, ly: mean_ap(x[0], y, lx, ly), "query"),
        (lambda x, y, lx, ly: mean_ap(x, y[:0], lx, ly[:0]), "gallery"),
        (lambda x, y, lx, ly: mean_ap([*x[:-1], x[-1, :3]], y, lx, ly), "query"),
        (lambda x, y, lx, ly: mean_ap(x, [*y[:-1].tolist(), [0.0]], lx, ly), "gallery"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx[:3], ly), "query_labels"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx, ly + 0.5), "gallery_labels"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx - 5, ly), "query_labels"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx, np.eye(50)), "query_labels"),
        (
            lambda x, y, lx, ly: mean_ap(x, y, np.eye(20) * math.nan, np.ones((50, 20))),
            "query_labels",
        ),
        (lambda x, y, lx, ly: mean_ap(x, y, -np.eye(20), np.ones((50, 20))), "query_labels"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx, ly, k=0), "k"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx, ly, no_relevant="none"), "no_relevant"),
        (lambda x, y, lx, ly: mean_ap(x, y, lx, ly, exclude_self=True), "exclude_self"),
        (lambda x, y, lx, ly: metrics.recall_at_k(x, y, lx, ly, k=-1), "k"),
        (lambda x, y, lx, ly: metrics.recall_at_k(x, y, lx + 50, ly, k=1), "query_labels"),
        (
            lambda x, y, lx, ly: metrics.recall_at_k(x, y, lx, ly, k=1, no_relevant="zero"),
            "no_relevant",
        ),
        (lambda x, y, lx, ly: metrics.precision_recall_curve(x, y, lx, ly, points=1), "points"),
        (lambda x, y, lx, ly: metrics.precision_recall_curve(x, y, lx + 50, ly), "query_labels"),
        (
            lambda x, y, lx, ly: metrics.precision_recall_curve(x, y, lx, ly, no_relevant="skip"),
            "no_relevant",
        ),
        (lambda x, y, lx, ly: metrics.retrieval_report({"image": (x, lx)}), "embeddings"),
        (
            lambda x, y, lx, ly: metrics.retrieval_report({"a": (x, lx), "b": (y, ly)}, ndcg=True),
            "ndcg",
        ),
        (
            lambda x, y, lx, ly: metrics.retrieval_report(
                {"a": (x, lx), "b": (y, ly)}, recall_levels=11
            ),
            "recall_levels",
        ),
        (lambda x, y, lx, ly: metrics.retrieval_report({"a": (x, lx), "b": (y, ly)}, ks=5), "ks"),
        (
            lambda x, y, lx, ly: metrics.retrieval_report(
                {"a": (x, lx), "b": (y, ly)}, ks=(None, 5)
            ),
            "ks",
        ),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        call(*random_sets())


@pytest.mark.parametrize(
    "embeddings",
    [
        {"a": (np.eye(3), [0, 1, 2], 5), "b": (np.eye(3), [0, 1, 2])},
        [(np.eye(3), [0, 1, 2]), (np.eye(3), [0, 1, 2])],
    ],
)
def test_a_report_of_triples_or_of_a_list_says_what_to_write(embeddings):
    with pytest.raises(TypeError, match=r"\(embeddings, labels\)"):
        metrics.retrieval_report(embeddings)
