"""Identical gallery rows, found so that their scores can be made to tie exactly.

A matrix product adds up the columns at the ragged end of a block in another order than the rest, so
two identical rows may score differently in the last bit, and rank by chance instead of by index.
"""

from __future__ import annotations

import torch
from torch import Tensor


def first_of_equal_rows(rows: Tensor) -> Tensor | None:
    """For every row (N, D) the index (N,) of the first row equal to it; None if all differ.

    >>> first_of_equal_rows(torch.tensor([[1.0], [2.0], [1.0]]))
    tensor([0, 1, 0])
    """
    # Adding zero makes −0 and 0 the same bits. Wrapping integer sums do not depend on their order.
    integers = torch.int32 if rows.dtype == torch.float32 else torch.int64
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device)
    hashes = torch.cat(
        [((part + 0.0).view(integers) * (2 * factors + 1)).sum(dim=1) for part in rows.split(65536)]
    )
    values, group = hashes.unique(return_inverse=True)
    if len(values) == len(rows):
        return None
    positions = torch.arange(len(rows), device=rows.device)
    first = positions.new_full((len(values),), len(rows)).scatter_reduce(
        0, group, positions, "amin"
    )
    first = first[group]
    if not torch.equal(rows[first], rows):  # two different rows with one hash: 2⁻⁶⁴ per pair
        _, group = rows.unique(dim=0, return_inverse=True)
        first = positions.new_full((len(rows),), len(rows)).scatter_reduce(
            0, group, positions, "amin"
        )[group]
    return first
