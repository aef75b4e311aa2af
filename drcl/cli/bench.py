"""``drcl bench``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from drcl.cli.output import folder_option
from drcl.tables import columns
from drcl.train.networks import pick_device

if TYPE_CHECKING:
    from drcl.benchmarks.suite.compare import Verdict
    from drcl.benchmarks.suite.registry import Entry
    from drcl.benchmarks.suite.results import Row

QUICK, FULL = 1.5, 20.0  # seconds for the rounds of a workload
PAIRS = 5.0  # seconds for the calls of one of our contenders at two revisions


@click.command()
@click.option("--quick", is_flag=True, help="A few workloads: two minutes on two cores.")
@click.option(
    "--only",
    metavar="TEXT",
    multiple=True,
    help="Workloads whose name or note contains TEXT; may be repeated.",
)
@click.option("--list", "listing", is_flag=True, help="List the workloads without measuring.")
@folder_option("Save results as JSON and CSV, in a subfolder for this device.")
@click.option(
    "--compare",
    "revision",
    metavar="REVISION",
    help="Compare this checkout with another git revision; exit code 1 if something is slower.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0.0),
    default=0.1,
    show_default=True,
    help="Slowdown that --compare reports: 0.1 is 10 %.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; default: PyTorch's choice."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to measure; default: cuda if available.",
)
def bench(
    quick: bool,
    only: tuple[str, ...],
    listing: bool,
    out: Path | None,
    revision: str | None,
    threshold: float,
    threads: int | None,
    device: str | None,
) -> None:
    """Measure speed and memory of drcl and of other libraries.

    Every workload is first checked against the literal formulas in float64. One that fails gets no
    number, and the exit code is 1. Then all contenders take turns, together with a matrix product
    and a copy that give the floor. Memory is measured in a separate process. A library that is not
    installed is skipped (pip install drcl[bench]).
    """
    from drcl.benchmarks.suite.registry import entries, select

    target = pick_device(device or "auto")
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = select(entries(target), only, quick)
    if listing:
        click.echo(columns([[entry.name, entry.note] for entry in chosen], left=2))
    elif revision is not None:
        _compare(chosen, revision, target, threshold)
    else:
        _measure(chosen, target, QUICK if quick else FULL, out)


def _measure(chosen: list[Entry], device: torch.device, limit: float, out: Path | None) -> None:
    from drcl.benchmarks.suite.measure import measure
    from drcl.benchmarks.suite.results import folder_name, keep, signed
    from drcl.benchmarks.suite.worker import Worker

    click.echo(f"{folder_name(device)}, {torch.get_num_threads()} threads, {len(chosen)} workloads")
    wrong = []
    with Worker(device, memory=True) as memory:
        for entry in chosen:
            rows = signed(measure(entry, device, limit, memory), device)
            click.echo(f"\n{entry.name} ({entry.note})\n{table(rows)}")
            if out is not None:
                keep(rows, out)
            wrong += [row for row in rows if row.status == "wrong" and row.ours]
    if out is not None:
        click.echo(f"\nresults: {out / folder_name(device)}")
    if wrong:
        names = ", ".join(f"{row.contender} ({row.op} {row.workload})" for row in wrong)
        raise click.ClickException(f"wrong, and so without numbers: {names}")


def table(rows: list[Row]) -> str:
    """One workload as text: ours, each peer, the ratio, the share of the floor, memory."""
    head = ["", "p20", "p50 ms", "p80", "over ours", "of floor", "memory MB"]
    lines = [head]
    for row in rows:
        if row.p50_ms is None or row.ratio is None or row.floor_share is None:
            continue
        about = "~" if row.share < 1 else ""  # scaled up from a part of the workload
        lines.append(
            [
                row.contender,
                *(f"{about}{ms:.3g}" for ms in (row.p20_ms or 0.0, row.p50_ms, row.p80_ms or 0.0)),
                f"{row.ratio:.2f}x",
                f"{row.floor_share:.0%}",
                "" if row.memory_MB is None or row.share < 1 else f"{row.memory_MB:.1f}",
            ]
        )
    text = columns(lines) if len(lines) > 1 else ""
    left_out = [f"{row.contender}: {row.status}, {row.reason}" for row in rows if row.reason]
    measured = next((row for row in rows if row.p50_ms is not None), None)
    if measured is not None:
        left_out.append(
            f"floor {measured.floor_ms:.3g} ms at {measured.gemm_GFLOPs:.0f} Gflop/s and "
            f"{measured.copy_GBps:.1f} GB/s; {measured.rounds} calls of ours; other "
            f"processes had {measured.others:.0%} of the machine"
        )
    return "\n".join(line for line in [text, *left_out] if line)


def _compare(chosen: list[Entry], revision: str, device: torch.device, threshold: float) -> None:
    from drcl.benchmarks.suite.compare import compare, sides

    def tell(verdict: Verdict) -> None:
        if verdict.problem:
            said = verdict.problem
        else:
            said = f"{verdict.before_ms:.3g} -> {verdict.now_ms:.3g} ms, {verdict.ratio:.2f}x"
        mark = "REGRESSION" if verdict.regression else "ok"
        click.echo(f"{mark:<11}{verdict.entry}: {verdict.contender}  {said}")

    with contextlib.ExitStack() as stack:
        before, now = stack.enter_context(sides(revision, device))
        verdicts = compare(chosen, before, now, limit=PAIRS, threshold=threshold, tell=tell)
    worse = sum(verdict.regression for verdict in verdicts)
    if worse:
        raise click.ClickException(f"{worse} of {len(verdicts)} are worse than at {revision}")
    click.echo(f"nothing is worse than at {revision}")
