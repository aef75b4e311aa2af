"""Test processes on one machine: how they start, and a group in which they meet through a file."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drcl.cli import main
from drcl.distributed import destroy

ROOT = Path(__file__).resolve().parents[1]

# Imported once, in the process that all others are forked from: to each they would be seconds.
# The optimizers of PyTorch import torch._dynamo; Lightning is there in `make peers` alone.
SHARED = [
    "torch._dynamo",
    "pytorch_lightning",
    "drcl.cli",
    "drcl.metrics",
    "scipy.sparse",
    "pytest",
    "hypothesis",
]


def on_ranks(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """``work(rank, *arguments)`` in ``world`` fresh processes, none of which is a fork of this one.

    The first that fails ends the others, and its error is raised.
    """
    multiprocessing.set_forkserver_preload(SHARED)
    mp.start_processes(work, arguments, nprocs=world, start_method="forkserver")


def drcl() -> None:
    main(prog_name="drcl")


def command(
    arguments: Sequence[str], folder: Path, threads: int = 1, work: Callable[[], None] = drcl
) -> BaseProcess:
    """``drcl`` (or what does ``work``) with these arguments, started as the first of a new session.

    What it says is in ``folder``/stdout and /stderr. A sitecustomize.py of the folder is run before
    it, and in every Python that it starts.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SHARED)
    process = context.Process(target=_run, args=(list(arguments), folder, threads, work))
    process.start()
    return process


def ended(process: BaseProcess, limit: float = 120.0) -> int | None:
    """Its exit code (−signal), or None where it was not done in so many seconds and was killed."""
    process.join(limit)
    code = process.exitcode
    if code is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
    return code


def _run(arguments: list[str], folder: Path, threads: int, work: Callable[[], None]) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    sys.argv = ["drcl", *arguments]
    if (folder / "sitecustomize.py").exists():
        runpy.run_path(str(folder / "sitecustomize.py"))
    work()


@contextlib.contextmanager
def process_group(rank: int, world: int, folder: str | Path) -> Iterator[None]:
    """Gloo among ``world`` processes; one that waits a minute for the others gives up."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        yield
    finally:
        destroy()
