"""Identical gallery rows, found so that their scores can be made to tie exactly.

A matrix product adds up the columns at the ragged end of a block in another order than the rest, so
two identical rows may score differently in the last bit, and rank by chance instead of by index.
Products of :mod:`drcl.ops.inner_products` do not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_TILE = 2**21  # entries looked at together
_MIX = -0x2917014799A6026D  # odd, its bits in no order


def equal_rows(
    between: Callable[[int, int], Tensor],
    at: Callable[[Tensor], Tensor],
    count: int,
    width: int,
    entries: int = _TILE,
) -> tuple[Tensor, Tensor]:
    """Rows of a matrix (count, width) that repeat an earlier one, and the first row equal to each.

    ``between`` gives the rows from a start to a stop, ``at`` those at some positions; of each, so
    many ``entries`` at most are looked at together. Returns two of (n,) int64.

    >>> x = torch.tensor([[1.0], [2.0], [1.0]])
    >>> equal_rows(lambda start, stop: x[start:stop], lambda items: x[items], 3, 1)
    (tensor([2]), tensor([0]))
    """
    hashes = row_hashes(between, count, width, entries)
    candidates = repeated(hashes)
    return equal_among(candidates, hashes[candidates], at, width, entries)


def row_hashes(
    between: Callable[[int, int], Tensor], count: int, width: int, entries: int = _TILE
) -> Tensor:
    """A number (count,) int64 of a few columns of each row, the same for rows that are equal.

    >>> x = torch.tensor([[0.0], [2.0], [-0.0]])
    >>> one, other, again = row_hashes(lambda start, stop: x[start:stop], 3, 1).tolist()
    >>> one == again, one == other
    (True, False)
    """
    step = max(1, min(entries, _TILE) // width)
    # Equal rows are equal in a few columns: mostly that leaves nothing to look at in full.
    few = torch.linspace(0, width - 1, min(8, width), device="cpu").long().unique()
    hashes = torch.empty(count, dtype=torch.int64, device="cpu")
    for start in range(0, count, step):
        tile = between(start, min(start + step, count))
        hashes[start : start + step] = _hash(tile[:, few.to(tile.device)])
    return hashes


def equal_among(
    candidates: Tensor,
    hashes: Tensor,
    at: Callable[[Tensor], Tensor],
    width: int,
    entries: int = _TILE,
) -> tuple[Tensor, Tensor]:
    """:func:`equal_rows` among the rows at some positions (n,), which rise, with these hashes."""
    step = max(1, min(entries, _TILE) // width)
    copies, firsts, others = _equal_to_first(candidates, hashes, at, step)
    if len(others):  # no copies of the first with their hash, but maybe of each other
        mixed = torch.cat([_mixed_hash(at(part)).cpu() for part in others.split(step)])
        more, more_firsts, _ = _equal_to_first(others, mixed, at, step)
        copies, order = torch.cat([copies, more]).sort()
        firsts = torch.cat([firsts, more_firsts])[order]
    return copies, firsts


def _equal_to_first(
    candidates: Tensor, hashes: Tensor, at: Callable[[Tensor], Tensor], step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that equal the first one with their hash, those first ones, and rows that do not."""
    if len(candidates) == 0:
        return candidates, candidates, candidates
    values, group = hashes.unique(return_inverse=True)
    first = torch.full((len(values),), int(candidates[-1]), device="cpu")
    first = first.scatter_reduce(0, group, candidates, "amin")[group]
    repeats = first != candidates
    candidates, first = candidates[repeats], first[repeats]
    if len(candidates) == 0:
        return candidates, first, candidates
    same = torch.cat(
        [
            (at(a) == at(b)).all(dim=1).cpu()
            for a, b in zip(candidates.split(step), first.split(step), strict=True)
        ]
    )
    return candidates[same], first[same], candidates[~same]


def copies_among(copies: Tensor, firsts: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The copies among the rows that a mask allows, each with the first allowed row equal to it.

    >>> first_is_out = torch.tensor([False, True, True, True])
    >>> copies_among(torch.tensor([2, 3]), torch.tensor([0, 0]), first_is_out)
    (tensor([3]), tensor([2]))
    """
    heads = firsts.unique()
    members, groups = torch.cat([heads, copies]), torch.cat([heads, firsts])
    kept = allowed[members]
    members, groups = members[kept], groups[kept]
    values, place = groups.unique(return_inverse=True)
    first = members.new_full((len(values),), len(allowed))
    first = first.scatter_reduce(0, place, members, "amin")[place]
    repeats = members != first
    members, first = members[repeats], first[repeats]
    order = members.argsort()
    return members[order], first[order]


def repeated(hashes: Tensor) -> Tensor:
    """Positions of the values that occur more than once, rising."""
    ordered = np.sort(hashes.numpy())
    values = torch.from_numpy(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(values) == 0:
        return values
    place = torch.searchsorted(values, hashes).clamp_(max=len(values) - 1)
    return (values[place] == hashes).nonzero()[:, 0]


def _hash(rows: Tensor) -> Tensor:
    bits, factors = _bits(rows)
    return (bits * factors).sum(dim=1)


def _mixed_hash(rows: Tensor) -> Tensor:
    """Of all columns, where a product alone is not enough: its low bits know no high ones, so that
    rows which differ in signs would have few different hashes, in float64 two."""
    bits, factors = _bits(rows)
    mixed = bits ^ factors
    for _ in range(2):
        mixed ^= mixed >> 32
        mixed *= _MIX
    return mixed.sum(dim=1)


def _bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, D) as integers, and a factor for each column."""
    # Adding zero makes −0 and 0 the same bits. Wrapping integer sums do not depend on their order.
    rows = rows if rows.dtype == torch.float64 else rows.float()
    integers = torch.int32 if rows.dtype == torch.float32 else torch.int64
    factors = torch.from_numpy(_factors(rows.shape[1])).to(rows.device)
    return (rows + 0.0).contiguous().view(integers), factors


@functools.cache
def _factors(count: int) -> npt.NDArray[np.int64]:
    """Odd numbers of 64 bits that look random and never change: an index keeps hashes on disk.

    Source: Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators* (2014).
    """
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31)) | np.uint64(1)).view(np.int64)
