"""The generalised cross-entropy by rows in compiled code, csrc/cpu/cross_entropy.cpp.

Its formulas are those of :mod:`drcl.eager.generalized_cross_entropy`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drcl.backends import load_ops

load_ops()
ops = torch.ops.drcl  # `.default` below: to look for the overload takes longer than a small stage


class Entropies(NamedTuple):
    """Of all labelled rows the sum, or the mean."""

    loss: Tensor
    score: Tensor  # of the probabilities of the rows' own classes
    gradient: Tensor  # of the loss, by the logits (B, C); meaningless where it is not wanted
    probabilities: Tensor  # (B, C), or (0, C) where they are not wanted


def entropies(
    logits: Tensor,
    targets: Tensor,
    q: Tensor,
    *,
    mean: bool = False,
    gradient: bool = True,
    probabilities: bool = False,
) -> Entropies:
    """Shapes: logits (B, C) in float32 or float64, targets ids (B,) or rows (B, C), q 0-d."""
    if targets.ndim == 2:
        targets = targets.to(logits.dtype)
    return Entropies._make(
        ops.cross_entropy.default(
            logits.contiguous(), targets.contiguous(), compiled_q(q), mean, gradient, probabilities
        )
    )


def compiled_q(q: Tensor) -> Tensor:
    """q in a dtype that compiled code reads."""
    return q if q.dtype.itemsize > 2 else q.double()
