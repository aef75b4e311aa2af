"""Prior similarity in compiled code; with many classes the products are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from drcl.eager.prior_similarity import prior_similarity_backward, products
from drcl.eager.products import project
from drcl.native.cross_entropy import compiled_q, entropies, entropies_in_place, laid_out, ops
from drcl.native.products import product

__all__ = ["at_once", "by_products", "prior_similarity", "prior_similarity_backward"]

# The products are loops too, in one call with the rest, for so many classes and entries of W (D·C)
# at most, and up to so many multiplications (B·D·C) of any shape. On an AMD EPYC the call then took
# as long as the other way or less: 1.0 to 1.7 times as fast, apart from noise. With
# 2^17 entries it was .84 to 1.1 times as fast, with C = 200 and D = 2,048 .5 to .9.
CLASSES, ENTRIES = 128, 2**16
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
        logits = _logits(features, weight, temperature)
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

    In the weight's dtype. None where PyTorch's products are faster than loops.
    """
    classes = weight.shape[1]
    few = classes <= CLASSES and weight.numel() <= ENTRIES
    if not few and features.numel() * classes > SMALL:
        return None
    x = features.to(weight.dtype).contiguous()
    found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = ops.similarity_at_once.default(
        x, weight.contiguous(), laid_out(targets, weight), compiled_q(q), temperature, needs
    )
    return found


def by_products(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Callable[[Tensor], list[Tensor | None]]]:
    """Loss, score, and what finds the gradients by features and weight from that by the loss.

    It is called once: the gradient by the logits is scaled in its place.
    """
    slopes = _logits(features, weight, temperature)
    loss, score = entropies_in_place(slopes, targets, q, mean=True)

    def gradients(by_loss: Tensor) -> list[Tensor | None]:
        if by_loss.item() != 1.0:
            slopes.mul_(by_loss)
        if temperature != 1.0:
            slopes.div_(temperature)
        found = products(slopes, features, weight, needs, product=product)
        return [one if need else None for one, need in zip(found, needs, strict=True)]

    return loss, score, gradients


def _logits(features: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = project(features.to(weight.dtype), weight)
    return logits if temperature == 1.0 else logits / temperature
