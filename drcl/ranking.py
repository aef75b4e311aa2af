"""Rankings: what is relevant, what is asked for, and the one table that every backend returns.

The table has a row for each query and four kinds of columns, in this order: one column for each of
:data:`PER_QUERY`; for each of :data:`PER_CUTOFF` one for each cut-off; for each of
:data:`PER_LEVEL` one for each recall level; for each of :data:`PER_RANK` that is asked for one for
each relevant item. A measure is derived here from the ranks of the
relevant items, and in ``csrc/average_precision.h`` for the compiled code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

DIVISORS = ("hits", "min", "relevant")
# The measures, and what a summary calls their means; "" where a mean says nothing.
PER_QUERY = {"relevant": "", "first_rank": "", "reciprocal_rank": "MRR"}
PER_CUTOFF = {
    "average_precision": "mAP",
    "recall": "recall",
    "precision": "precision",
    "ndcg": "nDCG",
}
PER_LEVEL = ("interpolated", "raw")
PER_RANK = ("ranks", "last_ranks", "gains")

T = TypeVar("T")


@dataclass(frozen=True)
class Measures:
    """Every query's measures in float64: (Q,), or (Q, K) for K cut-offs.

    ``first_rank`` and ``reciprocal_rank`` are 0 where no relevant item is within the ranks asked
    for; ``ndcg`` is None unless asked for.
    """

    relevant: Tensor
    first_rank: Tensor
    reciprocal_rank: Tensor
    average_precision: Tensor
    recall: Tensor
    precision: Tensor
    ndcg: Tensor | None


@dataclass(frozen=True)
class Relevance:
    """Which gallery items are relevant to the queries of a block, as unions of lists of items.

    Query i's relevant items are those of the lists
    ``members[member_offsets[i]:member_offsets[i+1]]``. List l is
    ``items[offsets[l]:offsets[l+1]]``, rising, or the set bits of ``bits[l]``. An item's gain is
    the sum of its gains over the query's lists: with a list a label, the number of shared
    labels.

    ``max_relevant`` bounds the relevant items of a query: memory is reserved by it.

    Shapes: member_offsets (Q+1,), members, offsets (L+1,) int64; items, gains (1 when None) int32;
    bits (L, ⌈N/64⌉) int64, lowest bit first.
    """

    max_relevant: int
    member_offsets: Tensor
    members: Tensor
    offsets: Tensor | None = None
    items: Tensor | None = None
    gains: Tensor | None = None
    bits: Tensor | None = None

    def queries(self, start: int, stop: int) -> Relevance:
        """The part of queries start..stop."""
        return replace(self, member_offsets=self.member_offsets[start : stop + 1])

    def of_some(self, chosen: Tensor) -> Relevance:
        """The same for the chosen of its queries (Q,) bool; the others have no relevant items."""
        counts = self.member_offsets.diff()
        members = self.members[int(self.member_offsets[0]) : int(self.member_offsets[-1])]
        kept = torch.where(chosen, counts, 0).cumsum(0)
        return replace(
            self,
            member_offsets=torch.nn.functional.pad(kept, (1, 0)),
            members=members[chosen.repeat_interleave(counts)],
        )

    def list_of_items(self, count: int) -> Tensor | None:
        """The list that each of so many items is in (N,), −1 for none.

        None where an item is in several, where a query has several, and where gains are not all 1:
        that is, where relevance is more than that of classes.
        """
        if self.items is None or self.offsets is None or self.gains is not None:
            return None
        if len(self.items) > count or bool((self.member_offsets.diff() > 1).any()):
            return None
        lists = torch.full((count,), -1, device=self.items.device)
        number = torch.arange(len(self.offsets) - 1, device=self.items.device)
        lists[self.items.long()] = number.repeat_interleave(self.offsets.diff())
        return lists if int((lists >= 0).sum()) == len(self.items) else None

    def to(self, device: torch.device) -> Relevance:
        """The same on a device."""
        values: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Relevance(**values)


@dataclass(frozen=True)
class Request:
    """What to compute: see :func:`drcl.metrics.retrieval_metrics` for the definitions.

    ``cutoffs`` rise. Ranks beyond ``depth`` are not asked for, which is cheaper when it is small;
    recall levels need the whole ranking. ``discounts`` (N,) float64 asks for nDCG.

    ``ranks`` T asks for the ranks of a query's first T relevant items, best first, ∞ where there
    are fewer within the depth: with ``average_ties`` for the first and the last rank of each
    item's score. ``rank_gains`` asks for their gains too, 0 where there are fewer.
    """

    cutoffs: tuple[int, ...]
    depth: int
    divisor: str = "hits"
    average_ties: bool = False
    recall_levels: int = 0
    discounts: Tensor | None = None
    ranks: int = 0
    rank_gains: bool = False

    @property
    def per_rank(self) -> tuple[int, ...]:
        """How many columns there are of each of :data:`PER_RANK`."""
        return self.ranks, self.ranks * self.average_ties, self.ranks * self.rank_gains


@dataclass(frozen=True)
class Columns(Measures):
    """A table's columns by name: beside the measures, those of recall levels and of ranks."""

    interpolated: Tensor
    raw: Tensor
    ranks: Tensor
    last_ranks: Tensor
    gains: Tensor

    @staticmethod
    def split(table: Tensor, request: Request) -> Columns:
        """Names the columns of a table (Q, width)."""
        sizes = [1] * len(PER_QUERY) + [len(request.cutoffs)] * len(PER_CUTOFF)
        sizes += [request.recall_levels] * len(PER_LEVEL)
        sizes += request.per_rank
        names = (*PER_QUERY, *PER_CUTOFF, *PER_LEVEL, *PER_RANK)
        parts = dict(zip(names, table.split(sizes, 1), strict=True))
        columns: dict[str, Any] = {
            name: part[:, 0] if name in PER_QUERY else part for name, part in parts.items()
        }
        if request.discounts is None:
            columns["ndcg"] = None
        return Columns(**columns)


