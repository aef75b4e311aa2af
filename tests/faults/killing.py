"""The command line of the programs that kill processes."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch


def from_command_line(run: Callable[[int, int, Path], None], about: str | None) -> None:
    """``run(kills, seed, folder)`` as the command line says."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process whose OpenMP threads have started must not be forked
    with tempfile.TemporaryDirectory() as folder:
        run(options.kills, options.seed, Path(folder))
