"""``drcl::prior_similarity``: logits, probabilities, loss and quality score."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from drcl.eager import prior_similarity as eager
from drcl.ops.derivatives import differentiable, differentiated_once


@torch.library.custom_op("drcl::prior_similarity", mutates_args=())
def prior_similarity(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, C), probabilities (B, C), loss, score, and what the gradient needs.

    Shapes: features (B, D), weight (D, C), targets (B,) ids or (B, C) rows, q 0-d. The last output
    is d(loss)/d(logits) (B, C).
    """
    with torch.autocast(features.device.type, enabled=False):
        return _stages(backend).prior_similarity(features, weight, targets, q, temperature)


@prior_similarity.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, classes = features.shape[0], weight.shape[1]
    new = weight.new_empty
    return new(batch, classes), new(batch, classes), new(()), new(()), new(batch, classes)


@torch.library.custom_op("drcl::prior_similarity_backward", mutates_args=())
def prior_similarity_backward(
    grad_logits: Tensor | None,
    grad_probabilities: Tensor | None,
    grad_loss: Tensor | None,
    features: Tensor,
    weight: Tensor,
    probabilities: Tensor,
    loss_gradient: Tensor,
    temperature: float,
    needs_features: bool,
    needs_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients by features (B, D) and weight (D, C); empty where not needed."""
    with torch.autocast(features.device.type, enabled=False):
        return _stages(backend).prior_similarity_backward(
            grad_logits,
            grad_probabilities,
            grad_loss,
            features,
            weight,
            probabilities,
            loss_gradient,
            temperature,
            needs_features,
            needs_weight,
        )


@prior_similarity_backward.register_fake
def _(
    grad_logits: Tensor | None,
    grad_probabilities: Tensor | None,
    grad_loss: Tensor | None,
    features: Tensor,
    weight: Tensor,
    probabilities: Tensor,
    loss_gradient: Tensor,
    temperature: float,
    needs_features: bool,
    needs_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        features.new_empty(features.shape if needs_features else 0),
        weight.new_empty(weight.shape if needs_weight else 0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, _, _, ctx.temperature, ctx.backend = inputs
    _, probabilities, _, score, loss_gradient = output
    ctx.mark_non_differentiable(score, loss_gradient)
    ctx.save_for_backward(features, weight, probabilities, loss_gradient)
    ctx.save_for_forward(features, weight, probabilities, loss_gradient)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any,
    grad_logits: Tensor | None,
    grad_probabilities: Tensor | None,
    grad_loss: Tensor | None,
    *unused: Tensor | None,
) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:2]
    if grad_logits is None and grad_probabilities is None and grad_loss is None:
        return (None,) * 6
    gradients = gradients_of_similarity(
        grad_logits,
        grad_probabilities,
        grad_loss,
        *ctx.saved_tensors,
        ctx.temperature,
        *needs,
        ctx.backend,
    )
    wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
    return *wanted, *(None,) * 4


def _jvp(
    ctx: Any, features_tangent: Tensor | None, weight_tangent: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    if features_tangent is None and weight_tangent is None:
        return (None,) * 5
    features, weight, probabilities, _ = ctx.saved_tensors
    by_features, by_weight = gradients_of_similarity(
        None, None, torch.ones_like(probabilities[0, 0]), *ctx.saved_tensors, ctx.temperature,
        features_tangent is not None, weight_tangent is not None, ctx.backend,
    )  # fmt: skip
    logits, loss = torch.zeros_like(probabilities), torch.zeros_like(probabilities[0, 0])
    if features_tangent is not None:
        logits = logits + features_tangent.to(weight.dtype) @ weight
        loss = loss + (by_features * features_tangent).sum(dtype=loss.dtype)
    if weight_tangent is not None:
        logits = logits + features.to(weight.dtype) @ weight_tangent
        loss = loss + (by_weight * weight_tangent).sum()
    logits = logits / ctx.temperature
    weighted = probabilities * logits
    by_logits = weighted - probabilities * weighted.sum(dim=1, keepdim=True)
    return logits, by_logits, loss, None, None


gradients_of_similarity = differentiated_once(prior_similarity_backward, "prior_similarity")
similarity = differentiable(prior_similarity, setup=_setup, backward=_backward, jvp=_jvp)


def _stages(backend: str) -> ModuleType:
    if backend == "triton":
        from drcl.kernels import prior_similarity as kernels

        return kernels
    return eager
