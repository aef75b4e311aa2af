"""``drcl::rank_sums``: sums over the first relevant items of every ranking.

The compiled library defines the op for a CPU; :mod:`drcl.eager.rank_sums` does the same without it,
and on other devices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.eager import rank_sums as eager


def rank_sums(
    ranks: Tensor, values: Tensor, counts: Tensor, weights: Tensor | None = None, *, backend: str
) -> Tensor:
    """``Σ_{j ≤ c} values_j · weights[ρ_j]`` for each count c; without weights ``values_j / ρ_j``.

    Shapes: ranks (Q, T) float64, of which the first ``counts.max()`` of a row are known; values
    (Q, T) or (1, T) float64; counts (Q, K) int64, 0 to T, in any order; weights (N,) float64 of
    the ranks 1 to N. Returns (Q, K) float64.

    >>> ranks, ones = torch.tensor([[1.0, 4.0]]).double(), torch.ones(1, 2).double()
    >>> rank_sums(ranks, ones, torch.tensor([[0, 1, 2]]), backend="eager")
    tensor([[0.0000, 1.0000, 1.2500]], dtype=torch.float64)
    """
    if backend != "native":
        return eager.rank_sums(ranks, values, counts, weights)
    sums: Tensor = torch.ops.drcl.rank_sums(ranks, values, counts.contiguous(), weights)
    return sums


def _sums_like(ranks: Tensor, values: Tensor, counts: Tensor, weights: Any) -> Tensor:
    return ranks.new_empty(counts.shape)


if not load_ops():
    torch.library.register_fake("drcl::rank_sums", _sums_like)
