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
from drcl.eager.average_precision import expected_measures, gain_matrix, kept_items
from drcl.ops.average_precision import Relevance, Request

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


def sort_piece(
    scores: Tensor,
    relevance: Relevance,
    scale: Tensor | None,
    bias: Tensor | None,
    left_out: tuple[Tensor, Tensor] | None,
) -> Piece:
    """What a rank can do alone; ``scores`` (Q, n) are its piece of the gallery."""
    values = scores if scale is None else scores * scale
    values = values if bias is None else values + bias
    if bool(values.isnan().any()):
        raise ValueError(f"scores: row {int(values.isnan().any(dim=1).nonzero()[0])} holds NaN")
    gains, kept = gain_matrix(relevance, scores), kept_items(left_out, scores)
    keys, order = torch.where(kept, -values, torch.inf).sort(dim=1, stable=True)
    kept, gains = kept.gather(1, order), gains.gather(1, order)
    return Piece(keys, kept, gains, kept & (gains > 0))


def rank(piece: Piece, request: Request, group: ProcessGroup) -> Tensor:
    """The op's table (see :class:`drcl.ops.average_precision.Columns`), the same on every rank.

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
    return _table(ranks, gains, ranked, request)


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


def _table(ranks: Tensor, gains: Tensor, ranked: Tensor, request: Request) -> Tensor:
    """The op's table from the ranks (Q, T) of the relevant items, rising, then padding of gain 0.

    Sums run along the ranks one by one: their bits do not depend on threads or padding.
    """
    real = gains > 0
    relevant = real.sum(dim=1)
    number = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
    precision = torch.where(real, number / ranks, 0.0)
    first = torch.where((relevant > 0) & (ranks[:, 0] <= request.depth), ranks[:, 0], 0).double()
    reciprocal = torch.where(first > 0, 1 / first.clamp(min=1), 0.0)
    sums = _sums(precision)
    if request.discounts is not None:
        discounts = request.discounts[(ranks - 1).clamp(max=len(request.discounts) - 1)]
        dcg = _sums(gains * discounts)
        # no query has more relevant items than there are items: what lies beyond is padding
        best = gains.sort(dim=1, descending=True).values[:, : len(request.discounts)]
        ideal = _sums(best * request.discounts[: best.shape[1]])
    columns: list[list[Tensor]] = [[], [], [], []]
    for cutoff in request.cutoffs:
        k = ranked.clamp(max=cutoff)
        hits = (real & (ranks <= k[:, None])).sum(dim=1)
        by = {"hits": hits, "min": torch.minimum(relevant, k), "relevant": relevant}
        ap = _at(sums, hits) / by[request.divisor].clamp(min=1)
        recall, precise = (hits.double() / n.clamp(min=1) for n in (relevant, k))
        ndcg = torch.zeros_like(ap)
        if request.discounts is not None:
            best_dcg = _at(ideal, torch.minimum(relevant, k))
            ndcg = _at(dcg, hits) / torch.where(best_dcg > 0, best_dcg, 1.0)
        for column, part in zip(columns, (ap, recall, precise, ndcg), strict=True):
            column.append(part)
    head = [relevant.double(), first, reciprocal]
    result = torch.stack([*head, *(part for column in columns for part in column)], dim=1)
    if request.levels:
        steps = torch.arange(request.levels, device=ranks.device)
        needed = (steps * relevant[:, None] + request.levels - 2) // (request.levels - 1)
        place = needed.clamp(min=1) - 1
        onwards = precision.flip(1).cummax(dim=1).values.flip(1)
        result = torch.cat([result, onwards.gather(1, place), precision.gather(1, place)], dim=1)
    return result


def _sums(values: Tensor) -> Tensor:
    """Column t (of T + 1) is the sum of the first t of (Q, T)."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _at(sums: Tensor, counts: Tensor) -> Tensor:
    return sums.gather(1, counts[:, None])[:, 0]


def _expected(
    thresholds: Tensor,
    gains: Tensor,
    counts: Tensor,
    ranked: Tensor,
    request: Request,
    group: ProcessGroup,
) -> Tensor:
    """The op's table averaged over the orders of ties; the ranks share the queries out.

    ``counts`` (2, Q, T) are the items that score higher than each threshold, and not lower.
    """
    width = 3 + 4 * len(request.cutoffs)
    table = torch.zeros(len(gains), width, dtype=torch.float64, device=gains.device)
    for query in range(dist.get_rank(group), len(gains), dist.get_world_size(group)):
        real = int((gains[query] > 0).sum())
        gain = gains[query, :real].double()
        _, tied, sizes = thresholds[query, :real].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        last = sizes.cumsum(0) - 1
        above, not_below = counts[:, query, last]
        gain_sums = gain.new_zeros(len(sizes)).index_add_(0, tied, gain)
        columns = (above, not_below - above, sizes, gain_sums)
        groups = list(zip(*(column.tolist() for column in columns), strict=True))
        table[query] = expected_measures(groups, gain.cpu(), int(ranked[query]), request)
    dist.all_reduce(table, group=group)
    return table
