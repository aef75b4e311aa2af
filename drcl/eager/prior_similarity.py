"""Class logits, probabilities, generalised cross-entropy and quality score in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drcl.eager.generalized_cross_entropy import gce_ids, gce_rows
from drcl.eager.products import project, project_transposed
from drcl.labels import is_labelled


def prior_similarity(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    *,
    loss_only: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, probabilities, loss, score and d(loss)/d(logits), in the weight's dtype.

    With ``loss_only``, logits and probabilities are empty (0, C).
    """
    # sums over the rows may leave the range of half precision where their mean does not
    wide = torch.promote_types(weight.dtype, torch.float32)
    logits = project(features.to(weight.dtype), weight) / temperature
    targets = targets if targets.ndim == 1 else targets.to(wide)
    gce = gce_ids if targets.ndim == 1 else gce_rows
    losses, gradient, p, log_s = gce(logits.to(wide), targets, q)
    labelled = is_labelled(targets)
    count = labelled.to(wide).sum().clamp(min=1)
    score = torch.where(labelled, log_s.exp(), 0.0).sum() / count
    loss, gradient = losses.sum() / count, gradient / count
    dtype = weight.dtype
    if loss_only:
        logits, p = (weight.new_empty(0, p.shape[1]) for _ in range(2))
    return logits, p.to(dtype), loss.to(dtype), score.to(dtype), gradient.to(dtype)


class Saved(NamedTuple):
    """What the gradients need."""

    features: Tensor  # (B, D)
    weight: Tensor  # (D, C)
    probabilities: Tensor  # (B, C), or (0, C) where they were not wanted
    loss_gradient: Tensor  # d(loss)/d(logits) (B, C)


def prior_similarity_backward(
    grads: Sequence[Tensor | None], saved: Saved, temperature: float, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients by features and weight, from those of logits, probabilities and loss.

    Those that are not needed are empty.
    """
    grad_logits, grad_probabilities, grad_loss = grads
    features, weight, probabilities, loss_gradient = saved
    large = len(features) > 2 * len(weight) and weight.dtype.itemsize > 2
    if large and grad_loss is not None and grad_logits is None and grad_probabilities is None:
        # Not the batch's matrix is multiplied, but W (D, C) and the gradient by W: of a large batch
        # these are smaller. In half precision they might overflow.
        return products(loss_gradient, features, weight, needs, grad_loss / temperature)
    total = torch.zeros_like(loss_gradient) if grad_loss is None else grad_loss * loss_gradient
    if grad_probabilities is not None:
        weighted = grad_probabilities * probabilities
        total = total + weighted - probabilities * weighted.sum(dim=1, keepdim=True)
    if grad_logits is not None:
        total = total + grad_logits
    if temperature != 1.0:
        total = total / temperature
    return products(total, features, weight, needs)


def products(
    by_product: Tensor,
    features: Tensor,
    weight: Tensor,
    needs: Sequence[bool],
    factor: Tensor | None = None,
    product: Callable[[Tensor, Tensor], Tensor] = torch.mm,
) -> tuple[Tensor, Tensor]:
    """Gradients by features and weight from that by XW, times a factor.

    Those that are not needed are empty. ``product`` finds that by features.
    """
    by_features, by_weight = features.new_empty(0), weight.new_empty(0)
    if needs[0]:
        turned = weight.T if factor is None else weight.T * factor
        by_features = product(by_product, turned).to(features.dtype)
    if needs[1]:
        by_weight = project_transposed(features.to(weight.dtype), by_product)
        if factor is not None:
            by_weight.mul_(factor)
    return by_features, by_weight
