"""Retrieval measures of one ranking, from their definitions, a loop over the ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["average_precision", "precision_recall", "ranking", "ranking_measures", "tie_orders"]
__dir__ = __all__.copy


def average_precision(
    scores: Tensor,
    relevant: Tensor,
    k: int | None = None,
    no_relevant: str = "zero",
    divisor: str = "hits",
) -> Tensor:
    """``AP@k = Σ_j precision(rank of hit j) / divisor`` over the hits among the first k, per query.

    Shapes: scores (Q, N), relevant (Q, N) bool; the result is (Q,) float64. Ranking is by falling
    score, ties by gallery index. The divisor is the number of hits in the first k (``"hits"``),
    min(R, k) (``"min"``) or R (``"relevant"``) for R relevant items. A query whose gallery holds
    nothing relevant counts 0 (``"zero"``) or is NaN (``"skip"``); one with relevant items but none
    in the first k counts 0. Source: the field's definition, see the paper's evaluation.

    >>> average_precision(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]]))
    tensor([0.8333], dtype=torch.float64)
    """
    values = []
    for row, hits in zip(scores, relevant, strict=True):
        cutoff = len(row) if k is None else k
        value = ranking_measures(ranking(row, hits.long()), cutoff, divisor)["average_precision"]
        values.append(math.nan if no_relevant == "skip" and not hits.any() else value)
    return torch.tensor(values, dtype=torch.float64)


def ranking(scores: Tensor, gains: Tensor) -> list[int]:
    """The gains (N,) in the order of falling scores (N,), ties by index."""
    return gains[torch.sort(scores, descending=True, stable=True).indices].tolist()


def tie_orders(scores: Tensor, gains: Tensor) -> Iterator[list[int]]:
    """The gains of every order that falling scores allow: all permutations of every tied group."""
    groups: dict[float, list[int]] = {}
    for score, gain in sorted(zip(scores.tolist(), gains.tolist(), strict=True), reverse=True):
        groups.setdefault(score, []).append(gain)
    for parts in itertools.product(*(itertools.permutations(group) for group in groups.values())):
        yield [gain for part in parts for gain in part]


def ranking_measures(gains: list[int], k: int, divisor: str = "hits") -> dict[str, float]:
    """AP, recall, precision and nDCG at k, and the first relevant rank, of gains in ranking order.

    An item is relevant if its gain is positive; ``DCG@k = Σ_{r ≤ k} gain_r / log₂(r + 1)``, nDCG is
    DCG over that of the gains in falling order. All are 0 where nothing is relevant.
    """
    k = min(k, len(gains))
    relevant = sum(gain > 0 for gain in gains)
    hits, precisions = 0, 0.0
    for rank, gain in enumerate(gains[:k], start=1):
        if gain > 0:
            hits += 1
            precisions += hits / rank
    by = {"hits": hits, "min": min(relevant, k), "relevant": relevant}[divisor]
    ideal = _dcg(sorted(gains, reverse=True)[:k])
    first = next((rank for rank, gain in enumerate(gains, start=1) if gain > 0), 0)
    return {
        "average_precision": precisions / by if hits else 0.0,
        "recall": hits / relevant if relevant else 0.0,
        "precision": hits / k if k else 0.0,
        "ndcg": _dcg(gains[:k]) / ideal if ideal else 0.0,
        "relevant": float(relevant),
        "first_rank": float(first),
        "reciprocal_rank": 1 / first if first else 0.0,
    }


def precision_recall(gains: list[int], levels: int) -> tuple[list[float], list[float]]:
    """Precision at ``levels`` recall levels from 0 to 1: interpolated, and where first reached.

    Interpolated precision at recall r is the highest precision at any recall >= r.
    """
    hits = list(itertools.accumulate(gain > 0 for gain in gains))
    if not hits or hits[-1] == 0:
        return [0.0] * levels, [0.0] * levels
    interpolated, raw = [], []
    for level in range(levels):
        reached = [
            found / rank
            for rank, (found, gain) in enumerate(zip(hits, gains, strict=True), start=1)
            if gain > 0 and found * (levels - 1) >= level * hits[-1]
        ]
        interpolated.append(max(reached))
        raw.append(reached[0])
    return interpolated, raw


def _dcg(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
