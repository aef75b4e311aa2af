"""Calibration: logits to probabilities, on rows that the logits were not fitted to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.02, 50.0  # of τ
# Weights of what draws the matrix towards the identity, in rows, the strongest first.
STRENGTHS = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
MOST_CLASSES = 64  # beyond them C² numbers are too many to fit in seconds


def log_likelihood(posteriors: Tensor, targets: Tensor) -> Tensor:
    """``mean_i Σ_c Y_ic log p_ic``; ``targets`` are rows (N, C) that sum to 1."""
    return (targets * posteriors.clamp(min=1e-9).log()).sum(dim=-1).mean(dim=-1)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """τ of ``softmax(logits/τ)`` with the highest likelihood of ``targets`` (N, C), within 1 %.

    The targets are taken as ``(N·Y + 1/C)/(N + 1)``, as if one row more were of any class: where
    the N rows are told apart without a fault, τ stays above 0, and how sure a row is still counts.
    The likelihood is concave in 1/τ, so a search by golden sections over log τ finds it. Sources:
    Guo et al., *On Calibration of Modern Neural Networks* (ICML 2017), temperature scaling; Platt,
    *Probabilistic Outputs for Support Vector Machines* (1999), such targets.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> ids = torch.tensor([0, 0, 0, 1])  # 3.5 of 5 rows: odds of 7/3 are e^(2/τ)
    >>> round(fit_temperature(logits, torch.eye(2)[ids]), 1)
    2.4
    """
    logits, targets = logits.double(), _of_one_row_more(targets.double())

    def value(log_tau: float) -> float:
        scores = (logits / torch.tensor(log_tau, dtype=torch.float64).exp()).log_softmax(dim=-1)
        return float((targets * scores).sum(dim=-1).mean())

    low, high = (float(torch.tensor(end).log()) for end in (LOWEST, HIGHEST))
    golden = (5**0.5 - 1) / 2
    while high - low > 0.01:
        first, second = high - golden * (high - low), low + golden * (high - low)
        if value(first) >= value(second):
            high = second
        else:
            low = first
    return float(torch.tensor((low + high) / 2).exp())


def _of_one_row_more(targets: Tensor) -> Tensor:
    count, classes = targets.shape
    return (count * targets + 1 / classes) / (count + 1)


@dataclass(frozen=True)
class MatrixCalibration:
    """``logits = (s/τ)(I + W) + b``, as ``s · weight + bias``.

    Attributes:
        weight, bias: (C, C) and (C,).
        posteriors: (N, C), every row's by the calibration without its fold.
    """

    weight: Tensor
    bias: Tensor
    posteriors: Tensor

    @classmethod
    def of_temperature(cls, tau: float, scores: Tensor) -> MatrixCalibration:
        """``s/τ``."""
        classes = scores.shape[1]
        eye = torch.eye(classes, dtype=torch.float64, device=scores.device)
        return cls(eye / tau, eye.new_zeros(classes), (scores / tau).softmax(dim=1))


@torch.inference_mode(False)
def fit_matrix(
    scores: Tensor, targets: Tensor, held_out: Tensor, until: float = math.inf
) -> MatrixCalibration:
    """The temperature and the matrix near the identity with the highest likelihood of ``targets``.

    τ is that of :func:`fit_temperature`. W and b are 0 for more than :data:`MOST_CLASSES` classes;
    for fewer they minimize the mean cross-entropy, to the same targets as there, plus
    ``strength/2N · (‖W‖² + ‖b‖²)``, with the strength that the folds ``held_out`` (K, N) choose of
    those that are tried until the time ``until`` of ``time.perf_counter``. Source: Kull et al.,
    *Beyond Temperature Scaling: Obtaining Well-Calibrated Multi-Class Probabilities with Dirichlet
    Calibration* (NeurIPS 2019), with a ridge towards the identity in place of theirs.

    >>> ids = torch.tensor([0, 1] * 200)
    >>> scores = torch.tensor([[0.4, 0.6], [0.0, 1.0]])[ids]  # at any temperature class 1
    >>> folds = torch.arange(400) % 5 == torch.arange(5)[:, None]
    >>> fit_matrix(scores, torch.eye(2)[ids], folds).posteriors.argmax(dim=1).equal(ids)
    True
    """
    # Copies, as tensors made in inference mode cannot be trained through.
    scores, targets = scores.double().clone(), targets.double().clone()
    classes = scores.shape[1]
    tau = fit_temperature(scores, targets)
    logits = scores / tau
    best = MatrixCalibration.of_temperature(tau, scores)
    if classes > MOST_CLASSES:
        return best
    value = float(log_likelihood(best.posteriors, targets))
    eye = torch.eye(classes, dtype=torch.float64, device=scores.device)
    likely = _of_one_row_more(targets)
    # Each fold's own, and last the one that sees all rows, side by side.
    kept = torch.cat([~held_out, torch.ones_like(held_out[:1])]).double()
    own = held_out.long().argmax(dim=0), torch.arange(len(scores), device=scores.device)
    change = eye.new_zeros(len(kept), classes + 1, classes, requires_grad=True)
    before = -math.inf
    for strength in STRENGTHS:
        if time.perf_counter() >= until:
            break
        mapped = _minimized(change, logits, likely, kept, strength)
        posteriors = mapped[own].softmax(dim=1)
        now = float(log_likelihood(posteriors, targets))
        if now <= before:
            break
        before = now
        if now > value:
            final = change.detach()[-1].clone()
            best, value = MatrixCalibration((eye + final[:-1]) / tau, final[-1], posteriors), now
    return best


def _minimized(
    change: Tensor, logits: Tensor, targets: Tensor, kept: Tensor, strength: float
) -> Tensor:
    """(K, N, C): the logits that ``change`` (K, C + 1, C), W above b, maps to at its minimum."""
    optimizer = torch.optim.LBFGS(
        [change], max_iter=60, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def mapped() -> Tensor:
        return logits + logits @ change[:, :-1] + change[:, -1:]

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = -(targets * mapped().log_softmax(dim=-1)).sum(dim=-1)
        ridge = strength / 2 * change.square().sum(dim=(1, 2))
        loss = (((losses * kept).sum(dim=1) + ridge) / kept.sum(dim=1).clamp(min=1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return mapped()
