"""Weighing recipes, on rows that their members did not see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drcl.ensemble.calibration import log_likelihood
from drcl.ensemble.network import Members

ROUNDS = 12


def held_out_logits(members: Members, features: Tensor, held_out: Tensor) -> Tensor:
    """(N, C): every row's logits from the member that goes without it; ``held_out`` is (K, N)."""
    with torch.inference_mode():
        parts = []
        for rows, out in zip(features.split(1024), held_out.split(1024, dim=1), strict=True):
            member = out.long().argmax(dim=0)
            parts.append(members(rows)[member, torch.arange(len(rows), device=rows.device)])
        return torch.cat(parts)


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
