"""Class logits, probabilities, generalised cross-entropy and quality score in one go."""

from __future__ import annotations

import torch
from torch import Tensor

from drcl.eager.gce import gce_rows
from drcl.eager.products import project
from drcl.eager.targets import target_rows


def prior_similarity(
    features: Tensor, weight: Tensor, targets: Tensor, q: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, probabilities, loss, score and d(loss)/d(logits), in the weight's dtype."""
    rows = target_rows(targets, weight.shape[1], weight.dtype)
    logits = project(features.to(weight.dtype), weight) / temperature
    losses, gradient, p, log_s = gce_rows(logits, rows, q)
    labelled = rows.sum(dim=1) > 0
    count = labelled.to(p.dtype).sum().clamp(min=1)
    score = torch.where(labelled, log_s.exp(), 0.0).sum() / count
    return logits, p, losses.sum() / count, score, gradient / count


def prior_similarity_backward(
    grad_logits: Tensor | None,
    grad_probabilities: Tensor | None,
    grad_loss: Tensor | None,
    features: Tensor,
    weight: Tensor,
    probabilities: Tensor,
    loss_gradient: Tensor,
    temperature: float,
    needs_features: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients by features and weight, from those of logits, probabilities and loss."""
    total = torch.zeros_like(loss_gradient) if grad_loss is None else grad_loss * loss_gradient
    if grad_probabilities is not None:
        weighted = grad_probabilities * probabilities
        total = total + weighted - probabilities * weighted.sum(dim=1, keepdim=True)
    if grad_logits is not None:
        total = total + grad_logits
    total = total / temperature
    by_features = (total @ weight.T).to(features.dtype) if needs_features else features.new_empty(0)
    by_weight = features.to(weight.dtype).T @ total if needs_weight else weight.new_empty(0)
    return by_features, by_weight
