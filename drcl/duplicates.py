"""Identical gallery rows, found so that their scores can be made to tie exactly.

A matrix product adds up the columns at the ragged end of a block in another order than the rest, so
two identical rows may score differently in the last bit, and rank by chance instead of by index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TILE = 2**21  # entries looked at together


def equal_rows(rows: Callable[[Tensor], Tensor], count: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows that repeat an earlier one, and the first row equal to each, both (n,) int64.

    ``rows`` gives those at some positions (m,) of ``count``, as (m, width) float32 or float64.

    >>> x = torch.tensor([[1.0], [2.0], [1.0]])
    >>> equal_rows(x.__getitem__, 3, 1)
    (tensor([2]), tensor([0]))
    """
    # Equal rows are equal in a few columns: mostly that leaves nothing to look at in full.
    probes = torch.linspace(0, width - 1, min(8, width)).long().unique()
    candidates = torch.arange(count)
    for columns in (probes, torch.arange(width)) if len(probes) < width else (probes,):
        hashes = torch.cat(
            [torch.zeros(0, dtype=torch.int64)]
            + [
                _hash(rows(part)[:, columns.to(rows(part[:1]).device)]).cpu()
                for part in candidates.split(max(1, _TILE // width))
            ]
        )
        _, group, sizes = hashes.unique(return_inverse=True, return_counts=True)
        candidates, group = candidates[sizes[group] > 1], group[sizes[group] > 1]
    first = torch.full((len(sizes),), count).scatter_reduce(0, group, candidates, "amin")[group]
    copies = first != candidates
    candidates, first = candidates[copies], first[copies]
    same = [  # two different rows have one hash with a chance of 2⁻⁶⁴
        (rows(a) == rows(b)).all(dim=1).cpu()
        for a, b in zip(
            candidates.split(max(1, _TILE // width)),
            first.split(max(1, _TILE // width)),
            strict=True,
        )
    ]
    kept = torch.cat([torch.zeros(0, dtype=torch.bool), *same])
    return candidates[kept], first[kept]


def _hash(rows: Tensor) -> Tensor:
    # Adding zero makes −0 and 0 the same bits. Wrapping integer sums do not depend on their order.
    integers = torch.int32 if rows.dtype == torch.float32 else torch.int64
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator)
    factors = (2 * factors + 1).to(rows.device)
    return ((rows + 0.0).contiguous().view(integers) * factors).sum(dim=1)
