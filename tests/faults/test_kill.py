"""A training that is killed ends, once resumed, as if nothing had happened."""

from __future__ import annotations

import kill_resume
import pytest
from gloo import command, ended


def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    # Not a fork of this process: one with running threads is not safe to fork.
    process = command(["--kills", "6", "--seed", "1"], tmp_path, work=kill_resume.main)
    code, said = ended(process, 300), (tmp_path / "stdout").read_text()
    assert code == 0, said + (tmp_path / "stderr").read_text()
    assert "6 kills in" in said and said.rstrip().endswith("bit-identical")
