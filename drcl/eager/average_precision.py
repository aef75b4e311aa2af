"""Ranking a block of queries in plain PyTorch: a stable sort, then sums along the ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drcl.ops.average_precision import Relevance, Request
from drcl.reference.average_precision import precision_recall, ranking, ranking_measures


def rank(
    scores: Tensor,
    relevance: Relevance,
    request: Request,
    scale: Tensor | None,
    bias: Tensor | None,
    left_out: tuple[Tensor, Tensor] | None,
    *,
    literal: bool = False,
) -> Tensor:
    """As :func:`drcl.ops.average_precision.average_precision`; ``literal`` loops over the ranks."""
    values = scores if scale is None else scores * scale
    values = values if bias is None else values + bias
    if bool(values.isnan().any()):
        raise ValueError(f"scores: row {int(values.isnan().any(dim=1).nonzero()[0])} holds NaN")
    gains = gain_matrix(relevance, scores)
    kept = kept_items(left_out, scores)
    if request.average_ties:
        rows_out = [
            _expected(v[m], g[m], request) for v, g, m in zip(values, gains, kept, strict=True)
        ]
        return torch.stack(rows_out).to(scores.device)
    if literal:
        rows_out = [
            _literal(v[m], g[m], request) for v, g, m in zip(values, gains, kept, strict=True)
        ]
        return torch.stack(rows_out).to(scores.device)
    return _sorted(values, gains, kept, request)


def gain_matrix(relevance: Relevance, scores: Tensor) -> Tensor:
    """The gain (Q, N) int32 of every item for every query."""
    q, n = scores.shape
    gains = torch.zeros(q, n, dtype=torch.int32, device=scores.device)
    start, stop = int(relevance.member_offsets[0]), int(relevance.member_offsets[-1])
    members = relevance.members[start:stop]
    rows = torch.arange(q, device=scores.device).repeat_interleave(relevance.member_offsets.diff())
    if relevance.bits is not None:
        shifts = torch.arange(64, device=scores.device)
        for row, member in zip(rows.tolist(), members.tolist(), strict=True):
            bits = (relevance.bits[member][:, None] >> shifts) & 1
            gains[row] += bits.reshape(-1)[:n].int()
        return gains
    assert relevance.offsets is not None and relevance.items is not None
    lengths = relevance.offsets.diff()[members]
    rows = rows.repeat_interleave(lengths)
    within = torch.arange(len(rows), device=scores.device)
    within = within - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    entries = relevance.offsets[members].repeat_interleave(lengths) + within
    values = torch.ones_like(rows, dtype=torch.int32)
    if relevance.gains is not None:
        values = relevance.gains[entries]
    return gains.index_put_((rows, relevance.items[entries].long()), values, accumulate=True)


def kept_items(left_out: tuple[Tensor, Tensor] | None, scores: Tensor) -> Tensor:
    """Whether each query's ranking holds each item, (Q, N) bool."""
    kept = torch.ones_like(scores, dtype=torch.bool)
    if left_out is not None:
        offsets, columns = left_out
        rows = torch.arange(len(scores), device=scores.device).repeat_interleave(offsets.diff())
        kept[rows, columns[int(offsets[0]) : int(offsets[-1])]] = False
    return kept


def _sorted(values: Tensor, gains: Tensor, kept: Tensor, request: Request) -> Tensor:
    n = values.shape[1]
    # What a ranking does not hold is sorted behind everything that it does.
    order = values.sort(dim=1, descending=True, stable=True).indices
    behind = (~kept.gather(1, order)).to(torch.int8).sort(dim=1, stable=True).indices
    order = order.gather(1, behind)
    gain = gains.gather(1, order) * kept.gather(1, order)
    hit = gain > 0
    found = hit.cumsum(dim=1)
    ranks = torch.arange(1, n + 1, device=values.device, dtype=torch.float64)
    at_hits = hit * found / ranks
    sums = at_hits.cumsum(dim=1)
    relevant, ranked = found[:, -1], kept.sum(dim=1)
    inside = hit & (ranks <= request.depth)
    first = torch.where(inside.any(dim=1), hit.int().argmax(dim=1) + 1, 0).double()
    reciprocal = torch.where(first > 0, 1 / first.clamp(min=1), 0.0)
    columns: dict[str, list[Tensor]] = {"ap": [], "recall": [], "precision": [], "ndcg": []}
    if request.discounts is not None:
        discounts = request.discounts[:n]
        dcg = (gain * discounts).cumsum(dim=1)
        ideal = (gain.sort(dim=1, descending=True).values * discounts).cumsum(dim=1)
    for cutoff in request.cutoffs:
        k = ranked.clamp(max=cutoff)
        last = (k - 1).clamp(min=0)[:, None]
        hits = found.gather(1, last)[:, 0].double()
        divisor = {"hits": hits, "min": torch.minimum(relevant, k), "relevant": relevant}
        total = sums.gather(1, last)[:, 0]
        columns["ap"].append(total / divisor[request.divisor].clamp(min=1))
        columns["recall"].append(hits / relevant.clamp(min=1))
        columns["precision"].append(hits / k.clamp(min=1))
        if request.discounts is not None:
            best = ideal.gather(1, last)[:, 0]
            value = dcg.gather(1, last)[:, 0] / torch.where(best > 0, best, 1.0)
        else:
            value = torch.zeros_like(total)
        columns["ndcg"].append(value)
    table = [
        relevant.double(),
        first,
        reciprocal,
        *(c for group in columns.values() for c in group),
    ]
    result = torch.stack(table, dim=1)
    if request.levels:
        result = torch.cat([result, *_curves(at_hits, found, request.levels)], dim=1)
    return result


