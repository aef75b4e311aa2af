"""The examples run as they are, and learn what they claim to."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_own_networks_find_each_other(capsys):
    pytest.importorskip("sklearn", reason="the pictures come with scikit-learn")
    runpy.run_path(str(EXAMPLES / "own_networks.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["DRCL.fit", "your own loop"]
    for line in lines:
        values = {name: float(value) for name, value in re.findall(r"'(\S+)': ([\d.]+)", line)}
        assert set(values) == {"picture->caption", "caption->picture", "mean"}
        # Ten equally frequent classes: a random order has an mAP of 0.1.
        assert min(values.values()) > 0.7
