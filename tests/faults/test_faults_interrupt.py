"""Ctrl-C by real signals: once ends the epoch and saves, twice stops at once; exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from fault_injection import content, partials
from gloo import ROOT, command, ended

from drcl import DRCL
from drcl.cli import main
from drcl.compare.fitted import Fitted, Method
from drcl.storage.sealed import read_tensors

RUN = ["synthetic", "--dim=16", "--hidden=24", "--epochs=4", "--prior=orthogonal", "--device=cpu"]
RUN += ["--batch-size=512", "--no-report", "--no-progress"]

# Imported by every Python process that has this folder on its path. The second epoch lasts until a
# file tells it to end, and says in another that it has begun.
SLOW = """
import os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
if "RANK" in os.environ or "--parallel=modality" not in sys.argv:
    from drcl.train import loop
    real = loop.Training.begin_epoch
    def begin_epoch(training):
        real(training)
        if training.epoch == 1:
            (folder / f"begun-{os.getpid()}").touch()
            while not (folder / "go on").exists():
                time.sleep(0.01)
    loop.Training.begin_epoch = begin_epoch
"""


def start(folder: Path, *options: str) -> BaseProcess:
    """``drcl train`` in a process group of its own, as in a terminal."""
    (folder / "sitecustomize.py").write_text(SLOW)
    return command(["train", *RUN, "--out", str(folder / "run"), *options], folder, threads=2)


def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    ends = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < ends, "nothing happened for a minute"
        time.sleep(0.02)


def begun(folder: Path) -> list[int]:
    return [int(file.name.split("-")[1]) for file in folder.glob("begun-*")]


def ctrl_c(process: BaseProcess) -> None:
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGINT)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def epochs(folder: Path) -> dict[str, int]:
    """What the checkpoints hold; each is read and checked as a whole."""
    files = (folder / "run" / "checkpoints").glob("*.safetensors")
    return {file.stem: read_tensors(file)[1]["epoch"] for file in files}


def said(folder: Path) -> str:
    return (folder / "stderr").read_text()


def heard(folder: Path, times: int) -> bool:
    """Whether so many processes have heard of the first Ctrl-C."""
    return said(folder).count("Ctrl-C again stops at once") == times


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_one_ctrl_c_ends_the_epoch_and_two_stop_at_once(tmp_path, processes):
    options = ["--parallel=modality"] if processes > 1 else []
    process = start(tmp_path, *options)
    until(lambda: len(begun(tmp_path)) == processes)
    ctrl_c(process)
    until(lambda: heard(tmp_path, processes))
    assert process.is_alive()  # the epoch goes on
    before = content(tmp_path / "run")
    ctrl_c(process)
    assert ended(process, 30) == 130
    told = said(tmp_path)
    assert "interrupted; " in told and "--resume" in told and "Traceback" not in told
    until(lambda: not any(map(is_running, begun(tmp_path))), 10.0)
    assert content(tmp_path / "run") == before and not partials(tmp_path)

    for file in tmp_path.glob("begun-*"):
        file.unlink()
    process = start(tmp_path, "--resume", *options)
    until(lambda: len(begun(tmp_path)) == processes)
    ctrl_c(process)
    until(lambda: heard(tmp_path, processes))
    (tmp_path / "go on").touch()
    assert ended(process, 60) == 130
    assert "interrupted; continue with: drcl train" in said(tmp_path)
    found = epochs(tmp_path)
    assert len(found) == processes and set(found.values()) == {2} and not partials(tmp_path)

    if processes == 1:
        arguments = ["train", *RUN, "--out", str(tmp_path / "run"), "--resume"]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        model = DRCL.load(tmp_path / "run")
        assert len(model.history) == 2 * 4 and torch.isfinite(model.prior.weight).all()


# Ctrl-C comes when the command begins to import a module.
AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["CTRL_C_AT"]:
            signal.raise_signal(signal.SIGINT)
if "CTRL_C_AT" in os.environ:
    sys.meta_path.insert(0, Finder())
"""
# What the script that pip installs does.
SCRIPT = "import sys\nfrom drcl.cli import main\nsys.exit(main())\n"


@pytest.mark.parametrize(
    "moment",
    [
        "torch",
        "torch._C",
        "drcl.functional",
        pytest.param("drcl.cli.train", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("way", ["drcl", "-m"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(
    tmp_path: Path, moment: str, way: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    (tmp_path / "drcl").write_text(SCRIPT)
    started = ["-m", "drcl"] if way == "-m" else [str(tmp_path / "drcl")]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *started, "info"],
        env={**os.environ, "CTRL_C_AT": moment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


def test_ctrl_c_while_the_library_is_imported_is_an_exception(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    script = "try:\n    import drcl\nexcept KeyboardInterrupt:\n    print('caught')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "CTRL_C_AT": "torch",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "caught")


def interrupted() -> None:
    raise KeyboardInterrupt


def interrupted_in_a_library() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


@pytest.mark.parametrize("name", sorted(main.commands))
@pytest.mark.parametrize("work", [interrupted, interrupted_in_a_library])
def test_every_command_ends_in_one_line(
    name: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(main.commands, name, click.Command(name, callback=work))
    done = CliRunner().invoke(main, [name])
    assert (done.exit_code, done.output.strip()) == (130, "interrupted")


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("study", ["compare", "ablate"])
def test_an_interrupted_study_says_what_is_there(
    study: str, finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []

    def fit(*_: object) -> Any:
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(None)
        return Fitted(lambda _, x: x[:, :4], "nothing") if study == "compare" else {}

    method = Method("A", fit)
    monkeypatch.setattr(sys.modules["drcl.cli.compare"], "METHODS", {"a": method, "b": method})
    monkeypatch.setattr("drcl.ablate.study.train_variant", fit)
    monkeypatch.setattr("drcl.ablate.study.Study.priors", lambda *_: {})
    monkeypatch.setattr("drcl.ablate.study.Study.baselines", lambda *_: ({}, {}, {}))
    out = tmp_path / "study"
    options = ["--methods", "a,b"] if study == "compare" else []
    done = CliRunner().invoke(main, [study, "digits", "--out", str(out), "--no-progress", *options])
    again = "the same command" + (" with --resume" if study == "ablate" else "")
    said = {
        0: f"interrupted before the first result; {again} starts over",
        1: f"interrupted; 1 result is in {out}, {again} goes on",
        2: f"interrupted; 2 results are in {out}, {again} goes on",
    }
    assert done.exit_code == 130 and done.output.splitlines()[-1] == said[finished]
