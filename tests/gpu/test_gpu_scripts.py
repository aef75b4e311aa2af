"""``gpu_first.sh`` and what it runs, as far as it goes without a GPU; what takes its results in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from drcl.benchmarks import gpu_first, gpu_import, gpu_sweep
from drcl.benchmarks.suite import results
from drcl.benchmarks.suite.registry import entries
from drcl.benchmarks.suite.results import Row

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_first.sh"
CPU = torch.device("cpu")


def limits(call: str, script: str | None = None) -> dict[str, int]:
    """The steps of a call with their limits in seconds, in order."""
    listed = re.search(rf"^{call}=\(([^)]*)\)$", script or SCRIPT.read_text(), re.M)
    assert listed is not None
    return {name: int(limit) for name, limit in (s.split(":") for s in listed[1].split())}


def test_the_limits_of_both_calls_fit_a_quarter_of_an_hour() -> None:
    first, second = sum(limits("first").values()), sum(limits("second").values())
    assert first <= 470 and second <= 220 and first + second <= 700


def test_every_step_is_there_and_has_its_lines_in_the_pending_list_in_order() -> None:
    script, pending = SCRIPT.read_text(), gpu_import.PENDING.read_text()
    steps = [f"{call}: {step}" for call in ("first", "second") for step in limits(call)]
    for step in steps:
        assert f"\n{step.split(': ')[1]}() {{" in script
    places = [line.split(" | ")[1] for line in pending.splitlines() if line.startswith("| ")][1:]
    named = [place for place in places if place in steps]
    assert list(dict.fromkeys(named)) == steps and named == places[: len(named)]
    assert named == sorted(named, key=steps.index)
    full = (ROOT / "benchmarks" / "gpu_run.sh").read_text()
    known = full.split("STEPS=(")[1].split(")")[0].split()
    for place in places[len(named) :]:
        kind, _, rest = place.partition(": ")
        assert kind in ("gpu_run.sh", "by hand")
        if kind == "gpu_run.sh":
            assert set(rest.split(", ")) <= set(known)


def test_test_files_of_the_script_are_there() -> None:
    files = []
    for before, names, after in re.findall(
        r"tests/([\w/]+)(?:\{([\w,]+)\})?(\.py)", SCRIPT.read_text()
    ):
        files += [before + name + after for name in names.split(",")]
    assert len(files) == 5 and all((ROOT / "tests" / file).is_file() for file in files)


# --- the script, in a copy whose Python and sanitizer only say what they are asked for

CARD = """#!/bin/bash
case "$*" in
*get_device_capability*) echo 9.0 ;;
*"import xdist"*) exit 0 ;;
*) echo "$@" >> "$OUT/../calls"; echo "ran $*"; PLANTED ;;
esac
"""


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    for folder in ("benchmarks", "kernels", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kernels" / "some.py").write_text("def rows_kernel(a):\n    pass\n")

    def run(which: str, planted: str = "", **new: int) -> subprocess.CompletedProcess[str]:
        script = SCRIPT.read_text()
        for step, limit in new.items():
            script = re.sub(rf"\b{step}:\d+", f"{step}:{limit}", script)
        (tmp_path / "benchmarks" / "gpu_first.sh").write_text(script)
        for name in ("python3", "compute-sanitizer"):
            (tmp_path / "bin" / name).write_text(CARD.replace("PLANTED", planted or ":"))
            (tmp_path / "bin" / name).chmod(0o755)
        return subprocess.run(
            ["bash", str(tmp_path / "benchmarks" / "gpu_first.sh"), which],
            capture_output=True,
            text=True,
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "OUT": str(tmp_path / "out")},
        )

    return run


def noted(tmp_path: Path, call: str) -> dict[str, int]:
    lines = (tmp_path / "out" / f"{call}.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert all(step["call"] == call and step["limit"] > 0 for step in steps)
    return {step["step"]: step["status"] for step in steps}


def test_all_steps_run_in_order_with_a_card(call, tmp_path: Path) -> None:
    for which in ("first", "second"):
        ran = call(which)
        assert ran.returncode == 0 and ran.stdout.endswith("failed: none\n"), ran.stdout
        assert noted(tmp_path, which) == dict.fromkeys(limits(which), 0)
        assert (tmp_path / "out" / f"{which}.log").read_text() == ran.stdout
    asked = (tmp_path / "calls").read_text()
    assert "setup.py build_ext --inplace" in asked
    out = tmp_path / "out"
    order = [
        "-n 12 tests/kernels/test_kernels_mixup.py",
        "-n 4 tests/gpu/test_gpu.py",
        f"gpu_first kernels --out {out}",
        f"gpu_first headlines --out {out}",
        "--tool memcheck",
        "--tool racecheck",
        f"gpu_sweep --out {out}",
        f"gpu_first scale --out {out}",
    ]
    places = [asked.index(text) for text in order]
    assert places == sorted(places)
    assert "--kernel-name kernel_substring=rows_kernel" in asked
    assert len(list(out.iterdir())) <= 8


def test_a_step_that_fails_or_outlasts_its_limit_does_not_stop_the_others(
    call, tmp_path: Path
) -> None:
    planted = 'case "$*" in *test_gpu.py*) sleep 60 ;; *headlines*) exit 3 ;; esac'
    ran = call("first", planted, gpu=1)
    assert ran.returncode == 1 and "failed: gpu headlines" in ran.stdout
    steps = noted(tmp_path, "first")
    assert steps["gpu"] == 124 and steps["headlines"] == 3
    assert {steps[name] for name in ("build", "kernels", "times", "sanitizer")} == {0}


def test_a_failed_build_is_said_and_the_rest_goes_on(call, tmp_path: Path) -> None:
    ran = call("first", 'case "$*" in *build_ext*) echo no nvcc; exit 7 ;; esac')
    assert "failed: build" in ran.stdout and "no nvcc" in ran.stdout
    steps = noted(tmp_path, "first")
    assert steps.pop("build") == 7 and set(steps.values()) == {0}


def test_the_log_stays_below_16_MiB(call, tmp_path: Path) -> None:
    ran = call("second", 'yes "a long line of a step that says too much" | head -c 20M')
    assert ran.returncode == 0 and noted(tmp_path, "second") == {"sweep": 0, "scale": 0}
    assert 14 * 2**20 < (tmp_path / "out" / "second.log").stat().st_size < 16 * 2**20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: gpu_first.sh runs by itself")
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.long)], ids=["as built", "compiling"]
)
def test_without_a_card_it_builds_and_says_where_it_stopped(compiled: bool, tmp_path: Path) -> None:
    """With this Python and PyTorch, in a copy of the sources; compiling takes minutes."""
    tree = tmp_path / "tree"
    for name in ("benchmarks", "drcl", "kernels", "csrc"):
        ignored = shutil.ignore_patterns("__pycache__", "results", *(["*.so"] if compiled else []))
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy2(ROOT / name, tree / name)
    script = tree / "benchmarks" / "gpu_first.sh"
    if compiled:  # with all cores of the machine with a card it has a minute; here what it takes
        script.write_text(script.read_text().replace("(build:60 ", "(build:1800 "))
    else:
        (tree / "setup.py").write_text("print('all is built')\n")
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    for which, stopped in (("second", "sweep"), ("first", "kernels")):
        ran = subprocess.run(
            ["bash", script, which], capture_output=True, text=True, env=environment
        )
        assert ran.returncode == 2, ran.stdout
        assert f"no CUDA device here; stopped before '{stopped}'. failed: none" in ran.stdout
    assert noted(tmp_path, "first") == {"build": 0}
    assert not compiled or list((tree / "drcl").glob("_ops*.so"))
    assert "stopped before 'kernels'" in (tmp_path / "out" / "first.log").read_text()
    unknown = subprocess.run(
        ["bash", script, "third"], capture_output=True, text=True, env=environment
    )
    assert unknown.returncode == 64 and "first|second" in unknown.stderr


# --- what the steps measure


@pytest.mark.parametrize("step", ["kernels", "headlines", "scale"])
def test_a_step_on_a_cpu(step: str, tmp_path: Path) -> None:
    assert gpu_first.main([step, "--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert file.name == f"{step}.json" and content["about"]["tiny"] is True
    rows = content["rows"]
    if step == "kernels":
        assert [row["precision"] for row in rows] == ["highest", "high"] * 2
        assert all(row["replay_us"] > 0 and row["kernels"] for row in rows)
        assert all(row["error"] < 1e-5 for row in rows)
    else:
        figures = [row for row in rows if row["op"] != "product alone"]
        assert {row["status"] for row in figures} == {"measured", "skipped"}
        workloads = [row for row in figures if row["contender"] == "drcl eager"]
        wanted = gpu_first.HEADLINES if step == "headlines" else gpu_first.SCALE
        assert len(workloads) == len(wanted)
        (alone,) = [row for row in rows if row["op"] == "product alone"]
        assert alone["p50_ms"] > 0


def test_what_is_measured_is_in_the_registry_under_these_names() -> None:
    found = {entry.name: entry for entry in entries(torch.device("cuda"))}
    for name, contenders in (*gpu_first.HEADLINES, *gpu_first.SCALE):
        assert set(contenders) <= set(found[name].contenders), name


def test_what_is_wrong_gets_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_first.Case, "error", lambda case: 1.0 if case.sizes[0] == 24 else 1e-7)
    assert gpu_first.main(["kernels", "--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    assert [("wrong" in row, "replay_us" in row) for row in rows] == [(True, False)] * 2 + [
        (False, True)
    ] * 2
    monkeypatch.setattr(gpu_first.Case, "error", lambda case: float("nan"))
    assert gpu_first.main(["kernels", "--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1


def test_a_step_that_breaks_off_keeps_what_it_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(case: gpu_first.Case) -> float:
        if case.sizes[0] == 9:
            raise RuntimeError("CUDA error: an illegal memory access\nand a page more")
        return 1e-7

    monkeypatch.setattr(gpu_first.Case, "error", breaks)
    with pytest.raises(RuntimeError, match="illegal"):
        gpu_first.main(["kernels", "--device", "cpu", "--tiny", "--out", str(tmp_path)])
    *measured, last = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    assert len(measured) == 2 and all("replay_us" in row for row in measured)
    assert last == {"wrong": "RuntimeError: CUDA error: an illegal memory access"}


def test_the_gate_has_more_rows_than_columns_where_the_case_has() -> None:
    seen = []

    class Spy(gpu_first.Case):
        def _inputs(self, sizes):
            seen.append(sizes)
            return super()._inputs((9, 16, sizes[2]))

    for sizes in ((2**20, 512, 10), (8192, 2048, 10), (1024, 2048, 1000)):
        Spy(sizes, CPU, 1).error()
    small = seen[1], seen[3]
    assert small == ((2048, 512, 10), (4096, 2048, 10)) and len(seen) == 5


# --- the sweep

SWEEP = """
import dataclasses, sys
import quick_interpreter
from drcl.benchmarks import gpu_sweep as sweep
def at_one_size(each):
    size = next(sizes for sizes in reversed(sweep.TINY) if each.tried_at(*sizes))
    return dataclasses.replace(each, tried_at=lambda *sizes: sizes == size)
