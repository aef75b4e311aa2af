"""A host that dies in a training over two: who waits how long, and what both end with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import network
import pytest
from gloo import ROOT

from drcl import DRCL
from drcl.storage.files import entries
from drcl.storage.sealed import read_tensors
from drcl.train.parallel import LOST

EPOCHS = 40
RUN = ["digits", "--dim=16", "--hidden=24", f"--epochs={EPOCHS}", "--prior-epochs=5"]
RUN += ["--batch-size=512", "--no-report", "--no-progress", "--device=cpu"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ENVIRONMENT |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
# What Python, PyTorch and torchrun take on top of what is waited for.
MARGIN = 15.0
# tcp_retries2 = 8: the waits of 0.2 s, doubled every time, after nine sends.
RETRIES, GIVEN_UP = 8, 0.2 * (2**9 - 1)


def train(
    folder: Path,
    *options: str,
    parallel: str = "data",
    launcher: Sequence[str] = (),
    retries: int = 15,
    **plan: Any,
) -> Any:
    """`drcl train` with these options, on both hosts by torchrun with those.

    ``retries``: how often a host's kernel sends anew what is not answered, before it gives up.
    """
    if reason := network.why_not():
        pytest.skip(f"two hosts cannot be imitated here: {reason}")
    script = f'echo {retries} > /proc/sys/net/ipv4/tcp_retries2 && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes=2", "--nproc-per-node=1"]
    command += ["--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=digits"]
    command += [f"--rdzv-endpoint={network.ADDRESSES['one']}:29500", *launcher]
    command += ["-m", "drcl", "train", *RUN, f"--parallel={parallel}"]
    command += ["--out", str(folder / "run"), *options]
    if "lost" in plan:
        Thread(target=lose_once_saved, args=(folder,), daemon=True).start()
    return network.on_two_hosts(folder, commands=command, environment=ENVIRONMENT, **plan)


def lose_once_saved(folder: Path) -> None:
    """Keep the first checkpoint of an encoder, and then let the host be lost."""
    while not (saved := list((folder / "run" / "checkpoints").glob("encoder-*.safetensors"))):
        time.sleep(0.02)
    shutil.copy(saved[0], folder / "saved.safetensors")
    (folder / "lost").touch()


def said(folder: Path, host: str) -> str:
    return (folder / host / "stdout").read_text() + (folder / host / "stderr").read_text()


def assert_ended(folder: Path, found: Any) -> None:
    both = {host: found[host]["code"] for host in network.ADDRESSES}
    assert both == {"one": 0, "two": 0}, [said(folder, host) for host in both]


def outcome(folder: Path) -> dict[str, bytes]:
    """The model and its scores."""
    run = folder / "run"
    files = [*run.rglob("*.safetensors"), run / "metrics.json"]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def assert_resumed(folder: Path, whole: Path) -> None:
    """Both ended with the bits of an undisturbed run, and trained no epoch again that was saved."""
    assert outcome(folder) == outcome(whole)
    _, metadata = read_tensors(folder / "saved.safetensors")
    saved = metadata["history"]
    assert 0 < len(saved) < EPOCHS, "not lost in the middle"
    history = DRCL.load(folder / "run").history
    about = "phase", "modality", "epoch", "loss", "seconds"  # the last of which never repeats
    took = [tuple(record[name] for name in about) for record in history]
    assert {tuple(record[name] for name in about) for record in saved} <= set(took)
    assert not (folder / "run" / "checkpoints").exists()
    assert not list((folder / "run").rglob(".*")), "half-written files"


def assert_resumable(folder: Path) -> None:
    """Nothing but what can be resumed from is there, and all of it whole.

    Aside from a file that the host was writing as it died, which the next writer removes.
    """
    assert [path.name for path in (folder / "run").iterdir()] == ["checkpoints"]
    left = {path.name: path for path in entries(folder / "run" / "checkpoints")}
    del left["run.json"]
    assert any(name.startswith("encoder-") for name in left)
    for path in left.values():
        read_tensors(path)


def start_again(folder: Path, parallel: str = "data") -> None:
    (folder / "lost").unlink()
    assert_ended(folder, train(folder, "--resume", parallel=parallel))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert_ended(folder, train(folder))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by one process, whose bits do not depend on who trains a modality."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "drcl", "train", *RUN, "--out", str(folder / "run")]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("returns", [3.0, LOST + 10.0], ids=["unnoticed", "noticed"])
def test_a_host_that_comes_back_resumes_to_the_same_bits(whole, returns, tmp_path):
    found = train(tmp_path, lost="two", returns=returns)
    assert_ended(tmp_path, found)
    assert "lost the connection to another process" in said(tmp_path, "one")
    assert said(tmp_path, "one").count("settings: ") == 2, "one restart"
    assert_resumed(tmp_path, whole)


@pytest.mark.long
@pytest.mark.parametrize(
    ("parallel", "launcher", "waits"),
    [
        ("data", "--max-restarts=0", 0.0),
        ("data", "--rdzv-conf=join_timeout=20", 20.0),
        ("modality", "--max-restarts=0", 0.0),
    ],
)
def test_a_host_that_stays_away_is_an_error_and_the_run_can_go_on(
    parallel, launcher, waits, request, tmp_path
):
    found = train(tmp_path, lost="two", parallel=parallel, launcher=[launcher])
    assert found["one"]["code"] == 1
    assert LOST - 5 <= found["one"]["at"] - found["lost"] - waits <= LOST + MARGIN
    assert f"its machine did not answer for {LOST} s" in said(tmp_path, "one")
    assert_resumable(tmp_path)
    start_again(tmp_path, parallel)
    undisturbed = {"data": "whole", "modality": "alone"}[parallel]
    assert_resumed(tmp_path, request.getfixturevalue(undisturbed))


@pytest.mark.long
def test_the_host_where_all_meet_is_lost_and_both_are_started_again(whole, tmp_path):
    """A process says so as ever, but torchrun waits for as long as its kernel does."""
    found = train(tmp_path, lost="one", retries=RETRIES)
    assert found["two"]["code"] == 1
    assert found["two"]["at"] - found["lost"] <= GIVEN_UP + MARGIN
    assert f"its machine did not answer for {LOST} s" in said(tmp_path, "two")
    assert_resumable(tmp_path)
    start_again(tmp_path)
    assert_resumed(tmp_path, whole)


@pytest.mark.long
def test_a_link_that_is_down_for_less_than_a_minute_costs_time_alone(whole, tmp_path):
    found = train(tmp_path, lost="two", returns=20.0, dies=False)
    assert_ended(tmp_path, found)
    assert found["one"]["at"] - found["lost"] > 20.0, "not lost in the middle"
    assert said(tmp_path, "one").count("settings: ") == 1, "no restart"
    assert_resumed(tmp_path, whole)
