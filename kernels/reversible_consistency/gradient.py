"""Stage ``gradient`` of the reversible consistency loss.

    class_matrix   from HᵀH, the (3K, K) matrix that H is multiplied by (with FᵀF only)
    coefficients   row by row: the gradient inside the prior's space, and its part along x̂
    product        T = M F, or F (FᵀF), on the tensor cores if the matmul precision allows it,
                   with each row's ⟨T, F⟩
    finish         T, F, the rank-K terms and the mixing's transpose, put together and written

The gradient of the normalisation needs ⟨T, F⟩ over a whole row, so T goes through memory once: no
program holds a row of a large product. Everything is linear in the rows, so the mixing is undone
in the last step, on row i and row π⁻¹(i) together, and not in a pass of its own (7 times B·D in
place of 8).

Bytes: 4·B·D each for reading F in ``coefficients`` (with FᵀF only) and as an operand, for writing
T, and for reading T and F in ``finish``, there twice with mixing (the other row comes from L2
while the batch fits); then B·D in the features' dtype. Operations: 2·B·D·min(B, D) in the chosen
precision, in float32 10·B·D·K with FᵀF, 2·B·D·K + 4·B²·K without.

Up to 32 classes, and D = 8,192 with FᵀF, the rank-K terms are loops over K beside a tile; beyond
they are products, in ``wide_gradient.py``.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ..launch import (
    LOOPED_CLASSES,
    LOOPED_WIDTH,
    RowTile,
    blocks,
    columns_first,
    on_device_of,
    power_of_two,
)
from ..product import on_amd, product_with_dots
from .combine import is_converging
from .gradient_tiles import inverse_norm, invert, projection_of, scales, small_part
from .wide_gradient import Coefficients, wide_coefficients, wide_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from drcl.eager.reversible_consistency import Saved, Settings

CLASS_MATRIX = {"BLOCK": 256, "num_warps": 4}
COEFFICIENTS_BY_ROWS = RowTile(block_rows=8, block_width=16, num_warps=4)
# How much of a sum ``coefficients`` takes at a time: of M and Z, or of the class matrix.
DEPTH_BY_ROWS = 128
DEPTH = 32
# With more at a time, or in two stages, gfx1100 spills, and Triton 3.6 has no form for gfx942.
AMD = {"num_stages": 1}
FINISH = {"BLOCK_B": 4, "BLOCK_D": 512, "num_warps": 4}


def coefficient_tile(width: int) -> RowTile:
    """Rows of F that one program holds, for two products with every vector of length D.

    At D = 2,048 two rows in two warps, 64 values a thread: every vector that is loaded serves both.
    Narrower rows take one warp, whose sums need no barrier. Two of 2,048 in one warp spill.
    """
    block_width = power_of_two(width, 16)
    block_rows = min(4, max(2, 2048 // block_width))
    return RowTile(block_rows, block_width, max(1, block_rows * block_width // 2048))


@triton.jit
def class_matrix_kernel(inner, out, k_total, BLOCK: tl.constexpr):
    """What ``[U, Δ, V]`` is multiplied by: ``U(AᵀU + ΔᵀV) + Δ VᵀV − A UᵀU``, A = −Δ or V."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < k_total * k_total
    a = at // k_total
    b = at % k_total
    pitch = 3 * k_total
    converging = is_converging(inner, k_total, 128)
    here = inner + a * pitch + b
    uu = tl.load(here, mask=mask, other=0.0)
    du = tl.load(here + k_total * pitch, mask=mask, other=0.0)
    vu = tl.load(here + 2 * k_total * pitch, mask=mask, other=0.0)
    vv = tl.load(here + 2 * k_total * (pitch + 1), mask=mask, other=0.0)
    dv = tl.load(inner + (2 * k_total + b) * pitch + k_total + a, mask=mask, other=0.0)
    dtype = out.dtype.element_ty
    square = k_total * k_total
    tl.store(out + at, (tl.where(converging, -du, vu) + dv).to(dtype), mask=mask)
    tl.store(out + square + at, (vv + tl.where(converging, uu, 0.0)).to(dtype), mask=mask)
    tl.store(out + 2 * square + at, tl.where(converging, 0.0, -uu).to(dtype), mask=mask)


@triton.jit
def load_tile(matrix, m, m_total, n, n_total, pitch):
    mask = (m < m_total)[:, None] & (n < n_total)[None, :]
    return tl.load(matrix + m[:, None] * pitch + n[None, :], mask=mask, other=0.0)


