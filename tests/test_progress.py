"""Progress bars where tqdm is, and nothing where it is not."""

from __future__ import annotations

import io
import sys

import pytest
import tiny
from tqdm import tqdm

from drcl import DRCL
from drcl.progress import progress_bar, say


def test_a_bar_is_tqdm():
    screen = io.StringIO()
    with progress_bar(total=3, desc="rows", file=screen) as bar:
        assert isinstance(bar, tqdm)
        bar.update(3)
    assert "rows: 100%" in screen.getvalue()


def test_training_and_measuring_work_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it fails
    assert not isinstance(progress_bar(total=3), tqdm)
    part = tiny.split()
    model = DRCL(**{**tiny.SETTINGS, "epochs": 1, "prior_epochs": 1}).fit(part, progress=True)
    assert set(model.evaluate(part)) == {"mAP@all", "mAP@50"}
    assert capsys.readouterr() == ("", "")
    say("finishing the epoch")
    assert capsys.readouterr() == ("", "finishing the epoch\n")
