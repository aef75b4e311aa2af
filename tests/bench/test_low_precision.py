"""The study of bfloat16 products in the loss, on sizes that cost nothing, and its tables."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from drcl.benchmarks.studies import low_precision, low_precision_tables
from drcl.benchmarks.suite import timing
from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.ops.top_k import multiplies_bfloat16


def test_parts_are_measured_once_and_become_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    monkeypatch.setattr(low_precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr("sys.argv", ["low_precision"])
    call = partial(low_precision.one_size, 40, 16, 3, rounds=2)
    maps = {"float32": [0.5, 0.7], "loss": [0.5, 0.75], "loss and networks": [0.45, 0.7]}
    parts = {"40 × 16": call, "some": lambda: {"set": "some", "mAP@all": maps}}
    monkeypatch.setattr(low_precision, "PARTS", parts)
    assert low_precision_tables.tables(tmp_path) == NOT_MEASURED
    before = torch.get_float32_matmul_precision()
    low_precision.main()
    assert torch.get_float32_matmul_precision() == before
    (path,) = tmp_path.glob("*/low_precision.json")
    first = path.read_text()
    low_precision.main()
    assert path.read_text() == first and "some: measured before" in capsys.readouterr().out
    row = json.loads(first)["rows"][0]
    assert row["errors"]["highest"][1] < 1e-6 and set(row["seconds"]) == {
        *("ours, highest", "ours, medium", "literal, highest", "literal, medium")
    }
    text = low_precision_tables.tables(tmp_path)
    assert f"| 40 × 16 | {torch.get_num_threads()} | " in text
    assert "| some | nothing | 2 | 0.6000 | | |" in text
    assert "| | loss | 2 | 0.6250 | +0.0250 | +0.0000, +0.0500 |" in text
    assert "| | loss and networks | 2 | 0.5750 | -0.0250 | -0.0500, +0.0000 |" in text


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")
def test_the_loss_follows_pytorchs_setting_within_its_bound() -> None:
    """Two in a thousand: and more than float32's error, so it was followed."""
    row = low_precision.one_size(300, 128, 5, rounds=1)
    assert row["errors"]["highest"][1] < 1e-6
    assert 1e-5 < row["errors"]["medium"][1] < 2e-3
