"""Whole trainings in several processes give what one gives, also after one was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist
from click.testing import CliRunner
from gloo import ROOT, command, ended, on_ranks, process_group
from torch import Tensor, nn

from drcl import DRCL, Prior
from drcl.cli import main
from drcl.cli.launch import processes_for
from drcl.encoder import Encoder
from drcl.model_files import read_model
from drcl.train.loop import Outcome
from drcl.train.parallel import assign, spread

# Counts that 2 and 4 ranks cannot share evenly, last batches that are smaller, and one (of two
# rows) that leaves ranks without any.
TRAIN = tiny.split(image=43, text=34, audio=26)
VALIDATION = tiny.split(seed=1, image=18, text=13)
TEST = tiny.split(seed=2, image=25, text=21, audio=19)
RUNS = ("modality", "data", "data in float64", "data from a disk")


class Double(nn.Module):
    """An encoder in float64: what differs by more than its rounding is a mistake."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        torch.manual_seed(tiny.WIDTHS[modality])
        self.encoder = Encoder(tiny.WIDTHS[modality], dim=8, hidden=(12,)).double()

    def forward(self, features: Tensor) -> Tensor:
        return self.encoder(features.double())


def fitted(run: str, folder: Path, parallel: bool) -> DRCL:
    """The model that a run trains, with ``parallel`` on this process's ranks."""
    settings: dict[str, Any] = {**tiny.SETTINGS, "dim": 8, "hidden": (12,)}
    networks, prior, train, mode = {}, None, dict(TRAIN), run.split()[0]
    if run == "data in float64":
        networks = {modality: Double(modality) for modality in TRAIN}
        prior = Prior(Prior.orthogonal(8, 4, norm=2.0).weight.double())  # one's W is float32
    if run == "data from a disk":
        file = folder / f"{os.getpid()}.npy"
        np.save(file, TRAIN["image"][0])
        train["image"] = (np.load(file, mmap_mode="r"), TRAIN["image"][1])
    model = DRCL(networks=networks, **settings)
    return model.fit(
        train, VALIDATION, prior=prior, progress=False, parallel=mode if parallel else None
    )


def numbers(model: DRCL) -> dict[str, Tensor]:
    """All that a training makes, and the mAP that it leads to."""
    found = {"prior": model.prior.weight}
    for modality, encoder in model.encoders.items():
        found |= {f"{modality}.{name}": value for name, value in encoder.state_dict().items()}
    for record in model.history:
        where = f"{record['phase']} {record['modality']} {record['epoch']}"
        for name in ("loss", "score", "validation_loss", "validation_map", "kept"):
            if name in record:
                found[f"{where} {name}"] = torch.tensor(float(record[name]), dtype=torch.float64)
    group = dist.group.WORLD if dist.is_initialized() else None
    for measure, values in model.evaluate(TEST, process_group=group).items():
        found |= {f"{measure} {pair}": torch.tensor(value) for pair, value in values.items()}
    return found


