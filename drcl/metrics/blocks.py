"""Blocks of queries ranked one after the other, in one process or over the ranks of a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.dispatch import choose
from drcl.distributed import all_gather_int, raise_together
from drcl.eager import sharded_ranking
from drcl.eager.average_precision import Block
from drcl.metrics.scores import Scorer
from drcl.metrics.task import Task
from drcl.ops.average_precision import average_precision, queries_per_block
from drcl.out_of_memory import in_pieces
from drcl.ranking import Request


def ranked_blocks(
    task: Task, rows: Tensor, items: Tensor, request: Request
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of these queries over these items, and the table of :mod:`drcl.ranking` for each.

    Queries and tables are on the CPU.
    """
    settings, device = task.settings, task.query.device
    group = settings.process_group
    backend = choose("average_precision" if group is None else "sharded_ranking", device)
    # Places, lists and lengths of a large gallery's items leave less for the scores.
    max_bytes = max(settings.max_bytes - 32 * len(items), settings.max_bytes // 4)
    with raise_together(group):
        scorer = Scorer(
            task.query,
            task.gallery,
            None if len(items) == len(task.gallery) else items,
            metric=settings.metric,
            precision=settings.precision,
            # A sort needs the order, the relevance and sums in float64 beside the scores.
            max_bytes=max_bytes if backend == "native" else max_bytes // 24,
            max_rows=queries_per_block(device),
        )
        max_relevant, relevance = task.relevance(rows, items)
    if request.discounts is not None:
        request = replace(request, discounts=request.discounts.to(device))

    def alone(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = rows[start:stop]
        table = average_precision(
            scorer.block(part),
            relevance(start, part),
            request,
            scale=scorer.scale,
            bias=scorer.bias,
            excluded=task.excluded(part, items),
            max_bytes=max_bytes // 4,  # scores and, where it fits, the gallery take the rest
            backend=backend,
        )
        return part, table.cpu()

    if group is None:
        yield from in_pieces(alone, len(rows), scorer.rows_per_block)
        return
    size, double = _agreed(scorer, len(items), max_relevant, max_bytes, group)
    dtype = torch.float64 if double else scorer.dtype
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with raise_together(group):
            scores, excluded = scorer.block(part).to(dtype), task.excluded(part, items)
            block = Block.of(scores, relevance(start, part), scorer.scale, scorer.bias, excluded)
            piece = sharded_ranking.sort_piece(block)
        del block  # before the exchange: it is as large as the piece
        yield part, sharded_ranking.rank(piece, request, group).cpu()


def _agreed(
    scorer: Scorer, items: int, max_relevant: int, max_bytes: int, group: ProcessGroup
) -> tuple[int, bool]:
    """The rows of a block that every rank has memory for; whether any scores are in float64."""
    per_query = sharded_ranking.BYTES_PER_ITEM * items
    relevant = all_gather_int(max_relevant, group)
    per_query += sharded_ranking.BYTES_PER_THRESHOLD * max(relevant) * len(relevant)
    size = min(scorer.rows_per_block, max(1, max_bytes // 2 // max(per_query, 1)))
    sizes = all_gather_int(size, group)
    return min(sizes), torch.float64.itemsize in all_gather_int(scorer.dtype.itemsize, group)
