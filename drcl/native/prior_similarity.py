"""Prior similarity with its row-wise part in compiled code; the products are PyTorch's."""

from __future__ import annotations

from torch import Tensor

from drcl.eager.prior_similarity import prior_similarity_backward
from drcl.eager.products import project
from drcl.native.cross_entropy import entropies

__all__ = ["prior_similarity", "prior_similarity_backward"]


def prior_similarity(
    features: Tensor, weight: Tensor, targets: Tensor, q: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, probabilities, loss, score and d(loss)/d(logits), in the weight's dtype."""
    logits = project(features.to(weight.dtype), weight)
    if temperature != 1.0:
        logits = logits / temperature
    found = entropies(logits, targets, q, mean=True, probabilities=True)
    return logits, found.probabilities, found.loss, found.score, found.gradient
