"""Logging to TensorBoard: what is written, after an interruption too, and what without it."""

from __future__ import annotations

import sys

import pytest
import tiny
from click.testing import CliRunner

from drcl import DRCL
from drcl.cli import main
from drcl.train.tensorboard import tensorboard

TRAIN, VALIDATION = tiny.split(), tiny.split(seed=1, image=12, text=10)


def curves(folder):
    """Run -> name -> [(epoch, value)], as TensorBoard itself reads them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        reader = events.EventAccumulator(str(run)).Reload()
        found[run.name] = {
            name: [(event.step, event.value) for event in reader.Scalars(name)]
            for name in reader.Tags()["scalars"]
        }
    return found


def test_every_epoch_is_in_the_curves(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    model = DRCL(**tiny.SETTINGS).fit(TRAIN, VALIDATION, progress=False, log_dir=tmp_path)
    found = curves(tmp_path)
    assert set(found) == {"prior-image", "prior-text", "encoder-image", "encoder-text"}
    for run, names in found.items():
        phase, modality = run.split("-")
        history = [r for r in model.history if (r["phase"], r["modality"]) == (phase, modality)]
        for name, wanted in {
            "loss": [r["loss"] for r in history],
            "parts/J_L": [r["parts"]["J_L"] for r in history],
            "seconds/encoder": [r["time"]["encoder"] for r in history],
            "samples per second": [len(TRAIN[modality][1]) / r["seconds"] for r in history],
        }.items():
            assert [step for step, _ in names[name]] == [r["epoch"] for r in history]
            assert [value for _, value in names[name]] == pytest.approx(wanted, rel=1e-6)
        scores = {"prior": {"score"}, "encoder": {"validation_loss", "validation_map"}}[phase]
        assert scores == {name for name in names if name.startswith(("score", "validation"))}
    assert {"parts/J_L", "parts/J_D", "parts/J_MSE"} <= set(found["encoder-text"])


def test_epochs_that_are_trained_again_are_logged_once(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    record = {"phase": "prior", "modality": "text", "parts": {}, "time": {}}
    record |= {"samples": 10, "seconds": 1.0}
    for epochs, loss in ((range(4), 1.0), (range(2, 5), 2.0)):
        with tensorboard(tmp_path) as log:
            for epoch in epochs:
                log(record | {"epoch": epoch, "loss": loss})
    expected = [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert curves(tmp_path)["prior-text"]["loss"] == expected


def test_without_tensorboard_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = DRCL(**tiny.SETTINGS)
    with pytest.raises(ImportError, match=r"log_dir: logging needs .*pip install 'drcl\[log\]'"):
        model.fit(TRAIN, checkpoints=tmp_path / "c", progress=False, log_dir=tmp_path / "log")
    assert not list(tmp_path.iterdir()) and not model.modalities


def test_from_the_command_line(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    small = ["--dim", "16", "--hidden", "16", "--epochs", "2", "--prior-epochs", "1", "--no-report"]
    run, log = tmp_path / "run", tmp_path / "log"
    command = ["train", "synthetic", "--out", str(run), "--log-dir", str(log), *small]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found = curves(log)
    assert {name.split("-")[0] for name in found} == {"prior", "encoder"}
    assert all(len(names["loss"]) == (2 if "encoder" in run else 1) for run, names in found.items())
    assert "samples/s" in result.output  # the table of where the time went
