"""Sums of 1 / rank over a stretch of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 32


def harmonic(above: Tensor, count: Tensor) -> Tensor:
    """``Σ 1 / (above + i)`` for i from 1 to count, both whole, float64, to a few units in the last.

    The difference of two harmonic numbers, without the digits that it would lose: a table up to 32,
    and from there on the difference of two asymptotic series about the middle of a step.

    >>> harmonic(torch.tensor([0.0, 9.0]).double(), torch.tensor([3.0, 1.0]).double())
    tensor([1.8333, 0.1000], dtype=torch.float64)
    """
    number = torch.arange(1, _SMALL + 1, dtype=torch.float64, device=above.device)
    table = torch.nn.functional.pad((1 / number).cumsum(0), (1, 0))
    end = above + count
    small = table[end.clamp(max=_SMALL).long()] - table[above.clamp(max=_SMALL).long()]
    low, high = above.clamp(min=_SMALL), end.clamp(min=_SMALL)
    large = ((high - low) / (low + 0.5)).log1p() + _series(high + 0.5) - _series(low + 0.5)
    return small + large


def _series(x: Tensor) -> Tensor:
    """ψ(x + 1/2) − log x, below 1e-17 of it from 32 on."""
    y = 1 / x.square()
    return y * (1 / 24 - y * (7 / 960 - y * (31 / 8064 - y * (127 / 30720 - y * 511 / 67584))))
