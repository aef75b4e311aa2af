"""Features on a disk: they are trained on without being held in memory, and read without waste."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from drcl.storage.mmap import MappedRows

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="the system does not tell how memory is mapped"
)


def flags(file):
    """The kernel's flags of the memory that the file is mapped to."""
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
    (number,) = [i for i, text in enumerate(mappings) if str(file) in text]
    return mappings[number + 1].splitlines()[0].split()


def test_rows_here_and_there_are_read_without_reading_ahead(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(40_000, dtype=np.float32).reshape(100, 400))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = MappedRows(mapped)
    rows[torch.tensor([70, 3, 3])]
    assert "rr" in flags(tmp_path / "x.npy")  # random read advised
    rows[2:5]
    assert "rr" not in flags(tmp_path / "x.npy")


@pytest.mark.slow
def test_peak_memory_is_below_the_file():
    script = ROOT / "benchmarks" / "studies" / "out_of_core.py"
    command = [sys.executable, script, "--gigabytes", "1", "--limit", "0.9", "--hidden", "16"]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert float(told["gigabytes"]) > 0.99 and float(told["peak_resident_GB"]) < 0.9
