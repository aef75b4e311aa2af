"""What the processes of a group have to know of each other before they exchange anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class RankFailed(RuntimeError):
    """Another process of the group met an error; its own message says which."""


def everywhere(value: int, group: ProcessGroup | None) -> list[int]:
    """The value on every rank; only this process' without a group."""
    if group is None:
        return [value]
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    return [int(part) for part in gather(torch.tensor(value, device=device), group)]


def gather(tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
    """The tensor of every rank, which has one shape on all."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor, group=group)
    return parts


def share(count: int, rank: int, world: int) -> slice:
    """A rank's slice of ``count`` rows; slices differ by one row at most and may be empty."""
    return slice(count * rank // world, count * (rank + 1) // world)


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """The rows of all ranks, one rank's after the other's, on every rank."""
    counts = everywhere(len(rows), group)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([p[:count] for p, count in zip(gather(padded, group), counts, strict=True)])


@contextlib.contextmanager
def together(group: ProcessGroup | None) -> Iterator[None]:
    """What fails on one rank within fails on all: else they would wait for it in an exchange.

    Within, the ranks must not exchange anything themselves. The rank that failed raises its own
    error, the others :class:`RankFailed`. Ctrl-C is not waited for.
    """
    if group is None:
        yield
        return
    try:
        yield
    except Exception:
        with contextlib.suppress(RuntimeError):  # a lost connection is not what went wrong
            everywhere(1, group)
        raise
    failed = everywhere(0, group)
    if any(failed):
        rank = dist.get_process_group_ranks(group)[failed.index(1)]
        raise RankFailed(
            f"rank {rank} cannot go on, so neither can the others; its own error says why"
        )