def on_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank, world, folder):
        for run in RUNS:
            torch.save(numbers(fitted(run, Path(folder), True)), f"{folder}/{rank} {run}.pt")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run -> what each rank ended with."""
    folder, world = tmp_path_factory.mktemp(f"world-{request.param}"), request.param
    on_ranks(on_rank, world, world, str(folder))
    return {
        run: [torch.load(folder / f"{rank} {run}.pt", weights_only=True) for rank in range(world)]
        for run in RUNS
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Run -> what one process ends with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world-1")
    results = {run: numbers(fitted(run, folder, False)) for run in RUNS}
    torch.set_num_threads(threads)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_all_ranks_end_with_the_same_model(found, run):
    first, *others = found[run]
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.slow
def test_modalities_in_several_processes_are_bit_identical_to_one(found, expected):
    ours, single = found["modality"][0], expected["modality"]
    assert list(ours) == list(single)
    assert [name for name in single if not torch.equal(ours[name], single[name])] == []


@pytest.mark.slow
def test_slices_in_float64_train_as_one_process(found, expected):
    # Sums in another order differ in the last of 16 digits. Adam divides gradients by their own
    # size, however small, but what 18 steps make of it stays far below this.
    compare(found["data in float64"][0], expected["data in float64"], rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["data", "data from a disk"])
def test_slices_in_float32_train_as_one_process(found, expected, run):
    # The same in 7 digits. A step of Adam is about lr = 5e-3 even for a gradient that is all
    # rounding, so a weight without influence may be some 1e-3 off; losses and mAP are not.
    ours, single = found[run][0], expected[run]
    losses = {name: value for name, value in single.items() if name.endswith("loss")}
    compare({name: ours[name] for name in losses}, losses, rtol=1e-3, atol=1e-4)
    maps = {name: value for name, value in single.items() if name.startswith("mAP")}
    compare({name: ours[name] for name in maps}, maps, rtol=0, atol=5e-3)


def compare(ours: dict[str, Tensor], single: dict[str, Tensor], rtol: float, atol: float) -> None:
    assert list(ours) == list(single)
    for name, value in single.items():
        torch.testing.assert_close(
            ours[name], value, rtol=rtol, atol=atol, msg=lambda text, at=name: f"{at}: {text}"
        )


# --- on the command line

RUN = ["synthetic", "--dim=16", "--hidden=24", "--epochs=4", "--prior-epochs=3", "--batch-size=512"]
RUN += ["--no-report", "--no-progress", "--device=cpu"]
BY_MODALITY = ["train", *RUN, "--parallel=modality"]

# Ends a rank in the middle of a step (or, with modalities, of an epoch) that is counted from the
# start of its process.
WITH_KILLS = """
import math, os, signal
from drcl.cli import main
from drcl.train import checkpoint, loop, ranks

kills = {kills}  # restart -> (rank, call)
checkpoint.CHECKPOINT_SHARE = math.inf  # save after every epoch
calls = 0

def counted(call):
    def wrapper(*arguments):
        global calls
        calls += 1
        if kills.get(os.environ["TORCHELASTIC_RESTART_COUNT"]) == (os.environ["RANK"], calls):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapper

