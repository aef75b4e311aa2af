"""Which rows each member of an ensemble is trained without."""

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
    shuffled = torch.randperm(len(ids), generator=generator)
    # Dealt out like cards, class by class and on from where the last class ended.
    order = shuffled[ids[shuffled].argsort(stable=True)]
    fold = torch.empty_like(ids)
    fold[order] = torch.arange(len(ids)) % members
    return fold == torch.arange(members)[:, None]
