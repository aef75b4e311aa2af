"""Calibrating members and weighing recipes, on rows that the members did not see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drcl.ensemble.network import Members

ROUNDS = 12
LOWEST, HIGHEST = 0.02, 50.0  # of τ


def held_out_logits(members: Members, features: Tensor, held_out: Tensor) -> Tensor:
    """(N, C): every row's logits from the member that goes without it; ``held_out`` is (K, N)."""
    with torch.inference_mode():
        parts = []
        for rows, out in zip(features.split(1024), held_out.split(1024, dim=1), strict=True):
            member = out.long().argmax(dim=0)
            parts.append(members(rows)[member, torch.arange(len(rows), device=rows.device)])
        return torch.cat(parts)


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
    logits, targets = logits.double(), targets.double()
    count, classes = targets.shape
    targets = (count * targets + 1 / classes) / (count + 1)

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


def choose_shares(candidates: Sequence[Tensor], targets: Tensor) -> list[float]:
    """The share of each candidate's posteriors (N, C) in their mean.

    In each of :data:`ROUNDS` rounds the candidate joins, again if need be, that brings the mean of
    those chosen to the highest likelihood. Source: Caruana et al., *Ensemble Selection from
    Libraries of Models* (ICML 2004).

    >>> right, wrong = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.1, 0.9]])
    >>> choose_shares([wrong, right], torch.tensor([[1.0, 0.0]]))
    [0.0, 1.0]
    """
    counts = [0] * len(candidates)
    total = torch.zeros_like(candidates[0])
    for chosen in range(1, ROUNDS + 1):
        values = [
            float(log_likelihood((total + posteriors) / chosen, targets))
            for posteriors in candidates
        ]
        best = values.index(max(values))
        counts[best] += 1
        total += candidates[best]
    return [count / ROUNDS for count in counts]
