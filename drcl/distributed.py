"""Small exchanges among the processes of a group: numbers, rows, and whether one has failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.errors import RankFailed

__all__ = [
    "RankFailed", "all_gather_int", "gather", "gather_rows", "group_device", "raise_together",
    "shard",
]  # fmt: skip
__dir__ = __all__.copy


def all_gather_int(value: int, group: ProcessGroup | None) -> list[int]:
    """The value of every rank, in the order of the ranks; without a group, this process's alone."""
    if group is None:
        return [value]
    own = torch.tensor(value, device=group_device(group))
    return [int(part) for part in gather(own, group)]


def group_device(group: ProcessGroup) -> torch.device:
    """Where the tensors that a group's ranks exchange have to be."""
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def gather(tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
    """The tensor of every rank; its shape must be the same on all."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor, group=group)
    return parts


def shard(count: int, rank: int, world: int) -> slice:
    """A rank's slice of ``count`` rows; slices differ by at most one row and may be empty.

    >>> shard(8, rank=1, world=3)
    slice(2, 5, None)
    """
    return slice(count * rank // world, count * (rank + 1) // world)


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """The rows of all ranks, concatenated in the order of the ranks, on every rank."""
    counts = all_gather_int(len(rows), group)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([p[:count] for p, count in zip(gather(padded, group), counts, strict=True)])


@contextlib.contextmanager
def raise_together(group: ProcessGroup | None) -> Iterator[None]:
    """An error of one rank inside the block is raised on all; without this, the others would hang.

    The rank that failed raises its own error, the others :class:`RankFailed`. The block itself must
    not exchange anything between ranks. KeyboardInterrupt is not shared.
    """
    if group is None:
        yield
        return
    try:
        yield
    except Exception:
        with contextlib.suppress(RuntimeError):  # a lost connection is not what went wrong
            all_gather_int(1, group)
        raise
    failed = all_gather_int(0, group)
    if any(failed):
        rank = dist.get_process_group_ranks(group)[failed.index(1)]
        raise RankFailed(f"rank {rank} failed; stopping all ranks (see its error)")


def destroy(group: ProcessGroup | None = None) -> None:
    """``dist.destroy_process_group``, when gloo's threads have had time to let go of tensors.

    For that they need the interpreter, which the end of a group holds while it waits for them.
    """
    time.sleep(0.1)
    dist.destroy_process_group(group)
