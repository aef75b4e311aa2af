"""``drcl::prior_similarity``: loss, quality score, logits and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drcl.dispatch import stages
from drcl.eager.prior_similarity import Saved
from drcl.ops.derivatives import differentiable, differentiated_once
from drcl.ops.inputs import full_precision


@torch.library.custom_op("drcl::prior_similarity", mutates_args=())
def prior_similarity(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    loss_only: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, score, logits (B, C), probabilities (B, C), and what the gradient needs.

    Shapes: features (B, D), weight (D, C), targets (B,) ids or (B, C) rows, q 0-d. The last output
    is d(loss)/d(logits) (B, C). With ``loss_only``, logits and probabilities are empty
    (0, C).
    """
    compute = stages("prior_similarity", backend).prior_similarity
    with full_precision(features):
        logits, probabilities, loss, score, loss_gradient = compute(
            features, weight, targets, q, temperature, loss_only=loss_only
        )
    return loss, score, logits, probabilities, loss_gradient


@prior_similarity.register_fake
def _(
    features: Tensor, weight: Tensor, targets: Any, q: Any, _: Any, loss_only: bool, *rest: Any
) -> tuple[Tensor, ...]:
    batch, classes = features.shape[0], weight.shape[1]
    new = weight.new_empty
    shown = 0 if loss_only else batch
    return new(()), new(()), new(shown, classes), new(shown, classes), new(batch, classes)


@torch.library.custom_op("drcl::prior_similarity_backward", mutates_args=())
def prior_similarity_backward(
    grads: Sequence[Tensor | None],
    saved: Sequence[Tensor],
    temperature: float,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients by features (B, D) and weight (D, C), of which ``needs`` says which are needed.

    The others are empty. ``grads`` are those of logits, probabilities and loss (None: zero), and
    ``saved`` the tensors of :class:`drcl.eager.prior_similarity.Saved`.
    """
    compute = stages("prior_similarity", backend).prior_similarity_backward
    with full_precision(saved[0]):
        found: tuple[Tensor, Tensor] = compute(grads, Saved(*saved), temperature, needs)
    return found


@prior_similarity_backward.register_fake
def _(
    grads: Any, saved: Sequence[Tensor], temperature: Any, needs: Sequence[bool], backend: Any
) -> tuple[Tensor, ...]:
    return tuple(
        one.new_empty(one.shape if need else 0) for one, need in zip(saved[:2], needs, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, _, _, ctx.temperature, ctx.loss_only, ctx.backend = inputs
    _, score, _, probabilities, loss_gradient = output
    ctx.mark_non_differentiable(score, loss_gradient)
    ctx.save_for_backward(features, weight, probabilities, loss_gradient)
    ctx.save_for_forward(features, weight, probabilities, loss_gradient)
    ctx.set_materialize_grads(False)


def _at_once(
    ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, q: Tensor, temperature: float,
    loss_only: bool, backend: str,
) -> tuple[Tensor, ...] | None:  # fmt: skip
    needs = list(ctx.needs_input_grad[:2])
    if backend != "native" or not loss_only:
        return None
    compute = stages("prior_similarity", backend)
    found = compute.at_once(features, weight, targets, q, temperature, needs)
    if found is None:
        with full_precision(features):
            loss, score, gradients_of = compute.by_products(
                features, weight, targets, q, temperature, needs
            )

        def later(by_loss: Tensor) -> list[Tensor | None]:
            with full_precision(features):
                return gradients_of(by_loss)

        ctx.gradients = later
    else:
        loss, score, _, *gradients = found
        ctx.gradients = [
            grad if need else None for grad, need in zip(gradients, needs, strict=True)
        ]
    ctx.mark_non_differentiable(score)
    return loss, score


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:2]
    by_loss, _, by_logits, by_probabilities, _ = grads
    given = (None, None, by_loss) if ctx.loss_only else (by_logits, by_probabilities, by_loss)
    if all(grad is None for grad in given):
        return None, None
    gradients = _gradients(ctx, given, needs)
    return tuple(grad if need else None for grad, need in zip(gradients, needs, strict=True))


def _jvp(
    ctx: Any, features_tangent: Tensor | None, weight_tangent: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    if features_tangent is None and weight_tangent is None:
        return (None,) * 5
    features, weight, probabilities, _ = ctx.saved_tensors
    needs = features_tangent is not None, weight_tangent is not None
    one = weight.new_ones(())
    by_features, by_weight = _gradients(ctx, (None, None, one), needs)
    loss = torch.zeros_like(one)
    if features_tangent is not None:
        loss = loss + (by_features * features_tangent).sum(dtype=loss.dtype)
    if weight_tangent is not None:
        loss = loss + (by_weight * weight_tangent).sum()
    if ctx.loss_only:
        return loss, None, torch.zeros_like(probabilities), torch.zeros_like(probabilities), None
    logits = torch.zeros_like(probabilities)
    if features_tangent is not None:
        logits = logits + features_tangent.to(weight.dtype) @ weight
    if weight_tangent is not None:
        logits = logits + features.to(weight.dtype) @ weight_tangent
    logits = logits / ctx.temperature
    weighted = probabilities * logits
    by_logits = weighted - probabilities * weighted.sum(dim=1, keepdim=True)
    return loss, None, logits, by_logits, None


def _gradients(
    ctx: Any, grads: Sequence[Tensor | None], needs: tuple[bool, ...]
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = gradients_of_similarity(
        list(grads), list(ctx.saved_tensors), ctx.temperature, tuple(needs), ctx.backend
    )
    return found


gradients_of_similarity = differentiated_once(prior_similarity_backward, "prior_similarity")
similarity = differentiable(
    prior_similarity,
    setup=_setup,
    backward=_backward,
    jvp=_jvp,
    at_once=_at_once,
    gradients_of=2,
)
