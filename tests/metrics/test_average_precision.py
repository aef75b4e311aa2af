"""The ranking op: every backend against the definitions, on any scores, blocks and threads."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rankings import bits_of, lists_of, oracle, whole
from reruns import outputs_of_forks
from torch import Tensor

from drcl import functional
from drcl.backends import probe_native
from drcl.dispatch import use_backend
from drcl.ops import average_precision as op
from drcl.ranking import DIVISORS, PER_CUTOFF, PER_QUERY, Columns, Relevance, Request
from drcl.reference.average_precision import ranking_measures, tie_orders

NATIVE = probe_native()
BACKENDS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
    ),
    "eager",
    *(
        pytest.param(
            f"phases {threads}",
            marks=[
                pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}"),
                *([pytest.mark.long] if threads == 1 else []),  # nothing is divided
            ],
        )
        for threads in (1, 5, -32)
    ),
]


def average_precision(*args: object, backend: str, **options: object) -> Tensor:
    """The op, also as the GPU's phases that a loop runs: negative threads take turns backwards."""
    if not backend.startswith("phases"):
        return op.average_precision(*args, backend=backend, **options)  # type: ignore[arg-type]
    threads = int(backend.split()[1])
    run = torch.ops.drcl.average_precision_phases
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.drcl, "average_precision", lambda *a: run(*a[:-1], threads))
        return op.average_precision(*args, backend="native", **options)  # type: ignore[arg-type]


@st.composite
def rankings(draw: st.DrawFn, largest: int = 70) -> tuple[Tensor, Tensor]:
    """Scores (Q, N), from no to only ties, and gains (Q, N), from none to all relevant."""
    q, n = draw(st.integers(1, 5)), draw(st.integers(1, largest))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    values = draw(st.sampled_from([1, 2, 3, 10, 0]))  # distinct scores; 0: no limit
    scores = torch.randn(q, n, generator=generator, dtype=dtype)
    if values:
        scores = torch.randint(values, (q, n), generator=generator).to(dtype) - 1
    scale = draw(st.sampled_from([1.0, 1e-30, 1e30]))
    share = draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    relevant = torch.rand(q, n, generator=generator) < share
    graded = torch.randint(1, 4, (q, n), generator=generator)
    return scores * scale, relevant * graded


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=200)
@given(data=rankings(), k=st.integers(1, 80), divisor=st.sampled_from(DIVISORS))
def test_every_measure_is_the_oracles(
    backend: str, data: tuple[Tensor, Tensor], k: int, divisor: str
) -> None:
    scores, gains = data
    request = whole(scores.shape[1], 1, k, divisor=divisor)
    found = average_precision(scores, lists_of(gains), request, backend=backend)
    torch.testing.assert_close(found, oracle(scores, gains, request), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("finite", [0, 1, 9, 10, 11, 40, 500])
@pytest.mark.parametrize("relevant", [1, 300, 3000])
def test_most_scores_are_minus_infinity(backend: str, finite: int, relevant: int) -> None:
    n, depth = 3000, 10
    scores, gains = torch.full((3, n), -torch.inf), torch.zeros(3, n, dtype=torch.int64)
    for row, gain in zip(scores, gains, strict=True):
        row[torch.randperm(n)[:finite]] = torch.randn(finite)
        gain[torch.randperm(n)[:relevant]] = 1
    deep = whole(n, 10, recall_levels=0)
    request = Request((1, 10), depth, discounts=deep.discounts)
    found = average_precision(scores, lists_of(gains), request, backend=backend)
    expected = oracle(scores, gains, request)
    late = expected[:, 1] > depth  # first ranks, and their reciprocals
    expected[late, 1:3] = 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relevant", [1, 30, 600, 2999, 3000])
@pytest.mark.parametrize("kind", ["spread", "duplicates", "clustered", "far", "infinite"])
def test_long_rankings(backend: str, relevant: int, kind: str) -> None:
    """More than one chunk of the row, and thresholds that the table separates badly."""
    n = 3000
    scores = torch.randn(3, n)
    if kind == "duplicates":
        scores = (scores * 20).round()
    elif kind == "clustered":  # all but a few in one step of the table
        scores = torch.where(torch.rand(3, n) < 0.99, 1 + scores * 1e-6, scores)
    elif kind == "far":
        scores[:, ::100] *= 1e30
    elif kind == "infinite":
        scores[:, ::7], scores[:, 1::7] = torch.inf, -torch.inf
    gains = torch.zeros(3, n, dtype=torch.int64)
    for row in gains:
        row[torch.randperm(n)[:relevant]] = 1
    request = whole(n, 10, 100)
    found = average_precision(scores, lists_of(gains), request, backend=backend)
    torch.testing.assert_close(found, oracle(scores, gains, request), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150)
@given(data=rankings(largest=400), k=st.integers(1, 40))
def test_looking_no_deeper_than_needed_changes_nothing(
    backend: str, data: tuple[Tensor, Tensor], k: int
) -> None:
    scores, gains = data
    n = scores.shape[1]
    deep = whole(n, k, recall_levels=0)
    shallow = Request((min(k, n),), min(k, n), discounts=deep.discounts)
    expected = Columns.split(
        average_precision(scores, lists_of(gains), deep, backend=backend), deep
    )
    found = Columns.split(
        average_precision(scores, lists_of(gains), shallow, backend=backend), shallow
    )
    column = deep.cutoffs.index(min(k, n))
    for name in PER_CUTOFF:
        assert torch.equal(getattr(found, name)[:, 0], getattr(expected, name)[:, column]), name
    inside = (expected.first_rank > 0) & (expected.first_rank <= k)
    assert torch.equal(found.first_rank, expected.first_rank * inside)
    assert torch.equal(found.relevant, expected.relevant)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=75)