wanted = sweep.variants()
if "all" not in sys.argv:
    subjects = {each.subject: each for each in wanted}
    chosen = "as it is", "float32 products", "orientation", "coefficients, FᵀF"
    wanted = [at_one_size(subjects[name]) for name in chosen]
missing = sweep.Variant("a name", "gone", {("product", "NO_SUCH"): sweep.instead("")})
def doubled(product):
    def other(*given, **named):
        t, dots = product(*given, **named)
        return 2 * t, dots
    return other
place = sweep.LOSS + "gradient", "product_with_dots"
wrong = sweep.Variant("a wrong product", "doubled", {place: doubled})
sweep.variants = lambda: [*wanted, missing, at_one_size(wrong)]
sys.exit(sweep.main(["--device", "cpu", "--tiny", "--out", sys.argv[1]]))
"""


def after_a_sweep(folder: Path, which: str) -> list[dict[str, Any]]:
    """Rows of a sweep at tiny sizes under the interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SWEEP, str(folder), which],
        cwd=ROOT,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT / "tests"),
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows: list[dict[str, Any]] = json.loads((folder / "sweep.json").read_text())["rows"]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "which", ["some", pytest.param("all", marks=pytest.mark.long)], ids=["some", "all"]
)
def test_a_sweep_under_the_interpreter(which: str, tmp_path: Path) -> None:
    rows = after_a_sweep(tmp_path, which)
    subjects = {row["subject"] for row in rows}
    assert len(subjects) == 6 or subjects > {each.subject for each in gpu_sweep.variants()}
    for row in rows:
        if row["subject"] == "a name":
            assert row["refused"] == "Absent: product.NO_SUCH is not there"
        elif row["subject"] == "a wrong product":
            assert row["refused"] == "error above 1e-05" and "replay_us" not in row
        else:
            assert row["replay_us"] > 0 and row["error"] < 1e-5, row


