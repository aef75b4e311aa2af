"""What runs on any device is run on one that is no CPU: see another_device.py.

In a process of its own: PyTorch takes one such device, and does not give it back.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this PyTorch takes no device that is written in Python", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(["functions", "large_rows", "rankings"], id="functions"),
        pytest.param(["training"], id="training", marks=pytest.mark.long),
    ],
)
def test_a_device_without_float64(parts):
    done = subprocess.run(
        [sys.executable, "device_scenario.py", *parts],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ran = dict(re.findall(r"^(\w+): (\d+) operations", done.stdout, re.M))
    assert list(ran) == parts and all(int(count) > 0 for count in ran.values()), done.stdout