@given(
    data=rankings(largest=7),
    k=st.integers(1, 7),
    divisor=st.sampled_from(DIVISORS),
    excluded=st.booleans(),
)
def test_average_over_tie_orders(
    backend: str, data: tuple[Tensor, Tensor], k: int, divisor: str, excluded: bool
) -> None:
    """The expectation is the mean over every permutation of every group of equal scores."""
    scores, gains = data
    q, n = scores.shape
    request = whole(n, k, divisor=divisor, recall_levels=0, average_ties=True)
    without = (torch.arange(q + 1), torch.zeros(q, dtype=torch.int64)) if excluded else None
    found = Columns.split(
        average_precision(scores, lists_of(gains), request, excluded=without, backend=backend),
        request,
    )
    start = int(excluded)
    for i in range(q):
        orders = list(tie_orders(scores[i, start:], gains[i, start:]))
        for c, cutoff in enumerate(request.cutoffs):
            each = [ranking_measures(order, cutoff, divisor) for order in orders]
            for name in PER_CUTOFF:
                mean = sum(measures[name] for measures in each) / len(each)
                assert getattr(found, name)[i, c] == pytest.approx(mean, rel=1e-12, abs=1e-12), name
        for name in PER_QUERY:
            mean = sum(measures[name] for measures in each) / len(each)
            assert getattr(found, name)[i] == pytest.approx(mean, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("divisor", DIVISORS)
def test_average_over_tie_orders_agrees_between_backends_on_large_groups(divisor: str) -> None:
    if not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    scores = torch.randint(4, (3, 5000)).float()
    gains = (torch.rand(3, 5000) < 0.2).long()
    asked: dict[str, Any] = {"recall_levels": 0, "ranks": 900, "rank_gains": True}
    request = whole(5000, 10, 700, 1300, divisor=divisor, average_ties=True, **asked)
    native = average_precision(scores, lists_of(gains), request, backend="native")
    eager = average_precision(scores, lists_of(gains), request, backend="eager")
    torch.testing.assert_close(native, eager, rtol=1e-10, atol=1e-12)
    # each item's first and last rank, by comparing its score with all
    found = Columns.split(native, request)
    for row, relevant, first, last in zip(
        scores, gains > 0, found.ranks, found.last_ranks, strict=True
    ):
        own = row[relevant].sort(descending=True).values[:900, None]
        assert torch.equal(first, (row > own).sum(dim=1) + 1.0)
        assert torch.equal(last, (row >= own).sum(dim=1).double())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=100)
