"""Prior similarity with its row-wise part in compiled code; the products are PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor

from drcl.eager.prior_similarity import prior_similarity_backward
from drcl.eager.products import project
from drcl.native.cross_entropy import entropies, entropies_in_place

__all__ = ["prior_similarity", "prior_similarity_backward"]


def prior_similarity(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    *,
    loss_only: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`drcl.eager.prior_similarity.prior_similarity`."""
    logits = project(features.to(weight.dtype), weight)
    if temperature != 1.0:
        logits = logits / temperature
    if loss_only:
        loss, score = entropies_in_place(logits, targets, q, mean=True)
        nothing = logits.new_empty(0, logits.shape[1])
        return nothing, torch.empty_like(nothing), loss, score, logits
    found = entropies(logits, targets, q)
    return logits, found.probabilities, found.loss, found.score, found.gradient
