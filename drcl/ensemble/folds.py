"""Which rows are held out of what is trained, and which of them can say something then."""

from __future__ import annotations

import torch
from torch import Tensor


def held_out_rows(targets: Tensor, members: int, generator: torch.Generator) -> Tensor:
    """(K, N) bool: every row is held out of one member, every class spread over all of them.

    ``targets`` are ids (N,) or rows (N, C). Rows with several labels count as their first.

    >>> held_out_rows(torch.tensor([0, 0, 1, 1]), 2, torch.Generator()).sum(dim=0).tolist()
    [1, 1, 1, 1]
    """
    ids = targets if targets.ndim == 1 else targets.argmax(dim=1)
    # Dealt out like cards, class by class and on from where the last class ended.
    _, grouped = _shuffled(ids, generator)
    fold = torch.empty_like(ids)
    fold[grouped] = torch.arange(len(ids)) % members
    return fold == torch.arange(members)[:, None]


def has_mate(targets: Tensor) -> Tensor:
    """(N,): whether another row has a class of this one: only then it helps to leave a row out.

    >>> has_mate(torch.eye(3)[torch.tensor([0, 1, 0, 2])]).tolist()
    [True, False, True, False]
    """
    has = targets > 0
    return (has & (has.sum(dim=0) > 1)).any(dim=1)


def mates_first(targets: Tensor, generator: torch.Generator) -> Tensor:
    """All rows in random order, but first of all two of every class: the first rows have mates.

    >>> targets = torch.eye(50)[torch.arange(5000) % 50]
    >>> bool(has_mate(targets[mates_first(targets, torch.Generator())[:20]]).all())
    True
    """
    ids = torch.randperm(targets.shape[1], generator=generator)[targets.argmax(dim=1).cpu()]
    shuffled, grouped = _shuffled(ids, generator)
    place = torch.arange(len(ids)) - torch.searchsorted(ids[grouped], ids[grouped])
    early = torch.zeros(len(ids), dtype=torch.bool)
    early[grouped[place < 2]] = True
    order = torch.cat([grouped[place < 2], shuffled[~early[shuffled]]])
    return order.to(targets.device)


def _shuffled(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All rows in random order, and in that order class by class."""
    order = torch.randperm(len(ids), generator=generator)
    return order, order[ids[order].argsort(stable=True)]
