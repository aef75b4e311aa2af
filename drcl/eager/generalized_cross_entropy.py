"""Generalised cross-entropy by rows, in log space."""

import torch
from torch import Tensor

from drcl.labels import in_range, is_labelled


def gce_rows(logits: Tensor, targets: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(1 − s^q)/q`` of every row, its gradient, and the probabilities.

    Shapes: logits and targets (B, C), q 0-d. With ``log s = logsumexp(log p + log Y)`` the gradient
    by the logits is ``−s^q (posterior − p)``, where the posterior is ``Y p / s``: finite for
    every q and every gap between logits. Unlabelled rows give zero, whatever they hold.

    Returns losses (B,), logit gradients (B, C), probabilities p (B, C), and ``log s`` (B,).
    """
    absent = ~is_labelled(targets)
    log_p = logits.log_softmax(dim=1)
    joint = _joint(log_p, targets, absent)
    log_s = joint.logsumexp(dim=1)
    posterior = joint.sub_(log_s[:, None]).exp_()
    p = log_p.exp_()
    gradient = (q.to(logits.dtype) * log_s).exp()[:, None] * (p - posterior)
    gradient.masked_fill_(absent[:, None], 0.0)
    return _losses(log_s, q).masked_fill_(absent, 0.0), gradient, p, log_s


def gce_ids(logits: Tensor, ids: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`gce_rows` for ids (B,), −1 unlabelled: the posterior is the class, nothing to sum.

    An id that is no class gives NaN.
    """
    absent = ~is_labelled(ids)
    columns, outside = in_range(ids, logits.shape[1])
    classes = columns[:, None]
    log_p = logits.log_softmax(dim=1)
    log_s = _finite(log_p.gather(1, classes)[:, 0]).masked_fill_(absent, 0.0)
    log_s.masked_fill_(outside, float("nan"))
    p = log_p.exp_()
    slope = (q.to(logits.dtype) * log_s).exp()[:, None]
    gradient = (slope * p).scatter_add_(1, classes, -slope).masked_fill_(absent[:, None], 0.0)
    return _losses(log_s, q).masked_fill_(absent, 0.0), gradient, p, log_s


def generalized_cross_entropy(logits: Tensor, targets: Tensor, q: Tensor) -> Tensor:
    """The mean of :func:`gce_rows`' losses over labelled rows, differentiable by autograd."""
    labelled = is_labelled(targets)
    logits = torch.where(labelled[:, None], logits, 0.0)
    log_s = _joint(logits.log_softmax(dim=1), targets, ~labelled).logsumexp(dim=1)
    return (_losses(log_s, q) * labelled).sum() / labelled.sum().clamp(min=1)


def _joint(log_p: Tensor, targets: Tensor, absent: Tensor) -> Tensor:
    # An unlabelled row gets all ones: s = 1 and posterior = p, so loss and gradient vanish.
    return _finite(log_p) + torch.where(absent[:, None], 1.0, targets).log()


def _finite(log_p: Tensor) -> Tensor:
    # A logit of −∞ is p = 0. Its logarithm is held finite: the loss is 1/q then, no gradient NaN.
    return log_p.clamp(min=torch.finfo(log_p.dtype).min / 2)


def _losses(log_s: Tensor, q: Tensor) -> Tensor:
    q = q.to(log_s.dtype)
    positive = q >= torch.finfo(q.dtype).tiny  # below, q·log s vanishes, and 0/q with it
    return torch.where(positive, -torch.expm1(q * log_s) / torch.where(positive, q, 1.0), -log_s)
