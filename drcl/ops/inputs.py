"""What is made of arguments before an op is called."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from drcl.precision import widest


def full_precision(features: Tensor) -> AbstractContextManager[None]:
    """Products in the dtype of their factors, as in the compiled ops: autocast narrows them."""
    device = features.device.type
    if not torch.amp.is_autocast_available(device):  # the meta device has none
        return nullcontext()
    if not torch.is_autocast_enabled(device):  # to enter costs as much as a small op
        return nullcontext()
    return torch.autocast(device, enabled=False)


def as_tensor(q: Tensor | float, features: Tensor) -> Tensor:
    """q on the features' device; a tensor is passed on, so that a captured graph follows it."""
    if isinstance(q, Tensor):
        return q
    dtype = widest(features.device)
    if torch.compiler.is_compiling():
        return torch.ones((), dtype=dtype, device=features.device) * q
    return torch.scalar_tensor(q, dtype=dtype, device=features.device)
