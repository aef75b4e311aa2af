"""Rankings as the op takes them, and the table it should return, for the tests of each form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drcl.ranking import PER_CUTOFF, PER_QUERY, Relevance, Request
from drcl.reference.average_precision import precision_recall, ranking, ranking_measures


def lists_of(gains: Tensor) -> Relevance:
    """One list of items for every row of a matrix of gains (Q, N)."""
    q = torch.arange(len(gains) + 1)
    found = gains > 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), found.sum(1).cumsum(0)])
    max_relevant = int(found.sum(1).max())
    return Relevance(
        max_relevant, q, q[:-1], offsets, found.nonzero()[:, 1].int(), gains[found].int()
    )


def bits_of(query: Tensor, gallery: Tensor) -> Relevance:
    """Multi-hot rows (Q, C), (N, C) as label bits, packed one bit at a time."""
    words = torch.zeros(gallery.shape[1], -(-len(gallery) // 64), dtype=torch.int64)
    for item, label in gallery.nonzero().tolist():
        bit = 1 << (item % 64)
        words[label, item // 64] |= bit - (1 << 64) if bit >= 1 << 63 else bit
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), query.long().sum(1).cumsum(0)])
    return Relevance(len(gallery), offsets, query.nonzero()[:, 1], bits=words)


def whole(n: int, *cutoffs: int, **options: object) -> Request:
    discounts = 1 / torch.arange(2, n + 2, dtype=torch.float64).log2()
    ranks = {} if "average_ties" in options else {"ranks": n // 2 + 1, "rank_gains": n % 3 > 0}
    options = {"recall_levels": 7, "discounts": discounts, **ranks, **options}
    return Request(tuple(sorted({min(k, n) for k in (*cutoffs, n)})), n, **options)  # type: ignore[arg-type]


def oracle(scores: Tensor, gains: Tensor, request: Request) -> Tensor:
    """The table (Q, width) of :mod:`drcl.ranking`, from the literal loops, a query at a time."""
    rows = []
    for row, gain in zip(scores, gains, strict=True):
        order = ranking(row, gain)
        found = [ranking_measures(order, k, request.divisor) for k in request.cutoffs]
        head = ranking_measures(order, len(order))
        values = [head[name] for name in PER_QUERY]
        values += [measures[name] for name in PER_CUTOFF for measures in found]
        if request.recall_levels:
            for curve in precision_recall(order, request.recall_levels):
                values += curve
        hits = [(rank, gain) for rank, gain in enumerate(order, start=1) if gain > 0]
        hits = (hits + [(math.inf, 0)] * request.ranks)[: request.ranks]
        values += [rank for rank, _ in hits]
        values += [gain for _, gain in hits if request.rank_gains]
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)
