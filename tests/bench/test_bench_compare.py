"""``drcl bench``: what it prints, and that it catches what was planted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from drcl.benchmarks.suite import compare, registry
from drcl.benchmarks.suite.registry import Contender, Entry, Problem, Work, entries, select
from drcl.benchmarks.suite.worker import Failed, Worker
from drcl.cli import main

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
OP = "mixup B=1024 D=2048"


class Side:
    """A revision in this process, whose calls take ``seconds`` times ``factor``."""

    def __init__(self, factor: float = 1.0, wrong: str = "") -> None:
        self.factor, self.wrong, self.calls = factor, wrong, 0

    def gate(self, entry: Entry) -> dict[str, str]:
        return {"drcl eager": self.wrong}

    def seconds(self, entry: Entry, contender: str) -> float:
        self.calls += 1
        noise = 1.0 + 0.3 * ((self.calls // 4) % 3)  # of the machine: it hits both alike
        return 1e-3 * noise * self.factor


def verdict(before: Side, now: Side) -> compare.Verdict:
    entry = select(entries(CPU), [OP])[0]
    (found,) = compare.compare(
        [entry], before, now, limit=0.05, threshold=0.1, tell=lambda verdict: None
    )  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("factor", "caught"), [(1.2, True), (1.05, False), (1.0, False), (0.5, False)]
)
def test_slowdown_of_a_fifth_is_caught_in_noise(factor: float, caught: bool) -> None:
    found = verdict(Side(), Side(factor))
    assert found.regression is caught
    assert found.ratio == pytest.approx(factor)


def test_wrong_now_is_a_regression_and_wrong_before_is_not() -> None:
    found = verdict(Side(), Side(wrong="off by 1e-2"))
    assert found.regression and found.problem == "wrong: off by 1e-2" and found.now_ms == 0.0
    found = verdict(Side(wrong="off by 1e-2"), Side(factor=9.0))
    assert not found.regression and found.problem == "before: off by 1e-2"


def test_unknown_revision_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="compare: no revision 'no-such' in a git checkout"),
        compare.worktree("no-such"),
    ):
        pass


def stub(outcome: float = 1.0) -> Entry:
    """A workload whose contenders return at once."""

    def build(sizes: object, device: torch.device) -> Problem:
        right = torch.tensor([1.0])
        contenders: dict[str, Contender | str] = {
            "drcl eager": Contender(lambda: (torch.tensor([outcome]),)),
            "peer": Contender(lambda: (right,)),
            "other": "other is not installed (pip install drcl[bench])",
        }
        return Problem(contenders, lambda: (right.double(),), Work(1e6, 1e6, (8, 8, 8)))

    return Entry("stub", {"B": 8}, build, ("drcl eager", "peer", "other"), note="a stub")


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(registry, "entries", lambda device: [stub()])
    monkeypatch.setattr("drcl.benchmarks.suite.worker.Worker", NoProcess)
    return monkeypatch


class NoProcess(contextlib.nullcontext):  # type: ignore[type-arg]
    """Stands for the process that measures memory."""

    def __init__(self, device: torch.device, memory: bool) -> None:
        super().__init__(self)

    def peak(self, entry: Entry, contender: str) -> float:
        return 5e6


def test_list_names_and_measures_nothing() -> None:
    found = CliRunner().invoke(main, ["bench", "--list", "--quick"])
    assert found.exit_code == 0
    assert len(found.output.splitlines()) == len(select(entries(CPU), quick=True))
    assert "loss B=1024 D=2048 C=10" in found.output


def test_nothing_matches() -> None:
    found = CliRunner().invoke(main, ["bench", "--only", "no such"])
    assert found.exit_code == 1
    assert "nothing matches 'no such'" in found.output


def test_prints_ours_peers_ratio_floor_and_memory(
    stubbed: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = CliRunner().invoke(main, ["bench", "--device", "cpu", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "stub B=8 (a stub)" in found.output
    head, ours, peer, *rest = found.output.splitlines()[3:]
    assert head.split() == [
        "p20",
        "p50",
        "ms",
        "p80",
        "over",
        "ours",
        "of",
        "floor",
        "memory",
        "MB",
    ]
    assert ours.split()[:2] == ["drcl", "eager"] and "1.00x" in ours and ours.endswith("5.0")
    assert peer.startswith("peer") and "%" in peer
    assert rest[0] == "other: skipped, other is not installed (pip install drcl[bench])"
    (stored,) = tmp_path.glob("*/suite.json")
    rows = json.loads(stored.read_text())
    assert [row["contender"] for row in rows] == ["drcl eager", "peer", "other"]
    assert rows[0]["ratio"] == 1.0 and rows[0]["memory_MB"] == 5.0


def test_wrong_result_ends_with_an_error(stubbed: pytest.MonkeyPatch) -> None:
    stubbed.setattr(registry, "entries", lambda device: [stub(1.01)])
    found = CliRunner().invoke(main, ["bench", "--device", "cpu"])
    assert found.exit_code == 1
    assert "drcl eager: wrong, off by 1.0e-02 at B=8" in found.output
    assert "Gflop" not in found.output and "x" not in found.output.split("stub B=8")[1][:40]


@pytest.mark.slow
def test_worker_measures_memory_and_tells_failures() -> None:
    (entry,) = select(entries(CPU), [OP])
    with Worker(CPU, memory=True) as worker:
        # one temporary of 8 MiB at its peak, beside the results
        assert 7e6 < worker.peak(entry, "literal") < 20e6
        with pytest.raises(Failed, match="kernels for a GPU"):
            worker.peak(entry, "drcl triton")
        with pytest.raises(Failed, match="KeyError"):
            worker.seconds(replace(entry, op="no such"), "literal")
        assert worker.gate(entry) == {"drcl eager": ""}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the files as they are here, committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("clone")
    for name in ("drcl", "kernels", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    author = ["-c", "user.name=drcl", "-c", "user.email=drcl@localhost"]
    (folder / ".gitignore").write_text("*.so\n__pycache__/\n")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "as it is"]):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=60)
    return folder


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drcl", "bench", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


SLOW = """

