"""Identical gallery rows, found so that their scores can be made to tie exactly.

A matrix product adds up the columns at the ragged end of a block in another order than the rest, so
two identical rows may score differently in the last bit, and rank by chance instead of by index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TILE = 2**21  # entries looked at together


def equal_rows(
    rows: Callable[[Tensor], Tensor], columns: Callable[[Tensor], Tensor], width: int
) -> tuple[Tensor, Tensor]:
    """Rows of a matrix (N, width) that repeat an earlier one, and the first row equal to each.

    ``rows`` and ``columns`` give those at some positions. Returns two of (n,) int64.

    >>> x = torch.tensor([[1.0], [2.0], [1.0]])
    >>> equal_rows(lambda at: x[at], lambda at: x[:, at], 1)
    (tensor([2]), tensor([0]))
    """
    step = max(1, _TILE // width)
    # Equal rows are equal in a few columns: mostly that leaves nothing to look at in full.
    few = torch.linspace(0, width - 1, min(8, width)).long().unique()
    group, sizes = _groups(_hash(columns(few)).cpu())
    candidates = (sizes[group] > 1).nonzero()[:, 0]
    if len(candidates) == 0:
        return candidates, candidates
    hashes = [_hash(rows(part)).cpu() for part in candidates.split(step)]
    group, sizes = _groups(torch.cat(hashes))
    first = torch.full((len(sizes),), int(candidates[-1]))
    first = first.scatter_reduce(0, group, candidates, "amin")[group]
    copies = first != candidates
    candidates, first = candidates[copies], first[copies]
    same = [  # two different rows have one hash with a chance of 2⁻⁶⁴
        (rows(a) == rows(b)).all(dim=1).cpu()
        for a, b in zip(candidates.split(step), first.split(step), strict=True)
    ]
    kept = torch.cat(same)
    return candidates[kept], first[kept]


def _groups(hashes: Tensor) -> tuple[Tensor, Tensor]:
    _, group, sizes = hashes.unique(return_inverse=True, return_counts=True)
    return group, sizes


def _hash(rows: Tensor) -> Tensor:
    # Adding zero makes −0 and 0 the same bits. Wrapping integer sums do not depend on their order.
    rows = rows if rows.dtype == torch.float64 else rows.float()
    integers = torch.int32 if rows.dtype == torch.float32 else torch.int64
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator)
    factors = (2 * factors + 1).to(rows.device)
    return ((rows + 0.0).contiguous().view(integers) * factors).sum(dim=1)
