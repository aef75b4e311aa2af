"""``drcl::mixup``: rows mixed with a permutation of themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.eager.mixup import mix, unmix
from drcl.ops.derivatives import differentiable


@torch.library.custom_op("drcl::mixup", mutates_args=())
def mixup(rows: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    """``λ·rows + (1−λ)·rows[π]`` in the rows' dtype."""
    if backend == "triton":
        from drcl.kernels.mixup import mix as triton_mix

        return triton_mix(rows, permutation, lam)
    return mix(rows, permutation, lam)


@mixup.register_fake
def _(rows: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


@torch.library.custom_op("drcl::mixup_backward", mutates_args=())
def mixup_backward(grad: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    """The transpose of :func:`mixup`: a gather by the inverse permutation, no atomics."""
    if backend == "triton":
        from drcl.kernels.mixup import unmix as triton_unmix

        return triton_unmix(grad, permutation, lam)
    return unmix(grad, permutation, lam)


@mixup_backward.register_fake
def _(grad: Tensor, permutation: Tensor, lam: float, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, permutation, ctx.lam, ctx.backend = inputs
    ctx.save_for_backward(permutation)
    ctx.save_for_forward(permutation)


def _transposed(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (permutation,) = ctx.saved_tensors
    return unmix_rows(grad, permutation, ctx.lam, ctx.backend), None, None, None


def _mixed(ctx: Any, rows: Tensor, *unused: None) -> Tensor:
    (permutation,) = ctx.saved_tensors
    return mix_rows(rows, permutation, ctx.lam, ctx.backend)


def _mixed_alone(ctx: Any, rows: Tensor) -> tuple[Tensor | None, ...]:
    return _mixed(ctx, rows), None, None, None


def _transposed_alone(ctx: Any, grad: Tensor, *unused: None) -> Tensor | None:
    return _transposed(ctx, grad)[0]


# Both are linear, and each is the other's transpose: derivatives of every order are these two.
mix_rows = differentiable(mixup, setup=_setup, backward=_transposed, jvp=_mixed)
unmix_rows = differentiable(
    mixup_backward, setup=_setup, backward=_mixed_alone, jvp=_transposed_alone
)