@given(
    q=st.integers(1, 4),
    n=st.integers(1, 150),
    classes=st.sampled_from([1, 2, 10, 65]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_shared_labels_as_bits(
    backend: str, q: int, n: int, classes: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.rand(q, classes, generator=generator) < share
    gallery = torch.rand(n, classes, generator=generator) < share
    scores = torch.randint(9, (q, n), generator=generator).float()
    request = whole(n, 5)
    gains = query.long() @ gallery.long().T
    found = average_precision(scores, bits_of(query, gallery), request, backend=backend)
    torch.testing.assert_close(found, oracle(scores, gains, request), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unions_of_lists(backend: str) -> None:
    """A query of several lists: an item in two of them counts once, with the sum of its gains."""
    relevance = Relevance(
        max_relevant=4,
        member_offsets=torch.tensor([0, 2, 2, 3]),
        members=torch.tensor([0, 1, 1]),
        offsets=torch.tensor([0, 2, 5]),
        items=torch.tensor([0, 4, 1, 4, 5], dtype=torch.int32),
    )
    gains = torch.tensor([[1, 1, 0, 0, 2, 1], [0] * 6, [0, 1, 0, 0, 1, 1]])
    scores = torch.randn(3, 6)
    request = whole(6, 2)
    found = average_precision(scores, relevance, request, backend=backend)
    torch.testing.assert_close(found, oracle(scores, gains, request), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_bias_and_excluded_columns(backend: str) -> None:
    scores, scale, bias = torch.randn(4, 90), torch.rand(90), torch.randn(90)
    gains = (torch.rand(4, 90) < 0.3).long()
    offsets, columns = torch.tensor([0, 1, 1, 4, 5]), torch.tensor([3, 0, 1, 89, 40])
    request = whole(90, 10)
    found = average_precision(
        scores,
        lists_of(gains),
        request,
        scale=scale,
        bias=bias,
        excluded=(offsets, columns),
        backend=backend,
    )
    for i in range(4):
        kept = torch.ones(90, dtype=torch.bool)
        kept[columns[offsets[i] : offsets[i + 1]]] = False
        row = (scores[i] * scale + bias)[kept][None]
        expected = oracle(row, gains[i, kept][None], request)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("average", [False, True])
def test_blocks_and_threads_give_the_same_bits(average: bool) -> None:
    if not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    scores = (torch.randn(97, 2500) * 50).round()
    gains = torch.randint(0, 40, (97, 2500)) // 37
    request = whole(2500, 10, 400, average_ties=average, recall_levels=0 if average else 11)
    expected = average_precision(scores, lists_of(gains), request, backend="native")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            for size in (1, 7, 50, 97):
                parts = [
                    average_precision(s, lists_of(g), request, backend="native")
                    for s, g in zip(scores.split(size), gains.split(size), strict=True)
                ]
                assert torch.equal(torch.cat(parts), expected)
    finally:
        torch.set_num_threads(threads)


_ONE_RUN = """
import torch
from drcl import functional
from drcl.dispatch import use_backend
torch.manual_seed(3)
scores = torch.cat([torch.randn(20, 5000), torch.randn(20, 5000).mul(9).round()])
with use_backend("native"):
    for part in (scores, scores.double()):
        for k in (None, 20):
            value = functional.average_precision(part, torch.rand(40, 5000) < 0.1, k=k)
            print(value.view(torch.int64).tolist())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    if not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    assert len(outputs_of_forks(_ONE_RUN)) == 1


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
def test_functional(backend: str) -> None:
    if backend == "native" and not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    relevant = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    with use_backend(backend):
        value = functional.average_precision(scores, relevant)
        assert value.tolist() == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3, 1 / 2, 0])
        value = functional.average_precision(scores.T.contiguous().T, relevant, k=2)
        assert value.tolist() == pytest.approx([1, 1 / 2, 0])
        value = functional.average_precision(scores, relevant, k=2, divisor="min")
        assert value.tolist() == pytest.approx([1 / 2, 1 / 2, 0])
        value = functional.average_precision(scores.half(), relevant, k=2, divisor="relevant")
        assert value.tolist() == pytest.approx([1 / 3, 1 / 2, 0])
        value = functional.average_precision(scores, relevant, ties="average", no_relevant="skip")
        assert value[1] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4) and math.isnan(value[2])


def test_functional_refuses_what_it_cannot_rank() -> None:
    scores, relevant = torch.randn(2, 3), torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        functional.average_precision(torch.tensor([[0.0], [math.nan]]), torch.ones(2, 1).bool())
    with pytest.raises(ValueError, match="scores: expected rows and columns"):
        functional.average_precision(scores[:, :0], relevant[:, :0])
    with pytest.raises(ValueError, match="one shape"):
        functional.average_precision(scores, relevant[:1])
    with pytest.raises(TypeError, match="bool"):
        functional.average_precision(scores, relevant.float())
    with pytest.raises(ValueError, match="divisor"):
        functional.average_precision(scores, relevant, divisor="k")
    for k in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="k: expected an integer"):
            functional.average_precision(scores, relevant, k=k)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_scores_are_refused_by_the_op(backend: str) -> None:
    scores = torch.zeros(3, 5)
    scores[1, 2] = math.nan
    with pytest.raises((ValueError, RuntimeError), match="row 1 holds NaN"):
        average_precision(scores, lists_of(torch.ones(3, 5)), whole(5), backend=backend)


@pytest.mark.parametrize(
    "processors, queries",
    [
        (132, 1024),  # 1.94 waves of 528
        (114, 1280),  # 2.81 of 456, where 1,024 were 2.25
        (108, 1280),  # 2.96 of 432
        (148, 1152),  # 1.95 of 592
    ],
)
def test_a_block_of_queries_fills_its_last_wave_and_whole_tiles_of_a_product(
    processors: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(multi_processor_count=processors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert op.queries_per_block(torch.device("cuda")) == queries
    assert op.queries_per_block(torch.device("cpu")) == 1024


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
@pytest.mark.parametrize("backend", ["native", "phases 5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_relevant_items_than_a_table_has_exact_steps(backend: str, dtype: torch.dtype) -> None:
    """Also more than a GPU's shared memory holds; the table of steps ends at 2²⁰."""
    n = 2**20 + 300
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, n, generator=generator, dtype=dtype)
    kept = torch.rand(n, generator=generator) < 0.9999
    items = kept.nonzero()[:, 0].int()
    one = torch.tensor([0, 1])
    relevance = Relevance(len(items), one, one[:1], torch.tensor([0, len(items)]), items)
    assert len(items) > 2**20
    order = kept[scores[0].argsort(descending=True, stable=True)].double()
    hits = order.cumsum(0)
    expected = (hits / torch.arange(1, n + 1, dtype=torch.float64) * order).sum() / len(items)
    table = average_precision(scores, relevance, Request((n,), n), backend=backend)
    assert table[0, 0] == len(items)
    torch.testing.assert_close(table[0, 3], expected, rtol=1e-12, atol=0)


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
def test_signed_zeros_tie_and_infinities_come_first_and_last_on_every_backend() -> None:
    scores = torch.tensor([[0.0, -0.0, math.inf, -0.0, 0.0, -math.inf, 1e-45, -1e-45]])
    gains = torch.tensor([[0, 1, 0, 1, 0, 1, 1, 1]])
    request = whole(8, 1, 3)
    for dtype in (torch.float32, torch.float64):
        expected = oracle(scores.to(dtype), gains, request)
        # by index: ∞, 1e-45, the four zeros as they stand, -1e-45, -∞
        assert expected[0, 1] == 2
        for backend in ("native", "eager", "phases 1", "phases -32"):
            table = average_precision(scores.to(dtype), lists_of(gains), request, backend=backend)
            torch.testing.assert_close(table, expected, rtol=1e-12, atol=0)