def replaced_by(variant: gpu_sweep.Variant) -> list[Any]:
    modules = {module: import_module(f"drcl.kernels.{module}") for module, _ in variant.replaced}
    return [getattr(modules[module], name) for module, name in variant.replaced]


def test_variants_differ_and_put_back_what_they_replace() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    found = gpu_sweep.variants()
    assert len({(each.subject, each.value) for each in found}) == len(found)
    assert [each.subject for each in found[:2]] == ["as it is"] * 2
    for each in found:
        before = replaced_by(each)
        with each.applied():
            after = replaced_by(each)
            assert each.subject == "as it is" or after != before
        assert replaced_by(each) == before


def launched(sizes: tuple[int, int, int], precision: str) -> dict[str, Any]:
    """The compiled kernels of the loss at these sizes, by name."""
    from drcl.benchmarks.gates.launches import Problem, launches_of

    problem = Problem("loss", *sizes, precision=precision)
    return {launch.binary: launch for launch in launches_of(problem)}


def test_every_variant_changes_a_kernel_wherever_it_is_tried() -> None:
    """At every size that a sweep gives it; two variants of a size are never the same kernels."""
    pytest.importorskip("triton", reason="Triton is not installed")
    for sizes in gpu_sweep.SHAPES:
        seen: dict[frozenset[str], str] = {}
        for each in gpu_sweep.variants():
            if each.tried_at(*sizes):
                with each.applied():
                    kernels = frozenset(launched(sizes, each.precision))
                name = f"{each.subject}: {each.value}"
                assert seen.setdefault(kernels, name) == name, (sizes, name)


