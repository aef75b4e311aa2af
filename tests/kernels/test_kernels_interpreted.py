"""Runs the kernels' tests under Triton's interpreter, on the CPU.

The interpreter has to be asked for before Triton is imported, hence a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
HERE = Path(__file__)
# A minute of extremes, most of which the CPU's form has in common with the kernels'.
LONG = HERE.with_name("test_kernels_numerics.py")
FILES = sorted({*HERE.parent.glob("test_kernels_*.py")} - {HERE, LONG})


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [pytest.param(FILES, id="all"), pytest.param([LONG], id="extremes", marks=pytest.mark.long)],
)
def test_kernels_under_the_interpreter(files):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    # the warnings are NumPy's, about the infinities and NaN that the tests are about
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::RuntimeWarning"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=HERE.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
