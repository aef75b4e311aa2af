"""Our own contenders at two revisions: the working tree's package, and another one's.

Both run in processes that live side by side and take turns call by call, on the benchmarks of the
working tree. Noise comes and goes with time, and it only ever adds to a call. So a workload is a
regression if two ratios are above the threshold: the median of those within each pair of calls, and
that of the fast calls of both sides, their 20th percentiles.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from drcl.benchmarks.suite.measure import quantiles
from drcl.benchmarks.suite.registry import Entry
from drcl.benchmarks.suite.worker import HERE, Failed, Worker

ROOT = HERE.parent
WARM_UP = 3
FEWEST, MOST = 11, 300  # pairs


@dataclass(frozen=True)
class Verdict:
    """One of our contenders: 20th percentiles in ms, and the smaller ratio of now over before."""

    entry: str
    contender: str
    before_ms: float = 0.0
    now_ms: float = 0.0
    ratio: float = 1.0
    problem: str = ""
    regression: bool = False


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """The files of a revision, with compiled parts, in a folder that goes away again.

    Raises ValueError outside a git checkout and for a revision that is not there.
    """
    try:
        git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except (subprocess.CalledProcessError, FileNotFoundError):
        raise ValueError(f"compare: no revision {revision!r} in a git checkout at {ROOT}") from None
    with tempfile.TemporaryDirectory(prefix="drcl-") as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--detach", "--force", str(tree), revision)
        try:
            compiled_parts(tree, revision)
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def compiled_parts(tree: Path, revision: str) -> None:
    """Ours where both are compiled from the same sources, else built there."""
    ours = list((ROOT / "drcl").glob("*.so"))
    if not ours:
        return
    if git("diff", "--name-only", revision, "--", "csrc", "setup.py").strip() == "":
        for library in ours:
            shutil.copy2(library, tree / "drcl")
        return
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)


def compare(
    found: Sequence[Entry],
    before: Worker,
    now: Worker,
    *,
    limit: float,
    threshold: float,
    tell: Callable[[Verdict], None],
) -> list[Verdict]:
    """Verdicts on all our contenders of some entries; each gets ``limit`` seconds of turns."""
    verdicts = []
    for entry in found:
        for verdict in on_entry(entry, before, now, limit, threshold):
            verdicts.append(verdict)
            tell(verdict)
    return verdicts


def on_entry(
    entry: Entry, before: Worker, now: Worker, limit: float, threshold: float
) -> Iterator[Verdict]:
    try:
        contenders = now.gate(entry)
    except Failed as failure:
        yield Verdict(entry.name, "", problem=str(failure), regression=True)
        return
    for name, wrong in contenders.items():
        if wrong:
            yield Verdict(entry.name, name, problem=f"wrong: {wrong}", regression=True)
            continue
        try:
            wrong = before.gate(entry).get(name, "not there")
        except Failed as failure:
            wrong = str(failure)
        if wrong:  # nothing to be slower than
            yield Verdict(entry.name, name, problem=f"before: {wrong}")
            continue
        try:
            yield judge(entry, name, before, now, limit, threshold)
        except Failed as failure:  # at full size, after the gate at a smaller one
            yield Verdict(entry.name, name, problem=str(failure), regression=True)


def judge(
    entry: Entry, name: str, before: Worker, now: Worker, limit: float, threshold: float
) -> Verdict:
    """Calls in turns: before, now; now, before; and so on."""
    for side in (before, now) * WARM_UP:
        side.seconds(entry, name)
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + limit
    while len(pairs) < FEWEST or (len(pairs) < MOST and time.monotonic() < end):
        first, second = (before, now) if len(pairs) % 2 else (now, before)
        taken = {side: side.seconds(entry, name) for side in (first, second)}
        pairs.append((taken[before], taken[now]))
    fast_before, fast_now = (quantiles(list(side))[0] for side in zip(*pairs, strict=True))
    within = statistics.median(after / earlier for earlier, after in pairs)
    ratio = min(within, fast_now / fast_before)
    return Verdict(
        entry.name, name, fast_before * 1e3, fast_now * 1e3, ratio, regression=ratio > 1 + threshold
    )


@contextlib.contextmanager
def sides(revision: str, device: torch.device) -> Iterator[tuple[Worker, Worker]]:
    """The processes of a revision and of the working tree."""
    with worktree(revision) as tree, Worker(device, tree) as before, Worker(device) as now:
        yield before, now
