"""Generalised cross-entropy, continuous in q down to cross-entropy at q = 0."""

import torch
from torch import Tensor

__all__ = ["generalized_cross_entropy"]
__dir__ = __all__.copy


def generalized_cross_entropy(logits: Tensor, targets: Tensor, q: Tensor | float) -> Tensor:
    """``mean_i (1 − s_i^q)/q`` with ``s_i = Σ_c Y_ic softmax(logits)_ic``; at q = 0 ``mean_i −log
    s_i``.

    Shapes: logits and targets (B, C). The mean is over labelled rows; with none the value is 0.
    Formed from log s so that value and gradient are finite for every q in [0, 1] and every logit
    gap. Source: paper, label loss.

    >>> generalized_cross_entropy(torch.zeros(1, 4), torch.eye(4)[:1], q=1.0)
    tensor(0.7500)
    """
    labelled = targets.sum(dim=1) != 0
    if not bool(labelled.any()):
        return logits.sum() * 0.0
    # a logit of −∞ is p = 0, which is held at a finite logarithm
    log_p = logits[labelled].log_softmax(dim=1).clamp(min=torch.finfo(logits.dtype).min / 2)
    log_s = torch.logsumexp(log_p + targets[labelled].log(), dim=1)
    q = float(q)
    # Below the smallest normal number q·log s would vanish, and 0/q with it.
    losses = -log_s if q < torch.finfo(logits.dtype).tiny else -torch.expm1(q * log_s) / q
    return losses.mean()
