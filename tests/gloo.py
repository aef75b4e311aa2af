"""A process group of test processes on one machine, that meet through a file."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist


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
        dist.destroy_process_group()
