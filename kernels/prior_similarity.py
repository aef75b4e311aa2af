"""``drcl::prior_similarity``: logits, probabilities, generalised cross-entropy and score in one
pass.

Bytes: the features once, W from L2, and (B, C) three times written: logits, probabilities,
gradient. Operations: 2·B·D·C with float32 accuracy.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from .generalized_cross_entropy import find_targets, gce_rows, gce_tile, store_sums, target_tile
from .launch import FUSED_CLASSES, blocks, on_device_of, power_of_two, unit_stride
from .product import float32_precision, multiply
from .reduction import sum_partials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from drcl.eager.prior_similarity import Saved

SCALE = {"BLOCK": 1024, "num_warps": 4}
LOGIT_GRADIENT = {"BLOCK_B": 8, "BLOCK_C": FUSED_CLASSES, "num_warps": 4}


def similarity_tile(classes: int, precision: str = "bf16x6") -> dict[str, Any]:
    """Few rows a program, so that a batch of 1,024 still spreads over a GPU."""
    block = power_of_two(classes, 16)
    return {
        "PRECISION": precision,
        "BLOCK_B": 16,
        "BLOCK_D": 64 if block == 16 else 32,
        "BLOCK_C": block,
        "num_warps": 4,
        "num_stages": 3,
    }


@triton.jit(do_not_specialize=["batch"])
def prior_similarity_kernel(
    features, weight, targets, q_ptr, logits, probabilities, gradient, partials,
    batch, width, classes, features_stride, weight_stride_d, weight_stride_c, targets_stride,
    inverse_temperature,
    IDS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    c = tl.arange(0, BLOCK_C)
    in_classes = c < classes
    product = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        in_width = d < width
        x = tl.load(
            features + row[:, None] * features_stride + d[None, :],
            mask=in_batch[:, None] & in_width[None, :],
            other=0.0,
        )
        w = tl.load(
            weight + d[:, None] * weight_stride_d + c[None, :] * weight_stride_c,
            mask=in_width[:, None] & in_classes[None, :],
            other=0.0,
        )
        product = multiply(x.to(tl.float32), w.to(tl.float32), product, PRECISION)
    product *= inverse_temperature
    first, second, labelled = find_targets(
        targets, targets_stride, row, row, in_batch, classes, IDS, False, BLOCK_C
    )
    y = target_tile(
        targets, targets_stride, first, second, labelled, c, classes, 1.0, 0.0, IDS, False
    )
    columns = tl.broadcast_to(in_classes[None, :], [BLOCK_B, BLOCK_C])
    q = tl.load(q_ptr).to(tl.float32)
    loss, slope, p, log_s = gce_tile(product, y, labelled, columns, q)
    at = row[:, None] * classes + c[None, :]
    mask = in_batch[:, None] & in_classes[None, :]
    tl.store(logits + at, product, mask=mask)
    tl.store(probabilities + at, p, mask=mask)
    tl.store(gradient + at, slope, mask=mask)
    store_sums(partials, loss, tl.where(labelled, tl.exp(log_s), 0.0), labelled)


@triton.jit
def scale_kernel(gradient, sums, loss, score, count, BLOCK: tl.constexpr):
    """Turns sums over rows into means over the labelled ones; their number is known only now."""
    labelled = tl.maximum(tl.load(sums + 2), 1.0)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(gradient + at, mask=at < count, other=0.0)
    tl.store(gradient + at, value / labelled, mask=at < count)
    if tl.program_id(0) == 0:
        tl.store(loss, tl.load(sums) / labelled)
        tl.store(score, tl.load(sums + 1) / labelled)


@triton.jit(do_not_specialize=["batch"])
def logit_gradient_kernel(
    grad_logits, grad_probabilities, grad_loss, probabilities, loss_gradient, out,
    batch, classes, inverse_temperature,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """d(…)/d(XW): the gradients that are given (None: not) brought back through the softmax."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    mean = tl.zeros([BLOCK_B], tl.float32)
    if grad_probabilities is not None:
        for start in range(0, classes, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            mask = in_batch[:, None] & (c < classes)[None, :]
            at = row[:, None] * classes + c[None, :]
            g = tl.load(grad_probabilities + at, mask=mask, other=0.0).to(tl.float32)
            p = tl.load(probabilities + at, mask=mask, other=0.0).to(tl.float32)
            mean += tl.sum(g * p, 1)
    for start in range(0, classes, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = in_batch[:, None] & (c < classes)[None, :]
        at = row[:, None] * classes + c[None, :]
        total = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
        if grad_loss is not None:
            slope = tl.load(loss_gradient + at, mask=mask, other=0.0).to(tl.float32)
            total += tl.load(grad_loss).to(tl.float32) * slope
        if grad_probabilities is not None:
            g = tl.load(grad_probabilities + at, mask=mask, other=0.0).to(tl.float32)
            p = tl.load(probabilities + at, mask=mask, other=0.0).to(tl.float32)
            total += p * (g - mean[:, None])
        if grad_logits is not None:
            total += tl.load(grad_logits + at, mask=mask, other=0.0).to(tl.float32)
        total *= inverse_temperature
        tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def prior_similarity(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    q: Tensor,
    temperature: float,
    *,
    loss_only: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`drcl.eager.prior_similarity.prior_similarity`; three launches.

    With more than 128 classes the logits come from ``torch.mm`` and a kernel walks their rows.
    Features are float32, bfloat16 or float16, the weight float32.
    """
    features, targets = unit_stride(features), unit_stride(targets)
    q = q.to(features.device, non_blocking=True)
    (batch, width), classes = features.shape, weight.shape[1]
    if classes > FUSED_CLASSES:
        logits = (features.to(weight.dtype) @ weight).div_(temperature)
        p, gradient, sums = gce_rows(logits, targets, None, q, 1.0)
    else:
        logits, p, gradient = (weight.new_empty(batch, classes) for _ in range(3))
        config = similarity_tile(classes, float32_precision(features))
        programs = blocks(batch, config["BLOCK_B"])
        partials = weight.new_empty(programs, 3)
        with on_device_of(features):
            prior_similarity_kernel[(programs,)](
                features,
                weight,
                targets,
                q,
                logits,
                p,
                gradient,
                partials,
                batch,
                width,
                classes,
                features.stride(0),
                *weight.stride(),
                targets.stride(0),
                1.0 / temperature,
                IDS=targets.ndim == 1,
                **config,
            )
        sums = sum_partials(partials, weight.new_empty(3))
    loss, score = weight.new_empty(()), weight.new_empty(())
    with on_device_of(features):
        scale_kernel[(blocks(gradient.numel(), SCALE["BLOCK"]),)](
            gradient, sums, loss, score, gradient.numel(), **SCALE
        )
    if loss_only:
        logits, p = (weight.new_empty(0, classes) for _ in range(2))
    return logits, p, loss, score, gradient


def prior_similarity_backward(
    grads: Sequence[Tensor | None], saved: Saved, temperature: float, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients by features and weight: one kernel for d(…)/d(XW), and two library products."""
    grad_logits, grad_probabilities, grad_loss = grads
    features, weight, probabilities, loss_gradient = saved
    total = loss_gradient.new_empty(loss_gradient.shape)
    batch, classes = total.shape
    with on_device_of(total):
        logit_gradient_kernel[(blocks(batch, LOGIT_GRADIENT["BLOCK_B"]),)](
            None if grad_logits is None else grad_logits.contiguous(),
            None if grad_probabilities is None else grad_probabilities.contiguous(),
            grad_loss,
            probabilities.contiguous(),
            loss_gradient.contiguous(),
            total,
            batch,
            classes,
            1.0 / temperature,
            **LOGIT_GRADIENT,
        )
    by_features = (total @ weight.T).to(features.dtype) if needs[0] else features.new_empty(0)
    by_weight = features.to(weight.dtype).T @ total if needs[1] else weight.new_empty(0)
    return by_features, by_weight
