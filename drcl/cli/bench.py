"""``drcl bench``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from drcl.checks import check_option
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
@click.option(
    "--quick", is_flag=True, help="Measure a few workloads only; takes two minutes on two cores."
)
@click.option(
    "--only",
    "--on",
    metavar="TEXT",
    multiple=True,
    help="Workloads whose name or note contains TEXT; may be repeated.",
)
@click.option(
    "--peer",
    "peers",
    metavar="FILE.py:FUNCTION",
    multiple=True,
    help="Measure a function of your own as well; may be repeated.",
)
@click.option("--list", "listing", is_flag=True, help="List the workloads without measuring.")
@click.option(
    "--grid",
    "grid_seconds",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Measure points of a grid of sizes for this long; results go to --out or "
    "benchmarks/results.",
)
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
    peers: tuple[str, ...],
    listing: bool,
    grid_seconds: int | None,
    out: Path | None,
    revision: str | None,
    threshold: float,
    threads: int | None,
    device: str | None,
) -> None:
    """Measure speed and memory of drcl and of other libraries.

    Each contender is first checked against the literal formulas in float64. One that fails is not
    timed; if it is drcl's own, the workload is skipped and the exit code is 1. The others take
    turns, together with a matrix product and a copy whose speeds define the floor. Memory is
    measured in a separate process. Libraries that are not installed are skipped (pip install
    drcl[bench]).

    A function of your own (--peer) is checked and timed like the others. Its arguments depend on
    the workload. loss and prior_similarity: features, targets and the prior's weight; it returns
    the loss, or loss and score. mixup: features, label rows and permutation. map: query, gallery,
    the labels of both and k; it returns the mAP.

    --grid SECONDS measures points of a grid of sizes instead, every other one next to a point
    where another library was faster. Run it again to continue. --only then takes names of ops:
    loss, prior_similarity, map.
    """
    from drcl.benchmarks.suite.registry import entries, own_function, select, with_peer

    target = pick_device(device or "auto")
    if threads is not None:
        torch.set_num_threads(threads)
    if grid_seconds is not None:
        if listing or quick or peers or revision is not None:
            raise click.UsageError("--grid: expected without --list, --quick, --peer and --compare")
        _grid(only, grid_seconds, target, out)
        return
    chosen = select(entries(target), only, quick)
    for spec in peers:
        function = own_function(spec)
        chosen = [with_peer(entry, spec, function) for entry in chosen]
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


def _grid(only: tuple[str, ...], seconds: int, device: torch.device, out: Path | None) -> None:
    from drcl.benchmarks.suite import grid, grid_map
    from drcl.benchmarks.suite.results import read
    from drcl.benchmarks.suite.timing import RESULTS

    for op in only:
        check_option("only", op, tuple(grid.GRIDS))

    def tell(entry: Entry, rows: list[Row]) -> None:
        peer, ours = grid.best_peer(rows), next((row for row in rows if row.ratio == 1.0), None)
        said = "not measured: " + "; ".join(sorted({row.reason for row in rows if row.reason}))
        if ours is not None:
            said = f"{ours.p50_ms:.3g} ms, {ours.floor_share:.0%} of the floor"
            if peer is not None:
                said += f"; {peer.contender} {peer.ratio:.2f}x"
        click.echo(f"{entry.name}: {said}{' LOST' if grid.is_lost(rows) else ''}{noise(rows)}")

    folder = grid.run(only or tuple(grid.GRIDS), seconds, device, out or RESULTS, tell)
    picture = folder / f"{grid.file_name()}.svg"
    grid_map.draw(read(folder, grid.file_name()), picture)
    click.echo(f"\nresults: {picture.with_suffix('.json')}\nmap: {picture}")


def noise(rows: list[Row]) -> str:
    """A warning where other processes took so much of the machine that figures say little."""
    from drcl.benchmarks.suite.grid import NOISY

    others = max((row.others or 0.0 for row in rows), default=0.0)
    return f" NOISY: other processes had {others:.0%} of the machine" if others > NOISY else ""


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
        left_out.append(noise(rows).strip())
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