# A batch that 16 divides is compiled in as such: without that, M and Z are copied 4 bytes at a
# time.
@triton.jit
def coefficients_kernel(
    by_total, by_label, by_similarity, by_squared, sums, outside, coordinates, label_gradient,
    norms, matrix, cross, permutation, inside, projection, origin,
    batch, width, k_total, alpha, beta, eta,
    MIXED: tl.constexpr, BY_ROWS: tl.constexpr, OUTSIDE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``inside``: the gradient in the basis, before normalising; ``projection``: what it has
    along x̂.

    ``matrix`` is M and Z with BY_ROWS, else the class matrix. The projection still lacks ⟨T, F⟩.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    invert(permutation, origin, row, in_batch, MIXED)
    similarity, squared, label = scales(
        by_total, by_label, by_similarity, by_squared, sums, alpha, beta, eta, width
    )
    pitch = 3 * k_total
    j = tl.arange(0, BLOCK_K)
    along = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
    if BY_ROWS:
        # M V − Z U. M is symmetric and Z antisymmetric: their columns are read as rows.
        square = batch * batch  # of rows no wider than 16,384
        minus = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        for start in range(0, batch, BLOCK):
            other = start + tl.arange(0, BLOCK)
            m = load_tile(matrix, row, batch, other, batch, batch)
            v = load_tile(coordinates + 2 * k_total, other, batch, j, k_total, pitch)
            along = tl.dot(m, v, along, input_precision="ieee")
            z = load_tile(matrix + square, row, batch, other, batch, batch)
            u = load_tile(coordinates, other, batch, j, k_total, pitch)
            minus = tl.dot(z, u, minus, input_precision="ieee")
        along -= minus
    else:
        for start in range(0, pitch, BLOCK):
            h = start + tl.arange(0, BLOCK)
            left = load_tile(coordinates, row, batch, h, pitch, pitch)
            right = load_tile(matrix, h, pitch, j, k_total, k_total)
            along = tl.dot(left, right, along, input_precision="ieee")
    u = load_tile(coordinates, row, batch, j, k_total, pitch)
    delta = load_tile(coordinates + k_total, row, batch, j, k_total, pitch)
    v = load_tile(coordinates + 2 * k_total, row, batch, j, k_total, pitch)
    along_x = tl.zeros([BLOCK_B], tl.float32)
    if OUTSIDE:
        d = tl.arange(0, BLOCK_D)
        in_width = d < width
        f = tl.load(
            outside + row[:, None] * width + d[None, :],
            mask=in_batch[:, None] & in_width[None, :],
            other=0.0,
        )
        by_delta = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        by_v = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        for k in range(k_total):
            delta_f = tl.load(cross + k * width + d, mask=in_width, other=0.0)
            here = (j == k)[None, :]
            by_delta = tl.where(here, tl.sum(f * delta_f[None, :], 1)[:, None], by_delta)
            v_f = tl.load(cross + (k_total + k) * width + d, mask=in_width, other=0.0)
            by_v = tl.where(here, tl.sum(f * v_f[None, :], 1)[:, None], by_v)
        along -= by_v
        along_x += tl.sum(u * by_delta + delta * by_v, 1)
    along_x += tl.sum(v * along, 1)
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    r = tl.load(norms + batch + row, mask=in_batch, other=0.0)
    slope = load_tile(label_gradient, row, batch, j, k_total, k_total)
    value = (similarity * inverse_norm(n))[:, None] * along + label * slope
    value += squared * ((n - r)[:, None] * u - n[:, None] * delta)
    at = inside + row[:, None] * k_total + j[None, :]
    tl.store(at, value, mask=in_batch[:, None] & (j < k_total)[None, :])
    tl.store(projection + row, along_x, mask=in_batch)


@triton.jit
def large_part(product, outside, row, d, mask, width, of_t, of_f):
    at = row[:, None] * width + d[None, :]
    t = tl.load(product + at, mask=mask, other=0.0)
    f = tl.load(outside + at, mask=mask, other=0.0)
    return of_t[:, None] * t + of_f[:, None] * f


@triton.jit(do_not_specialize=["batch", "parts"])
def finish_kernel(
    by_total, by_label, by_similarity, by_squared, sums, product, dots, outside, coordinates, norms,
    cross, basis, inside, class_part, projection, origin, out,
    batch, width, k_total, parts, basis_stride, alpha, beta, eta, lam, rest,
    MIXED: tl.constexpr, BY_ROWS: tl.constexpr, OUTSIDE: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``λ g[i] + (1−λ) g[π⁻¹(i)]`` for a block of rows and columns, g being the gradient by x.

    Its rank-K terms are summed here, or given as ``class_part``, mixed already.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_batch = row < batch
    in_width = d < width
    mask = in_batch[:, None] & in_width[None, :]
    similarity, squared, _ = scales(
        by_total, by_label, by_similarity, by_squared, sums, alpha, beta, eta, width
    )
    sign = 1.0 if BY_ROWS else -1.0
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    scale = lam * similarity * inverse_norm(n)
    along_x = projection_of(projection, dots, row, in_batch, batch, parts, sign)
    value = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    if class_part is not None:
        value += tl.load(class_part + row[:, None] * width + d[None, :], mask=mask, other=0.0)
    if OUTSIDE:
        of_f = lam * squared * n - scale * along_x
        value += large_part(product, outside, row, d, mask, width, sign * scale, of_f)
    if MIXED:
        other = tl.load(origin + row, mask=in_batch, other=0)
        other_n = tl.load(norms + other, mask=in_batch, other=0.0)
        other_scale = rest * similarity * inverse_norm(other_n)
        other_along_x = projection_of(projection, dots, other, in_batch, batch, parts, sign)
        if OUTSIDE:
            of_f = rest * squared * other_n - other_scale * other_along_x
            value += large_part(product, outside, other, d, mask, width, sign * other_scale, of_f)
    if class_part is None:
        for k in range(k_total):
            of_delta_f, of_v_f, of_basis = small_part(
                coordinates, inside, row, in_batch, k, k_total, scale, lam, along_x
            )
            if MIXED:
                a, b, c = small_part(
                    coordinates, inside, other, in_batch, k, k_total, other_scale, rest,
                    other_along_x,
                )  # fmt: skip
                of_delta_f += a
                of_v_f += b
                of_basis += c
            along = tl.load(basis + k * basis_stride + d, mask=in_width, other=0.0)
            value = tl.fma(of_basis[:, None], along[None, :], value)
            if OUTSIDE and not BY_ROWS:
                delta_f = tl.load(cross + k * width + d, mask=in_width, other=0.0)
                v_f = tl.load(cross + (k_total + k) * width + d, mask=in_width, other=0.0)
                value = tl.fma(of_delta_f[:, None], delta_f[None, :], value)
                value = tl.fma(of_v_f[:, None], v_f[None, :], value)
    tl.store(out + row[:, None] * width + d[None, :], value.to(out.dtype.element_ty), mask=mask)


def gradient(
    grads: Sequence[Tensor | None], saved: Saved, settings: Settings, dtype: torch.dtype
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given the gradients of total, J_L, J_D and J_MSE (None: zero).

    Three launches with M and Z, four with FᵀF. With K > 32, or D > 8,192, the class-space part is
    products of its own.
    """
    outside, coordinates, label_gradient, norms, sums, inner, cross, gram_matrix, *_ = saved
    basis, permutation = columns_first(saved.basis), saved.permutation
    permutation = None if permutation is None else permutation.contiguous()
    saved = saved._replace(basis=basis, permutation=permutation)
    width, k = basis.shape
    batch, has_outside, by_rows = norms.shape[1], k < width, len(gram_matrix) == 2
    mixed = permutation is not None
    settings = settings._replace(lam=settings.lam if mixed else 1.0)
    *weights, _, lam = settings
    matrix = gram_matrix if by_rows else _class_matrix(inner, basis)
    crossed = has_outside and not by_rows
    wide = k > LOOPED_CLASSES or (crossed and width > LOOPED_WIDTH)
    origin = None if permutation is None else permutation.new_empty(batch)
    found = Coefficients(basis.new_empty(batch, k), basis.new_empty(batch), origin)
    scalars = (*grads, sums)
    if wide:
        wide_coefficients(scalars, saved, settings, matrix, found)
    else:
        tile = coefficient_tile(width) if crossed else COEFFICIENTS_BY_ROWS
        with on_device_of(basis):
            coefficients_kernel[(blocks(batch, tile.block_rows),)](
                *scalars,
                outside,
                coordinates,
                label_gradient,
                norms,
                matrix,
                cross,
                permutation,
                *found,
                batch,
                width,
                k,
                *weights,
                MIXED=mixed,
                BY_ROWS=by_rows,
                OUTSIDE=crossed,
                BLOCK_B=tile.block_rows,
                BLOCK_D=tile.block_width,
                BLOCK_K=power_of_two(k, 16),
                BLOCK=DEPTH_BY_ROWS if by_rows and not on_amd(basis) else DEPTH,
                num_warps=tile.num_warps,
                **(AMD if on_amd(basis) else {}),
            )
    large = dots = class_part = None
    if has_outside:
        left, right = (matrix[0], outside) if by_rows else (outside, gram_matrix[0])
        large, dots = product_with_dots(left, right, outside, b_is_symmetric=not by_rows)
    if wide:
        sign = 1.0 if by_rows else -1.0
        class_part = wide_part(scalars, dots, saved, settings, found, sign)
    out = basis.new_empty(batch, width, dtype=dtype)
    grid = (blocks(batch, FINISH["BLOCK_B"]), blocks(width, FINISH["BLOCK_D"]))
    with on_device_of(basis):
        finish_kernel[grid](
            *scalars,
            large,
            dots,
            outside,
            coordinates,
            norms,
            cross,
            basis,
            found.inside,
            class_part,
            found.projection,
            found.origin,
            out,
            batch,
            width,
            k,
            0 if dots is None else len(dots),
            basis.stride(1),
            *weights,
            lam,
            1.0 - lam,
            MIXED=mixed,
            BY_ROWS=by_rows,
            OUTSIDE=has_outside,
            **FINISH,
        )
    return out


def _class_matrix(inner: Tensor, basis: Tensor) -> Tensor:
    """(3K, K) in the basis' dtype."""
    k = basis.shape[1]
    matrix = basis.new_empty(3 * k, k)
    with on_device_of(inner):
        class_matrix_kernel[(blocks(k * k, CLASS_MATRIX["BLOCK"]),)](
            inner, matrix, k, **CLASS_MATRIX
        )
    return matrix