def width(request: Request) -> int:
    """How many columns a table has.

    >>> width(Request(cutoffs=(1, 5), depth=5, recall_levels=11))
    33
    """
    at_cutoffs = len(PER_CUTOFF) * len(request.cutoffs)
    levels = len(PER_LEVEL) * request.recall_levels
    return len(PER_QUERY) + at_cutoffs + levels + sum(request.per_rank)


def in_order(per_query: Mapping[str, T], per_cutoff: Sequence[Mapping[str, T]]) -> list[T]:
    """A table's columns, or a row's values, up to the recall levels, in their order."""
    return [
        *(per_query[name] for name in PER_QUERY),
        *(at_cutoff[name] for name in PER_CUTOFF for at_cutoff in per_cutoff),
    ]


def measures_of_nearest(
    items: Tensor, relevance: Relevance, lists: Tensor, request: Request
) -> Tensor:
    """The table (Q, width) in float64 from the nearest ``request.depth`` items (Q, k), in order.

    ``lists`` is :meth:`Relevance.list_of_items`. The request is for neither nDCG nor recall levels
    nor ranks, which need all relevant items.
    """
    assert relevance.offsets is not None
    has_list = relevance.member_offsets.diff() > 0
    place = relevance.member_offsets[:-1].clamp(max=len(relevance.members) - 1)
    own = relevance.members[place] if len(relevance.members) else torch.zeros_like(place)
    sizes = relevance.offsets.diff()
    relevant = torch.where(has_list, sizes[own] if len(sizes) else 0, 0)
    hit = (lists[items] == own[:, None]) & has_list[:, None]
    rank = torch.arange(1, items.shape[1] + 1, device=items.device)
    ranks = torch.where(hit, rank, len(lists) + 1).sort(dim=1).values
    ranked = torch.full_like(own, len(lists))
    gains = (ranks <= len(lists)).long()
    return measures_from_ranks(ranks, gains, ranked, request, relevant)


