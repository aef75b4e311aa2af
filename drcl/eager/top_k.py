"""The k highest scores of every query, tile by tile, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64  # scores of which the largest is found first


def top_k(scores: Tensor, begin: int, values: Tensor, indices: Tensor) -> None:
    """See :func:`drcl.ops.top_k.top_k`."""
    # Only an item with a higher score than the last that is kept counts: in later tiles most rows
    # have none, and finding the largest costs far less than finding the first k.
    better = (scores.amax(dim=1) > values[:, -1]).nonzero()[:, 0]
    if len(better) == 0:
        return
    found, columns = first(scores[better], values.shape[1])
    kept = torch.cat([values[better], found], dim=1)
    items = torch.cat([indices[better], columns + begin], dim=1)
    order = kept.sort(dim=1, descending=True, stable=True).indices[:, : values.shape[1]]
    values[better], indices[better] = kept.gather(1, order), items.gather(1, order)


def first(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row (or all, if there are fewer) and their columns, ties by column.

    >>> first(torch.tensor([[1.0, 3.0, 3.0]]), 2)
    (tensor([[3., 3.]]), tensor([[1, 2]]))
    """
    if k >= scores.shape[1]:
        every = scores.sort(dim=1, descending=True, stable=True)
        return every.values, every.indices
    blocks = scores.shape[1] // _BLOCK
    if blocks < 4 * k:
        columns = scores.topk(k, dim=1).indices.sort(dim=1).values
        seen, beyond = scores, scores.new_full((len(scores),), -torch.inf)
    else:
        # They are in the blocks whose largest scores are highest, or after the last whole block.
        end = blocks * _BLOCK
        largest = scores[:, :end].unflatten(1, (blocks, _BLOCK)).amax(dim=2).topk(k + 1, dim=1)
        inside = largest.indices[:, :k, None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)
        rest = torch.arange(end, scores.shape[1], device=scores.device).expand(len(scores), -1)
        among = torch.cat([inside.flatten(1), rest], dim=1)
        seen, beyond = scores.gather(1, among), largest.values[:, k]
        columns = among.gather(1, seen.topk(k, dim=1).indices).sort(dim=1).values
    values = scores.gather(1, columns)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # Where more items tie with the last than there is room for, any of them may be among these.
    last = values[:, -1:]
    open_ = (((seen >= last).sum(dim=1) > k) | (beyond >= last[:, 0])).nonzero()[:, 0]
    for part in open_.split(16):
        ranked = scores[part].sort(dim=1, descending=True, stable=True)
        values[part], columns[part] = ranked.values[:, :k], ranked.indices[:, :k]
    return values, columns
