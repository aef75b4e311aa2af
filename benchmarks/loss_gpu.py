"""The reversible consistency loss on a GPU: ceilings, speed in CUDA graphs, a huge batch, a trace.

    python benchmarks/loss_gpu.py ceilings | speed | large | sanitize | trace [FOLDER]

Every figure is measured in the run that prints it; without a CUDA device nothing is.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from loss import CLASSES, WIDTH, batch, literal_loss
from timing import write_results
from torch import Tensor

from drcl import Prior, functional, use_backend

L2_BYTES = 64e6  # more than any L2 to rotate over
REPEATS = 50


def timed(call: Callable[[int], Any], sets: int, repeats: int = REPEATS) -> float:
    """Median seconds of ``call(i)`` by events, rotating i over ``sets`` sets of buffers."""
    for i in range(2 * sets):
        call(i % sets)
    torch.cuda.synchronize()
    events = []
    for i in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(i % sets)
        stop.record()
        events.append((start, stop))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events) / 1e3


def ceilings() -> list[dict[str, Any]]:
    """Copy bandwidth (bytes read plus written) and product rates on random data."""
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    seconds = timed(lambda i, a=target, b=source: a.copy_(b), 1, 20)
    row: dict[str, Any] = {"copy_TBps": 2 * source.numel() * 4 / seconds / 1e12}
    del source, target  # 8 GiB
    for name, dtype, mode in (
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "high"),
    ):
        torch.set_float32_matmul_precision(mode)
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        row[f"{name}_TFLOPs"] = 2 * 8192**3 / timed(lambda i, a=a, b=b: a @ b, 1, 20) / 1e12
    print(row, flush=True)
    return [row]


def floor_seconds(b: int, d: int, limits: dict[str, Any], rate: str) -> float:
    """Bytes and products of one forward and backward pass at the measured ceilings, added up.

    X read once, F written once and read twice (product, epilogue), the gradient written once;
    3·B·D·min(B, D) operations.
    """
    traffic = 5 * b * d * 4 / (limits["copy_TBps"] * 1e12)
    return traffic + 3 * b * d * min(b, d) / (limits[f"{rate}_TFLOPs"] * 1e12)


def graphed(loss: Callable[[Tensor], Tensor], features: Tensor) -> Callable[[], None]:
    """Forward and backward captured in a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            features.grad = None
            loss(features).backward()
    torch.cuda.current_stream().wait_stream(stream)
    features.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss(features).backward()
    return graph.replay


def speed() -> list[dict[str, Any]]:
    limits = ceilings()[0]
    rows = []
    for b in (1024, 8192):
        for precision, rate in (("highest", "fp32"), ("high", "tf32")):
            torch.set_float32_matmul_precision(precision)
            check(b, 1e-5 if precision == "highest" else 2e-3)
            rows.append(speed_row(b, precision, floor_seconds(b, WIDTH, limits, rate)))
            print(rows[-1], flush=True)
    return rows


def speed_row(b: int, precision: str, floor: float) -> dict[str, Any]:
    sets = int(L2_BYTES / (b * WIDTH * 4)) + 2
    ours, literal, compiled = [], [], []
    for _ in range(sets):
        features, ids, prior = on_gpu(b)
        rows = nnf.one_hot(ids, CLASSES).float()
        ours.append(
            graphed(
                lambda x, ids=ids, prior=prior: (
                    functional.reversible_consistency_loss(x, ids, prior).total
                ),
                features,
            )
        )
        form = dense_loss(rows, prior)
        literal.append(eager_step(form, features))
        compiled.append(eager_step(torch.compile(form), features))
    times = {
        "ours": timed(lambda i: ours[i](), sets),
        "literal": timed(lambda i: literal[i](), sets, 10),
        "compiled": timed(lambda i: compiled[i](), sets, 10),
    }
    return {
        "B": b,
        "D": WIDTH,
        "C": CLASSES,
        "precision": precision,
        **{f"{name}_us": seconds * 1e6 for name, seconds in times.items()},
        "floor_us": floor * 1e6,
        "over_floor": times["ours"] / floor,
        "speedup": times["literal"] / times["ours"],
        "speedup_compiled": times["compiled"] / times["ours"],
    }


