"""Generalised cross-entropy by rows, in log space."""

import torch
from torch import Tensor


def gce_rows(logits: Tensor, targets: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(1 − s^q)/q`` of every row, its gradient, and the probabilities.

    Shapes: logits and targets (B, C), q 0-d. With ``log s = logsumexp(log p + log Y)`` the gradient
    by the logits is ``−s^q (posterior − p)``, where the posterior is ``Y p / s``: finite for
    every q and every gap between logits. Unlabelled rows give zero.

    Returns losses (B,), logit gradients (B, C), probabilities p (B, C), and ``log s`` (B,).
    """
    labelled = (targets.sum(dim=1) > 0).to(logits.dtype)
    log_p = logits.log_softmax(dim=1)
    # An unlabelled row gets all ones: s = 1 and posterior = p, so loss and gradient vanish.
    joint = log_p + torch.where(labelled[:, None] > 0, targets, 1.0).log()
    log_s = joint.logsumexp(dim=1)
    q = q.to(logits.dtype)
    positive = q >= torch.finfo(q.dtype).tiny  # below, q·log s vanishes, and 0/q with it
    losses = torch.where(positive, -torch.expm1(q * log_s) / torch.where(positive, q, 1.0), -log_s)
    posterior = joint.sub_(log_s[:, None]).exp_()
    p = log_p.exp_()
    slope = (q * log_s).exp() * labelled
    return losses * labelled, slope[:, None] * (p - posterior), p, log_s
