"""Stage ``gradient`` of the reversible consistency loss: three launches.

    coefficients   per row: what multiplies x̂'s directions, and the part along x̂ that normalising takes away
    product        T = F (FᵀF), or (FFᵀ) F when B < D, on the tensor cores, with each row's ⟨T, F⟩
    finish         combines T, F, the rank-3K terms and the mixing's transpose, writes the gradient

The normalisation needs ⟨T, F⟩ over a whole row, so T goes through memory once: no program holds a row
of a large product. Everything is linear in the rows, so the mixing is undone in the last step, on the
row and its partner π⁻¹(i) together, and not in a pass of its own: 7 times B·D in place of 8.

Bytes / (B·D): coefficients read F (4); product reads F and writes T (8); finish reads T and F, with
mixing twice, the partner's row from L2 while the batch fits there (8 or 16), and writes the gradient
in the features' dtype. Operations: 2·B·D·min(B, D) on tensor cores, 10·B·D·K in float32.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .launch import (
    FUSED_CLASSES,
    FUSED_WIDTH,
    blocks,
    columns_first,
    on_device_of,
    power_of_two,
    row_tile,
)
from .product import product, product_with_dots

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FINISH = {"BLOCK_B": 16, "BLOCK_D": 256, "num_warps": 4}


@triton.jit
def scales(grad, sums, alpha, beta, eta, width):
    """What every row's parts are multiplied by: of the similarity, squared error and label terms."""
    count = tl.maximum(tl.load(sums + 2), 1.0)
    total = tl.load(grad)
    similarity = (alpha * total + tl.load(grad + 2)) * (-16.0 / (count * count))
    squared = (beta * total + tl.load(grad + 3)) * (2.0 / (count * width))
    label = (eta * total + tl.load(grad + 1)) / count
    return similarity, squared, label


@triton.jit
def inverse_norm(n):
    return tl.div_rn(1.0, tl.where(n > 0.0, n, 1.0))


