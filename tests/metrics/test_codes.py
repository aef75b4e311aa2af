"""Binary codes under the Hamming distance, beside the same bits as −1 and 1."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reruns import outputs_of_forks

from drcl.backends import probe_native
from drcl.dispatch import use_backend
from drcl.metrics import (
    HammingMetrics,
    average_precision,
    hamming_metrics,
    hit_at_k,
    nearest,
    retrieval_metrics,
)
from drcl.metrics.harmonic import harmonic

NATIVE = probe_native()
BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)),
    "eager",
]


def codes(bits: int, queries: int = 30, items: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Bits as rows of 0 and 1; some rows of the gallery are equal."""
    rng = np.random.default_rng(bits)
    query, gallery = (rng.integers(2, size=(n, bits)) for n in (queries, items))
    gallery[-items // 4 :] = gallery[: items // 4]
    return query, gallery


def packed(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("bits", [1, 8, 12, 64, 131])
@pytest.mark.parametrize("ties", ["index", "average"])
def test_every_measure_is_that_of_signs(bits: int, ties: str) -> None:
    query, gallery = codes(bits)
    labels = np.arange(30) % 5, np.arange(200) % 4
    options: dict[str, Any] = {"ks": (1, 20, None), "ties": ties, "ndcg": True}
    found = retrieval_metrics(packed(query), packed(gallery), *labels, metric="hamming", **options)
    signs = retrieval_metrics(
        2.0 * query - 1, 2.0 * gallery - 1, *labels, metric="dot", **options
    ).tables()
    for name, table in found.tables().items():
        assert torch.equal(table, signs[name]), name


def test_in_chunks_from_a_file_and_in_little_memory(tmp_path: Path) -> None:
    query, gallery = codes(64, items=5000)
    labels = np.arange(30) % 5, np.arange(5000) % 5
    expected = retrieval_metrics(packed(query), packed(gallery), *labels, metric="hamming")
    np.save(tmp_path / "codes.npy", packed(gallery))
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    chunks = [packed(gallery[i : i + 700]) for i in range(0, 5000, 700)]
    for form in (mapped, chunks, iter(chunks), torch.from_numpy(packed(gallery))):
        found = retrieval_metrics(packed(query), form, *labels, metric="hamming", max_bytes=2**20)
        assert torch.equal(found.average_precision, expected.average_precision)


def test_unlabelled_items_and_exclusions() -> None:
    query, gallery = codes(16)
    labels = np.arange(30) % 5, np.arange(200) % 7 - 1
    excluded = np.random.default_rng(0).random((30, 200)) < 0.3
    found = hit_at_k(
        packed(query), packed(gallery), *labels, k=3, metric="hamming", excluded=excluded
    )
    expected = hit_at_k(2.0 * query - 1, 2.0 * gallery - 1, *labels, k=3, excluded=excluded)
    assert found == expected


@pytest.mark.parametrize("bits", [8, 12, 64])
def test_the_nearest_codes_and_their_distances(bits: int) -> None:
    query, gallery = codes(bits)
    found = nearest(packed(query), packed(gallery), 7, metric="hamming")
    distances = (query[:, None] != gallery).sum(axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(found.indices.numpy(), order)
    np.testing.assert_array_equal(
        found.scores.numpy(), np.take_along_axis(distances, order, axis=1)
    )


def test_other_dtypes_are_refused() -> None:
    query, gallery = codes(16)
    with pytest.raises(ValueError, match=r"query: expected codes .* of uint8 .* got torch.int64"):
        nearest(query, packed(gallery), metric="hamming")
    with pytest.raises(ValueError, match=r"gallery: expected codes .* of uint8"):
        retrieval_metrics(
            packed(query),
            torch.from_numpy(packed(gallery)).float(),
            np.zeros(30),
            np.zeros(200),
            metric="hamming",
        )
    with pytest.raises(ValueError, match="query and gallery: expected one width, got 16 and 8"):
        nearest(packed(query), packed(gallery[:, :8]), metric="hamming")


def check_counts(found: HammingMetrics, *sides: Any, **options: Any) -> None:
    """AP as the mean over orders of tied items; precision and recall from the distances."""
    query, gallery, gains = sides
    kept = ~options.pop("excluded", np.zeros(gains.shape, bool))
    distances = (query[:, None] != gallery).sum(axis=2)
    for row, (own, gain, some) in enumerate(zip(distances, gains, kept, strict=True)):
        own, gain = own[some], gain[some] > 0
        assert float(found.relevant[row]) == gain.sum()
        for radius in range(found.precision.shape[1]):
            inside = own <= radius
            precision = gain[inside].sum() / max(inside.sum(), 1)
            recall = gain[inside].sum() / max(gain.sum(), 1)
            assert float(found.precision[row, radius]) == pytest.approx(precision, abs=1e-14)
            assert float(found.recall[row, radius]) == pytest.approx(recall, abs=1e-14)
    signs = 2.0 * query - 1, 2.0 * gallery - 1
    expected = average_precision(
        *signs, relevance=gains, metric="dot", ties="average", excluded=~kept
    )
    torch.testing.assert_close(found.average_precision, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bits", [1, 8, 12, 64, 131])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["classes", "multi-hot", "pairs", "function", "excluded"])
def test_from_counts_per_distance(bits: int, backend: str, form: str) -> None:
    query, gallery = codes(bits)
    rng = np.random.default_rng(1)
    given: dict[str, Any] = {}
    ids = rng.integers(6, size=30), rng.integers(5, size=200)
    gains = (ids[0][:, None] == ids[1]).astype(int)
    if form == "classes":
        given = {"query_labels": ids[0], "gallery_labels": ids[1]}
    elif form == "multi-hot":
        rows = [(rng.random((n, 4)) < 0.4).astype(int) for n in (30, 200)]
        gains = rows[0] @ rows[1].T
        given = {"query_labels": rows[0], "gallery_labels": rows[1]}
    elif form == "pairs":
        given = {"relevance": np.argwhere(gains)}
    else:
        given = {"relevance": lambda rows: torch.from_numpy(gains)[rows] > 0}
    if form == "excluded":
        given["excluded"] = rng.random(gains.shape) < 0.3
    with use_backend(backend):
        found = hamming_metrics(packed(query), packed(gallery), **given)
    excluded = {"excluded": given["excluded"]} if form == "excluded" else {}
    check_counts(found, query, gallery, gains > 0, **excluded)


def test_counts_in_little_memory_from_chunks_and_without_unlabelled_items() -> None:
    query, gallery = codes(64, items=5000)
    labels = np.arange(30) % 5 - 1, np.arange(5000) % 5 - 1
    seen, kept = labels[0] >= 0, labels[1] >= 0
    expected = hamming_metrics(
        packed(query[seen]), packed(gallery[kept]), labels[0][seen], labels[1][kept]
    )
    chunks = (packed(gallery[i : i + 700]) for i in range(0, 5000, 700))
    found = hamming_metrics(packed(query), chunks, *labels, max_bytes=2**20)
    assert torch.equal(found.average_precision[torch.from_numpy(seen)], expected.average_precision)
    assert bool(found.average_precision[torch.from_numpy(~seen)].isnan().all())
    assert found.mean_average_precision() == pytest.approx(expected.mean_average_precision())
    recall, precision = found.precision_recall()
    torch.testing.assert_close(precision, expected.precision.mean(dim=0))
    torch.testing.assert_close(recall, expected.recall.mean(dim=0))
    assert float(recall[-1]) == 1.0


def test_rules_for_nothing_relevant() -> None:
    query, gallery = codes(16)
    empty = hamming_metrics(packed(query), packed(gallery), relevance=np.zeros((30, 200), bool))
    assert not bool(empty.relevant.any() or empty.average_precision.any() or empty.recall.any())
    sides = packed(query), packed(gallery), np.full(30, 7), np.zeros(200, int)
    assert hamming_metrics(*sides).mean_average_precision() == 0.0
    assert hamming_metrics(*sides, no_relevant="one").mean_average_precision() == 1.0
    skipped = hamming_metrics(*sides, no_relevant="skip")
    with pytest.raises(ValueError, match="query_labels: expected a query that counts, got none"):
        skipped.mean_average_precision()
    skipped = hamming_metrics(*sides, no_relevant="skip", on_empty="zero")
    assert skipped.mean_average_precision() == 0.0
    assert not bool(skipped.precision_recall().precision.any())
    with pytest.raises(TypeError, match="ties: expected no such option here"):
        hamming_metrics(*sides, ties="index")


def test_differences_of_harmonic_numbers_keep_their_digits() -> None:
    """In fractions; relative, so that what is left of s - (above + 1) of them is right as well."""
    for above in (0, 1, 5, 31, 32, 33, 100, 10**4, 10**6):
        for count in (0, 1, 2, 7, 31, 64, 500):
            exact = sum((Fraction(1, above + i) for i in range(1, count + 1)), Fraction(0))
            found = harmonic(*(torch.tensor(float(n)).double() for n in (above, count)))
            assert float(found) == pytest.approx(float(exact), rel=2e-15), (above, count)


def test_native_and_eager_counts_are_the_same_in_every_instruction_set() -> None:
    """Also of lists, of codes of several words, and of more than a chunk."""
    if not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    code = (
        "import torch\n"
        "from drcl.ops.hamming_counts import Lists, hamming_counts\n"
        "for words, n in ((1, 5000), (1, 3), (3, 2500)):\n"
        "    query, gallery = (torch.randint(-2**62, 2**62, (m, words)) for m in (9, n))\n"
        "    begins = torch.randint(n, (9,))\n"
        "    lists = Lists(begins, torch.maximum(begins, torch.randint(n, (9,))),\n"
        "                  torch.randperm(n).int())\n"
        "    for given in (None, lists, lists._replace(items=None)):\n"
        "        found, expected = (\n"
        "            hamming_counts(query, gallery, given, bits=64 * words, backend=one)\n"
        "            for one in ('native', 'eager')\n"
        "        )\n"
        "        assert torch.equal(found, expected)\n"
    )
    outputs_of_forks(code)


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
def test_the_op_passes_opcheck() -> None:
    query, gallery = torch.randint(2**60, (3, 1)), torch.randint(2**60, (7, 1))
    torch.library.opcheck(
        torch.ops.drcl.hamming_counts.default, (query, gallery, None, None, None, 64)
    )
