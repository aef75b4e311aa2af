"""One entry measured: the gate first, then all in turns, then memory."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from drcl.benchmarks.suite.registry import Contender, Entry, Problem, Work, Wrong
from drcl.benchmarks.suite.results import Row
from drcl.benchmarks.suite.timing import Others, in_turns, seconds_of
from drcl.precision import network_precision

# `drcl bench --compare` runs this with the package of an older revision.
try:
    from drcl.out_of_memory import first_line, is_out_of_memory
except ModuleNotFoundError:
    from drcl.memory import first_line, is_out_of_memory  # type: ignore

FEWEST, MOST = 3, 25  # calls that are timed
HOPELESS = 5  # times ours: beyond that one call says enough
BRIEF, FEWEST_BRIEF = 0.3, 9  # seconds of a call of which more are timed in any case
PRODUCT, COPY = "a product", "a copy"
# Multiplications at most in the product that measures a rate, and entries of its outcome. On a GPU
# it has to give every multiprocessor several tiles, or it measures how few of them are busy.
PROBE_PRODUCT = {"cpu": 4e9, "cuda": 2e12}
PROBE_ENTRIES = 2**30
PROBE_BYTES = (2**23, 2**29)  # that the copy moves that measures a bandwidth


class Memory(Protocol):
    """Who tells a contender's peak bytes: a process of its own."""

    def peak(self, entry: Entry, contender: str) -> float: ...


def measure(
    entry: Entry, device: torch.device, limit: float, memory: Memory | None = None
) -> list[Row]:
    """Rows of all contenders of an entry. ``limit``: seconds that the rounds may take together.

    At least three calls each are timed, but one of those that take five times as long as ours.
    Without ``memory``, or where it fails, that figure stays empty.
    """
    rows, _ = timed(entry, device, limit)
    for row in rows.values():
        if memory is not None and row.status == "measured":
            try:
                row.memory_MB = max(0.0, memory.peak(entry, row.contender)) / 1e6
            except RuntimeError as failure:
                row.reason = f"memory: {first_line(failure)}"
    return list(rows.values())


def timed(
    entry: Entry, device: torch.device, limit: float
) -> tuple[dict[str, Row], dict[str, list[float]]]:
    """Rows by contender, and the seconds of every round of those that ran."""
    torch.compiler.reset()  # a compiled function otherwise remembers the sizes before
    rows = {
        name: Row(entry.op, dict(entry.sizes), entry.note, name, precision=entry.precision)
        for name in entry.contenders
    }
    times: dict[str, list[float]] = {}
    try:
        with network_precision(entry.precision):
            times = _timed(entry, rows, device, limit)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        skip(rows, f"out of memory: {first_line(failure)}")
    release(device)
    return rows, times


def _timed(
    entry: Entry, rows: dict[str, Row], device: torch.device, limit: float
) -> dict[str, list[float]]:
    problem = entry.build(entry.sizes, device)
    running = {}
    for name, contender in problem.contenders.items():
        if isinstance(contender, Contender):
            running[name] = contender
        else:
            rows[name].status, rows[name].reason = "skipped", contender
    for name, reason in gate(entry, problem, running, device).items():
        rows[name].status, rows[name].reason = "wrong", reason
    wrong = [row.contender for row in rows.values() if row.ours and row.status == "wrong"]
    if wrong:  # no gate, no number, and none to compare with
        skip(rows, f"{', '.join(wrong)}: wrong")
    running = {name: c for name, c in running.items() if rows[name].status == "measured"}
    return in_rounds(problem.work, running, rows, device, limit)


def skip(rows: Mapping[str, Row], reason: str) -> None:
    """Those that are not skipped or wrong already."""
    for row in rows.values():
        if row.status == "measured":
            row.status, row.reason = "skipped", reason


def release(device: torch.device) -> None:
    """Give back what a failure left in the allocator's cache."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def gate(
    entry: Entry, problem: Problem, running: Mapping[str, Contender], device: torch.device
) -> dict[str, str]:
    """Who computes something else than the oracle and how far off it is, or fails, and how."""
    small = problem
    if entry.gate_sizes() != dict(entry.sizes):
        small = entry.build(entry.gate_sizes(), device)
    try:
        expected = small.oracle()
    except Wrong as wrong:
        return dict.fromkeys(running, str(wrong))
    found = {}
    for name in running:
        contender = small.contenders[name]
        if not expected or isinstance(contender, str):
            continue
        try:
            error = distance(contender.run(), expected)
        except Exception as failure:  # any: the others are measured all the same
            found[name] = f"{type(failure).__name__}: {first_line(failure)}"
            continue
        if not error <= small.tolerance:
            sizes = " ".join(f"{key}={value}" for key, value in entry.gate_sizes().items())
            found[name] = f"off by {error:.1e} at {sizes}, allowed {small.tolerance:.0e}"
    return found


def distance(outcome: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest relative error in norm; infinite where something is not finite or has no match.

    >>> distance((torch.tensor([3.0, 4.0]),), (torch.tensor([3.0, 5.0]),)) < 0.2
    True
    """
    if [each.shape for each in outcome] != [each.shape for each in expected]:
        return math.inf
    worst = 0.0
    for ours, exact in zip(outcome, expected, strict=True):
        error = (ours.double() - exact.to(ours.device).double()).norm()
        share = float(error / exact.double().norm().clamp(min=1e-300).to(error.device))
        worst = max(worst, share if math.isfinite(share) else math.inf)
    return worst


