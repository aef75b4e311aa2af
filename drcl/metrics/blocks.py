"""Blocks of queries ranked one after the other, in one process or over the ranks of a group."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.dispatch import choose
from drcl.distributed import all_gather_int, group_device, raise_together
from drcl.eager import sharded_ranking
from drcl.eager.average_precision import Block
from drcl.metrics.ranks import Ranks, discounts_up_to, is_graded
from drcl.metrics.scores import Scores
from drcl.metrics.search import Search, highest_scores
from drcl.metrics.task import Task
from drcl.metrics.tied import TiedRanks
from drcl.ops.average_precision import average_precision, queries_per_block
from drcl.out_of_memory import in_pieces
from drcl.ranking import PER_QUERY, Columns, Relevance, Request, measures_of_nearest, width

Evaluate: TypeAlias = Callable[[Ranks], dict[str, Tensor]]
# Bytes that a query takes for each relevant item where its rank is wanted.
_BYTES_PER_RANK, _BYTES_PER_GRADED_RANK = 64, 160
_TOGETHER = 64  # queries whose highest scores are laid out at once: so few stay in the caches


class Ranked(NamedTuple):
    """Queries, their table of :mod:`drcl.ranking`, and further measures of theirs, on the CPU."""

    queries: Tensor
    table: Tensor
    measures: dict[str, Tensor]


def ranked_blocks(
    task: Task,
    rows: Tensor,
    items: Tensor,
    request: Request,
    evaluate: Evaluate | None = None,
    *,
    find_first: bool,
    known: Scores | None = None,
) -> Iterator[Ranked]:
    """Blocks of these queries over these items, ranked; ``evaluate`` finds further measures.

    ``find_first`` asks for first ranks beyond the request's depth too. The highest scores alone are
    computed where these suffice, unless what makes the scores of these items is ``known``.
    """
    settings, device = task.settings, task.device
    group = settings.process_group
    backend = choose("average_precision" if group is None else "sharded_ranking", device)
    # Places, lists and lengths of a large gallery's items leave less for the scores.
    max_bytes = max(settings.max_bytes - 32 * len(items), settings.max_bytes // 4)
    with raise_together(group):
        scorer = known or task.scorer(
            None if len(items) == task.size else items,
            # A sort needs the order, the relevance and sums in float64 beside the scores.
            max_bytes=max_bytes if backend == "native" else max_bytes // 24,
            max_rows=queries_per_block(device),
        )
        max_relevant, relevance = task.relevance(rows, items)
    if request.discounts is not None:
        request = replace(request, discounts=request.discounts.to(device))

    def graded(relevance: Relevance) -> bool:
        return task.gain_values is not None or is_graded(relevance)

    longest = sum(task.everywhere(len(items)))
    if find_first and backend != "native":  # where all are sorted
        request = replace(request, depth=longest)
    depth = request.depth

    most = task.exclusions.most
    needs_all = known or evaluate is not None or request.average_ties or request.recall_levels
    if group is None and backend == "native" and most is not None and not needs_all:
        # What is there for a moment in a search, and for the measures of what it finds, is not
        # there at once.
        search = highest_scores(scorer, len(rows), depth + most, max_bytes // 4 * 3)
        if search is not None:
            left = yield from _by_highest(
                task, search, rows, items, request, relevance, max_bytes, find_first=find_first
            )
            if len(left):
                yield from ranked_blocks(
                    task, left, items, request, find_first=find_first, known=scorer
                )
            return

    @functools.cache
    def discounts() -> Tensor:
        return discounts_up_to(longest, device)

    def alone(start: int, stop: int) -> list[Ranked]:
        part = rows[start:stop]
        scores, whole = scorer.block(part), relevance(start, part)
        per_query = task.exclusions.bytes_per_item * len(items)
        if evaluate is not None:
            per_rank = _BYTES_PER_GRADED_RANK if graded(whole) else _BYTES_PER_RANK
            per_query += per_rank * whole.max_relevant
        size = max(1, max_bytes // 4 // per_query) if per_query else len(part)
        return [
            _ranked_alone(
                part[a : a + size], scores[a : a + size], whole.queries(a, min(a + size, len(part)))
            )
            for a in range(0, len(part), size)
        ]

    def _ranked_alone(part: Tensor, scores: Tensor, relevant: Relevance) -> Ranked:
        excluded = task.excluded(part, items)

        def table(request: Request, of: Relevance = relevant) -> Tensor:
            return average_precision(
                scores,
                of,
                request,
                scale=scorer.scale,
                bias=scorer.bias,
                excluded=excluded,
                max_bytes=max_bytes // 4,  # scores and, where it fits, the gallery take the rest
                backend=backend,
            )

        if evaluate is None:
            nonlocal depth
            found = table(replace(request, depth=depth))
            if find_first and depth < longest:
                whole = Request((1,), longest, average_ties=request.average_ties)
                missed = find_first_ranks(found, relevant, whole, table)
                if missed > len(part) // 4:  # to look at all at once is then faster
                    depth = longest
            return Ranked(part, found.cpu(), {})
        ranked = _counted(part, items, excluded)
        wanted = _with_ranks(request, relevant.max_relevant, ranked, graded(relevant))
        return _measured(
            part, table(wanted), request, wanted, ranked, task.gain_values, discounts, evaluate
        )

    if group is None:
        for pieces in in_pieces(alone, len(rows), scorer.rows_per_block):
            yield from pieces
        return
    per_relevant = 0 if evaluate is None else _BYTES_PER_GRADED_RANK
    size, double = _agreed(scorer, len(items), max_relevant, per_relevant, max_bytes, group)
    dtype = torch.float64 if double else scorer.dtype
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with raise_together(group):
            scores, excluded = scorer.block(part).to(dtype), task.excluded(part, items)
            relevant = relevance(start, part)
            block = Block.of(scores, relevant, scorer.scale, scorer.bias, excluded)
            piece = sharded_ranking.sort_piece(block)
        del block  # before the exchange: it is as large as the piece
        if evaluate is None:
            yield Ranked(part, sharded_ranking.rank(piece, request, group).cpu(), {})
            continue
        ranked = _counted(part, items, excluded).to(group_device(group))
        dist.all_reduce(ranked, group=group)
        most = sum(all_gather_int(relevant.max_relevant, group))
        any_graded = any(all_gather_int(graded(relevant), group))
        wanted = _with_ranks(request, most, ranked, any_graded)
        table = sharded_ranking.rank(piece, wanted, group)
        yield _measured(part, table, request, wanted, ranked, task.gain_values, discounts, evaluate)


def _by_highest(
    task: Task,
    search: Search,
    rows: Tensor,
    items: Tensor,
    request: Request,
    relevance: Callable[[int, Tensor], Relevance],
    max_bytes: int,
    *,
    find_first: bool,
) -> Generator[Ranked, None, Tensor]:
    """Queries of which the highest scores say all that is asked for; returns the others.

    Those are, with ``find_first``, the queries with relevant items but none within the depth.
    """
    scorer = search.scorer
    together = max(1, min(_TOGETHER, max_bytes // 8 // (scorer.dtype.itemsize * scorer.count)))
    scores = torch.empty(0, scorer.count, dtype=scorer.dtype, device="cpu")
    # Of nDCG the ideal, and of a query's exclusions the relevant ones, are of all items.
    classes = None
    of_all = task.exclusions.most or request.discounts is not None
    if not of_all and not callable(task.settings.relevance):
        classes = relevance(0, rows).list_of_items(scorer.count)
    left = []
    for begin in range(0, len(rows), search.size):
        block = rows[begin : begin + search.size]
        found = search.highest(scorer.queries(block))
        missing = 0
        size = together if classes is None else len(block)
        for start in range(0, len(block), size):
            part = block[start : start + size]
            values, indices = (column[start : start + size] for column in found)
            relevant = relevance(begin + start, part)
            if classes is not None:
                table = measures_of_nearest(indices, relevant, classes, request)
            else:
                if len(scores) == 0:
                    scores = scores.new_full((together, scorer.count), -torch.inf)
                some = scores[: len(part)].scatter_(1, indices, values)
                table = average_precision(
                    some,
                    relevant,
                    request,
                    excluded=task.excluded(part, items),
                    max_bytes=max_bytes // 4,
                    backend="native",
                )
                some.scatter_(1, indices, -torch.inf)
            missed = without_hit(table) & find_first
            missing += int(missed.sum())
            left.append(part[missed])
            yield Ranked(part[~missed], table[~missed], {})
        if missing > len(block) // 2:  # to look at all at once is then faster
            left.append(rows[begin + search.size :])
            break
    return torch.cat(left)


def find_first_ranks(
    found: Tensor, relevant: Relevance, request: Request, table: Callable[..., Tensor]
) -> int:
    """Fill in the first ranks, and their reciprocals, that lie beyond the depth of a table.

    Only the queries without a hit within the depth, of which it returns the number, are ranked
    once more.
    """
    missed = without_hit(found)
    count = int(missed.sum())
    if count:
        whole = table(request, relevant.of_some(missed))
        found[missed, : len(PER_QUERY)] = whole[missed, : len(PER_QUERY)]
    return count


def without_hit(found: Tensor) -> Tensor:
    """Which queries of a table have relevant items, but none within its depth."""
    head = dict(zip(PER_QUERY, found.T, strict=False))
    return (head["first_rank"] == 0) & (head["relevant"] > 0)


def _with_ranks(request: Request, max_relevant: int, ranked: Tensor, graded: bool) -> Request:
    """The same, and the ranks of all relevant items, with their gains where these differ."""
    depth = max(1, int(ranked.max()))
    return replace(request, depth=depth, ranks=max(1, max_relevant), rank_gains=graded)


def _measured(
    part: Tensor,
    table: Tensor,
    asked: Request,
    wanted: Request,
    ranked: Tensor,
    gain_values: Tensor | None,
    discounts: Callable[[], Tensor],
    evaluate: Evaluate,
) -> Ranked:
    """The table that was asked for, of the one with all ranks, and measures of the ranks.

    ``gain_values`` are what gains stand for where they are not whole.
    """
    found = Columns.split(table, wanted)
    head = table[:, : width(asked)]
    ranked = ranked.to(table.device)
    gains = found.gains.contiguous() if wanted.rank_gains else None
    if gains is not None and gain_values is not None:
        gains = torch.nn.functional.pad(gain_values, (1, 0)).to(gains.device)[gains.long()]
    of_ranks = found.ranks.contiguous(), found.relevant.long(), ranked, gains, discounts
    if wanted.average_ties:
        measured: Ranks = TiedRanks(*of_ranks, last=found.last_ranks.contiguous())
    else:
        measured = Ranks(*of_ranks)
    values = {name: value.cpu() for name, value in evaluate(measured).items()}
    return Ranked(part, head.cpu(), values)


def _counted(part: Tensor, items: Tensor, excluded: tuple[Tensor, Tensor] | None) -> Tensor:
    """How many items the rankings of these queries hold."""
    if excluded is None:
        return torch.full((len(part),), len(items), device="cpu")
    return len(items) - excluded[0].diff()


def _agreed(
    scorer: Scores,
    items: int,
    max_relevant: int,
    per_relevant: int,
    max_bytes: int,
    group: ProcessGroup,
) -> tuple[int, bool]:
    """The rows of a block that every rank has memory for; whether any scores are in float64."""
    per_query = sharded_ranking.BYTES_PER_ITEM * items
    relevant = all_gather_int(max_relevant, group)
    per_relevant += sharded_ranking.BYTES_PER_THRESHOLD
    per_query += per_relevant * max(relevant) * len(relevant)
    size = min(scorer.rows_per_block, max(1, max_bytes // 2 // max(per_query, 1)))
    sizes = all_gather_int(size, group)
    return min(sizes), torch.float64.itemsize in all_gather_int(scorer.dtype.itemsize, group)
