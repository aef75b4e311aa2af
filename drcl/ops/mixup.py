"""``drcl::mixup``: rows mixed with a permutation of themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.dispatch import stages
from drcl.ops.derivatives import differentiable


@torch.library.custom_op("drcl::mixup", mutates_args=())
def mixup(rows: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    """``λ·rows + (1−λ)·rows[π]`` in the rows' dtype."""
    mixed: Tensor = stages("mixup", backend).mix(rows, permutation, lam)
    return mixed


@torch.library.custom_op("drcl::mixup_backward", mutates_args=())
def mixup_backward(grad: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    """The transpose of :func:`mixup`: a gather by the inverse permutation, no atomics."""
    gathered: Tensor = stages("mixup", backend).unmix(grad, permutation, lam)
    return gathered


@mixup.register_fake
@mixup_backward.register_fake
def _(rows: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, permutation, ctx.lam, ctx.backend = inputs
    ctx.save_for_backward(permutation)
    ctx.save_for_forward(permutation)


def _mixed(ctx: Any, rows: Tensor, *unused: None) -> Tensor:
    (permutation,) = ctx.saved_tensors
    return mix_rows(rows, permutation, ctx.lam, ctx.backend)


def _transposed(ctx: Any, grad: Tensor, *unused: None) -> Tensor:
    (permutation,) = ctx.saved_tensors
    return unmix_rows(grad, permutation, ctx.lam, ctx.backend)


# Both are linear, and each is the other's transpose: derivatives of every order are these two.
mix_rows = differentiable(mixup, setup=_setup, backward=_transposed, jvp=_mixed)
unmix_rows = differentiable(mixup_backward, setup=_setup, backward=_mixed, jvp=_transposed)