{owner}.{method} = counted({owner}.{method})
main()
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [*launcher, "--nproc-per-node=2", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def weights(folder: Path) -> dict[str, Tensor]:
    stored = read_model(folder, {})
    found = {"prior": stored.prior.weight}
    for modality, encoder in stored.encoders.items():
        found |= {f"{modality}.{name}": value for name, value in encoder.state_dict().items()}
    return found


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a single process with one thread."""
    folder = tmp_path_factory.mktemp("one") / "run"
    process = command(["train", *RUN, "--out", str(folder)], folder.parent)
    assert ended(process) == 0, (folder.parent / "stderr").read_text()
    return folder


@pytest.mark.slow
def test_modality_processes_are_started_and_end_as_one_process(one_process, tmp_path):
    done = command([*BY_MODALITY, "--out", str(tmp_path / "run")], tmp_path, threads=2)
    assert ended(done) == 0, (tmp_path / "stderr").read_text()
    assert (tmp_path / "stdout").read_text().count("settings: ") == 1
    assert same_weights(tmp_path / "run", one_process)
    assert (tmp_path / "run/metrics.json").read_bytes() == (
        one_process / "metrics.json"
    ).read_bytes()


@pytest.mark.slow
def test_the_error_of_one_process_is_shown_once(tmp_path):
    arguments = [*BY_MODALITY, "--lr=text=1e30", "--out", str(tmp_path / "run")]
    done = command(arguments, tmp_path, threads=2)
    assert ended(done) == 1
    said = (tmp_path / "stderr").read_text()
    assert said.count("encoder text") == 1 and "Traceback" not in said, said


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes(tmp_path):
    arguments = [*BY_MODALITY, "--epochs=100000", "--out", str(tmp_path / "run")]
    process = command(arguments, tmp_path, threads=2)
    for _ in range(600):  # until both train their encoder
        time.sleep(0.1)
        if len(list((tmp_path / "run/checkpoints").glob("encoder-*.safetensors"))) == 2:
            break
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert ended(process, 60) == 130
    assert "--parallel modality --resume" in (tmp_path / "stderr").read_text()


@pytest.mark.long
def test_killed_modality_processes_end_as_one_process(one_process, tmp_path):
    kills = {"0": ("1", 2), "1": ("0", 3)}
    script = tmp_path / "script.py"
    script.write_text(WITH_KILLS.format(kills=kills, owner="loop.Training", method="begin_epoch"))
    out = ["--out", str(tmp_path / "run")]
    done = torchrun("--max-restarts=2", str(script), "train", *RUN, "--parallel=modality", *out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("settings: ") == 3, "two restarts"
    assert same_weights(tmp_path / "run", one_process)


@pytest.mark.long
def test_killed_ranks_resume_to_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    outcome = {}
    for name, kills in {"whole": {}, "killed": {"0": ("1", 17), "1": ("0", 12)}}.items():
        method = "sum_gradients"
        script.write_text(WITH_KILLS.format(kills=kills, owner="ranks.Ranks", method=method))
        out = ["--out", str(tmp_path / name)]
        done = torchrun("--max-restarts=2", str(script), "train", *RUN, "--parallel=data", *out)
        assert done.returncode == 0, done.stderr
        outcome[name] = done.stdout.count("settings: ")
    assert outcome == {"whole": 1, "killed": 3}, "two restarts"
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_slices_need_torchrun(tmp_path):
    arguments = ["train", *RUN, "--parallel=data", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "torchrun" in result.output


def test_several_processes_need_to_be_told_what_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(main, ["train", *RUN, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and "--parallel" in result.output


def test_a_restart_after_the_end_leaves_the_run_as_it_is(tmp_path, monkeypatch):
    """Of what the launcher starts again because a process was lost on its way out."""
    out = ["--out", str(tmp_path / "run")]
    train = ["train", *RUN, "--epochs=2", "--prior-epochs=1", *out]
    runner = CliRunner()
    assert runner.invoke(main, train).exit_code == 0
    assert "holds a finished run" in runner.invoke(main, train).output, "no restart"
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    resumed = ["train", "synthetic", *out, "--resume", "--no-progress"]
    for again in (train, resumed):
        result = runner.invoke(main, again)
        assert result.exit_code == 0, result.output
        assert "the run is finished" in result.output
    other = runner.invoke(main, [*train, "--seed=1"])
    assert other.exit_code == 1 and "holds a finished run" in other.output
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == written
    again = runner.invoke(main, [*train, "--overwrite"])
    assert again.exit_code == 0 and "settings: " in again.output, "asked to be trained again"


# --- pieces


def test_the_costliest_modalities_are_spread_first():
    costs = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0}
    assert assign(costs, 2) == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert assign(costs, 1) == dict.fromkeys(costs, 0)
    assert sorted(assign(costs, 9).values()) == [0, 1, 2, 3]


def test_processes_are_no_more_than_modalities_or_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert processes_for(2, "cpu") == 2
    assert processes_for(5, "cpu") == 3


def test_without_ranks_everything_is_trained_here():
    outcomes = {"a": Outcome({}, 1.0, []), "b": Outcome({}, 2.0, [])}

    def train(modalities: list[str]) -> dict[str, Outcome]:
        return {modality: outcomes[modality] for modality in modalities}

    assert spread({"a": 1.0, "b": 2.0}, train, None) == outcomes


@pytest.mark.parametrize("parallel", ["modality", "data"])
def test_fit_in_parallel_needs_a_process_group(parallel):
    with pytest.raises(ValueError, match="torchrun"):
        DRCL(**tiny.SETTINGS).fit(TRAIN, progress=False, parallel=parallel)


def test_an_unknown_way_to_be_parallel_is_refused():
    with pytest.raises(ValueError, match="parallel: expected"):
        DRCL(**tiny.SETTINGS).fit(TRAIN, progress=False, parallel="batch")  # type: ignore[arg-type]
