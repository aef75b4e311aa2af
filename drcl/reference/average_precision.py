"""Average precision of one ranking, from its definition."""

import torch
from torch import Tensor


def average_precision(
    scores: Tensor, relevant: Tensor, k: int | None = None, no_relevant: str = "zero"
) -> Tensor:
    """``AP = Σ_j precision(rank of hit j) / hits`` over the hits among the first k, per query.

    Shapes: scores (Q, N), relevant (Q, N) bool; the result is (Q,) float64. Ranking is by falling
    score, ties by gallery index. A query whose gallery holds nothing relevant counts 0
    (``"zero"``) or is NaN (``"skip"``); one with relevant items but none in the first k counts 0.
    """
    values = []
    for row, hits in zip(scores, relevant, strict=True):
        order = torch.sort(row, descending=True, stable=True).indices[:k]
        precisions = []
        found = 0
        for rank, item in enumerate(order.tolist(), start=1):
            if hits[item]:
                found += 1
                precisions.append(found / rank)
        if not hits.any() and no_relevant == "skip":
            values.append(float("nan"))
        else:
            values.append(sum(precisions) / len(precisions) if precisions else 0.0)
    return torch.tensor(values, dtype=torch.float64)
