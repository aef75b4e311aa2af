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
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .combine import is_converging
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

CLASS_MATRIX = {"BLOCK": 256, "num_warps": 4}
FINISH = {"BLOCK_B": 8, "BLOCK_D": 256, "num_warps": 8}


@triton.jit
def scales(grad, sums, alpha, beta, eta, width):
    """What a row's parts are multiplied by: of the similarity, squared error and label terms."""
    count = tl.maximum(tl.load(sums + 2), 1.0)
    total = tl.load(grad)
    similarity = (alpha * total + tl.load(grad + 2)) * (-16.0 / (count * count))
    squared = (beta * total + tl.load(grad + 3)) * (2.0 / (count * width))
    label = (eta * total + tl.load(grad + 1)) / count
    return similarity, squared, label


@triton.jit
def inverse_norm(n):
    return 1.0 / tl.where(n > 0.0, n, 1.0)


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
def add_product(
    accumulator, a, a_stride_m, a_stride_k, b, b_stride_k, m, in_m, n, in_n, depth,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """``accumulator + A B``, exact: the rows ``m`` of a matrix times a few columns ``n``."""
    for start in range(0, depth, BLOCK):
        k = start + tl.arange(0, BLOCK).to(tl.int64)
        left = tl.load(
            a + m[:, None] * a_stride_m + k[None, :] * a_stride_k,
            mask=in_m[:, None] & (k < depth)[None, :],
            other=0.0,
        )
        right = tl.load(
            b + k[:, None] * b_stride_k + n[None, :],
            mask=(k < depth)[:, None] & in_n[None, :],
            other=0.0,
        )
        accumulator = tl.dot(left, right, accumulator, input_precision="ieee")
    return accumulator


@triton.jit(do_not_specialize=["batch"])
def coefficients_kernel(
    grad, sums, outside, coordinates, label_gradient, norms, matrix, cross, class_part,
    permutation, inside, projection, origin,
    batch, width, k_total, alpha, beta, eta,
    MIXED: tl.constexpr, BY_ROWS: tl.constexpr, OUTSIDE: tl.constexpr, FUSED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``inside``: the gradient in the basis, before normalising; ``projection``: what it has
    along x̂.

    ``matrix`` is M and Z with BY_ROWS, else the class matrix. The class-space part is their
    product with the coordinates, made here when FUSED and otherwise given. The projection still
    lacks ⟨T, F⟩.
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
    pitch = 3 * k_total
    j = tl.arange(0, BLOCK_K)
    if FUSED:
        in_k = j < k_total
        tile = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        if BY_ROWS:
            # M V − Z U. M is symmetric and Z antisymmetric: their columns are read as rows.
            square = batch.to(tl.int64) * batch
            tile = add_product(
                tile, matrix, batch, 1, coordinates + 2 * k_total, pitch, row, in_batch, j,
                in_k, batch, 32,
            )  # fmt: skip
            minus_z_u = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
            minus_z_u = add_product(
                minus_z_u, matrix + square, batch, 1, coordinates, pitch, row, in_batch, j, in_k,
                batch, 32,
            )  # fmt: skip
            tile -= minus_z_u
        else:
            tile = add_product(
                tile, coordinates, pitch, 1, matrix, k_total, row, in_batch, j, in_k, pitch,
                32,
            )  # fmt: skip
    d = tl.arange(0, BLOCK_D)
    in_width = d < width
    if OUTSIDE:
        f = tl.load(
            outside + row[:, None] * width + d[None, :],
            mask=in_batch[:, None] & in_width[None, :],
            other=0.0,
        )
    along_x = tl.zeros([BLOCK_B], tl.float32)
    for k in range(k_total):
        at = coordinates + row * pitch + k
        u = tl.load(at, mask=in_batch, other=0.0)
        delta = tl.load(at + k_total, mask=in_batch, other=0.0)
        v = tl.load(at + 2 * k_total, mask=in_batch, other=0.0)
        if FUSED:
            along = tl.sum(tl.where((j == k)[None, :], tile, 0.0), 1)
        else:
            along = tl.load(class_part + row * k_total + k, mask=in_batch, other=0.0)
        if OUTSIDE:
            delta_f = tl.load(cross + k * width + d, mask=in_width, other=0.0)
            v_f = tl.load(cross + (k_total + k) * width + d, mask=in_width, other=0.0)
            f_v = tl.sum(f * v_f[None, :], 1)
            along -= f_v
            along_x += u * tl.sum(f * delta_f[None, :], 1) + delta * f_v
        along_x += v * along
        slope = tl.load(label_gradient + row * k_total + k, mask=in_batch, other=0.0)
        value = similarity * inverse * along + label * slope
        value += squared * ((n - r) * u - n * delta)
        tl.store(inside + row * k_total + k, value, mask=in_batch)
    tl.store(projection + row, along_x, mask=in_batch)


@triton.jit
def projection_of(projection, dots, row, in_batch, batch, parts, sign):
    """The part of a row's gradient by x̂ along x̂, now with ⟨T, F⟩."""
    dot = tl.zeros_like(row).to(tl.float32)
    if dots is not None:  # without F there are none, and a loop over none would be compiled
        for part in range(parts):
            dot += tl.load(dots + part * batch.to(tl.int64) + row, mask=in_batch, other=0.0)
    return tl.load(projection + row, mask=in_batch, other=0.0) + sign * dot


@triton.jit
def large_part(product, outside, row, d, mask, width, of_t, of_f):
    at = row[:, None] * width + d[None, :]
    t = tl.load(product + at, mask=mask, other=0.0)
    f = tl.load(outside + at, mask=mask, other=0.0)
    return of_t[:, None] * t + of_f[:, None] * f


@triton.jit
def small_part(coordinates, inside, row, in_batch, k, k_total, scale, share, along_x):
    """A row's factors of ``ΔᵀF``, ``VᵀF`` and the basis, at one k."""
    at = coordinates + row * (3 * k_total) + k
    u = tl.load(at, mask=in_batch, other=0.0)
    delta = tl.load(at + k_total, mask=in_batch, other=0.0)
    v = tl.load(at + 2 * k_total, mask=in_batch, other=0.0)
    along = tl.load(inside + row * k_total + k, mask=in_batch, other=0.0)
    return scale * u, scale * delta, share * along - scale * along_x * v


@triton.jit(do_not_specialize=["batch", "parts"])
def finish_kernel(
    grad, sums, product, dots, outside, coordinates, norms, cross, basis, inside, projection,
    origin, out, batch, width, k_total, parts, basis_stride, alpha, beta, eta, lam, rest,
    MIXED: tl.constexpr, BY_ROWS: tl.constexpr, OUTSIDE: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``λ g[i] + (1−λ) g[π⁻¹(i)]`` for a block of rows and columns, g being the gradient by x."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_batch = row < batch
    in_width = d < width
    mask = in_batch[:, None] & in_width[None, :]
    similarity, squared, _ = scales(grad, sums, alpha, beta, eta, width)
    sign = 1.0 if BY_ROWS else -1.0
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    scale = lam * similarity * inverse_norm(n)
    along_x = projection_of(projection, dots, row, in_batch, batch, parts, sign)
    value = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
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
    for k in range(k_total):
        of_delta_f, of_v_f, of_basis = small_part(
            coordinates, inside, row, in_batch, k, k_total, scale, lam, along_x
        )
        if MIXED:
            a, b, c = small_part(
                coordinates, inside, other, in_batch, k, k_total, other_scale, rest, other_along_x
            )
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

    Three launches with M and Z, four with FᵀF. With K > 128 the class-space part is a product of
    its own. float64, and rows wider than 16,384, take the eager stage.
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
    batch, has_outside, by_rows = norms.shape[1], k < width, len(gram_matrix) == 2
    grad, basis = grad.contiguous(), columns_first(basis)
    permutation = None if permutation is None else permutation.contiguous()
    mixed, fused = permutation is not None, k <= FUSED_CLASSES
    lam = lam if mixed else 1.0
    matrix = gram_matrix if by_rows else _class_matrix(inner, basis)
    class_part = None
    if not fused and by_rows:
        u, v = coordinates[:, :k], coordinates[:, 2 * k :]
        class_part = product(matrix[0], v).sub_(product(matrix[1], u))
    elif not fused:
        class_part = product(coordinates, matrix)
    inside, projection = basis.new_empty(batch, k), basis.new_empty(batch)
    origin = None if permutation is None else permutation.new_empty(batch)
    crossed = has_outside and not by_rows
    tile = row_tile(width if crossed else 1, k)
    with on_device_of(basis):
        coefficients_kernel[(blocks(batch, tile.block_rows),)](
            grad,
            sums,
            outside,
            coordinates,
            label_gradient,
            norms,
            matrix,
            cross,
            class_part,
            permutation,
            inside,
            projection,
            origin,
            batch,
            width,
            k,
            alpha,
            beta,
            eta,
            MIXED=mixed,
            BY_ROWS=by_rows,
            OUTSIDE=crossed,
            FUSED=fused,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_K=min(FUSED_CLASSES, power_of_two(k, 16)),
            num_warps=max(4, tile.num_warps),
        )
    large = dots = None
    if has_outside:
        left, right = (matrix[0], outside) if by_rows else (outside, gram_matrix[0])
        large, dots = product_with_dots(left, right, outside, b_is_symmetric=not by_rows)
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
            projection,
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
