"""The class-space part of stage ``gradient`` for more than 32 classes: products, and two small
kernels.

    product                   M V and Z U, or H times the class matrix and F [ΔᵀF, VᵀF]ᵀ
    wide_coefficients_kernel  from those, the gradient in the basis and its part along x̂
    wide_factors_kernel       mixed rows of what [ΔᵀF, VᵀF, Qᵀ] are multiplied by
    product                   that, which the last kernel adds to the rest

Bytes: the (B, K) matrices a few times, 8·B·D for the last product, written and read. Operations, in
float32: 4·B²·K + 2·B·D·K with M and Z, 10·B·D·K + 6·B·K² with FᵀF.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from ..launch import blocks, on_device_of
from ..product import product
from .gradient_tiles import inverse_norm, invert, projection_of, scales, small_part

if TYPE_CHECKING:
    from torch import Tensor

    from drcl.eager.reversible_consistency import Saved, Settings

# A warp goes along a row.
WIDE = {"BLOCK_B": 4, "BLOCK_K": 128, "num_warps": 4}


class Coefficients(NamedTuple):
    """Of each row the gradient in the basis, its part along x̂, and π⁻¹: (B, K), (B,), (B,)."""

    inside: Tensor
    projection: Tensor
    origin: Tensor | None


@triton.jit(do_not_specialize=["batch"])
def wide_coefficients_kernel(
    by_total, by_label, by_similarity, by_squared, sums, coordinates, label_gradient, norms,
    class_part, minus, crossed, permutation, inside, projection, origin,
    batch, width, k_total, alpha, beta, eta,
    MIXED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``class_part`` is M V, from which Z U goes as ``minus``; or H times the class matrix, to
    which ``crossed`` belongs.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    invert(permutation, origin, row, in_batch, MIXED)
    similarity, squared, label = scales(
        by_total, by_label, by_similarity, by_squared, sums, alpha, beta, eta, width
    )
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    r = tl.load(norms + batch + row, mask=in_batch, other=0.0)
    scale = similarity * inverse_norm(n)
    along_x = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = in_batch[:, None] & (k < k_total)[None, :]
        at = coordinates + row[:, None] * (3 * k_total) + k[None, :]
        u = tl.load(at, mask=mask, other=0.0)
        delta = tl.load(at + k_total, mask=mask, other=0.0)
        v = tl.load(at + 2 * k_total, mask=mask, other=0.0)
        at = row[:, None] * k_total + k[None, :]
        along = tl.load(class_part + at, mask=mask, other=0.0)
        if minus is not None:
            along -= tl.load(minus + at, mask=mask, other=0.0)
        if crossed is not None:
            by_f = crossed + row[:, None] * (2 * k_total) + k[None, :]
            f_delta = tl.load(by_f, mask=mask, other=0.0)
            f_v = tl.load(by_f + k_total, mask=mask, other=0.0)
            along -= f_v
            along_x += tl.sum(u * f_delta + delta * f_v, 1)
        along_x += tl.sum(v * along, 1)
        slope = tl.load(label_gradient + at, mask=mask, other=0.0)
        value = scale[:, None] * along + label * slope
        value += squared * ((n - r)[:, None] * u - n[:, None] * delta)
        tl.store(inside + at, value, mask=mask)
    tl.store(projection + row, along_x, mask=in_batch)


@triton.jit(do_not_specialize=["batch", "parts"])
def wide_factors_kernel(
    by_total, by_label, by_similarity, by_squared, sums, dots, coordinates, norms, inside,
    projection, origin, factors,
    batch, width, k_total, parts, alpha, beta, eta, lam, rest, sign,
    MIXED: tl.constexpr, CROSSED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    similarity, _, _ = scales(
        by_total, by_label, by_similarity, by_squared, sums, alpha, beta, eta, width
    )
    scale = lam * similarity * inverse_norm(tl.load(norms + row, mask=in_batch, other=0.0))
    along_x = projection_of(projection, dots, row, in_batch, batch, parts, sign)
    if MIXED:
        other = tl.load(origin + row, mask=in_batch, other=0)
        other_n = tl.load(norms + other, mask=in_batch, other=0.0)
        other_scale = rest * similarity * inverse_norm(other_n)
        other_along_x = projection_of(projection, dots, other, in_batch, batch, parts, sign)
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = in_batch[:, None] & (k < k_total)[None, :]
        of_delta_f, of_v_f, of_basis = small_part(
            coordinates, inside, row[:, None], mask, k[None, :], k_total, scale[:, None], lam,
            along_x[:, None],
        )  # fmt: skip
        if MIXED:
            a, b, c = small_part(
                coordinates, inside, other[:, None], mask, k[None, :], k_total,
                other_scale[:, None], rest, other_along_x[:, None],
            )  # fmt: skip
            of_delta_f += a
            of_v_f += b
            of_basis += c
        if CROSSED:
            at = factors + row[:, None] * (3 * k_total) + k[None, :]
            tl.store(at, of_delta_f, mask=mask)
            tl.store(at + k_total, of_v_f, mask=mask)
            tl.store(at + 2 * k_total, of_basis, mask=mask)
        else:
            tl.store(factors + row[:, None] * k_total + k[None, :], of_basis, mask=mask)


def wide_coefficients(
    scalars: tuple[Tensor | None, ...],
    saved: Saved,
    settings: Settings,
    matrix: Tensor,
    found: Coefficients,
) -> None:
    """Fills ``found``; three launches.

    ``matrix`` is M and Z (2, B, B), or the class matrix (3K, K). ``scalars`` are the gradients of
    the loss and its parts, and the sums.
    """
    outside, coordinates, label_gradient, norms, _, _, cross, _, basis, permutation = saved
    (batch, k), width = found.inside.shape, len(basis)
    minus = crossed = None
    if matrix.ndim == 3:
        class_part = product(matrix[0], coordinates[:, 2 * k :])
        minus = product(matrix[1], coordinates[:, :k])
    else:
        class_part = product(coordinates, matrix)
        crossed = product(outside, cross.T) if cross.shape[1] else None
    with on_device_of(basis):
        wide_coefficients_kernel[(blocks(batch, WIDE["BLOCK_B"]),)](
            *scalars,
            coordinates,
            label_gradient,
            norms,
            class_part,
            minus,
            crossed,
            permutation,
            *found,
            batch,
            width,
            k,
            *settings[:3],
            MIXED=permutation is not None,
            **WIDE,
        )


def wide_part(
    scalars: tuple[Tensor | None, ...],
    dots: Tensor | None,
    saved: Saved,
    settings: Settings,
    found: Coefficients,
    sign: float,
) -> Tensor:
    """The gradient's rank-K terms (B, D), mixed; two launches, and a copy where ``cross`` has
    entries.

    ``dots`` are the parts of ⟨T, F⟩, which count with the sign of T in the gradient.
    """
    import torch

    cross, basis, lam = saved.cross, saved.basis, settings.lam
    (batch, k), width = found.inside.shape, len(basis)
    crossed = cross.numel() > 0
    factors = basis.new_empty(batch, 3 * k if crossed else k)
    with on_device_of(basis):
        wide_factors_kernel[(blocks(batch, WIDE["BLOCK_B"]),)](
            *scalars,
            dots,
            saved.coordinates,
            saved.norms,
            *found,
            factors,
            batch,
            width,
            k,
            0 if dots is None else len(dots),
            *settings[:3],
            lam,
            1.0 - lam,
            sign,
            MIXED=found.origin is not None,
            CROSSED=crossed,
            **WIDE,
        )
    return product(factors, torch.cat([cross, basis.T]) if crossed else basis.T)
