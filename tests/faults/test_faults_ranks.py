"""An error on one of several processes ends all of them, soon, and each says what it knows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fault_injection import in_child
from gloo import process_group
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from drcl import DRCL
from drcl.distributed import RankFailed, all_gather_int
from drcl.encoder import Encoder
from drcl.metrics import retrieval_metrics

SETTINGS: dict[str, Any] = {**tiny.SETTINGS, "dim": 8, "hidden": (12,)}
LIMIT = 40.0  # seconds for all that two ranks do here; a rank that waits would take a minute


class Failing(nn.Module):
    """An encoder that fails on one rank, in a forward pass that is counted."""

    def __init__(self, width: int, rank: int, call: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.encoder = Encoder(width, dim=8, hidden=(12,))
        self.rank, self.call, self.calls = rank, call, [0]

    def forward(self, features: Tensor) -> Tensor:
        self.calls[0] += 1
        if self.calls[0] == self.call and torch.distributed.get_rank() == self.rank:
            raise FloatingPointError("the network's own error")
        return self.encoder(features)


def fit(parallel: str, networks: dict[str, nn.Module] | None = None, **options: Any) -> DRCL:
    options = {"train": tiny.split(), "validation": tiny.split(seed=1, image=12), **options}
    model = DRCL(networks=networks, **SETTINGS)
    return model.fit(progress=False, parallel=parallel, **options)


def rank_with_nan(rank: int, folder: Path) -> None:
    x, labels = torch.ones(6, 3), torch.arange(6) % 2
    gallery = x.clone()
    if rank == 1:
        gallery[4, 1] = torch.nan
    group = torch.distributed.group.WORLD
    retrieval_metrics(x, gallery, labels, labels, process_group=group)


def labels_of_another_length(rank: int, folder: Path) -> None:
    x, labels = torch.ones(6, 3), torch.arange(6) % 2
    group = torch.distributed.group.WORLD
    retrieval_metrics(x, x, labels, labels[: 6 - rank], process_group=group)


def relevance_that_fails(rank: int, folder: Path) -> None:
    def relevance(rows: Tensor) -> Tensor:
        if rank == 1:
            raise KeyError("no such caption")
        return torch.ones(len(rows), 6, dtype=torch.bool)

    x, group = torch.ones(6, 3), torch.distributed.group.WORLD
    retrieval_metrics(x, x, relevance=relevance, process_group=group)


def network_in_a_step(rank: int, folder: Path) -> None:
    fit("data", {"image": Failing(8, rank=1, call=4)})


def network_in_a_judgement(rank: int, folder: Path) -> None:
    # A step sees 8 of a batch's 16 rows, an epoch has 3 steps, and then comes the judgement.
    fit("data", {"text": Failing(5, rank=1, call=3)})


def features_that_vanish(rank: int, folder: Path) -> None:
    features, labels = tiny.samples("image", 40)
    np.save(folder / f"{rank}.npy", features)
    mapped = np.load(folder / f"{rank}.npy", mmap_mode="r")
    if rank == 1:
        os.truncate(folder / f"{rank}.npy", 300)
    fit("data", train={"image": (mapped, labels)}, validation=None)


def checkpoints_in_no_folder(rank: int, folder: Path) -> None:
    (folder / "file").touch()
    fit("data", checkpoints=folder / "file" / "below")


def one_modality(rank: int, folder: Path) -> None:
    fit("modality", {"image": Failing(8, rank=1, call=2), "text": Failing(5, rank=1, call=2)})


# What is done on both ranks, the error of rank 1 (or 0), and part of its message.
CASES: dict[str, tuple[Callable[[int, Path], Any], int, str]] = {
    "a piece of the gallery with NaN": (rank_with_nan, 1, "gallery: row 4 holds NaN"),
    "labels of another length": (labels_of_another_length, 1, "gallery_labels: expected 6"),
    "relevance that fails": (relevance_that_fails, 1, "no such caption"),
    "a network in a step": (network_in_a_step, 1, "the network's own error"),
    "a network in a judgement": (network_in_a_judgement, 1, "the network's own error"),
    "features that vanish": (features_that_vanish, 1, "1.npy: the mapped file has become shorter"),
    "checkpoints in no folder": (checkpoints_in_no_folder, 0, "below/prior-image.safetensors: can"),
    "one modality": (one_modality, 1, "the network's own error"),
}


def on_rank(rank: int, folder: Path) -> None:
    said = []
    with process_group(rank, 2, folder):
        for name, (work, _, _) in CASES.items():
            began = time.monotonic()
            try:
                work(rank, folder)
                said.append(f"{name}: nothing")
            except Exception as error:
                took = "" if time.monotonic() - began < LIMIT else ", late"
                said.append(f"{name}: {type(error).__name__}{took}: {error}")
        # Nobody is behind in an exchange: the group can be used again.
        assert all_gather_int(rank, torch.distributed.group.WORLD) == [0, 1]
        assert len(fit("data").history) == 2 * (6 + 5)
        (folder / f"{rank}.txt").write_text("\n".join(said).replace("\n\n", "\n"))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What every rank said in every case, by its name."""
    folder = tmp_path_factory.mktemp("ranks")

    def both() -> None:
        other = os.fork()
        code = 0
        try:
            torch.set_num_threads(1)
            on_rank(1 if other == 0 else 0, folder)
        except BaseException as error:
            os.write(2, repr(error).encode())
            code = 1
        if other == 0:
            os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
        assert (code, status) == (0, 0)

    assert in_child(both, limit=120.0) == 0
    lines = [(folder / f"{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    found = [
        {name: line for line in own for name in CASES if line.startswith(name + ":")}
        for own in lines
    ]
    return [{name: line[len(name) + 2 :] for name, line in own.items()} for own in found]


@pytest.mark.parametrize("case", CASES)
def test_an_error_on_one_rank_ends_all(said, case):
    _, failing, message = CASES[case]
    ours, other = said[failing][case], said[1 - failing][case]
    assert message in ours and not ours.startswith(RankFailed.__name__)
    assert other.startswith(RankFailed.__name__) and f"rank {failing} " in other
    assert ", late" not in ours + other


# --- workers of a DataLoader


class Dying(Dataset[tuple[Tensor, int]]):
    """Samples; whoever reads the 20th of the second pass is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 20:
            if (self.folder / "seen").exists():
                time.sleep(0.5)  # until it is waited for
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / "seen").touch()
        return torch.full((8,), float(index)), index % 3


def test_a_lost_worker_of_a_loader_is_named(tmp_path):
    loader = DataLoader(Dying(tmp_path), batch_size=8, num_workers=1)
    train = {"text": tiny.samples("text", 30), "image": loader}

    def fit_all() -> None:
        try:
            DRCL(**SETTINGS).fit(train, progress=False)
        except RuntimeError as error:  # PyTorch's handler of SIGCHLD may raise it once more
            (tmp_path / "said").write_text(str(error))
            os._exit(0)

    assert in_child(fit_all) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith("train image: a worker of its DataLoader was lost ("), said


# --- a process of a training


RUN = ["synthetic", "--dim=16", "--hidden=24", "--epochs=3", "--prior-epochs=2", "--batch-size=512"]
RUN += ["--no-report", "--no-progress", "--device=cpu", "--parallel=modality"]

# Imported by every Python process that has this folder on its path: the second rank is killed.
KILL_ONE = """
import os, signal
if os.environ.get("RANK") == "1":
    from drcl.train import loop
    real = loop.Training.begin_epoch
    def begin_epoch(training):
        real(training)
        if training.epoch == 1 and training.phase.name == "encoder":
            os.kill(os.getpid(), signal.SIGKILL)
    loop.Training.begin_epoch = begin_epoch
"""


def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [str(folder), root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "drcl", "train", *RUN, "--out", str(folder / "run"), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.long
def test_a_killed_process_ends_the_others_and_the_run_resumes(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILL_ONE)
    done = command(tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "process 1 was killed (SIGKILL); continue with --resume" in done.stderr
    (tmp_path / "sitecustomize.py").unlink()
    assert (tmp_path / "run/checkpoints/run.json").is_file()
    done = command(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(DRCL.load(tmp_path / "run").history) == 2 * (3 + 2)
