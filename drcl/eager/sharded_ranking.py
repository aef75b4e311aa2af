"""Ranking over a gallery in pieces, one on each rank: only thresholds and counts travel.

Every rank sends the scores of its relevant items. All of them, sorted, are the thresholds; each
rank counts its own irrelevant items before each threshold, and the sums of the counts give the
ranks. The pieces follow one another in the order of the ranks: ties go to the lower rank, then to
the lower index.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.eager.average_precision import gain_matrix
from drcl.ops.average_precision import Relevance, Request


def rank(
    scores: Tensor,
    relevance: Relevance,
    request: Request,
    scale: Tensor | None,
    bias: Tensor | None,
    ranked: int,
    group: ProcessGroup,
) -> Tensor:
    """The op's table (see :class:`drcl.ops.average_precision.Columns`), the same on every rank.

    ``scores`` (Q, n) are this rank's piece of the gallery, ``ranked`` the items of all pieces.
    """
    values = scores if scale is None else scores * scale
    values = values if bias is None else values + bias
    gains = gain_matrix(relevance, scores)
    # This rank's ranking: its relevant items first in `own`, and what is before each of them.
    order = values.sort(dim=1, descending=True, stable=True)
    gain = gains.gather(1, order.indices)
    hit = gain > 0
    width = _largest(int(hit.sum(dim=1).max()), scores.device, group)
    front = (~hit).to(torch.int8).sort(dim=1, stable=True).indices[:, :width]
    before = (~hit).cumsum(dim=1).gather(1, front)  # irrelevant items ahead, ties by index
    own = torch.where(hit.gather(1, front), order.values.gather(1, front), -torch.inf)
    own_gain = gain.gather(1, front) * hit.gather(1, front)
    before = _padded(before, width, 0)
    thresholds = torch.cat(_gather(_padded(own, width, -torch.inf), group), dim=1)
    thresholds_gain = torch.cat(_gather(_padded(own_gain, width, 0), group), dim=1)
    world, me = dist.get_world_size(group), dist.get_rank(group)
    # Irrelevant scores rising, as searchsorted wants them; the relevant ones are put out of reach.
    irrelevant = torch.where(gains > 0, -torch.inf, values).sort(dim=1).values
    n = values.shape[1]
    above = n - torch.searchsorted(irrelevant, thresholds, right=True)
    not_below = n - torch.searchsorted(irrelevant, thresholds, right=False)
    owner = torch.arange(world, device=scores.device).repeat_interleave(width)
    counts = torch.where(owner > me, not_below, above)
    counts[:, me * width : (me + 1) * width] = before
    counts = counts.contiguous()
    dist.all_reduce(counts, group=group)
    # What has gain 0 is padding. It goes to the end, the rest in ranking order: the pieces, and the
    # items within them, already stand in the order that breaks ties.
    real = thresholds_gain > 0
    key = torch.where(real, thresholds, -torch.inf)
    first = (~real).to(torch.int8).sort(dim=1, stable=True).indices
    best = key.gather(1, first).sort(dim=1, descending=True, stable=True).indices
    place = first.gather(1, best)
    real, counts, thresholds_gain = (t.gather(1, place) for t in (real, counts, thresholds_gain))
    ranks = counts + torch.arange(1, counts.shape[1] + 1, device=counts.device)
    return table_of_ranks(ranks, thresholds_gain, real, ranked, request)


def table_of_ranks(
    ranks: Tensor, gains: Tensor, real: Tensor, ranked: int, request: Request
) -> Tensor:
    """The op's table from the ranks (Q, R) of the relevant items, rising, then padding."""
    relevant = real.sum(dim=1)
    number = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
    precision = torch.where(real, number / ranks, 0.0)
    first = torch.where((relevant > 0) & (ranks[:, 0] <= request.depth), ranks[:, 0], 0).double()
    reciprocal = torch.where(first > 0, 1 / first.clamp(min=1), 0.0)
    columns: list[list[Tensor]] = [[], [], [], []]
    for cutoff in request.cutoffs:
        k = min(cutoff, ranked)
        inside = real & (ranks <= k)
        hits = inside.sum(dim=1).double()
        by = {"hits": hits, "min": relevant.clamp(max=k), "relevant": relevant}[request.divisor]
        columns[0].append((precision * inside).sum(dim=1) / by.clamp(min=1))
        columns[1].append(hits / relevant.clamp(min=1))
        columns[2].append(hits / k)
        ndcg = torch.zeros_like(reciprocal)
        if request.discounts is not None:
            dcg = (gains * inside * request.discounts[(ranks - 1).clamp(max=ranked - 1)]).sum(dim=1)
            ordered = gains.sort(dim=1, descending=True).values[:, :k]
            ideal = (ordered * request.discounts[: ordered.shape[1]]).sum(dim=1)
            ndcg = dcg / torch.where(ideal > 0, ideal, 1.0)
        columns[3].append(ndcg)
    parts = [relevant.double(), first, reciprocal, *(c for group in columns for c in group)]
    result = torch.stack(parts, dim=1)
    if request.levels:
        steps = torch.arange(request.levels, device=ranks.device)
        needed = (steps * relevant[:, None] + request.levels - 2) // (request.levels - 1)
        place = needed.clamp(min=1) - 1
        onwards = precision.flip(1).cummax(dim=1).values.flip(1)
        result = torch.cat([result, onwards.gather(1, place), precision.gather(1, place)], dim=1)
    return result


def _padded(tensor: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill).contiguous()


def _largest(value: int, device: torch.device, group: ProcessGroup) -> int:
    largest = torch.tensor(max(value, 1), device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return int(largest)


def _gather(tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor, group=group)
    return parts