def _curves(at_hits: Tensor, found: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Precision at the recall levels, interpolated and raw; at_hits is 0 where there is no hit."""
    relevant = found[:, -1:]
    steps = torch.arange(levels, device=found.device)
    needed = ((steps * relevant + levels - 2) // (levels - 1)).clamp(min=1)
    place = torch.searchsorted(found.contiguous(), needed).clamp(max=found.shape[1] - 1)
    onwards = at_hits.flip(1).cummax(dim=1).values.flip(1)
    any_relevant = relevant > 0
    return onwards.gather(1, place) * any_relevant, at_hits.gather(1, place) * any_relevant


def _literal(values: Tensor, gains: Tensor, request: Request) -> Tensor:
    ranked = ranking(values.cpu(), gains.cpu())
    measures = [ranking_measures(ranked, k, request.divisor) for k in request.cutoffs]
    head = ranking_measures(ranked, len(ranked))
    within = head["first"] <= request.depth
    row = [head["relevant"], head["first"] * within, head["reciprocal"] * within]
    for name in ("average_precision", "recall", "precision", "ndcg"):
        zero = name == "ndcg" and request.discounts is None
        row += [0.0 if zero else measure[name] for measure in measures]
    if request.levels:
        for curve in precision_recall(ranked, request.levels):
            row += curve
    return torch.tensor(row, dtype=torch.float64, device="cpu")


def _expected(values: Tensor, gains: Tensor, request: Request) -> Tensor:
    """Expectations over the orders of tied items, from the scores and gains (N,) of a ranking."""
    values, gains = values.cpu().double(), gains.cpu().double()
    _, inverse, size = values.unique(return_inverse=True, return_counts=True)
    inverse = len(size) - 1 - inverse  # rising values, falling ranks
    size = size.flip(0)
    hits = gains.new_zeros(len(size), dtype=torch.int64).index_add_(0, inverse, (gains > 0).long())
    gain = gains.new_zeros(len(size)).index_add_(0, inverse, gains)
    above = size.cumsum(0) - size
    groups = [
        (int(t), int(s), int(r), float(g))
        for t, s, r, g in zip(above, size, hits, gain, strict=True)
        if r > 0
    ]
    return expected_measures(groups, gains, len(values), request)


def expected_measures(
    groups: list[tuple[int, int, int, float]], gains: Tensor, ranked: int, request: Request
) -> Tensor:
    """A row of the op's table from the groups of tied items; the formulas are the compiled op's.

    A group that starts after t ranks and has s items, r of them relevant with gains of g together,
    is (t, s, r, g); only those with relevant items are given, best first. ``gains`` are those of
    all relevant items. A place of a group holds a relevant item with probability r/s, and then
    (r−1)/(s−1) of the places before it do. When the divisor counts the hits inside the cut-off,
    the number x of the group's hits there is hypergeometric.
    """
    relevant = sum(r for _, _, r, _ in groups)
    first, reciprocal = _expected_first(groups, request.depth)
    row = [float(relevant), first, reciprocal]
    columns: list[list[float]] = [[], [], [], []]
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
                ap = _expected_ratio(t, s, r, m, found, total)
            total += _expected_sum(t, m, m * r / s, (r - 1) / (s - 1) if s > 1 else 0.0, found)
            found += r if m == s else 0
        by = {"hits": inside, "min": min(relevant, k), "relevant": relevant}[request.divisor]
        columns[0].append(ap if ap is not None else total / by if inside > 0 else 0.0)
        columns[1].append(inside / relevant if relevant else 0.0)
        columns[2].append(inside / k if k else 0.0)
        ideal = 0.0
        if request.discounts is not None:
            best = gains.sort(descending=True).values[:k]
            ideal = float((best * request.discounts[: len(best)].cpu()).sum())
        columns[3].append(dcg / ideal if ideal > 0 else 0.0)
    row += [value for column in columns for value in column]
    return torch.tensor(row + [0.0] * (2 * request.levels), dtype=torch.float64, device="cpu")


def _expected_first(groups: list[tuple[int, int, int, float]], depth: int) -> tuple[float, float]:
    if not groups or groups[0][0] >= depth:
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


def _expected_ratio(above: int, size: int, r: int, places: int, found: int, before: float) -> float:
    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

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
