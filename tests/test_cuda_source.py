"""The CUDA sources compile for every architecture that is shipped, and no register is spilled."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90", "100"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source: Path, architecture: str, tmp_path: Path) -> None:
    if NVCC is None:
        pytest.skip("nvcc was not found")
    command = [
        NVCC,
        *("-O3", "-std=c++20", "-Xptxas", "-v", f"-arch=sm_{architecture}"),
        *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA", f"-I{CSRC}"),
        *(f"-I{path}" for path in include_paths()),
        *("-c", str(source), "-o", str(tmp_path / "object.o")),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    assert spills and set(spills) == {("0", "0")}
