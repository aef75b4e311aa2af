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
    """Means over all labelled rows."""

    loss: Tensor
    score: Tensor  # of the probabilities of the rows' own classes
    gradient: Tensor  # of the loss, by the logits (B, C)
    probabilities: Tensor  # (B, C)


def entropies(logits: Tensor, targets: Tensor, q: Tensor) -> Entropies:
    """Shapes: logits (B, C) in float32 or float64, targets ids (B,) or rows (B, C), q 0-d."""
    logits = logits.contiguous()
    return Entropies._make(
        ops.cross_entropy.default(logits, laid_out(targets, logits), compiled_q(q))
    )


def entropies_in_place(
    logits: Tensor, targets: Tensor, q: Tensor, *, mean: bool, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Loss and score, means or sums; contiguous logits become the loss's gradient by them.

    Without ``gradient`` they are overwritten all the same.
    """
    found: tuple[Tensor, Tensor] = ops.cross_entropy_.default(
        logits, laid_out(targets, logits), compiled_q(q), mean, gradient
    )
    return found


def laid_out(targets: Tensor, like: Tensor) -> Tensor:
    """Ids, or rows in the dtype of another tensor, as compiled code reads them."""
    return (targets if targets.ndim == 1 else targets.to(like.dtype)).contiguous()


def compiled_q(q: Tensor) -> Tensor:
    """q in a dtype that compiled code reads."""
    return q if q.dtype.itemsize > 2 else q.double()
