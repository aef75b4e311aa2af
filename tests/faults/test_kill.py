"""A training that is killed ends, once resumed, as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_resume.py")


def test_a_killed_training_resumes_to_the_same_bits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    # The interpreter is a fresh one: a process with running threads is not safe to fork.
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "6", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills in" in done.stdout and done.stdout.rstrip().endswith("bit-identical")
