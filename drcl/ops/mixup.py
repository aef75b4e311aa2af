"""``drcl::mixup``: rows mixed with a permutation of themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.eager.mixup import mix, unmix


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


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (permutation,) = ctx.saved_tensors
    return mixup_backward(grad, permutation, ctx.lam, ctx.backend), None, None, None


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The op is linear: its second derivative is the op itself.
    (permutation,) = ctx.saved_tensors
    return mixup(grad, permutation, ctx.lam, ctx.backend), None, None, None


mixup.register_autograd(_backward, setup_context=_setup)
mixup_backward.register_autograd(_backward_of_backward, setup_context=_setup)
