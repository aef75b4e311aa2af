"""Kill a training at random moments, resume it until it is done, compare with one left in peace.

    python tests/faults/kill_resume.py --kills 200 --seed 0

Each trial is ``drcl train digits --resume`` on a few small epochs, in a forked process that gets
SIGKILL after a random part of the time the whole run takes; it is started again until it ends by
itself. The folder must then hold the same bits as that of the undisturbed run: prior, encoders,
history (its times aside) and metrics. Every other trial saves a checkpoint after each epoch, so
that many kills fall into a write; the others save as usual.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from killing import from_command_line

from drcl import DRCL
from drcl.cli import main as drcl
from drcl.data import load
from drcl.train import checkpoint

TRAINING = """
    train digits --no-report --no-progress --device cpu --resume
    --dim 24 --hidden 32,32 --epochs 6 --prior-epochs 4 --batch-size 256
"""
TIMES = ("seconds", "time")


def start(folder: Path, every_epoch: bool) -> int:
    """The training in a process of its own, which has all imports done; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            if every_epoch:
                checkpoint.CHECKPOINT_SHARE = math.inf
            with open(folder.with_suffix(".log"), "w") as log, contextlib.redirect_stdout(log):
                drcl([*TRAINING.split(), "--out", str(folder)], standalone_mode=False)
            os._exit(0)
        except BaseException as error:
            print(f"{folder.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def wait(child: int, until: float) -> int | None:
    """The exit status of the process, or None if it still runs at that time."""
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """All tensors of a finished run, and its history and metrics."""
    model = DRCL.load(folder)
    tensors = {"prior": model.prior.weight}
    for name, encoder in model.encoders.items():
        tensors |= {f"{name}.{key}": value for key, value in encoder.state_dict().items()}
        tensors |= {f"{name}.{k}": v for k, v in model.standardizers[name]._asdict().items()}
    history = [{k: v for k, v in r.items() if k not in TIMES} for r in model.history]
    return tensors, (history, json.loads((folder / "metrics.json").read_text()))


def compare(folder: Path, expected: tuple[dict[str, torch.Tensor], Any]) -> None:
    tensors, records = outcome(folder)
    differing = [name for name in expected[0] if not torch.equal(tensors[name], expected[0][name])]
    assert tensors.keys() == expected[0].keys() and not differing, f"{folder}: {differing} differ"
    assert records == expected[1], f"{folder}: history or metrics differ"
    left = [str(path) for path in folder.rglob("*") if path.name.startswith(".")]
    assert not left, f"{folder}: half-written files lie about, {left}"


def run(kills: int, seed: int, folder: Path) -> None:
    # What every forked process would import anew, most of its life long.
    load("digits")
    importlib.import_module("torch._dynamo")
    draw = random.Random(seed)
    whole = folder / "whole"
    assert wait(start(folder / "warm-up", True), time.monotonic() + 120) == 0
    began = time.monotonic()
    assert wait(start(whole, True), began + 120) == 0
    length, expected = time.monotonic() - began, outcome(whole)
    print(f"seed {seed}: a run takes {length:.2f} s", flush=True)
    killed = writing = trials = longest = 0
    while killed < kills:
        trial, hits = folder / f"trial-{trials}", 0
        every_epoch = trials % 2 == 0
        while True:
            child = start(trial, every_epoch)
            moment = time.monotonic() + draw.uniform(0.0, length)
            status = wait(child, moment if killed < kills else moment + 120)
            if status is None:
                os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == -signal.SIGKILL:
                killed, hits = killed + 1, hits + 1
                writing += any(path.name.startswith(".") for path in trial.rglob("*"))
            elif status == 0 or (status == 1 and (trial / "run.json").is_file() and hits):
                break  # status 1: the last kill came when the run was finished, which it says
            else:
                raise SystemExit(f"trial {trials} of seed {seed} ended with status {status}")
        compare(trial, expected)
        trials, longest = trials + 1, max(longest, hits)
        print(f"{killed} kills, {trials} trials, {writing} kills in a write", flush=True)
    print(f"{killed} kills in {trials} runs, at most {longest} in one; all ended bit-identical")


def main() -> None:
    from_command_line(run, __doc__)


if __name__ == "__main__":
    main()