def dense_loss(rows: Tensor, prior: Prior) -> Callable[[Tensor], Tensor]:
    """The literal loss for rows that are all labelled: no mask, so it compiles and never waits."""

    def loss(x: Tensor) -> Tensor:
        theta = [
            2 * nnf.normalize(a) @ nnf.normalize(b).T
            for a, b in ((recasting, recasting), (x, x), (recasting, x))
        ]
        consistency = (theta[0] - theta[1]).square().mean()
        consistency = consistency + (theta[2] - theta[2].T).square().mean()
        log_s = ((x @ prior.weight).log_softmax(dim=1) * rows).sum(dim=1)
        return 0.1 * consistency + 0.1 * (recasting - x).square().mean() - torch.expm1(log_s).mean()

    recasting = rows @ prior.inverse
    return loss


def eager_step(loss: Callable[[Tensor], Tensor], features: Tensor) -> Callable[[], None]:
    def run() -> None:
        features.grad = None
        loss(features).backward()

    return run


def on_gpu(b: int, d: int = WIDTH) -> tuple[Tensor, Tensor, Prior]:
    features, ids, prior = batch(b, d)
    return features.detach().cuda().requires_grad_(), ids.cuda(), prior.cuda()


def check(b: int, tolerance: float) -> None:
    """No speed without correctness: value and gradient against float64 on the device."""
    features, ids, prior = on_gpu(b)
    exact = features.detach().double().requires_grad_()
    rows = nnf.one_hot(ids, CLASSES).double()
    oracle = literal_loss(exact, rows, prior.weight.double(), prior.inverse.double())
    oracle.backward()
    ours = functional.reversible_consistency_loss(features, ids, prior).total
    ours.backward()
    error = float((features.grad.double() - exact.grad).norm() / exact.grad.norm())
    value = abs(float(ours) / float(oracle) - 1)
    if not (value < tolerance and error < tolerance):
        raise SystemExit(f"B={b}: wrong, value off by {value:.1e}, gradient by {error:.1e}")


def large() -> list[dict[str, Any]]:
    """One call on a batch whose B×B matrices would take 4 TB each."""
    b, d = 2**20, 512
    torch.set_float32_matmul_precision("high")
    generator = torch.Generator("cuda").manual_seed(0)
    features = nnf.normalize(torch.randn(b, d, device="cuda", generator=generator))
    features.requires_grad_()
    ids = torch.randint(0, CLASSES, (b,), device="cuda", generator=generator)
    prior = batch(2, d)[2].cuda()
    run = eager_step(
        lambda x: functional.reversible_consistency_loss(x, ids, prior).total, features
    )
    run()
    features.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated() - before - features.numel() * 4
    row = {"B": b, "D": d, "ms": timed(lambda i: run(), 1, 10) * 1e3, "extra_MB": peak / 1e6}
    print(row, flush=True)
    return [row]


def sanitize() -> None:
    """Every kernel once on ragged shapes, small enough for compute-sanitizer."""
    for b, d, c, mixing in ((7, 10, 3, True), (131, 300, 10, True), (300, 131, 40, False)):
        features = torch.randn(b, d, device="cuda", requires_grad=True)
        prior = Prior(torch.randn(d, c)).cuda()
        ids = torch.arange(b, device="cuda") % c
        permutation = torch.randperm(b, device="cuda") if mixing else None
        with use_backend("triton"):
            parts = functional.reversible_consistency_loss(
                features, ids, prior, lam=0.9 if mixing else 1.0, permutation=permutation
            )
            similarity = functional.prior_similarity(features, prior, ids)
            assert similarity.loss is not None
            (parts.total + similarity.loss).backward()
            functional.mixup(features, ids, classes=c)
        torch.cuda.synchronize()


def trace(folder: str = ".") -> None:
    """A profiler trace of five steps at B = 1024, and the table of its kernels."""
    features, ids, prior = on_gpu(1024)
    run = eager_step(
        lambda x: functional.reversible_consistency_loss(x, ids, prior).total, features
    )
    run()
    with torch.profiler.profile() as profile:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(Path(folder) / "loss_trace.json"))
    print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=15))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("loss_gpu: no CUDA device here; nothing measured")
    torch.manual_seed(0)
    measured = {"ceilings": ceilings, "speed": speed, "large": large}
    if sys.argv[1:2] == ["trace"]:
        trace(*sys.argv[2:3])
    elif sys.argv[1:2] == ["sanitize"]:
        sanitize()
    else:
        for part in sys.argv[1:] or measured:
            print(f"   {write_results(f'loss_{part}', measured[part]())}")
