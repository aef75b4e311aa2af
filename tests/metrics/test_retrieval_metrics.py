"""Retrieval metrics from embeddings: kinds of relevance, definitions, inputs, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drcl.backends import probe_native
from drcl.dispatch import use_backend
from drcl.metrics import (
    average_precision,
    mean_average_precision,
    recall_at_k,
    retrieval_metrics,
    retrieval_report,
)
from drcl.metrics.scores import Scorer
from drcl.ranking import Relevance
from drcl.reference.average_precision import precision_recall, ranking, ranking_measures

NATIVE = probe_native()


def features(n: int, labels: Tensor | None = None, noise: float = 1.0, dim: int = 16) -> Tensor:
    centres = torch.randn(n if labels is None else int(labels.max()) + 1, dim)
    return noise * torch.randn(n, dim) + (0 if labels is None else centres[labels])


def similarity(query: Tensor, gallery: Tensor, metric: str = "cosine") -> Tensor:
    """Scores in float64, from the definitions."""
    x, y = query.double(), gallery.double()
    if metric == "euclidean":
        return -(x[:, None] - y[None]).norm(dim=2)
    if metric == "cosine":
        x, y = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-300) for v in (x, y))
    return x @ y.T


def oracle_ap(scores: Tensor, gains: Tensor, k: int | None = None, divisor: str = "hits") -> Tensor:
    values = [
        ranking_measures(ranking(s, g), k or len(s), divisor)["average_precision"]
        for s, g in zip(scores, gains, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_metric_and_dtype(metric: str, dtype: torch.dtype) -> None:
    query_labels, gallery_labels = torch.randint(5, (40,)), torch.randint(5, (700,))
    query = features(40, query_labels).to(dtype)
    gallery = features(700, gallery_labels).to(dtype)
    same = (query_labels[:, None] == gallery_labels).long()
    found = retrieval_metrics(
        query, gallery, query_labels, gallery_labels, ks=(10, None), metric=metric
    )
    scores = similarity(query, gallery, metric)
    # float32 products can swap neighbours: a swap moves one query's AP by no more than 1e-3 here
    exact = 1e-12 if dtype == torch.float64 else 2e-4
    for column, k in enumerate((10, None)):
        expected = oracle_ap(scores, same, k)
        assert float((found.average_precision[:, column] - expected).abs().max()) < 50 * exact
        assert abs(float(found.average_precision[:, column].mean() - expected.mean())) < exact


def test_a_report_of_the_published_embeddings_is_reproduced(data_root: Path) -> None:
    """mAP of the published embeddings, ties by gallery index."""
    scipy_io = pytest.importorskip("scipy.io")
    files = [data_root / "drcl_wikipedia_embeddings" / f"wiki_{i}.mat" for i in (0, 1)]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no embeddings in {files[0].parent}")
    modalities = {}
    for name, file in zip(("image", "text"), files, strict=True):
        values = scipy_io.loadmat(file)
        modalities[name] = values["test_fea"], values["test_lab"].reshape(-1)
    report = retrieval_report(modalities)
    assert report["mAP@all"]["image->text"] == pytest.approx(0.56191602, abs=1e-7)
    assert report["mAP@all"]["text->image"] == pytest.approx(0.53758629, abs=1e-7)
    assert report["mAP@50"]["image->text"] == pytest.approx(0.55988, abs=1e-4)
    assert report["mAP@50"]["text->image"] == pytest.approx(0.68476, abs=1e-4)
    mean = sum(report["mAP@50"][pair] for pair in ("image->text", "text->image")) / 2
    assert report["mAP@50"]["mean"] == pytest.approx(mean, abs=1e-15)


@settings(max_examples=60)
@given(
    q=st.integers(1, 12),
    n=st.integers(1, 60),
    classes=st.sampled_from([1, 3, 1000]),
    multi=st.booleans(),
    unlabelled=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_one_pass_gives_every_number(
    q: int, n: int, classes: int, multi: bool, unlabelled: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(q, 4, generator=generator, dtype=torch.float64)
    gallery = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    if multi:
        classes = max(classes, 2)
        query_labels = (torch.rand(q, classes, generator=generator) < 0.3).float()
        gallery_labels = (torch.rand(n, classes, generator=generator) < 0.3).float()
        gains = (query_labels @ gallery_labels.T).long()
    else:
        query_labels = torch.randint(classes, (q,), generator=generator)
        gallery_labels = torch.randint(classes, (n,), generator=generator)
        if unlabelled:
            query_labels[0] = gallery_labels[0] = -1
        gains = (query_labels[:, None] == gallery_labels).long()
    known = torch.ones(n, dtype=torch.bool) if multi else gallery_labels >= 0
    if not known.any():
        with pytest.raises(ValueError, match="expected a labelled item"):
            retrieval_metrics(query, gallery, query_labels, gallery_labels)
        return
    found = retrieval_metrics(
        query, gallery, query_labels, gallery_labels, ks=(None, 3), ndcg=True, recall_levels=5
    )
    scores, gains = similarity(query, gallery)[:, known], gains[:, known]
    curves = []
    for i in range(q):
        if not multi and query_labels[i] < 0:
            assert found.average_precision[i].isnan().all() and found.relevant[i].isnan()
            continue
        order = ranking(scores[i], gains[i])
        for column, k in enumerate((len(order), 3)):
            expected = ranking_measures(order, k)
            for name in ("average_precision", "recall", "precision", "ndcg"):
                value = getattr(found, name)[i, column]
                assert value == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name
        assert found.relevant[i] == expected["relevant"]
        assert found.first_rank[i] == expected["first_rank"]
        assert found.reciprocal_rank[i] == pytest.approx(expected["reciprocal_rank"])
        if expected["relevant"]:
            curves.append(precision_recall(order, 5))
    for place, curve in enumerate((found.interpolated, found.raw)):
        if not curves:
            assert curve is None
            continue
        assert curve is not None
        mean = np.mean([pair[place] for pair in curves], axis=0)
        np.testing.assert_allclose(curve.precision, mean, rtol=1e-12)


def test_memory_sets_the_block_and_changes_no_bit() -> None:
    labels = torch.randint(7, (300,))
    # whole numbers: their products are exact in every shape of block
    x = torch.randint(-3, 4, (300, 8)).float()
    values = [
        average_precision(x, x, labels, labels, metric="dot", max_bytes=memory)
        for memory in (2**20, 2**22, 2**28)
    ]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_repeats_bit_for_bit_from_embeddings() -> None:
    labels = torch.randint(7, (900,))
    x = features(900, labels)
    first = average_precision(x, x, labels, labels)
    assert torch.equal(first, average_precision(x, x, labels, labels))


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
def test_backends_agree(backend: str) -> None:
    if backend == "native" and not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    labels = torch.randint(3, (60,))
    x = features(60, labels).double()
    with use_backend(backend):
        value = average_precision(x, x, labels, labels, k=9, exclude_self=True, divisor="min")
    scores = similarity(x, x)
    for i in range(60):
        others = torch.arange(60) != i
        expected = oracle_ap(
            scores[i, others][None], (labels[others] == labels[i]).long()[None], 9, "min"
        )
        assert value[i] == pytest.approx(float(expected), abs=1e-12)


def test_relevance_goes_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    real = Relevance.to

    def to(relevance: Relevance, device: torch.device) -> Relevance:
        moved.append(device)
        return real(relevance, device)

    monkeypatch.setattr(Relevance, "to", to)
    x, labels = features(3000, dim=2), torch.arange(3000) % 7
    average_precision(x, x, labels, labels, max_bytes=2**20)  # blocks of 43 queries
    assert len(moved) == 1


def test_pairs_sparse_matrix_and_function_say_the_same() -> None:
    query, gallery = features(8), features(30)
    gains = torch.randint(0, 4, (8, 30)) * (torch.rand(8, 30) < 0.3)
    pairs = gains.nonzero()
    graded = torch.cat([pairs, gains[gains > 0][:, None]], dim=1)
    shuffled = graded[torch.randperm(len(graded))]
    options = {"ks": (5, None), "ndcg": True}
    expected = retrieval_metrics(query, gallery, relevance=lambda rows: gains[rows], **options)
    found = [retrieval_metrics(query, gallery, relevance=shuffled, **options)]
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(gains.numpy())
    found.append(retrieval_metrics(query, gallery, relevance=matrix, **options))
    for other in found:
        assert torch.equal(other.average_precision, expected.average_precision)
        assert torch.equal(other.ndcg, expected.ndcg)
    some = sparse.csr_matrix(gains.numpy() > 0)
    for unweighted in (pairs, some):
        plain = retrieval_metrics(query, gallery, relevance=unweighted, **options)
        assert torch.equal(plain.average_precision, expected.average_precision)
    torch.testing.assert_close(
        expected.average_precision[:, 1], oracle_ap(similarity(query, gallery), gains)
    )


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
def test_the_default_device_is_not_that_of_the_ranking(backend: str) -> None:
    if backend == "native" and not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(20, 9)).astype(np.float32), 2, axis=0)  # with equal rows
    ids, rows = random.integers(-1, 4, size=40), random.random((40, 5)) < 0.4
    gains = random.integers(0, 3, size=(40, 40))
    cases: list[dict[str, object]] = [
        {"query_labels": ids, "gallery_labels": ids, "exclude_self": True},
        {"query_labels": rows, "gallery_labels": rows, "metric": "euclidean"},
        {"query_labels": ids, "gallery_labels": ids, "query_groups": ids, "gallery_groups": ids},
        {"relevance": np.argwhere(gains)},
        {"relevance": sparse.csr_matrix(gains)},
        {"relevance": lambda part: gains[part]},
    ]
    with use_backend(backend):
        for case in cases:
            case = {"ks": (5, None), "ndcg": True, **case}
            for more in ({"levels": 5}, {"ties": "average"}):
                expected = retrieval_metrics(x, x, **case, **more)  # type: ignore[arg-type]
                with torch.device("meta"):
                    found = retrieval_metrics(x, [x[:7], x[7:]], **case, **more)  # type: ignore[arg-type]
                assert found.summary() == expected.summary()
                if found.raw is not None and expected.raw is not None:
                    assert torch.equal(found.raw.precision, expected.raw.precision)


def test_recall_of_pairs() -> None:
    """Image–text recall: one relevant item a query, recall@k is the share found in the first k."""
    image, text = features(50), features(50)
    pairs = torch.arange(50)[:, None].expand(50, 2)
    rank = (similarity(image, text) > similarity(image, text).diagonal()[:, None]).sum(dim=1)
    for k in (1, 5, 10):
        expected = float((rank < k).double().mean())
        assert recall_at_k(image, text, relevance=pairs, k=k) == pytest.approx(expected)


def test_groups_are_evaluations_of_their_own() -> None:
    query_labels, gallery_labels = torch.randint(3, (30,)), torch.randint(3, (90,))
    query_labels[4] = gallery_labels[7] = -1
    query, gallery = features(30), features(90)
    query_groups, gallery_groups = torch.randint(4, (30,)), torch.randint(3, (90,))
    found = retrieval_metrics(
        query,
        gallery,
        query_labels,
        gallery_labels,
        ks=(3,),
        query_groups=query_groups,
        gallery_groups=gallery_groups,
    ).average_precision[:, 0]
    for group in range(3):
        rows, columns = query_groups == group, gallery_groups == group
        alone = average_precision(
            query[rows], gallery[columns], query_labels[rows], gallery_labels[columns], k=3
        )
        torch.testing.assert_close(found[rows], alone, rtol=0, atol=0, equal_nan=True)
    nothing = (query_groups == 3) & (query_labels >= 0)
    assert torch.equal(found[nothing], torch.zeros(int(nothing.sum()), dtype=torch.float64))


def test_groups_with_pairs_and_excluded_self() -> None:
    x, groups = features(40), torch.arange(40) % 3
    gains = (torch.rand(40, 40) < 0.2).long()
    found = average_precision(
        x,
        x,
        relevance=gains.nonzero(),
        query_groups=groups,
        gallery_groups=groups,
        exclude_self=True,
    )
    scores = similarity(x, x)
    for i in range(40):
        kept = (groups == groups[i]) & (torch.arange(40) != i)
        expected = oracle_ap(scores[i, kept][None], gains[i, kept][None])
        assert found[i] == pytest.approx(float(expected), abs=1e-12)


def test_gallery_from_disk_and_in_chunks(tmp_path: Path) -> None:
    labels = np.arange(501) % 6
    gallery = np.random.default_rng(0).normal(size=(501, 9)).astype(np.float32)
    query = gallery[:40] + 0.5
    expected = average_precision(query, gallery, labels[:40], labels)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r", allow_pickle=False)
    parts = [gallery[:100], gallery[100:101], gallery[101:]]

    def chunks() -> Iterator[np.ndarray]:
        yield from parts

    for form in (mapped, parts, chunks(), torch.from_numpy(gallery)):
        found = average_precision(query, form, labels[:40], labels)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    half = average_precision(query, [p.astype(np.float16) for p in parts], labels[:40], labels)
    assert abs(float(half.mean() - expected.mean())) < 1e-3
    # items left out of a gallery in chunks
    some = labels.copy()
    some[95:110] = -1
    found = average_precision(query, chunks(), labels[:40], some)
    kept = some >= 0
    alone = average_precision(query, gallery[kept], labels[:40], some[kept])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)


def test_a_strictly_rising_map_and_a_permutation_change_nothing() -> None:
    labels = torch.randint(4, (80,))
    x = features(80, labels).double()
    value = mean_average_precision(x, x, labels, labels, metric="dot")
    order = torch.randperm(80)
    assert mean_average_precision(
        x, x[order], labels, labels[order], metric="dot"
    ) == pytest.approx(value, abs=1e-14)
    assert mean_average_precision(4 * x, x, labels, labels, metric="dot") == value


def test_zero_rows_and_rows_far_from_unit_length() -> None:
    labels = torch.tensor([0, 0, 1])
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.1]])
    # the cosine with a zero row is 0: ahead of −1, behind 1; all items tie for a zero query
    assert average_precision(x, x, labels, labels).tolist() == pytest.approx([1.0, 1.0, 1.0])
    for scale in (1e-30, 1e25):
        y = features(30)
        ids = torch.arange(30) % 3
        expected = average_precision(y, y, ids, ids)
        scaled = average_precision(y * scale, y * torch.rand(30, 1).add(0.5) * scale, ids, ids)
        torch.testing.assert_close(scaled, expected)


def test_queries_with_nothing_relevant() -> None:
    x = torch.eye(3)
    query_labels, gallery_labels = torch.tensor([0, 5, -1]), torch.tensor([0, 1, 2])
    zero = average_precision(x, x, query_labels, gallery_labels)
    assert zero[:2].tolist() == [1.0, 0.0] and math.isnan(zero[2])
    skip = average_precision(x, x, query_labels, gallery_labels, no_relevant="skip")
    assert skip[0] == 1.0 and skip[1:].isnan().all()
    assert mean_average_precision(x, x, query_labels, gallery_labels) == 0.5
    assert mean_average_precision(x, x, query_labels, gallery_labels, no_relevant="skip") == 1.0
    with pytest.raises(
        ValueError, match="expected a labelled query with relevant items, got none of 1"
    ):
        mean_average_precision(x[:1], x, query_labels[2:], gallery_labels)


def test_report_computes_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    score = Scorer.block

    def counted(self: object, rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return score(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "block", counted)
    x = (torch.randn(20, 4), torch.arange(20) % 3)
    report = retrieval_report({"a": x, "b": x, "c": x}, ks=(5, 10))
    assert list(report) == ["mAP@all", "mAP@5", "mAP@10"]
    assert calls == [20] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(0, 4)}, "query: expected a non-empty"),
        ({"gallery": torch.zeros(4)}, r"gallery: expected \(N, D\)"),
        ({"gallery": torch.zeros(6, 5)}, "expected one width, got 4 and 5"),
        ({"gallery": iter([])}, "gallery: expected a chunk with a row"),
        ({"gallery_labels": torch.zeros(5)}, "gallery_labels: expected 6 ids, names or rows"),
        ({"gallery_labels": torch.zeros(6, 2)}, "expected one form"),
        ({"gallery_labels": -torch.ones(6)}, "expected a labelled item, got −1 for all 6"),
        ({"query_labels": torch.full((3,), 0.5)}, "label 0.5 in row 0 is not a whole number"),
        ({"query_labels": None}, "query_labels: expected labels, or relevance instead, got None"),
        ({"ks": (0,)}, "k: expected an integer"),
        ({"metric": "l1"}, "metric: expected one of"),
        ({"divisor": "k"}, "divisor: expected one of"),
        ({"ties": "first"}, "ties: expected one of"),
        ({"ties": "average", "recall_levels": 3}, 'recall_levels: expected 0 with ties="average"'),
        ({"no_relevant": "drop"}, "no_relevant: expected one of"),
        ({"precision": "low"}, "precision: expected"),
        ({"recall_levels": 1}, "recall_levels: expected 0 or at least 2"),
        ({"max_bytes": 5}, "max_bytes: expected an integer >= 1048576"),
        ({"exclude_self": True}, "exclude_self: expected one set"),
        (
            {"query_groups": torch.zeros(3).long()},
            "gallery_groups: expected groups of both sides or of neither, got None",
        ),
        (
            {"relevance": torch.zeros(1, 2).long()},
            "relevance: expected instead of labels, got both",
        ),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "query": torch.randn(3, 4),
        "gallery": torch.randn(6, 4),
        "query_labels": torch.zeros(3),
        "gallery_labels": torch.zeros(6),
    }
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_that_are_not_finite(value: float, dtype: torch.dtype) -> None:
    x, labels = torch.randn(9, 4).to(dtype), torch.arange(9) % 2
    bad = x.clone()
    bad[5, 1] = value
    for query, gallery, name in ((bad, x, "query"), (x, bad, "gallery")):
        for metric in ("cosine", "dot"):
            with pytest.raises(ValueError, match=f"{name}: row 5 holds NaN or infinite"):
                retrieval_metrics(query, gallery, labels, labels, metric=metric)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[0, 9]]), "expected item positions in 0..5, got 9..9"),
        (torch.tensor([[-1, 0]]), "expected query positions in 0..2, got -1..-1"),
        (torch.tensor([[0, 1], [0, 1]]), r"expected every pair once, got \(0, 1\) twice"),
        (torch.tensor([0, 1]), "or integer pairs"),
        (lambda rows: torch.zeros(len(rows), 5).bool(), r"shape \(3, 6\)"),
        (lambda rows: torch.zeros(len(rows), 6), "bool or integer gains"),
    ],
)
def test_bad_relevance(pairs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.randn(3, 4), torch.randn(6, 4), relevance=pairs)


@pytest.mark.parametrize("items", [2, 3, 7])
@pytest.mark.parametrize("kind", ["bool", "floats", "lists", "sparse"])
def test_a_matrix_of_relevance_is_never_taken_for_pairs(items: int, kind: str) -> None:
    """With two or three items its shape is that of pairs."""
    x, y = torch.randn(5, 4), torch.randn(items, 4)
    found = torch.rand(5, items) < 0.6
    relevance: object = found.double() if kind == "floats" else found
    if kind == "lists":
        relevance = found.tolist()
    if kind == "sparse":
        relevance = pytest.importorskip("scipy.sparse").coo_array(found.numpy())
    expected = retrieval_metrics(x, y, relevance=lambda rows: found[rows], ndcg=True)
    ours = retrieval_metrics(x, y, relevance=relevance, ndcg=True)
    assert torch.equal(ours.average_precision, expected.average_precision)
    assert ours.ndcg is not None and expected.ndcg is not None
    assert torch.equal(ours.ndcg, expected.ndcg)


def test_a_matrix_of_gains_is_that_of_its_pairs() -> None:
    x, y = torch.randn(5, 4), torch.randn(7, 4)
    gains = torch.randint(0, 3, (5, 7))
    at = gains.nonzero()
    pairs = torch.cat([at, gains[gains > 0][:, None]], dim=1)
    expected = retrieval_metrics(x, y, relevance=pairs, ndcg=True)
    for relevance in (gains, gains.byte().numpy(), gains.float()):
        found = retrieval_metrics(x, y, relevance=relevance, ndcg=True)
        assert found.ndcg is not None and expected.ndcg is not None
        assert torch.equal(found.ndcg, expected.ndcg)


@pytest.mark.parametrize("items", [2, 3])
def test_integers_that_may_be_pairs_or_a_matrix_are_refused(items: int) -> None:
    x, y = torch.randn(5, 4), torch.randn(items, 4)
    for dtype in (torch.int64, torch.uint8):
        with pytest.raises(ValueError, match=r"relevance: .* may be pairs .* as bool or as scipy"):
            average_precision(x, y, relevance=torch.ones(5, items, dtype=dtype))
    # neither of these can be both
    pairs = torch.tensor([[0, 0], [1, 1], [2, 0], [3, 1]])
    assert len(average_precision(x, y, relevance=pairs)) == 5
    with pytest.raises(ValueError, match=r"relevance: expected a matrix \(5, .\) of bool"):
        average_precision(x, y, relevance=torch.ones(4, items).bool())
    with pytest.raises(ValueError, match="relevance: expected real numbers as gains"):
        average_precision(x, y, relevance=torch.full((5, items), torch.nan))


def test_minus_one_and_one_are_two_classes_whatever_pieces_a_gallery_has() -> None:
    x = torch.randn(6, 4)
    signs = torch.tensor([-1, 1, 1, -1, 1, -1])
    for labels in (signs, signs.float(), signs[:, None]):
        assert torch.equal(
            average_precision(x, x, labels, labels),
            average_precision(x, x, signs.clamp(min=0), signs.clamp(min=0)),
        )
    # beside another class −1 means unlabelled
    found = average_precision(x, x, signs, torch.where(signs < 0, 2, signs))
    assert found.isnan().tolist() == (signs < 0).tolist()


_PEAK = """
import sys, torch
from pathlib import Path
from drcl.metrics import retrieval_metrics