def measures_from_ranks(
    ranks: Tensor,
    gains: Tensor,
    ranked: Tensor,
    request: Request,
    relevant: Tensor | None = None,
) -> Tensor:
    """The table (Q, width) in float64 from the ranks of the relevant items.

    ``ranks`` and ``gains`` (Q, T), T >= 1, are those of the relevant items, best first, then
    padding of gain 0 and any positive rank; ``ranked`` (Q,) counts the items of each ranking.
    ``relevant`` (Q,) counts the relevant ones, where those beyond the depth are not among them;
    padding then has ranks beyond it too. Sums run along the ranks one by one: on a CPU their bits
    depend on neither threads nor padding.
    """
    real = gains > 0
    relevant = real.sum(dim=1) if relevant is None else relevant
    number = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
    precision = torch.where(real, number / ranks, 0.0)
    within = (relevant > 0) & (ranks[:, 0] <= request.depth)
    first = torch.where(within, ranks[:, 0], 0).double()
    head = {
        "relevant": relevant.double(),
        "first_rank": first,
        "reciprocal_rank": torch.where(first > 0, 1 / first.clamp(min=1), 0.0),
    }
    sums = _sums(precision)
    if request.discounts is not None:
        discounts = request.discounts[(ranks - 1).clamp(max=len(request.discounts) - 1)]
        dcg = _sums(gains * discounts)
        # no query has more relevant items than there are items: what lies beyond is padding
        best = gains.sort(dim=1, descending=True).values[:, : len(request.discounts)]
        ideal = _sums(best * request.discounts[: best.shape[1]])
    per_cutoff = []
    for cutoff in request.cutoffs:
        k = ranked.clamp(max=cutoff)
        hits = (real & (ranks <= k[:, None])).sum(dim=1)
        by = {"hits": hits, "min": torch.minimum(relevant, k), "relevant": relevant}
        ndcg = torch.zeros_like(first)
        if request.discounts is not None:
            best_dcg = _at(ideal, torch.minimum(relevant, k))
            ndcg = _at(dcg, hits) / torch.where(best_dcg > 0, best_dcg, 1.0)
        per_cutoff.append(
            {
                "average_precision": _at(sums, hits) / by[request.divisor].clamp(min=1),
                "recall": hits.double() / relevant.clamp(min=1),
                "precision": hits.double() / k.clamp(min=1),
                "ndcg": ndcg,
            }
        )
    table = torch.stack(in_order(head, per_cutoff), dim=1)
    if request.recall_levels:
        curves = precision_at_levels(precision, relevant, request.recall_levels)
        table = torch.cat([table, *curves], dim=1)
    if request.ranks:
        known = real & (ranks <= request.depth)
        table = torch.cat([table, *rank_columns(ranks, ranks, gains, known, request)], dim=1)
    return table


def rank_columns(
    ranks: Tensor, last_ranks: Tensor, gains: Tensor, known: Tensor, request: Request
) -> list[Tensor]:
    """Those of :data:`PER_RANK` in a table, from (Q, T) for any T, best first."""
    parts = (ranks, torch.inf), (last_ranks, torch.inf), (gains, 0.0)
    missing = request.ranks - ranks.shape[1]  # where negative, what is cut off
    return [
        torch.nn.functional.pad(torch.where(known, part.double(), rest), (0, missing), value=rest)
        for (part, rest), count in zip(parts, request.per_rank, strict=True)
        if count
    ]