def in_rounds(
    work: Work,
    running: Mapping[str, Contender],
    rows: Mapping[str, Row],
    device: torch.device,
    limit: float,
) -> dict[str, list[float]]:
    """Times everybody in turns, with a product and a copy among them, and fills the rows.

    Who fails at full size, after the gate at a smaller one, gets no number, and none of the others
    does if nobody of ours is left.
    """
    calls: dict[str, Any] = {name: contender.run for name, contender in running.items()}
    once = {}
    for name, call in list(calls.items()):
        try:
            once[name] = warm_seconds(call, device, limit)
        except Exception as failure:  # any: the others are measured all the same
            row, said = rows[name], first_line(failure)
            if is_out_of_memory(failure):
                row.status, row.reason = "skipped", f"out of memory: {said}"
            else:
                row.status, row.reason = "wrong", f"{type(failure).__name__}: {said}"
            del calls[name]
        if name not in calls:  # the error, which held on to its memory, is gone
            release(device)
    if not any(rows[name].ours for name in calls):
        skip(rows, "nothing of ours to compare with")
        return {}
    calls[PRODUCT], operations = product_probe(work, device)
    calls[COPY], moved = copy_probe(work, device)
    for name in (PRODUCT, COPY):
        once[name] = warm_seconds(calls[name], device, limit)
    fastest = min(once[name] for name in running if name in calls and rows[name].ours)
    counts = {}
    for name in calls:
        fewest = FEWEST_BRIEF if once[name] < BRIEF else FEWEST
        if once[name] > HOPELESS * fastest and name in running:
            fewest = 1
        counts[name] = min(MOST, max(fewest, int(limit / len(calls) / once[name])))
    with Others() as others:
        seconds = in_turns(calls, counts, device)
    flops = operations / statistics.median(seconds.pop(PRODUCT))
    bandwidth = moved / statistics.median(seconds.pop(COPY))
    floor = work.seconds(flops, bandwidth)
    times = {name: [s / running[name].share for s in found] for name, found in seconds.items()}
    ours = statistics.median(next(times[name] for name in times if rows[name].ours))
    for name, found in times.items():
        row = rows[name]
        p20, p50, p80 = quantiles(found)
        row.p20_ms, row.p50_ms, row.p80_ms = p20 * 1e3, p50 * 1e3, p80 * 1e3
        row.rounds, row.share = len(found), running[name].share
        row.ratio, row.floor_ms, row.floor_share = p50 / ours, floor * 1e3, floor / p50
        row.gemm_GFLOPs, row.copy_GBps = flops / 1e9, bandwidth / 1e9
        row.others = round(others.share, 3)
    return times


def warm_seconds(call: Any, device: torch.device, limit: float) -> float:
    """Of a second call, when allocators and caches are ready; of the first if that took long."""
    first = seconds_of(call, device)
    return seconds_of(call, device) if first < limit else first


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile.

    >>> quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (2.0, 3.5, 5.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    twentieth, *_, eightieth = statistics.quantiles(values, n=5, method="inclusive")
    return twentieth, statistics.median(values), eightieth


def probe_shape(work: Work, device_type: str) -> tuple[int, int, int]:
    """The workload's own product, m and n halved until it is small enough for a probe.

    >>> probe_shape(Work(1.0, 1.0, (23661, 2048, 23661)), "cpu")
    (739, 2048, 1478)
    >>> probe_shape(Work(1.0, 1.0, (23661, 2048, 23661)), "cuda")
    (23661, 2048, 23661)
    """
    m, k, n = work.product
    while (m * k * n > PROBE_PRODUCT[device_type] or m * n > PROBE_ENTRIES) and max(m, n) > 1:
        m, n = (m // 2, n) if m >= n else (m, n // 2)
    return m, k, n


def product_probe(work: Work, device: torch.device) -> tuple[Any, float]:
    """A matrix product of the workload's shape, into memory that is ready; and its operations."""
    m, k, n = probe_shape(work, device.type)
    a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
    out = torch.zeros(m, n, device=device)
    torch.mm(a, b, out=out)
    return lambda: torch.mm(a, b, out=out), 2 * m * k * n


def copy_probe(work: Work, device: torch.device) -> tuple[Any, float]:
    """A copy that moves as many bytes as the workload has to: the caches help both alike."""
    moved = int(min(max(work.bytes, PROBE_BYTES[0]), PROBE_BYTES[1]))
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source), 2 * len(source)
