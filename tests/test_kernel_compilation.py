"""Compile gates: every kernel as it is launched, for several GPUs and two Tritons, without a GPU.

A first pass takes every kernel for sm_90 with the Triton that is installed, those of the headline
shapes with the Triton that comes with PyTorch 2.11, and the products on the other architectures,
where other instructions are chosen. All of them for all is a long test.
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
ROOT = Path(__file__).resolve().parents[1]
OLDER = "3.6.0"
PRODUCTS = ["--kernel=product_kernel", "--kernel=symmetric_kernel", "--problem=*2048 C=10*"]
HEADLINES = ["--problem=1024×2048 C=10", "--problem=8192×2048 C=10"]


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


def gates(folder: Path, version: str, archs: list[int], *only: str) -> list[dict]:
    table = folder / "gates.json"
    command = [sys.executable, "-m", "drcl.benchmarks.gates", f"--python={python_with(version)}"]
    run_alone([*command, *(f"--arch={arch}" for arch in archs), f"--json={table}", *only], table)
    rows = json.loads(table.read_text("utf-8"))
    assert {row["triton"] for row in rows} == {version}
    assert {row["arch"] for row in rows} == set(archs)
    return rows


def assert_all_pass(rows: list[dict]) -> None:
    broken = [
        f"{row['kernel']} {row['label']} sm_{row['arch']}: {problem}"
        for row in rows
        for problem in row["problems"]
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_every_kernel_passes_the_gates_for_sm_90(tmp_path):
    rows = gates(tmp_path, triton.__version__, [90])
    sources = [path.read_text("utf-8") for path in (ROOT / "kernels").rglob("*.py")]
    kernels = {name for text in sources for name in re.findall(r"^def (\w+_kernel)\(", text, re.M)}
    assert {row["kernel"] for row in rows} == kernels, "a problem has to launch every kernel"
    assert_all_pass(rows)


@pytest.mark.slow
def test_headline_kernels_pass_the_gates_with_the_older_triton(tmp_path):
    assert_all_pass(gates(tmp_path, OLDER, [90], *HEADLINES))


@pytest.mark.slow
def test_products_pass_the_gates_on_other_architectures(tmp_path):
    # sm_100 and sm_120 are left to the long form, which they do not pass yet: operands of tcgen05
    # collide, and products in bf16 need more shared memory than sm_120 has
    rows = gates(tmp_path, triton.__version__, [80], *PRODUCTS)
    fast = {row["precision"] for row in rows} - {"ieee"}
    assert {"tf32", "bf16"} <= fast
    assert_all_pass(rows)


@pytest.mark.slow
def test_model_predicts_every_launch_of_a_step(tmp_path):
    """The sum with gaps, the floor from its formula, and factors of a card taken into account."""
    steps = []
    factors = tmp_path / "factors.json"
    factors.write_text(json.dumps({"rows_kernel": 3.0}), "utf-8")
    for more in ([], [f"--factors={factors}"]):
        table = tmp_path / "predicted.json"
        command = [sys.executable, "-m", "drcl.benchmarks.gates.model", "--shape=256,64,10"]
        run_alone([*command, f"--json={table}", *more], table)
        steps += json.loads(table.read_text("utf-8"))["steps"]
    plain = steps[0]
    assert plain["launches"][0]["kernel"] == "rows_kernel"
    times = [[launch["predicted_us"] for launch in step["launches"]] for step in steps]
    assert min(times[0]) > 0
    assert times[1][0] == pytest.approx(3 * times[0][0], rel=0.01) and times[1][1:] == times[0][1:]
    assert plain["predicted_us"] == pytest.approx(sum(times[0]) + 2 * len(times[0]), abs=0.1)
    operations = 3 * 256 * 64 * 64 + 4 * 256 * 64 * 10
    expected = 1e6 * (operations / 48e12 + 20 * 256 * 64 / 4e12)
    assert plain["floor_us"] == pytest.approx(expected, abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
@pytest.mark.parametrize("version", [OLDER, triton.__version__])
def test_every_kernel_passes_the_gates(tmp_path, version, arch):
    assert_all_pass(gates(tmp_path, version, [arch], "--jobs=2"))
