"""Ranking a block of queries in plain PyTorch: a stable sort, then sums along the ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drcl.ranking import (
    Relevance,
    Request,
    TieGroup,
    expected_measures,
    in_order,
    measures_from_ranks,
    rank_columns,
)
from drcl.reference.average_precision import precision_recall, ranking, ranking_measures


class Block(NamedTuple):
    """The scores (Q, N) of a block of queries, the items' gains, and which items are ranked."""

    values: Tensor
    gains: Tensor
    kept: Tensor

    @staticmethod
    def of(
        scores: Tensor,
        relevance: Relevance,
        scale: Tensor | None,
        bias: Tensor | None,
        excluded: tuple[Tensor, Tensor] | None,
    ) -> Block:
        """From the op's arguments: :func:`drcl.ops.average_precision.average_precision`."""
        values = scores if scale is None else scores * scale
        values = values if bias is None else values + bias
        if bool(values.isnan().any()):
            raise ValueError(f"scores: row {int(values.isnan().any(dim=1).nonzero()[0])} holds NaN")
        gains = gain_matrix(relevance, *scores.shape)
        return Block(values, gains, _kept_items(excluded, scores))


def rank(block: Block, request: Request, *, literal: bool = False) -> Tensor:
    """The table of :mod:`drcl.ranking`; ``literal`` loops over the ranks, as the reference does."""
    if not request.average_ties and not literal:
        return _sorted(block, request)
    one = _expected if request.average_ties else _literal
    rows = [one(v[m], g[m], request) for v, g, m in zip(*block, strict=True)]
    return torch.stack(rows).to(block.values.device)


def gain_matrix(relevance: Relevance, q: int, n: int) -> Tensor:
    """The gain (Q, N) int32 of every item for every query."""
    device = relevance.members.device
    gains = torch.zeros(q, n, dtype=torch.int32, device=device)
    start, stop = int(relevance.member_offsets[0]), int(relevance.member_offsets[-1])
    members = relevance.members[start:stop]
    rows = torch.arange(q, device=device).repeat_interleave(relevance.member_offsets.diff())
    if relevance.bits is not None:
        shifts = torch.arange(64, device=device)
        for row, member in zip(rows.tolist(), members.tolist(), strict=True):
            bits = (relevance.bits[member][:, None] >> shifts) & 1
            gains[row] += bits.reshape(-1)[:n].int()
        return gains
    assert relevance.offsets is not None and relevance.items is not None
    lengths = relevance.offsets.diff()[members]
    rows = rows.repeat_interleave(lengths)
    within = torch.arange(len(rows), device=device)
    within = within - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    entries = relevance.offsets[members].repeat_interleave(lengths) + within
    values = torch.ones_like(rows, dtype=torch.int32)
    if relevance.gains is not None:
        values = relevance.gains[entries]
    return gains.index_put_((rows, relevance.items[entries].long()), values, accumulate=True)


def _kept_items(excluded: tuple[Tensor, Tensor] | None, scores: Tensor) -> Tensor:
    """Whether each query's ranking holds each item, (Q, N) bool."""
    kept = torch.ones_like(scores, dtype=torch.bool)
    if excluded is not None:
        offsets, columns = excluded
        rows = torch.arange(len(scores), device=scores.device).repeat_interleave(offsets.diff())
        kept[rows, columns[int(offsets[0]) : int(offsets[-1])]] = False
    return kept


def _sorted(block: Block, request: Request) -> Tensor:
    values, gains, kept = block
    # What a ranking does not hold is sorted behind everything that it does.
    order = values.sort(dim=1, descending=True, stable=True).indices
    behind = (~kept.gather(1, order)).to(torch.int8).sort(dim=1, stable=True).indices
    order = order.gather(1, behind)
    gain = gains.gather(1, order) * kept.gather(1, order)
    rows, places, number = slots(gain > 0)
    shape = len(values), max(1, int(number.max()) + 1 if len(number) else 1)
    ranks = torch.ones(shape, dtype=torch.int64, device=values.device)
    found = gain.new_zeros(shape)
    ranks[rows, number] = places + 1
    found[rows, number] = gain[rows, places]
    return measures_from_ranks(ranks, found, kept.sum(dim=1), request)


def slots(hit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of what is true in (Q, N), and how many in the row come before it."""
    counts = hit.sum(dim=1)
    rows, places = hit.nonzero(as_tuple=True)
    number = torch.arange(len(rows), device=rows.device)
    return rows, places, number - (counts.cumsum(0) - counts).repeat_interleave(counts)


def _literal(values: Tensor, gains: Tensor, request: Request) -> Tensor:
    ranked = ranking(values.cpu(), gains.cpu())
    measures = [ranking_measures(ranked, k, request.divisor) for k in request.cutoffs]
    whole = ranking_measures(ranked, len(ranked))
    if whole["first_rank"] > request.depth:
        whole["first_rank"] = whole["reciprocal_rank"] = 0.0
    if request.discounts is None:
        for measure in measures:
            measure["ndcg"] = 0.0
    row = in_order(whole, measures)
    if request.recall_levels:
        for curve in precision_recall(ranked, request.recall_levels):
            row += curve
    table = torch.tensor(row, dtype=torch.float64, device="cpu")
    if request.ranks:
        hits = [[rank, gain] for rank, gain in enumerate(ranked, start=1) if gain > 0]
        at, gain = torch.tensor(hits, device="cpu").reshape(-1, 1, 2).unbind(2)
        known = (at <= request.depth).T
        parts = rank_columns(at.T, at.T, gain.T, known, request)
        table = torch.cat([table, *(part[0] for part in parts)])
    return table


def _expected(values: Tensor, gains: Tensor, request: Request) -> Tensor:
    """Expectations over the orders of tied items, from the scores and gains (N,) of a ranking."""
    values, gains = values.cpu().double(), gains.cpu().double()
    _, inverse, size = values.unique(return_inverse=True, return_counts=True)
    inverse = len(size) - 1 - inverse  # rising values, falling ranks
    size = size.flip(0)
    hits = gains.new_zeros(len(size), dtype=torch.int64).index_add_(0, inverse, (gains > 0).long())
    gain = gains.new_zeros(len(size)).index_add_(0, inverse, gains)
    above = size.cumsum(0) - size
    columns = (column.tolist() for column in (above, size, hits, gain))
    groups = [TieGroup(*group) for group in zip(*columns, strict=True)]
    order = values.sort(descending=True, stable=True).indices
    gains = torch.cat([gains[order][gains[order] > 0], gains[gains == 0]])
    return expected_measures([g for g in groups if g.relevant], gains, len(values), request)
