"""Device functions that the kernels of stage ``gradient`` share."""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scales(by_total, by_label, by_similarity, by_squared, sums, alpha, beta, eta, width):
    """What a row's parts are multiplied by: of the similarity, squared error and label terms.

    The gradients of total, J_L, J_D and J_MSE come as pointers; None is no gradient.
    """
    count = tl.maximum(tl.load(sums + 2), 1.0)
    similarity = tl.zeros_like(count)
    squared = tl.zeros_like(count)
    label = tl.zeros_like(count)
    if by_total is not None:
        total = tl.load(by_total)
        similarity += alpha * total
        squared += beta * total
        label += eta * total
    if by_similarity is not None:
        similarity += tl.load(by_similarity)
    if by_squared is not None:
        squared += tl.load(by_squared)
    if by_label is not None:
        label += tl.load(by_label)
    return similarity * (-16.0 / (count * count)), squared * (2.0 / (count * width)), label / count


@triton.jit
def invert(permutation, origin, row, in_batch, MIXED: tl.constexpr):
    """π⁻¹ on the side: the launch that needs it comes later."""
    if MIXED:
        tl.store(origin + tl.load(permutation + row, mask=in_batch, other=0), row, mask=in_batch)


@triton.jit
def inverse_norm(n):
    return 1.0 / tl.where(n > 0.0, n, 1.0)


@triton.jit
def projection_of(projection, dots, row, in_batch, batch, parts, sign):
    """The part of a row's gradient by x̂ along x̂, now with ⟨T, F⟩."""
    dot = tl.zeros_like(row).to(tl.float32)
    if dots is not None:  # without F there are none, and a loop over none would be compiled
        for start in range(0, parts, 32):  # at D = 2,048 all at once: nothing waits for the next
            part = start + tl.arange(0, 32)
            mask = in_batch[:, None] & (part < parts)[None, :]
            at = dots + part[None, :] * batch.to(tl.int64) + row[:, None]
            dot += tl.sum(tl.load(at, mask=mask, other=0.0), 1)
    return tl.load(projection + row, mask=in_batch, other=0.0) + sign * dot


@triton.jit
def small_part(coordinates, inside, row, mask, k, k_total, scale, share, along_x):
    """Rows' factors of ``ΔᵀF``, ``VᵀF`` and the basis at the coordinates ``k``.

    ``row`` and the rows' scalars are broadcast against ``k``.
    """
    at = coordinates + row * (3 * k_total) + k
    u = tl.load(at, mask=mask, other=0.0)
    delta = tl.load(at + k_total, mask=mask, other=0.0)
    v = tl.load(at + 2 * k_total, mask=mask, other=0.0)
    along = tl.load(inside + row * k_total + k, mask=mask, other=0.0)
    return scale * u, scale * delta, share * along - scale * along_x * v
