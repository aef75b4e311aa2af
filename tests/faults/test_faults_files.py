"""Full disks, folders that cannot be written, processes killed at any point: old or new, whole."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from fault_injection import (
    content,
    failing,
    in_child,
    killed_everywhere,
    no_space,
    partials,
    refused,
)

import drcl.ablate.study
import drcl.ablate.table
from drcl import DRCL, Config, Prior
from drcl.ablate import VARIANTS, ablate
from drcl.cli import main
from drcl.data import CrossModalDataset, Labelled
from drcl.run import Run, finish_run, open_run, start_run, update_run
from drcl.train import checkpoint
from drcl.train.tensorboard import tensorboard

METRICS = {"mAP@all": {"image->text": 0.5, "text->image": 0.25, "mean": 0.375}}
SMALL = ["--dim=16", "--hidden=16", "--epochs=2", "--prior-epochs=1", "--no-progress"]


@pytest.fixture(scope="module")
def models() -> tuple[DRCL, DRCL]:
    """An older and a newer model."""
    settings = {**tiny.SETTINGS, "epochs": 1, "prior_epochs": 1}
    old, new = (DRCL(**settings, seed=seed) for seed in (1, 2))
    return tuple(model.fit(tiny.split(image=20), progress=False) for model in (old, new))  # type: ignore[return-value]


def seed_of(folder: Path) -> int:
    """Which model the folder holds; it is read and checked as a whole."""
    return DRCL.load(folder).config.seed


def run_of(model: DRCL) -> Run:
    return Run("digits", None, ("a", "b", "c", "d"), model.config.to_dict())


def finished(folder: Path, model: DRCL, value: float) -> Path:
    """A run directory as ``drcl train`` leaves it; ``value`` is in its metrics."""
    start_run(folder, run_of(model), overwrite=True)
    finish_run(folder, run_of(model), model, {"mAP@all": {"mean": value}})
    return folder


def metrics_of(folder: Path) -> float:
    return json.loads((folder / "metrics.json").read_text())["mAP@all"]["mean"]


# --- killed at any point


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["", "SIGKILL"])
def really(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether processes are killed, which takes a minute, or it is only played."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # against power cuts: here it only takes time
    return request.param


def test_a_model_killed_anywhere_in_saving_is_old_or_new(models, tmp_path, really):
    old, new = models
    folder, seeds = tmp_path / "model", []

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return old.save(folder)

    for _ in killed_everywhere(prepare, new.save, really):
        seeds.append(seed_of(folder))
        new.save(folder)
        assert seed_of(folder) == 2 and not partials(folder)
    assert set(seeds) == {1, 2} and seeds == sorted(seeds)


def test_a_run_killed_anywhere_in_replacing_another_is_old_or_resumes(models, tmp_path, really):
    old, new = models
    folder, states = tmp_path / "run", []

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return finished(folder, old, 1.0)

    for _ in killed_everywhere(prepare, lambda folder: finished(folder, new, 2.0), really):
        try:
            seed = open_run(folder).settings["seed"]
        except FileNotFoundError as error:
            assert "was interrupted; finish it with" in str(error)
            states.append("interrupted")
        else:
            assert (seed_of(folder), metrics_of(folder)) == (seed, float(seed))
            states.append("old" if seed == 1 else "new")
        start_run(folder, run_of(new), resume=True, overwrite=states[-1] != "interrupted")
        finish_run(folder, run_of(new), new, {"mAP@all": {"mean": 2.0}})
        assert (open_run(folder).settings["seed"], seed_of(folder), metrics_of(folder)) == (2, 2, 2)
        assert not partials(folder) and not (folder / "checkpoints").exists()
    order = ["old", "interrupted", "new"]
    assert states == sorted(states, key=order.index) and set(states) == set(order)


def test_a_directory_killed_as_its_first_run_starts_is_taken_again(models, tmp_path, really):
    folder = tmp_path / "run"

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    for _ in killed_everywhere(
        prepare, lambda folder: start_run(folder, run_of(models[0])), really
    ):
        waits = (folder / "checkpoints" / "run.json").is_file()
        start_run(folder, run_of(models[0]), resume=waits)
        assert content(folder).keys() == {"checkpoints/run.json"}


def test_a_run_killed_anywhere_as_a_modality_is_added_stays_readable(models, tmp_path, really):
    old, new = models  # the newer one stands for the older with a modality more
    folder, states = tmp_path / "run", set()

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return finished(folder, old, 1.0)

    def add(folder: Path) -> None:
        update_run(folder, run_of(new), new, {"mAP@all": {"mean": 2.0}})

    for _ in killed_everywhere(prepare, add, really):
        state = open_run(folder).settings["seed"], seed_of(folder), int(metrics_of(folder))
        # What the metrics say is in the model, and what the model has is in run.json.
        assert sorted(state, reverse=True) == list(state)
        states.add(state)
    assert {(1, 1, 1), (2, 2, 2)} <= states


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """An ablation whose trainings are replaced by numbers."""
    pytest.importorskip("matplotlib", reason="a study needs matplotlib and scikit-learn")
    pytest.importorskip("sklearn", reason="a study needs matplotlib and scikit-learn")
    part = Labelled(np.eye(4, dtype=np.float32), np.arange(4))
    split = {"image": part, "text": part}
    data = CrossModalDataset("four", tuple("abcd"), split, split, split)
    priors = {name: Prior.orthogonal(8, 4, seed=1) for name in split}
    monkeypatch.setattr(drcl.ablate.study, "learn_all_priors", lambda *_: priors)
    monkeypatch.setattr(drcl.ablate.study, "train_variant", lambda *_: METRICS)
    monkeypatch.setattr(drcl.ablate.study, "BASELINES", {})
    monkeypatch.setattr(drcl.ablate.table, "draw", lambda _: b"picture")
    options: dict[str, Any] = {"seeds": 1, "variants": VARIANTS[:2], "progress": False}
    return lambda folder: ablate(data, Config(dim=8), folder, resume=True, **options)


def test_a_study_killed_anywhere_goes_on(study, tmp_path, really):
    study(tmp_path / "whole")
    whole, folder = content(tmp_path / "whole"), tmp_path / "study"
    assert "table.csv" in whole

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    for _ in killed_everywhere(prepare, study, really):
        left = {name: part for name, part in content(folder).items() if "partial" not in name}
        assert left.items() <= whole.items()
        study(folder)
        found = content(folder)
        assert {name: found[name] for name in whole} == whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the command line on generated data."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", "synthetic", "--out", str(folder), "--no-report", *SMALL]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def encode(run: Path, out: Path) -> list[str]:
    np.save(run / "x.npy", np.ones((3, DRCL.load(run).encoders["image"].in_features)))
    return ["encode", str(run), "image", str(run / "x.npy"), "--out", str(out), "--overwrite"]


def test_embeddings_killed_anywhere_in_writing_are_old_or_new(run, tmp_path, really):
    out, arguments = tmp_path / "out.npy", encode(run, tmp_path / "out.npy")
    main(arguments, standalone_mode=False)
    new, states = out.read_bytes(), []

    def prepare() -> None:
        out.write_bytes(b"old")

    for _ in killed_everywhere(prepare, lambda _: main(arguments, standalone_mode=False), really):
        assert out.read_bytes() in (b"old", new)
        states.append(out.read_bytes() == new)
    assert states == sorted(states) and len(set(states)) == 2


# --- full disks


def bench_results(folder: Path) -> None:
    from drcl.benchmarks.suite.results import Row, keep

    keep([Row("loss", {"B": len(content(folder)) + 1}, "", "drcl", device="cpu")], folder)


def report_of(folder: Path) -> None:
    for module in ("matplotlib", "jinja2", "sklearn"):
        pytest.importorskip(module)
    from drcl.report import ReportData, write_report

    x, y = np.eye(3, dtype=np.float32), np.arange(3)
    sets, ids = {"image": x, "text": x}, {"image": y, "text": y}
    title = f"after {len(content(folder))} files"
    history: dict[str, Any] = {"history": [], "curves": {}, "pictures": {}, "summary": {}}
    write_report(ReportData(title, METRICS, sets, ids, ("a", "b", "c"), **history), folder)


def writer(what: str, models: tuple[DRCL, DRCL], folder: Path) -> Callable[[], Any]:
    """Has an older content written; returns what would replace it."""
    old, new = models
    if what == "model":
        old.save(folder)
        return lambda: new.save(folder)
    if what == "run":
        finished(folder, old, 1.0)
        return lambda: finished(folder, new, 2.0)
    write = {"bench": bench_results, "report": report_of}[what]
    write(folder)
    return lambda: write(folder)


# Of the report only the last file: it is drawn anew each time.
@pytest.mark.parametrize("what, first", [("model", 0), ("run", 0), ("bench", 0), ("report", 2)])
def test_a_full_disk_at_any_write_leaves_the_old_content(what, first, models, tmp_path):
    write = writer(what, models, tmp_path)
    before = content(tmp_path)
    for number in itertools.count(first):
        with failing("write", number, no_space) as reached:
            try:
                write()
            except OSError as error:
                assert "cannot be written (No space left on device)" in str(error)
                assert str(tmp_path) in str(error)
        if not reached:
            break
        assert before.items() <= content(tmp_path).items() and not partials(tmp_path)
    assert number > first and not before.items() <= content(tmp_path).items()


def test_a_training_that_filled_the_disk_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("drcl.train.checkpoint.CHECKPOINT_SHARE", float("inf"))  # after every epoch

    def fit(folder: Path) -> DRCL:
        return DRCL(**tiny.SETTINGS).fit(tiny.split(), checkpoints=folder, progress=False)

    whole, folder = fit(tmp_path / "whole"), tmp_path / "c"
    for number in (0, 7, 4, 2):
        with (
            failing("write", number, no_space) as reached,
            pytest.raises(OSError, match=r"-(image|text)\.safetensors: cannot be written \(No sp"),
        ):
            fit(folder)
        assert reached and not partials(folder)
    resumed = fit(folder)
    for modality, encoder in whole.encoders.items():
        ours = resumed.encoders[modality].state_dict()
        assert all(torch.equal(value, ours[k]) for k, value in encoder.state_dict().items())


@pytest.mark.parametrize("number", [0, 4, 9])
def test_commands_name_the_file_and_the_reason(run, tmp_path, monkeypatch, number):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", math.inf)  # many writes
    before = content(run)
    arguments = ["train", "synthetic", "--out", run, "--overwrite", "--no-report", *SMALL]
    with failing("write", number, no_space) as reached:
        message = refused(*arguments, "--seed=7")
    assert reached and "cannot be written (No space left on device)" in message
    assert f"{run}/" in message and before.items() <= content(run).items()


def test_exports_name_the_file_and_the_reason(run, tmp_path):
    encoded, measured = tmp_path / "out.npy", tmp_path / "out.json"
    for out, arguments in (
        (encoded, encode(run, encoded)),
        (measured, ["evaluate", run, "--out", measured]),
    ):
        out.write_bytes(b"old")
        with failing("write", 0, no_space):
            message = refused(*arguments)
        assert f"{out}: cannot be written (No space left" in message
        assert out.read_bytes() == b"old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system can be mounted by root only, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_training_resumes_once_a_full_disk_has_room(small_disk):
    arguments = ["train", "synthetic", "--out", small_disk / "run", "--no-report", *SMALL[2:]]
    message = refused(*arguments, "--dim=128", "--hidden=64")
    assert ".safetensors: cannot be written (No space left on device)" in message
    assert not partials(small_disk)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resume = ["train", "synthetic", "--out", str(small_disk / "run"), "--no-report", "--resume"]
    done = CliRunner().invoke(main, resume)
    assert done.exit_code == 0, done.output
    assert DRCL.load(small_disk / "run").config.dim == 128


def test_a_log_that_cannot_be_written_ends_the_training(small_disk, capfd):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    record = {"phase": "prior", "modality": "text", "parts": {}, "samples": 10, "seconds": 1.0}
    record |= {"time": dict.fromkeys(map(str, range(99)), 1.0), "loss": 1.0}
    with (
        pytest.raises(OSError, match=r"disk: cannot be written \(No space left on device\)"),
        tensorboard(small_disk) as log,
    ):
        assert log is not None
        for epoch in range(1000):
            log(record | {"epoch": epoch})
    assert "Traceback" not in capfd.readouterr().err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(small_disk / "prior-text")).Reload()
    assert len(reader.Scalars("loss")) > 10


# --- folders that cannot be written


@pytest.fixture
def read_only(models: tuple[DRCL, DRCL], trained: Path) -> Iterator[Path]:
    """A folder with a model and a run, for others to read only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own are closed to others
        folder = Path(name)
        models[0].save(folder / "model")
        shutil.copytree(trained, folder / "run")
        np.save(folder / "x.npy", np.ones((3, 16)))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def test_a_read_only_folder_is_reported_and_unchanged(read_only, models):
    before = content(read_only)
    model, run = read_only / "model", read_only / "run"

    def as_nobody() -> None:
        if os.geteuid() == 0:  # whom no permission stops
            os.setuid(65534)
        for folder in (model, read_only / "other"):
            with pytest.raises(PermissionError, match=rf"{folder}.*") as caught:
                models[1].save(folder)
            assert "Permission denied" in str(caught.value)
        train = ["train", "synthetic", "--no-report", *SMALL]
        for arguments in (
            [*train, "--out", read_only / "new"],
            [*train, "--out", run, "--overwrite"],
            ["evaluate", run, "--out", run / "new.json"],
        ):
            message = refused(*arguments)
            assert f"{read_only}/" in message and "Permission denied" in message, message
        DRCL.load(model)

    assert in_child(as_nobody) == 0
    assert content(read_only) == before
