"""Sums over the first relevant items of every ranking, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_sums(ranks: Tensor, values: Tensor, counts: Tensor, weights: Tensor | None) -> Tensor:
    """See :func:`drcl.ops.rank_sums.rank_sums`."""
    if weights is None:
        parts = values / ranks
    else:
        places = torch.where(ranks.isfinite(), ranks - 1, 0).long()
        parts = values * weights[places]
    return torch.nn.functional.pad(parts.cumsum(dim=1), (1, 0)).gather(1, counts)