def resident(field):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))

queries, n, memory = int(sys.argv[1]), 40_000, 64 * 2**20
x, y = torch.randn(n, 64), torch.randint(50, (n,))
multi = torch.rand(n, 100) < 0.05
options = {"ks": (50, None), "ndcg": True, "recall_levels": 101, "max_bytes": memory}
for labels in y, multi:
    # threads and libraries are loaded
    retrieval_metrics(x[:300], x[:2000], labels[:300], labels[:2000], **options)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    retrieval_metrics(x[:queries], x, labels[:queries], labels, **options)
    print(resident("VmHWM") - before - memory)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts peak memory")
@pytest.mark.parametrize(("backend", "queries"), [("native", 600), ("eager", 30)])
def test_peak_memory_stays_under_the_budget(backend: str, queries: int) -> None:
    """As the operating system counts it; the scores of 600 queries alone would be 96 MB.

    The torch form sorts: of its 30 queries the scores, places and sums would be 150 MB.
    """
    if backend == "native" and not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(queries)],
        env={**os.environ, "DRCL_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    for beyond in run.stdout.split():
        assert int(beyond) < 0


# --- labels, pairs and groups of any integer type ----------------------------------------------


def test_ids_below_minus_one_are_not_taken_for_unlabelled() -> None:
    x, labels = torch.eye(3), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="gallery_labels: row 0 has label -2; class ids are 0"):
        average_precision(x, x, labels, labels - 2 * (labels == 0))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_unsigned_integers_mean_what_signed_ones_do(dtype: type) -> None:
    x = torch.randn(6, 3)
    rows = np.array([[1, 0], [0, 1], [1, 1]] * 2)
    pairs = np.array([[0, 1, 2], [1, 0, 1], [5, 5, 3]])

    def gains(part: Tensor) -> np.ndarray:
        return (np.arange(6) % 3 * (part.numpy()[:, None] + 1)).astype(dtype)

    for unsigned, signed in (
        ({"query_labels": rows.astype(dtype), "gallery_labels": rows}, None),
        ({"relevance": pairs.astype(dtype)}, {"relevance": pairs}),
        ({"relevance": gains}, {"relevance": lambda part: gains(part).astype(np.int64)}),
    ):
        signed = signed or {"query_labels": rows, "gallery_labels": rows}
        found = retrieval_metrics(x, x, **unsigned, ndcg=True)
        expected = retrieval_metrics(x, x, **signed, ndcg=True)
        assert found.ndcg is not None and expected.ndcg is not None
        assert torch.equal(found.average_precision, expected.average_precision)
        assert torch.equal(found.ndcg, expected.ndcg)


def test_ids_beyond_int64_do_not_become_others() -> None:
    x, ids = torch.eye(2), np.array([2**64 - 1, 3], np.uint64)
    with pytest.raises(ValueError, match="query_labels: label 18446744073709551615 in row 0"):
        average_precision(x, x, ids, ids)
    with pytest.raises(TypeError, match=r"query_groups: .*complex"):
        average_precision(x, x, [0, 1], [0, 1], query_groups=[0j, 1j], gallery_groups=[0, 1])
