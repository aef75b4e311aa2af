"""Ranking over a gallery in pieces, one on each rank: only thresholds and counts travel.

Every rank sends the scores of its relevant items. All of them, sorted, are the thresholds; each
rank counts its own items before each threshold, and the sums of the counts give the ranks. The
pieces follow one another in the order of the ranks: ties go to the lower rank, then to the lower
index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.distributed import all_gather_int, gather
from drcl.eager.average_precision import Block
from drcl.ranking import Request, TieGroup, expected_measures, measures_from_ranks, width

# Bytes that one query of a block takes at most, for each item of this rank's piece (its relevance
# and a sort) and for each threshold (sums along the ranks in float64).
BYTES_PER_ITEM, BYTES_PER_THRESHOLD = 96, 160


class Piece(NamedTuple):
    """A rank's items (Q, n) by rising ``keys``, which are falling scores; what is left out, last.

    ``kept`` is False for what is left out, ``hit`` True for relevant items with their ``gains``.
    """

    keys: Tensor
    kept: Tensor
    gains: Tensor
    hit: Tensor


def sort_piece(block: Block) -> Piece:
    """What a rank can do alone; the block's scores (Q, n) are its piece of the gallery."""
    keys, order = torch.where(block.kept, -block.values, torch.inf).sort(dim=1, stable=True)
    kept, gains = block.kept.gather(1, order), block.gains.gather(1, order)
    return Piece(keys, kept, gains, kept & (gains > 0))


def rank(piece: Piece, request: Request, group: ProcessGroup) -> Tensor:
    """The table of :mod:`drcl.ranking`, the same on every rank.

    All ranks have the same queries and one dtype of keys.
    """
    keys, kept, gains, hit = piece
    ranked = kept.sum(dim=1)
    dist.all_reduce(ranked, group=group)
    own, own_gains, own_places = _own_thresholds(keys, gains, hit, group)
    thresholds, gains = (torch.cat(gather(t, group), dim=1) for t in (own, own_gains))
    better = torch.searchsorted(keys, thresholds, out_int32=True)
    not_worse = torch.searchsorted(keys, thresholds, right=True, out_int32=True)
    # The padding goes last; equal scores stay in the order of the pieces, and of the items in each.
    thresholds, order = thresholds.sort(dim=1, stable=True)
    gains = gains.gather(1, order)
    if request.average_ties:
        counts = torch.stack([_count(kept, better), _count(kept, not_worse)])
        counts = counts.gather(2, order.expand(2, -1, -1))
        dist.all_reduce(counts, group=group)
        return _expected(thresholds, gains, counts, ranked, request, group)
    world, me = dist.get_world_size(group), dist.get_rank(group)
    owner = torch.arange(world, device=keys.device).repeat_interleave(own.shape[1])
    places = torch.where(
        owner > me, not_worse, better
    )  # of equal items an earlier piece's go first
    places[:, owner == me] = own_places
    counts = _count(kept & ~hit, places).gather(1, order)
    dist.all_reduce(counts, group=group)
    ranks = counts + torch.arange(1, counts.shape[1] + 1, device=counts.device)
    return measures_from_ranks(ranks, gains, ranked, request)


def _own_thresholds(
    keys: Tensor, gains: Tensor, hit: Tensor, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, gains and places of this rank's relevant items, in order, as wide as any rank's are.

    The padding has the key NaN and the gain 0.
    """
    most = all_gather_int(int(hit.sum(dim=1).max()), group)
    shape = len(keys), max(1, *most)
    rows, places = hit.nonzero(as_tuple=True)
    slots = hit.cumsum(dim=1, dtype=torch.int32)[rows, places].long() - 1
    own = keys.new_full(shape, torch.nan)
    own_gains, own_places = gains.new_zeros(shape), gains.new_zeros(shape)
    own[rows, slots] = keys[rows, places]
    own_gains[rows, slots] = gains[rows, places]
    own_places[rows, slots] = places.int()
    return own, own_gains, own_places


def _count(counted: Tensor, places: Tensor) -> Tensor:
    """How many of (Q, n) are true before each place (Q, T)."""
    before = torch.zeros(len(counted), counted.shape[1] + 1, dtype=torch.int32).to(counted.device)
    torch.cumsum(counted, dim=1, dtype=torch.int32, out=before[:, 1:])
    return before.gather(1, places.long()).long()


def _expected(
    thresholds: Tensor,
    gains: Tensor,
    counts: Tensor,
    ranked: Tensor,
    request: Request,
    group: ProcessGroup,
) -> Tensor:
    """The table averaged over the orders of ties; the ranks share the queries out.

    ``counts`` (2, Q, T) are the items that score higher than each threshold, and not lower.
    """
    table = torch.zeros(len(gains), width(request), dtype=torch.float64, device=gains.device)
    for query in range(dist.get_rank(group), len(gains), dist.get_world_size(group)):
        real = int((gains[query] > 0).sum())
        gain = gains[query, :real].double()
        _, tied, sizes = thresholds[query, :real].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        last = sizes.cumsum(0) - 1
        above, not_below = counts[:, query, last]
        gain_sums = gain.new_zeros(len(sizes)).index_add_(0, tied, gain)
        tied_items = (above, not_below - above, sizes, gain_sums)
        groups = [TieGroup(*part) for part in zip(*(t.tolist() for t in tied_items), strict=True)]
        table[query] = expected_measures(groups, gain.cpu(), int(ranked[query]), request)
    dist.all_reduce(table, group=group)
    return table