def precision_at_levels(precision: Tensor, relevant: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Precision at ``count`` recall levels (Q, L), interpolated and raw.

    From the precision (Q, T) at each query's relevant items, best first, then 0.
    """
    levels, last = torch.arange(count, device=precision.device), count - 1
    needed = (levels * relevant[:, None] + last - 1) // last  # hits that reach the level
    place = needed.clamp(min=1) - 1
    onwards = precision.flip(1).cummax(dim=1).values.flip(1)
    return onwards.gather(1, place), precision.gather(1, place)


def _sums(values: Tensor) -> Tensor:
    """Column t (of T + 1) is the sum of the first t of (Q, T)."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _at(sums: Tensor, counts: Tensor) -> Tensor:
    return sums.gather(1, counts[:, None])[:, 0]


class TieGroup(NamedTuple):
    """Items of one score: how many are above and in it, its relevant ones and their gains' sum."""

    above: int
    size: int
    relevant: int
    gain: float


def expected_measures(
    groups: Sequence[TieGroup], gains: Tensor, ranked: int, request: Request
) -> Tensor:
    """A table's row averaged over the orders of tied items; the formulas are the compiled code's.

    ``groups`` are those with relevant items, best first; ``gains`` those of their relevant items in
    the same order, and perhaps zeros. A place of a group holds a relevant item with probability
    r/s, and then (r−1)/(s−1) of the places before it do. When the divisor counts the hits inside
    the cut-off, the number x of the group's hits there is hypergeometric. Source: McSherry and
    Najork, *Computing information retrieval performance measures efficiently in the presence of
    tied scores* (2008).
    """
    relevant = sum(group.relevant for group in groups)
    first, reciprocal = _expected_first(groups, request.depth)
    head = {"relevant": float(relevant), "first_rank": first, "reciprocal_rank": reciprocal}
    per_cutoff = []
    for cutoff in request.cutoffs:
        k = min(cutoff, ranked)
        total, found, inside, dcg, ap = 0.0, 0, 0.0, 0.0, None
        for t, s, r, g in groups:
            if t >= k:
                break
            m = min(s, k - t)
            if request.discounts is not None:
                dcg += float(request.discounts[t : t + m].sum()) * g / s
            inside += r * m / s
            if m < s and request.divisor == "hits":
                ap = _expected_ratio(TieGroup(t, s, r, g), m, found, total)
            total += _expected_sum(t, m, m * r / s, (r - 1) / (s - 1) if s > 1 else 0.0, found)
            found += r if m == s else 0
        by = {"hits": inside, "min": min(relevant, k), "relevant": relevant}[request.divisor]
        ideal = 0.0
        if request.discounts is not None:
            best = gains.sort(descending=True).values[:k]
            ideal = float((best * request.discounts[: len(best)].cpu()).sum())
        per_cutoff.append(
            {
                "average_precision": ap if ap is not None else total / by if inside > 0 else 0.0,
                "recall": inside / relevant if relevant else 0.0,
                "precision": inside / k if k else 0.0,
                "ndcg": dcg / ideal if ideal > 0 else 0.0,
            }
        )
    row = in_order(head, per_cutoff)
    row += [0.0] * (len(PER_LEVEL) * request.recall_levels)
    table = torch.tensor(row, dtype=torch.float64, device="cpu")
    if request.ranks:
        sizes = torch.tensor([group.relevant for group in groups], dtype=torch.int64, device="cpu")
        ends = [(group.above + 1, group.above + group.size) for group in groups]
        first, last = torch.tensor(ends, device="cpu").reshape(-1, 2).repeat_interleave(sizes, 0).T
        parts = first[None], last[None], gains[None, : len(first)], first[None] <= request.depth
        table = torch.cat([table, *(part[0] for part in rank_columns(*parts, request))])
    return table


def _expected_first(groups: Sequence[TieGroup], depth: int) -> tuple[float, float]:
    if not groups or groups[0].above >= depth:
        return 0.0, 0.0
    t, s, r, _ = groups[0]
    reciprocal, p = 0.0, r / s
    for i in range(1, s - r + 2):
        reciprocal += p / (t + i)
        p *= (s - r - i + 1) / (s - i) if s > i else 0.0
    return t + (s + 1) / (r + 1), reciprocal


def _expected_sum(above: int, places: int, x: float, others: float, found: int) -> float:
    """Expected sum of precisions at the hits, x of them expected over the first `places`."""
    i = torch.arange(1, places + 1, dtype=torch.float64, device="cpu")
    inverse = 1 / (above + i)
    return x / places * float(((found + 1) * inverse + others * (i - 1) * inverse).sum())


def _expected_ratio(group: TieGroup, places: int, found: int, before: float) -> float:
    """Expected AP where the cut-off leaves some places of a group, and its divisor is the hits."""

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    above, size, r, _ = group
    total = value = 0.0
    outcomes = range(max(0, r + places - size), min(r, places) + 1)
    logs = [log_choose(r, x) + log_choose(size - r, places - x) for x in outcomes]
    for x, log in zip(outcomes, logs, strict=True):
        weight = math.exp(log - max(logs))
        total += weight
        if found + x > 0:
            others = (x - 1) / (places - 1) if places > 1 else 0.0
            part = _expected_sum(above, places, x, others, found) if x else 0.0
            value += weight * (before + part) / (found + x)
    return value / total
