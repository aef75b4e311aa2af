"""``drcl::reversible_consistency``: the loss, its parts, and a closed-form gradient.

The op strings together the stages of a backend: ``rows`` → ``class_sums`` and ``gram``, or for B <
D ``differences`` → ``combine``, and ``gradient`` for the way back. Ranks have to talk in one place
only, between the sums and what is made of them: adding up the sums makes every rank's loss and
gradient those of the global batch.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from drcl.eager import reversible_consistency as eager
from drcl.ops.derivatives import differentiable, differentiated_once

PARTS = 4  # the first outputs: total, J_L, J_D, J_MSE


@torch.library.custom_op("drcl::reversible_consistency", mutates_args=())
def reversible_consistency(
    features: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    basis: Tensor,
    recast_coordinates: Tensor,
    weight_coordinates: Tensor,
    alpha: float,
    beta: float,
    eta: float,
    temperature: float,
    lam: float,
    group: str,
    by_rows: bool,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    """The loss and its parts: total, J_L, J_D, J_MSE; then what the gradient needs.

    Shapes: features (B, D); targets (B,) ids or (B, C) rows; permutation (B,) or None; q 0-d; basis
    (D, K), recast_coordinates (C, K), weight_coordinates (K, C) of a :class:`drcl.Prior`. ``group``
    names the process group whose ranks hold the rows of one global batch, "" for none; ``by_rows``
    takes the B×B matrices in place of the D×D one.
    """
    stages = _stages(backend)
    with torch.autocast(features.device.type, enabled=False):
        rows = stages.rows(
            features,
            targets,
            permutation,
            q,
            basis,
            recast_coordinates,
            weight_coordinates,
            lam,
            temperature,
        )
        if by_rows:
            inner, cross = basis.new_empty(0, 0, dtype=torch.float64), basis.new_empty(0, 0)
            gram = stages.differences(rows.outside, rows.coordinates, rows.norms)
        else:
            inner, cross = stages.class_sums(rows.coordinates, rows.outside)
            gram = stages.gram(rows.outside)
        if group:
            _add_up((rows.sums, inner, cross, gram), group)
        parts = stages.combine(rows.sums, inner, cross, gram, alpha, beta, eta, len(basis))
    return (
        *parts,
        rows.outside,
        rows.coordinates,
        rows.label_gradient,
        rows.norms,
        rows.sums,
        inner,
        cross,
        gram,
    )


@reversible_consistency.register_fake
def _(
    features: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    basis: Tensor,
    recast_coordinates: Tensor,
    weight_coordinates: Tensor,
    alpha: float,
    beta: float,
    eta: float,
    temperature: float,
    lam: float,
    group: str,
    by_rows: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    batch, (width, k) = features.shape[0], basis.shape
    outside = 0 if k == width else width
    new = basis.new_empty
    return (
        *(new(()) for _ in range(PARTS)),
        new(batch, outside),
        new(batch, 3 * k),
        new(batch, k),
        new(2, batch),
        new(3),
        new((0, 0) if by_rows else (3 * k, 3 * k), dtype=torch.float64),
        new((0, 0) if by_rows else (2 * k, outside)),
        new(2, batch, batch) if by_rows else new(1, outside, outside),
    )


@torch.library.custom_op("drcl::reversible_consistency_backward", mutates_args=())
def reversible_consistency_backward(
    grad_total: Tensor | None,
    grad_label: Tensor | None,
    grad_consistency: Tensor | None,
    grad_recasting: Tensor | None,
    outside: Tensor,
    coordinates: Tensor,
    label_gradient: Tensor,
    norms: Tensor,
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram: Tensor,
    basis: Tensor,
    permutation: Tensor | None,
    alpha: float,
    beta: float,
    eta: float,
    lam: float,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given the gradients of the loss and its parts (None: zero)."""
    with torch.autocast(outside.device.type, enabled=False):
        return _stages(backend).gradient(
            (grad_total, grad_label, grad_consistency, grad_recasting),
            outside,
            coordinates,
            label_gradient,
            norms,
            sums,
            inner,
            cross,
            gram,
            basis,
            permutation,
            alpha,
            beta,
            eta,
            lam,
            dtype,
        )


@reversible_consistency_backward.register_fake
def _(
    grad_total: Tensor | None,
    grad_label: Tensor | None,
    grad_consistency: Tensor | None,
    grad_recasting: Tensor | None,
    outside: Tensor,
    coordinates: Tensor,
    label_gradient: Tensor,
    norms: Tensor,
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram: Tensor,
    basis: Tensor,
    permutation: Tensor | None,
    alpha: float,
    beta: float,
    eta: float,
    lam: float,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return outside.new_empty(outside.shape[0], basis.shape[0], dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, _, permutation, _, basis, *_ = inputs
    saved = (*output[PARTS:], basis, permutation)
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)
    ctx.alpha, ctx.beta, ctx.eta, _, ctx.lam, ctx.group, _, ctx.backend = inputs[7:]
    ctx.dtype = features.dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    of_parts = grads[:PARTS]
    if all(grad is None for grad in of_parts):
        return (None,) * 15
    return _gradient(ctx, of_parts), *(None,) * 14


def _jvp(ctx: Any, tangent: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
    *saved, basis, _ = ctx.saved_tensors
    if tangent is None:
        return (None,) * (PARTS + len(saved))
    one = basis.new_ones(())
    tangents = []
    for part in range(PARTS):
        gradient = _gradient(ctx, tuple(one if i == part else None for i in range(PARTS)))
        tangents.append((gradient * tangent).sum(dtype=basis.dtype))
    if ctx.group:  # the gradient is that by this rank's rows
        _add_up(tuple(tangents), ctx.group)
    # The others' tangents are asked for by the gradient alone, which refuses them.
    return *tangents, *map(torch.zeros_like, saved)


def _gradient(ctx: Any, of_parts: tuple[Tensor | None, ...]) -> Tensor:
    *saved, basis, permutation = ctx.saved_tensors
    settings = (ctx.alpha, ctx.beta, ctx.eta, ctx.lam, ctx.dtype, ctx.backend)
    gradient: Tensor = gradient_of_loss(*of_parts, *saved, basis, permutation, *settings)
    return gradient


gradient_of_loss = differentiated_once(reversible_consistency_backward, "reversible_consistency")
loss = differentiable(reversible_consistency, setup=_setup, backward=_backward, jvp=_jvp)


def _stages(backend: str) -> ModuleType:
    if backend == "triton":
        from drcl.kernels.reversible_consistency import stages

        return stages
    return eager


def prefers_rows(batch: int, width: int, group: str) -> bool:
    """Whether B×B matrices are taken: where they are smaller, unless ranks must add them up.

    An exported program serves batches of every size, so it takes the matrices that fit them all.
    """
    return not group and not torch.compiler.is_exporting() and batch < width


def _add_up(tensors: tuple[Tensor, ...], group: str) -> None:
    collectives = torch.ops._c10d_functional
    for tensor in tensors:
        tensor.copy_(collectives.wait_tensor(collectives.all_reduce(tensor, "sum", group)))
