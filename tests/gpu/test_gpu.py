"""What only a GPU can show: the compiled ranking's bits, captured graphs, streams, 64-bit offsets.

The kernels are held to float64 in ``tests/kernels``, which use a GPU where there is one.
"""

from __future__ import annotations

import math
import signal

import pytest
import tiny
import torch
from precision_states import State, fingerprint, settings
from rankings import bits_of, lists_of, whole
from torch import Tensor

from drcl import DRCL, Prior, functional, metrics
from drcl.dispatch import choose
from drcl.ops import average_precision as op
from drcl.ranking import DIVISORS, Relevance, Request
from drcl.train import loop, source
from drcl.train.clock import SECTIONS
from drcl.train.samples import Samples
from drcl.train.source import Streamed
from drcl.train.step import CapturedStep

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
GPU = torch.device("cuda")


def needs(gigabytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GiB of free memory on the device")


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_test_leaves_no_memory_to_the_allocator(time: str) -> None:
    assert torch.cuda.memory_reserved() < 2**30  # the second finds what the first has left
    torch.empty(2**32, dtype=torch.uint8, device=GPU)


def test_a_gpu_takes_the_compiled_ranking_and_the_kernels() -> None:
    assert choose("average_precision", GPU) == "native"
    for family in ("mixup", "prior_similarity", "reversible_consistency"):
        assert choose(family, GPU) == "triton"


# --- ranking: the same code as on the CPU, so the same bits


def on_both(scores: Tensor, relevance: Relevance, request: Request, **options: Tensor) -> None:
    def rank(device: torch.device) -> Tensor:
        placed = {name: value.to(device) for name, value in options.items() if name != "excluded"}
        if "excluded" in options:
            placed["excluded"] = tuple(part.to(device) for part in options["excluded"])
        discounts = None if request.discounts is None else request.discounts.to(device)
        asked = Request(**{**vars(request), "discounts": discounts})
        return op.average_precision(
            scores.to(device), relevance.to(device), asked, backend="native", **placed
        ).cpu()

    assert torch.equal(rank(GPU), rank(torch.device("cpu")))


# One query and many more than there are blocks of threads at once; no relevant item and only such.
@pytest.mark.parametrize("q, n", [(1, 1), (5, 70), (3, 100_003), (5000, 300)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ranking_has_the_bits_of_the_cpu(
    q: int, n: int, share: float, dtype: torch.dtype
) -> None:
    scores = torch.randint(max(2, n // 3), (q, n)).to(dtype) - 1  # with ties
    gains = (torch.rand(q, n) < share) * torch.randint(1, 4, (q, n))
    on_both(scores, lists_of(gains), whole(n, 1, 50))


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("average_ties", [False, True])
def test_options_of_a_ranking_have_the_bits_of_the_cpu(divisor: str, average_ties: bool) -> None:
    q, n = 40, 3000
    scores = torch.randint(50, (q, n)).float()
    gains = (torch.rand(q, n) < 0.1).long()
    request = whole(n, 7, 500, divisor=divisor, average_ties=average_ties, recall_levels=0)
    excluded = (torch.arange(q + 1), torch.randint(n, (q,)))
    weights = {"scale": torch.rand(n), "bias": torch.randn(n)}
    on_both(scores, lists_of(gains), request, excluded=excluded)
    on_both(scores, lists_of(gains), request, **weights)
    on_both(scores, lists_of(gains), Request((7,), 7, divisor))
    labels = torch.rand(q, 65) < 0.1, torch.rand(n, 65) < 0.02
    on_both(scores, bits_of(*labels), request, excluded=excluded)


def test_scores_that_are_nan_are_refused_on_the_device() -> None:
    scores = torch.randn(6, 500, device=GPU)
    scores[3, 499] = torch.nan
    relevance = lists_of(torch.ones(6, 500)).to(GPU)
    with pytest.raises(ValueError, match="row 3 holds NaN"):
        op.average_precision(scores, relevance, Request((500,), 500), backend="native")


def test_a_score_matrix_of_more_than_2_31_entries() -> None:
    needs(16)
    q, n = 2200, 1_000_000
    scores = torch.rand(q, n, device=GPU)
    items = torch.randperm(n)[:500].sort().values.int()
    relevance = Relevance(
        500,
        torch.arange(q + 1),
        torch.zeros(q, dtype=torch.int64),
        torch.tensor([0, 500]),
        items,
    ).to(GPU)
    request = Request((n,), n)
    table = op.average_precision(scores, relevance, request, backend="native")
    last = op.average_precision(scores[-3:], relevance.queries(q - 3, q), request, backend="native")
    assert torch.equal(table[-3:], last)


# Keys in shared memory, then in the device's; averaged ties are always there.
@pytest.mark.parametrize("share, average_ties", [(0.02, False), (0.6, False), (0.02, True)])
def test_a_ranking_works_within_its_memory(share: float, average_ties: bool) -> None:
    q, n, memory = 300, 200_000, 2**24
    scores = torch.randn(q, n, device=GPU)
    relevance = lists_of((torch.rand(q, n) < share).long()).to(GPU)
    request = Request((n,), n, average_ties=average_ties)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    table = op.average_precision(scores, relevance, request, max_bytes=memory, backend="native")
    assert torch.cuda.max_memory_allocated() - before < memory + 8 * table.numel() + 2**20
    assert torch.equal(
        table, op.average_precision(scores, relevance, request, max_bytes=2**31, backend="native")
    )


def test_retrieval_on_the_device_is_that_of_the_cpu() -> None:
    x, y = torch.randn(90, 12, dtype=torch.float64), torch.randn(130, 12, dtype=torch.float64)
    ids = torch.randint(-1, 4, (90,)), torch.randint(-1, 4, (130,))
    hot = torch.rand(90, 5) < 0.3, torch.rand(130, 5) < 0.3
    options = {"ks": (1, 10, None), "ndcg": True, "levels": 11, "metric": "cosine"}
    for labels in (ids, hot):
        for metric in ("cosine", "dot", "euclidean"):
            options["metric"] = metric
            wanted = metrics.retrieval_metrics(x, y, *labels, **options)
            for found in (
                metrics.retrieval_metrics(x.to(GPU), y.to(GPU), *labels, **options),
                metrics.retrieval_metrics(x.to(GPU), [y[:40], y[40:]], *labels, **options),
            ):
                for name in ("average_precision", "ndcg"):
                    values = getattr(found, name), getattr(wanted, name)
                    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12, equal_nan=True)
                assert found.summary() == pytest.approx(wanted.summary(), rel=1e-12)


def test_tf32_products_move_map_by_little() -> None:
    centres = torch.randn(20, 512, device=GPU)
    labels = torch.arange(4000, device=GPU) % 20
    rows = centres[labels] + 4 * torch.randn(4000, 512, device=GPU)
    exact, fast = (
        metrics.mean_average_precision(rows, rows, labels, labels, precision=precision)
        for precision in ("highest", "high")
    )
    print(f"mAP {exact:.6f}, with TF32 products {fast - exact:+.1e}")
    assert abs(fast - exact) < 1e-4


MIXED = [
    State(cuda_matmul="tf32"),
    State("medium", mkldnn_matmul="tf32"),
    State(generic="tf32", cuda_matmul="none", mkldnn_matmul="none"),
]


@pytest.mark.parametrize("state", MIXED, ids=lambda state: "-".join(map(str, state)))
def test_precision_settings_that_contradict_each_other(state: State) -> None:
    """Rankings multiply in float32 and keep their bits, training ends near where it did."""
    rows, ids = torch.randn(300, 64, device=GPU), torch.arange(300, device=GPU) % 7
    wanted = metrics.average_precision(rows, rows, ids, ids)
    plain = fit()
    with settings(state):
        before = fingerprint()
        assert torch.equal(metrics.average_precision(rows, rows, ids, ids), wanted)
        found = fit()  # whose loss may multiply in TF32
        assert found.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.03)
        assert fingerprint() == before


# --- the loss


# B below D and above it: two kinds of kernels.
@pytest.mark.parametrize("b, d", [(96, 256), (512, 128)])
@pytest.mark.parametrize("mixing", [False, True])
def test_a_captured_loss_follows_its_inputs_and_q(b: int, d: int, mixing: bool) -> None:
    prior = Prior(torch.randn(d, 10)).to(GPU)
    x = torch.randn(b, d, device=GPU, requires_grad=True)
    ids, q = torch.randint(10, (b,), device=GPU), torch.zeros((), device=GPU)
    order = torch.randperm(b, device=GPU)

    def step() -> tuple[Tensor, Tensor]:
        options = {"lam": 0.9, "permutation": order} if mixing else {}
        loss = functional.reversible_consistency_loss(x, ids, prior, q=q, **options).total
        return loss.detach(), *torch.autograd.grad(loss, x)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    values = []
    for exponent in (0.0, 0.3, 1.0):
        with torch.no_grad():
            x.normal_()
        ids.random_(0, 10)
        q.fill_(exponent)
        graph.replay()
        for replayed, eager in zip(captured, step(), strict=True):
            assert torch.equal(replayed, eager) and replayed.isfinite().all()
        values.append(float(captured[0]))
    assert len(set(values)) == 3


@pytest.mark.parametrize("b, d", [(1024, 2048), (5000, 512)])
def test_two_runs_of_the_loss_have_the_same_bits(b: int, d: int) -> None:
    prior = Prior(torch.randn(d, 10)).to(GPU)
    x = torch.randn(b, d, device=GPU, requires_grad=True)
    ids = torch.randint(10, (b,), device=GPU)
    runs = []
    for _ in range(3):
        loss = functional.reversible_consistency_loss(x, ids, prior, q=0.3).total
        runs.append((loss.detach(), *torch.autograd.grad(loss, x)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15])
def test_the_consistency_does_not_depend_on_the_rows_length(scale: float) -> None:
    prior = Prior(torch.randn(64, 5)).to(GPU)
    ids = torch.arange(200, device=GPU) % 5
    x = torch.randn(200, 64, device=GPU)
    plain, scaled = (
        functional.reversible_consistency_loss(rows.requires_grad_(), ids, prior)
        for rows in (x.clone(), x * scale)
    )
    torch.testing.assert_close(scaled.consistency, plain.consistency, rtol=1e-5, atol=0)


def test_a_batch_of_more_than_2_31_entries() -> None:
    """Copies of one small batch: its own means, and its gradient divided among the copies."""
    needs(40)  # counted: features and gradient of 2 bytes an entry, F and T of 4: 26 GiB
    copies, b, d = 1100, 1000, 2048
    prior = Prior(torch.randn(d, 10) / 8).to(GPU)
    small = torch.randn(b, d, device=GPU).to(torch.bfloat16).requires_grad_()
    ids = torch.randint(10, (b,), device=GPU)
    wanted = functional.reversible_consistency_loss(small, ids, prior, q=0.5)
    wanted.total.backward()
    large = small.detach().repeat(copies, 1).requires_grad_()
    found = functional.reversible_consistency_loss(large, ids.repeat(copies), prior, q=0.5)
    found.total.backward()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    for rows in (slice(0, b), slice(-b, None)):
        error = (large.grad[rows].float() * copies - small.grad.float()).norm()
        assert error < 0.01 * small.grad.float().norm()


# --- training


def fit(**settings: object) -> DRCL:
    model = DRCL(**{**tiny.SETTINGS, "device": "cuda", **settings})
    return model.fit(tiny.split(image=40, text=30), progress=False)


def weights(model: DRCL) -> Tensor:
    values = [v for encoder in model.encoders.values() for v in encoder.state_dict().values()]
    return torch.cat([value.flatten().cpu() for value in values])


def test_a_captured_step_trains_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []
    real = CapturedStep._capture

    def capture(self: CapturedStep, *inputs: object) -> None:
        graphs.append(self)
        real(self, *inputs)

    monkeypatch.setattr(CapturedStep, "_capture", capture)
    captured = fit()
    assert len(graphs) == 4  # two phases, two modalities
    monkeypatch.setattr(loop, "make_step", lambda step: step)
    eager = fit()
    assert len(graphs) == 4
    assert torch.equal(captured.prior.weight, eager.prior.weight)
    assert torch.equal(weights(captured), weights(eager))


def test_modalities_at_once_train_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = fit()
    real = loop.run_together
    monkeypatch.setattr(
        loop,
        "run_together",
        lambda phases, context: [real([phase], context)[0] for phase in phases],
    )
    assert torch.equal(weights(at_once), weights(fit()))


def test_a_resumed_training_ends_as_an_uninterrupted_one(monkeypatch, tmp_path) -> None:
    whole_run = fit()
    real = loop.Training.begin_epoch

    def begin_epoch(training: loop.Training) -> None:
        if training.phase.name == "encoder" and training.epoch == 2:
            signal.raise_signal(signal.SIGINT)
        real(training)

    def run() -> DRCL:
        model = DRCL(**{**tiny.SETTINGS, "device": "cuda"})
        data = tiny.split(image=40, text=30)
        return model.fit(data, checkpoints=tmp_path, progress=False)

    monkeypatch.setattr(loop.Training, "begin_epoch", begin_epoch)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(loop.Training, "begin_epoch", real)
    assert torch.equal(weights(run()), weights(whole_run))


def test_features_streamed_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = fit()
    monkeypatch.setattr(source, "RESIDENT_SHARE", 0.0)
    made = source.make_source(Samples(torch.ones(3, 2), torch.zeros(3).long()), GPU)
    assert isinstance(made, Streamed)
    assert torch.equal(weights(fit()), weights(resident))


def test_time_by_section_on_the_device() -> None:
    for record in fit(epochs=8).history:
        assert set(record["time"]) == set(SECTIONS)
        spent = {name: seconds for name, seconds in record["time"].items() if seconds > 0}
        assert {"data", "encoder", "loss", "optimizer"} <= set(spent)
        assert all(math.isfinite(seconds) for seconds in spent.values())


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_narrower_products_reach_the_same_loss(precision: str) -> None:
    plain, narrow = fit(epochs=20), fit(epochs=20, precision=precision)
    assert narrow.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.03)
