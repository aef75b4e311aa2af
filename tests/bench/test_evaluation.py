"""The study of what evaluation costs, on sizes that cost nothing, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drcl.benchmarks.studies import evaluation, evaluation_tables
from drcl.benchmarks.suite import timing
from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.workloads.ranking import Size

TINY = {
    "one pass": lambda: evaluation.one_pass(Size(12, 60, 8, 3), rounds=2),
    "codes": lambda: evaluation.hamming(evaluation.Codes(12, 60, 16, 3), 2, looped=3, averaged=6),
    "batches": lambda: evaluation.streaming(evaluation.Batches(5, 3_000, 64, 100, 2**20)),
}


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    monkeypatch.setattr(evaluation, "PARTS", TINY)
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_parts_are_measured_once_and_become_tables(root, monkeypatch, capsys):
    assert evaluation_tables.table(root) == NOT_MEASURED
    stopped = {**TINY, "batches": lambda: pytest.fail("stopped")}
    monkeypatch.setattr(evaluation, "PARTS", stopped)
    with pytest.raises(pytest.fail.Exception):
        evaluation.main([])
    (path,) = root.glob("*/evaluation.json")
    before = json.loads(path.read_text())["rows"]
    assert [row["part"] for row in before] == ["one pass", "codes"]

    monkeypatch.setattr(evaluation, "PARTS", TINY)
    evaluation.main([])
    assert "codes: measured before" in capsys.readouterr().out
    *same, batches = json.loads(path.read_text())["rows"]
    assert same == before
    assert batches["compute_bytes"] > 0
    assert same[0]["measures"] == 4 * (4 + 11) + 1 + 5
    assert same[1]["shares"] == {
        "hamming_metrics": 1.0,
        "±1 floats, ties averaged": 0.5,
        "loops of released code": 0.25,
    }
    text = evaluation_tables.table(root)
    assert "| 12 × 60, D = 8 | mAP alone | " in text
    assert "(from 25.0% of it)" in text
    assert "| 3,000 | 1 MiB | 1 MiB | 0 MiB | " in text


def test_a_form_that_finds_something_else_gets_no_time(monkeypatch):
    monkeypatch.setattr(evaluation, "released_loops", lambda *sides: np.full(8, 0.5))
    with pytest.raises(SystemExit, match="AP of the loops: expected 1e-12 at most"):
        TINY["codes"]()
    monkeypatch.setattr(evaluation, "area", lambda scores, relevant: torch.tensor(torch.nan))
    with pytest.raises(SystemExit, match="AUROC: expected 1e-06 at most"):
        TINY["one pass"]()


def test_the_loops_of_released_code_by_hand():
    """Distances 0, 1 and 2; the first and the last are relevant."""
    gallery = np.array([[1, 1], [1, -1], [-1, -1]], dtype=np.float32)
    rows = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    found = evaluation.released_loops(gallery[:1], gallery, rows[:1], rows)
    np.testing.assert_allclose(found, [(1 + 2 / 3) / 2], rtol=1e-15)


def test_time_of_a_share_is_scaled_to_the_whole(monkeypatch):
    monkeypatch.setattr(timing, "seconds_of", lambda call, device: call())
    found = evaluation.in_turns({"a": lambda: 2.0, "b": lambda: 1.0}, 3, {"b": 0.25})
    assert found["seconds"] == {"a": 2.0, "b": 4.0}
