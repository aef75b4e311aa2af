"""Codes counted by their Hamming distance from a query, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES = 2**20  # distances that are found together


def hamming_counts(
    query: Tensor,
    gallery: Tensor,
    lists: tuple[Tensor, Tensor, Tensor | None] | None,
    *,
    bits: int,
) -> Tensor:
    """See :func:`drcl.ops.hamming_counts.hamming_counts`."""
    out = torch.zeros(len(query), bits + 1, dtype=torch.float64, device=query.device)
    step = max(1, _ENTRIES // query.shape[1])
    for row, code in enumerate(query):
        if lists is None:
            codes = gallery.split(step)
        else:
            begins, ends, items = lists
            own = slice(int(begins[row]), int(ends[row]))
            if items is None:
                codes = gallery[own].split(step)
            else:
                codes = tuple(gallery[part] for part in items[own].long().split(step))
        for part in codes:
            distances = bit_count(part ^ code).sum(dim=1)
            out[row] += distances.bincount(minlength=bits + 1)
    return out


def bit_count(words: Tensor) -> Tensor:
    """How many bits of each int64 are set.

    >>> bit_count(torch.tensor([0, 3, -1]))
    tensor([ 0,  2, 64])
    """
    pairs = words - ((words >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (bytes_ * 0x0101010101010101 >> 56) & 0x7F
