"""Prior similarity with its row-wise part in compiled code; the products are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drcl.eager.prior_similarity import prior_similarity_backward
from drcl.eager.products import project
from drcl.native.cross_entropy import compiled_q, entropies, entropies_in_place, laid_out, ops

__all__ = ["at_once", "prior_similarity", "prior_similarity_backward"]

# B·D·C up to which the products are loops too, on one thread.
SMALL = 2**18


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
    own = at_once(features, weight, targets, q, temperature, (False, False)) if loss_only else None
    if own is None:
        logits = project(features.to(weight.dtype), weight)
        if temperature != 1.0:
            logits = logits / temperature
        if not loss_only:
            found = entropies(logits, targets, q)
            return logits, found.probabilities, found.loss, found.score, found.gradient
        loss, score = entropies_in_place(logits, targets, q, mean=True)
    else:
        loss, score, logits, *_ = own
    nothing = weight.new_empty(0, weight.shape[1])
    return nothing, torch.empty_like(nothing), loss, score, logits


def at_once(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """Loss, score, and the loss's gradients by logits, and by features and weight where needed.

    In the weight's dtype. None where the products are too large to be loops.
    """
    if features.numel() * weight.shape[1] > SMALL:
        return None
    x = features.to(weight.dtype).contiguous()
    found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = ops.similarity_at_once.default(
        x, weight.contiguous(), laid_out(targets, weight), compiled_q(q), temperature, needs
    )
    return found
