"""Targets in either form, as rows."""

import torch
from torch import Tensor


def target_rows(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Ids (B,) as one-hot rows (B, C), −1 as a zero row; rows as they are, in ``dtype``."""
    if targets.ndim == 2:
        return targets.to(dtype)
    rows = torch.zeros(targets.shape[0], classes, dtype=dtype, device=targets.device)
    labelled = (targets >= 0).to(dtype)[:, None]
    return rows.scatter_(1, targets.clamp(min=0)[:, None], labelled)
