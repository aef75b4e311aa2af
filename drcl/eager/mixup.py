"""Feature augmentation in plain PyTorch."""

import torch
from torch import Tensor


def mix(rows: Tensor, permutation: Tensor, lam: float) -> Tensor:
    """``λ·rows + (1−λ)·rows[π]``."""
    return rows.index_select(0, permutation).lerp_(rows, lam)


def unmix(grad: Tensor, permutation: Tensor, lam: float) -> Tensor:
    """The transpose: ``λ·grad + (1−λ)·grad[π⁻¹]``."""
    origin = torch.empty_like(permutation)
    origin[permutation] = torch.arange(len(origin), device=origin.device)
    return mix(grad, origin, lam)