import time as _time


def _slower(call):
    def slow(*arguments):
        start = _time.perf_counter()
        result = call(*arguments)
        wait = 0.2 * (_time.perf_counter() - start)
        start = _time.perf_counter()
        while _time.perf_counter() - start < wait:
            pass
        return result

    return slow


mix = _slower(mix)
"""


@pytest.mark.long  # a fifth is told from noise on a machine that does nothing else
def test_planted_slowdown_of_a_fifth_in_one_op(clone: Path) -> None:
    """`mixup`, forward and backward, takes a fifth longer than in the revision before."""
    file = clone / "drcl" / "eager" / "mixup.py"
    text = file.read_text()
    unmix = text.index("def unmix")
    # `unmix` calls `mix`, which is then the slow one.
    file.write_text(text[:unmix] + SLOW.lstrip() + "\n\n" + text[unmix:])
    try:
        found = bench(clone, "--compare", "HEAD", "--quick", "--only", OP)
    finally:
        file.write_text(text)
    assert found.returncode == 1, found.stdout + found.stderr
    assert f"REGRESSION {OP}" in found.stdout
    assert "1 of 1 are worse than at HEAD" in found.stderr
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1  # the other revision's is gone


@pytest.mark.long
def test_planted_wrong_gradient(clone: Path) -> None:
    file = clone / "drcl" / "eager" / "mixup.py"
    text = file.read_text()
    file.write_text(text.replace("return mix(grad, origin, lam)", "return mix(grad, origin, 0.89)"))
    try:
        found = bench(clone, "--compare", "HEAD", "--quick", "--only", OP)
    finally:
        file.write_text(text)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "drcl eager  wrong: off by" in found.stdout


@pytest.mark.long
def test_pytest_benchmark_groups_ours_with_the_peers(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-m", "quick", "-k", "mixup"]
    # pytest-benchmark writes nothing where it takes itself for a worker of pytest-xdist.
    plain = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    found = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--benchmark-json={tmp_path / 'found.json'}"],
        cwd=ROOT,
        env={**plain, "PYTHONPATH": str(ROOT), "CXX": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    measured = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    assert {one["group"] for one in measured} == {"mixup B=1024 D=2048 C=10"}
    assert [one["extra_info"]["ratio"] == 1.0 for one in measured] == [True, False]
    assert "no C++ compiler" in found.stdout