@triton.jit(do_not_specialize=["batch"])
def coefficients_kernel(
    grad, sums, outside, coordinates, label_gradient, norms, inner, cross, class_part, permutation,
    inside, rho, origin,
    batch, width, k_total, alpha, beta, eta,
    MIXED: tl.constexpr, OUTSIDE: tl.constexpr, INNER: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Row by row: d(loss)/dx̂ in the basis (``inside``), and ⟨x̂, gradient⟩ but for ⟨T, F⟩ (``rho``).

    With INNER the K×K sums are applied here; otherwise ``class_part`` brings the result.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    if MIXED:
        # π⁻¹ on the side: the launch that needs it comes later
        tl.store(origin + tl.load(permutation + row, mask=in_batch, other=0), row, mask=in_batch)
    similarity, squared, label = scales(grad, sums, alpha, beta, eta, width)
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    r = tl.load(norms + batch + row, mask=in_batch, other=0.0)
    inverse = inverse_norm(n)
    pitch = 2 * k_total
    d = tl.arange(0, BLOCK_D)
    in_width = d < width
    if OUTSIDE:
        f = tl.load(
            outside + row[:, None] * width + d[None, :],
            mask=in_batch[:, None] & in_width[None, :],
            other=0.0,
        )
    j = tl.arange(0, BLOCK_K)
    if INNER:
        in_k = j < k_total
        at = coordinates + row[:, None] * pitch + j[None, :]
        u_row = tl.load(at, mask=in_batch[:, None] & in_k[None, :], other=0.0)
        delta_row = tl.load(at + k_total, mask=in_batch[:, None] & in_k[None, :], other=0.0)
    along_x = tl.zeros([BLOCK_B], tl.float32)
    for k in range(0, k_total):
        u = tl.load(coordinates + row * pitch + k, mask=in_batch, other=0.0)
        delta = tl.load(coordinates + row * pitch + k_total + k, mask=in_batch, other=0.0)
        v = u - delta
        if INNER:
            uu = tl.load(inner + j * pitch + k, mask=in_k, other=0.0)
            ud = tl.load(inner + j * pitch + k_total + k, mask=in_k, other=0.0)
            du = tl.load(inner + k * pitch + k_total + j, mask=in_k, other=0.0)
            dd = tl.load(inner + (k_total + j) * pitch + k_total + k, mask=in_k, other=0.0)
            both = delta_row * (2.0 * uu - ud - du + dd)[None, :] - u_row * dd[None, :]
            along = tl.sum(both, 1)
        else:
            along = tl.load(class_part + row * k_total + k, mask=in_batch, other=0.0)
        if OUTSIDE:
            u_f = tl.load(cross + k.to(tl.int64) * width + d, mask=in_width, other=0.0)
            delta_f = tl.load(
                cross + (k_total + k).to(tl.int64) * width + d, mask=in_width, other=0.0
            )
            f_delta = tl.sum(f * delta_f[None, :], 1)
            f_v = tl.sum(f * (u_f - delta_f)[None, :], 1)
            along -= f_v
            along_x += u * f_delta + delta * f_v
        along_x += v * along
        slope = tl.load(label_gradient + row * k_total + k, mask=in_batch, other=0.0)
        value = similarity * along * inverse + label * slope + squared * (n * v - r * u)
        tl.store(inside + row * k_total + k, value, mask=in_batch)
    tl.store(rho + row, similarity * along_x, mask=in_batch)


@triton.jit
def removed(rho, dots, row, in_batch, batch, parts, similarity, OUTSIDE: tl.constexpr):
    """ρ of some rows: the part of d(loss)/dx̂ along x̂."""
    value = tl.load(rho + row, mask=in_batch, other=0.0)
    if OUTSIDE:
        dot = tl.zeros_like(value)
        for part in range(0, parts):
            dot += tl.load(dots + part.to(tl.int64) * batch + row, mask=in_batch, other=0.0)
        value -= similarity * dot
    return value


@triton.jit
def large_part(
    product, outside, row, d, mask, width, inverse, n, rho, similarity, squared, share
):
    """The row's T and F with their factors: ``share·(−similarity/n·T + (squared·n − ρ/n)·F)``."""
    at = row[:, None] * width + d[None, :]
    t = tl.load(product + at, mask=mask, other=0.0)
    f = tl.load(outside + at, mask=mask, other=0.0)
    of_t = share * -similarity * inverse
    of_f = share * (squared * n - rho * inverse)
    return of_t[:, None] * t + of_f[:, None] * f


@triton.jit
def small_part(
    coordinates, inside, row, in_batch, k, k_total, inverse, rho, similarity, share
):
    """The row's factors of ``ΔᵀF``, ``UᵀF`` and the basis, at one k."""
    at = coordinates + row * (2 * k_total) + k
    u = tl.load(at, mask=in_batch, other=0.0)
    delta = tl.load(at + k_total, mask=in_batch, other=0.0)
    along = tl.load(inside + row * k_total + k, mask=in_batch, other=0.0)
    v = u - delta
    scale = share * similarity * inverse
    return scale * v, scale * delta, share * (along - rho * inverse * v)


@triton.jit(do_not_specialize=["batch", "parts"])
def finish_kernel(
    grad, sums, product, dots, outside, coordinates, norms, cross, basis, inside, rho, origin, out,
    batch, width, k_total, parts, basis_stride, alpha, beta, eta, lam, rest,
    MIXED: tl.constexpr, OUTSIDE: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``λ g[i] + (1−λ) g[π⁻¹(i)]`` for a block of rows and columns, g being the gradient by x."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_batch = row < batch
    in_width = d < width
    mask = in_batch[:, None] & in_width[None, :]
    similarity, squared, _ = scales(grad, sums, alpha, beta, eta, width)
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    inverse = inverse_norm(n)
    gone = removed(rho, dots, row, in_batch, batch, parts, similarity, OUTSIDE)
    value = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    if OUTSIDE:
        value += large_part(
            product, outside, row, d, mask, width, inverse, n, gone, similarity, squared, lam
        )
    if MIXED:
        other = tl.load(origin + row, mask=in_batch, other=0)
        other_n = tl.load(norms + other, mask=in_batch, other=0.0)
        other_inverse = inverse_norm(other_n)
        other_gone = removed(rho, dots, other, in_batch, batch, parts, similarity, OUTSIDE)
        if OUTSIDE:
            value += large_part(
                product, outside, other, d, mask, width, other_inverse, other_n, other_gone,
                similarity, squared, rest,
            )  # fmt: skip
    for k in range(0, k_total):
        of_delta_f, of_u_f, of_basis = small_part(
            coordinates, inside, row, in_batch, k, k_total, inverse, gone, similarity, lam
        )
        if MIXED:
            a, b, c = small_part(
                coordinates, inside, other, in_batch, k, k_total, other_inverse, other_gone,
                similarity, rest,
            )  # fmt: skip
            of_delta_f += a
            of_u_f += b
            of_basis += c
        along = tl.load(basis + k.to(tl.int64) * basis_stride + d, mask=in_width, other=0.0)
        value += of_basis[:, None] * along[None, :]
        if OUTSIDE:
            u_f = tl.load(cross + k.to(tl.int64) * width + d, mask=in_width, other=0.0)
            delta_f = tl.load(
                cross + (k_total + k).to(tl.int64) * width + d, mask=in_width, other=0.0
            )
            value += of_delta_f[:, None] * delta_f[None, :] + of_u_f[:, None] * u_f[None, :]
    tl.store(out + row[:, None] * width + d[None, :], value.to(out.dtype.element_ty), mask=mask)


def gradient(
    grad: Tensor,
    outside: Tensor,
    coordinates: Tensor,
    label_gradient: Tensor,
    norms: Tensor,
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram_matrix: Tensor,
    basis: Tensor,
    permutation: Tensor | None,
    alpha: float,
    beta: float,
    eta: float,
    lam: float,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given the gradient (4,) of total, J_L, J_D and J_MSE.

    With K > 128 the K×K sums are applied to the rows by a product of its own. float64, and rows wider
    than 32,768, take the eager stage.
    """
    width, k = basis.shape
    if basis.dtype.itemsize == 8 or width > FUSED_WIDTH:
        from drcl.eager import reversible_consistency as eager

        return eager.gradient(
            grad,
            outside,
            coordinates,
            label_gradient,
            norms,
            sums,
            inner,
            cross,
            gram_matrix,
            basis,
            permutation,
            alpha,
            beta,
            eta,
            lam,
            dtype,
        )
    batch, has_outside, mixed = len(norms[0]), k < width, permutation is not None
    grad, basis = grad.contiguous(), columns_first(basis)
    fused = k <= FUSED_CLASSES
    class_part = None if fused else product(coordinates, _class_matrix(inner))
    inside = basis.new_empty(batch, k)
    rho = basis.new_empty(batch)
    origin = None if permutation is None else permutation.new_empty(batch)
    tile = row_tile(width)
    with on_device_of(basis):
        coefficients_kernel[(blocks(batch, tile.block_rows),)](
            grad,
            sums,
            outside,
            coordinates,
            label_gradient,
            norms,
            inner,
            cross,
            class_part,
            None if permutation is None else permutation.contiguous(),
            inside,
            rho,
            origin,
            batch,
            width,
            k,
            alpha,
            beta,
            eta,
            MIXED=mixed,
            OUTSIDE=has_outside,
            INNER=fused,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_K=min(FUSED_CLASSES, power_of_two(k, 16)),
            num_warps=tile.num_warps,
        )
    large = dots = None
    if has_outside:
        by_rows = len(gram_matrix) != width
        # The Gram matrix is symmetric: its transpose offers the tensor cores the order they want.
        left, right = (gram_matrix, outside) if by_rows else (outside, gram_matrix.T)
        large, dots = product_with_dots(left, right, outside)
    out = basis.new_empty(batch, width, dtype=dtype)
    grid = (blocks(batch, FINISH["BLOCK_B"]), blocks(width, FINISH["BLOCK_D"]))
    with on_device_of(basis):
        finish_kernel[grid](
            grad,
            sums,
            large,
            dots,
            outside,
            coordinates,
            norms,
            cross,
            basis,
            inside,
            rho,
            origin,
            out,
            batch,
            width,
            k,
            0 if dots is None else len(dots),
            basis.stride(1),
            alpha,
            beta,
            eta,
            lam if mixed else 1.0,
            1.0 - lam,
            MIXED=mixed,
            OUTSIDE=has_outside,
            **FINISH,
        )
    return out


def _class_matrix(inner: Tensor) -> Tensor:
    """(2K, K), so that ``[U, Δ]`` times it is ``Δ (VᵀV + UᵀU) − U ΔᵀΔ``."""
    import torch

    k = len(inner) // 2
    uu, ud, dd = inner[:k, :k], inner[:k, k:], inner[k:, k:]
    return torch.cat([-dd, 2 * uu - ud - ud.T + dd])
