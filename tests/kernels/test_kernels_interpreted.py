"""Runs the kernels' tests under Triton's interpreter, on the CPU.

The interpreter has to be asked for before Triton is imported, hence a process of its own per file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
FILES = sorted(
    file
    for file in Path(__file__).parent.glob("test_kernels_*.py")
    if file.name != Path(__file__).name
)


# A minute of extremes, most of which the CPU's form has in common with the kernels'.
LONG = "test_kernels_numerics"


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=pytest.mark.long) if f.stem == LONG else f for f in FILES],
    ids=lambda file: file.stem,
)
def test_kernels_under_the_interpreter(file):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    # the warnings are NumPy's, about the infinities and NaN that the tests are about
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::RuntimeWarning"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=file.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
