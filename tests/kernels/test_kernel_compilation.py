"""Compile gates: every kernel as it is launched, for several GPUs and two Tritons, without a GPU.

AMD's GPUs have them, too, in the short form those kernels that may spill there.

The short form takes one form of each kernel, and of products one in each precision, on three
architectures that differ in their instructions; sm_90 with the Triton that comes with PyTorch 2.11,
as its users have it. All forms, on five, with both, are a long test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
ROOT = Path(__file__).resolve().parents[2]
OLDER = "3.6.0"
# Between them all kernels, in every precision.
PROBLEMS = [
    "1024×64 C=10", "1024×2048 C=10", "1024×2048 C=10 high", "1024×2048 C=10 medium",
    "8192×2048 C=10 high", "1024×2048 C=128 rows", "1024×64 C=1",
]  # fmt: skip
SHORT = [(OLDER, [90]), (triton.__version__, [75, 100])]
# Wavefronts of 64 threads, and of 32.
AMD = ["gfx90a", "gfx942", "gfx1100"]
AMD_KERNELS = ["coefficients_kernel", "symmetric_kernel"]


def python_with(version: str) -> str:
    """The interpreter that has this Triton: our own, or one of an environment without PyTorch."""
    if triton.__version__ == version:
        return sys.executable
    home = ROOT / "build" / f"triton-{version}"
    if not home.exists():
        fresh = home.with_name(f"{home.name}.{os.getpid()}")  # another worker may be at it, too
        venv.create(fresh, with_pip=False)
        pip = [sys.executable, "-m", "pip", "--python", str(fresh / "bin" / "python")]
        run = subprocess.run(
            [*pip, "install", "--quiet", f"triton=={version}"], capture_output=True, text=True
        )
        if run.returncode:
            shutil.rmtree(fresh)
            pytest.skip(f"Triton {version} cannot be installed: {run.stderr.strip()[-300:]}")
        try:
            fresh.rename(home)
        except OSError:
            shutil.rmtree(fresh)
    return str(home / "bin" / "python")


def run_alone(command: list[str], written: Path) -> None:
    """In a process of its own: the interpreter, where it is asked for, must not reach it."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(run.stdout)
    assert written.exists(), run.stdout + run.stderr


def gates(folder: Path, version: str, archs: list[int] | list[str], *only: str) -> list[dict]:
    table = folder / "gates.json"
    command = [sys.executable, "-m", "drcl.benchmarks.gates", f"--python={python_with(version)}"]
    run_alone([*command, *(f"--arch={arch}" for arch in archs), f"--json={table}", *only], table)
    rows = json.loads(table.read_text("utf-8"))
    assert {row["triton"] for row in rows} == {version}
    assert {row["arch"] for row in rows} == set(archs)
    return rows


def assert_all_pass(rows: list[dict]) -> None:
    broken = [
        f"{row['kernel']} {row['label']} {row['arch']}: {problem}"
        for row in rows
        for problem in row["problems"]
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.slow
@pytest.mark.parametrize("version, archs", SHORT)
def test_one_form_of_every_kernel_passes_the_gates(tmp_path, version, archs):
    rows = gates(tmp_path, version, archs, "--one-each", *(f"--problem={p}" for p in PROBLEMS))
    sources = [path.read_text("utf-8") for path in (ROOT / "kernels").rglob("*.py")]
    kernels = {name for text in sources for name in re.findall(r"^def (\w+_kernel)\(", text, re.M)}
    for arch in archs:
        here = [row for row in rows if row["arch"] == arch]
        assert {row["kernel"] for row in here} == kernels, "a problem has to launch every kernel"
        fast = {row["precision"] for row in here} - {"ieee"}
        parts = {"bf16x3"} if arch in (90, 100) else set()
        assert fast == (set() if arch < 80 else {"tf32", "bf16", "bf16x6"} | parts)
    assert_all_pass(rows)


@pytest.mark.slow
def test_kernels_pass_the_gates_of_amd(tmp_path):
    chosen = [f"--kernel={kernel}" for kernel in AMD_KERNELS]
    problem = "--problem=8192×2048 C=10 high"
    rows = gates(tmp_path, triton.__version__, AMD, "--one-each", *chosen, problem)
    for arch in AMD:
        here = [row for row in rows if row["arch"] == arch]
        assert {row["kernel"] for row in here} == set(AMD_KERNELS)
        assert {row["wavefront"] for row in here} == {32 if arch == "gfx1100" else 64}
        parts = {row["tensor_core"] for row in here if row["precision"] == "bf16x3"}
        assert len(parts) == (arch != "gfx1100") and all("mfma" in core for core in parts)
    assert_all_pass(rows)


@pytest.mark.long
def test_model_predicts_every_launch_of_a_step(tmp_path):
    """The sum with gaps, the floor from its formula, and factors of a card taken into account."""
    factors, table = tmp_path / "factors.json", tmp_path / "predicted.json"
    factors.write_text(json.dumps({"rows_kernel": 0.0, "finish_kernel": 1e6}), "utf-8")
    command = [sys.executable, "-m", "drcl.benchmarks.gates.model", "--shape=256,64,10"]
    run_alone([*command, f"--json={table}", f"--factors={factors}"], table)
    (step,) = json.loads(table.read_text("utf-8"))["steps"]
    names = [launch["kernel"] for launch in step["launches"]]
    first, *others, last = [launch["predicted_us"] for launch in step["launches"]]
    assert (names[0], names[-1]) == ("rows_kernel", "finish_kernel")
    assert first == 0 and min(others) > 0 and 1e3 * max(others) < last
    total = sum([first, *others, last]) + 2 * len(names)
    assert step["predicted_us"] == pytest.approx(total, abs=0.1)
    operations = 3 * 256 * 64 * 64 + 4 * 256 * 64 * 10
    expected = 1e6 * (operations / 48e12 + 20 * 256 * 64 / 4e12)
    assert step["floor_us"] == pytest.approx(expected, abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120, *AMD])
@pytest.mark.parametrize("version", [OLDER, triton.__version__])
def test_every_kernel_passes_the_gates(tmp_path, version, arch):
    assert_all_pass(gates(tmp_path, version, [arch], "--jobs=2"))