@pytest.mark.long
def test_every_variant_compiles_for_a_card(tmp_path: Path) -> None:
    """Each launch of a sweep compiles for sm_90, into the shared memory that there is."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from drcl.benchmarks.gates.checks import assembled

    cases: dict[str, Any] = {}
    for sizes in gpu_sweep.SHAPES:
        for each in gpu_sweep.variants():
            if each.tried_at(*sizes):
                with each.applied():
                    for binary, launch in launched(sizes, each.precision).items():
                        cases.setdefault(binary, launch)
    named = {f"{case.kernel} {number}": case for number, case in enumerate(cases.values())}
    rows = assembled(named, [90], tmp_path)
    assert len(rows) == len(cases)
    for row in rows:
        assert "refused" not in row, row
        assert row["shared"] <= 227 * 1024, row


# --- taking results in: of a card that does not exist, in a folder of the test's


def brought_back(folder: Path, device: str = "no-such-card", **about: object) -> None:
    folder.mkdir(exist_ok=True)
    about = {"device": device, "torch": "0", "tiny": False, **about}
    row = Row(
        "loss",
        {"B": 1024, "D": 2048, "C": 10},
        "",
        "drcl triton",
        p50_ms=1.0,
        ratio=1.0,
        floor_ms=0.5,
        floor_share=0.5,
        device=device,
        threads=1,
        date="2026-01-01",
        versions="drcl 0, torch 0",
    )
    files = {
        "headlines": [asdict(row), {"op": "product alone", "sizes": {}, "p50_ms": 1.0}],
        "kernels": [{"B": 1024, "replay_us": 1.0, "kernels": []}],
        "scale": [{"wrong": "OutOfMemoryError: CUDA out of memory"}],
    }
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}))
    ended = {"build": 0, "kernels": 1, "headlines": 0, "gpu": 124}
    lines = [json.dumps({"call": "first", "step": s, "status": r}) for s, r in ended.items()]
    (folder / "first.jsonl").write_text("\n".join(lines) + "\n")


def test_results_are_taken_in_and_lines_struck(tmp_path: Path) -> None:
    pending, kept = tmp_path / "PENDING.md", tmp_path / "results"
    shutil.copy2(gpu_import.PENDING, pending)
    before = pending.read_text().splitlines()
    brought_back(tmp_path / "back")
    gpu_import.main(
        [str(tmp_path / "back"), "--results", str(kept), "--pending", str(pending)],
    )
    assert {path.name for path in (kept / "no-such-card").iterdir()} == {
        *("gpu_headlines.json", "gpu_kernels.json", "gpu_scale.json"),
        *("suite.json", "suite.csv"),
    }
    (row,) = results.read(kept / "no-such-card")
    assert (row.contender, row.p50_ms) == ("drcl triton", 1.0)
    gone = [line for line in before if line not in pending.read_text().splitlines()]
    places = {line.split(" | ")[1] for line in gone}
    assert places == {"first: build", "first: headlines"}
    left = {line.split(" | ")[1] for line in pending.read_text().splitlines() if " | " in line}
    assert not places & left and {"first: kernels", "first: gpu", "second: scale"} <= left


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda back: brought_back(back, tiny=True), "made with --tiny, for tests"),
        (lambda back: [path.unlink() for path in back.iterdir()], "got neither"),
        (
            lambda back: (back / "kernels.json").write_text(
                json.dumps({"about": {"device": "another", "tiny": False}, "rows": []})
            ),
            "expected results of one device, got another, no-such-card",
        ),
    ],
    ids=["of a test", "empty", "of two devices"],
)
def test_what_is_no_result_of_a_card_is_refused(spoil, said: str, tmp_path: Path) -> None:
    pending, back = tmp_path / "PENDING.md", tmp_path / "back"
    shutil.copy2(gpu_import.PENDING, pending)
    brought_back(back)
    spoil(back)
    with pytest.raises(ValueError, match=said):
        gpu_import.take(back, tmp_path / "results", pending)
    assert pending.read_text() == gpu_import.PENDING.read_text()
    assert not (tmp_path / "results").exists()
