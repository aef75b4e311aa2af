"""Stages ``gram`` and ``differences``: symmetric products of which only one triangle is computed.

    symmetric_kernel   one block of the lower triangle and one slice of the sum per program, on the
                       tensor cores if the matmul precision allows it
    gram_kernel        adds a block's slices and stores it twice, the second time mirrored
    differences_kernel the same, with the exact class-space parts: M = UΔᵀ + ΔVᵀ − FFᵀ and Z

A triangle has few blocks (136 of 128×128 at D = 2048), hence the slices: they keep every
multiprocessor busy to the end, and are added in a fixed order. They come and go through L2. Beyond
8,192 terms they also keep sums short, for the sake of rounding.

Operations: B·D·min(B, D), half of the full product. Bytes: 4·B·D for F, 4·min(B, D)² for the result
(twice for M and Z), and for the slices 4·(512 blocks of 128×128) at most, or 2·D² for every 8,192
rows: an eighth of F at D = 2,048.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ..launch import LOOPED_CLASSES, blocks, on_device_of, slices
from ..product import (
    Config,
    fitted,
    float32_precision,
    fours,
    group_axis,
    multiply,
    on_amd,
    precision_for,
    product,
    product_precision,
)

if TYPE_CHECKING:
    from torch import Tensor

SYMMETRIC: dict[str, Config] = {
    "ieee": {"BLOCK": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 3},
    "bf16x6": {"BLOCK": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
    "bf16x3": {"BLOCK": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2},
    "tf32": {"BLOCK": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
    "bf16": {"BLOCK": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
}
# A float32 sum of n terms of one sign is wrong by about n^½ · 3e-8. Here the terms are whole steps
# of 32, but single products in "ieee".
LONGEST = {"ieee": 1024, "bf16x6": 8192, "bf16x3": 8192, "tf32": 8192, "bf16": 8192}
GRAM: Config = {"BLOCK_R": 8, "num_warps": 4}
# One stage: copies of single numbers past the registers would collide 16-way.
DIFFERENCES: Config = {"BLOCK_R": 16, "BLOCK_K": 16, "num_warps": 8, "num_stages": 1}


@triton.jit
def triangle(block):
    """Row and column of a block of a lower triangle, counted row by row."""
    i = ((tl.sqrt((8 * block + 1).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    # the root is rounded: one too many or one too few
    i = tl.where(i * (i + 1) // 2 > block, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= block, i + 1, i)
    return i, block - i * (i + 1) // 2


# Sizes that 16 divides are compiled in as such: without that, copies to shared memory take 4 bytes
# each in place of 16, for the masks along the rows read depend on them.
@triton.jit
def symmetric_kernel(
    factor, partials, size, depth, slice_depth, stride_i, stride_k,
    FOURS: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``A Aᵀ`` of A (size, depth): a block's share from one slice of the depth."""
    if FOURS == 0:
        size, stride_k = size // 4 * 4, stride_k // 4 * 4
    if FOURS == 1:
        depth, stride_i = depth // 4 * 4, stride_i // 4 * 4
    block_i, block_j = triangle(tl.program_id(0))
    part = tl.program_id(1)
    i = block_i.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = block_j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    begin = part.to(tl.int64) * slice_depth
    end = tl.minimum(begin + slice_depth, depth)
    k = begin + tl.arange(0, BLOCK_K)
    left_at = factor + i[:, None] * stride_i + k[None, :] * stride_k
    right_at = factor + k[:, None] * stride_k + j[None, :] * stride_i
    in_i = i < size
    in_j = j < size
    accumulator = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, slice_depth, BLOCK_K):
        in_k = k < end - start
        left = tl.load(left_at, mask=in_i[:, None] & in_k[None, :], other=0.0)
        right = tl.load(right_at, mask=in_k[:, None] & in_j[None, :], other=0.0)
        accumulator = multiply(left, right, accumulator, PRECISION)
        left_at += BLOCK_K * stride_k
        right_at += BLOCK_K * stride_k
    at = (part * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * BLOCK * BLOCK
    a = tl.arange(0, BLOCK)
    tl.store(partials + at + a[:, None] * BLOCK + a[None, :], accumulator)


@triton.jit
def add_slices(partials, r, parts, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr):
    """The rows ``r`` of this program's block."""
    c = tl.arange(0, BLOCK)
    at = partials + tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    at = at + r[:, None] * BLOCK + c[None, :]
    total = tl.zeros([BLOCK_R, BLOCK], tl.float32)
    for _ in range(parts):
        total += tl.load(at)
        at += tl.num_programs(0).to(tl.int64) * BLOCK * BLOCK
    return total


@triton.jit
def store_mirrored(matrix, size, i, j, value, mirrored, on_diagonal):
    """A block in its place and, off the diagonal, in the mirrored one."""
    mask = (i < size)[:, None] & (j < size)[None, :]
    tl.store(matrix + i[:, None] * size + j[None, :], value, mask=mask)
    mask = mask & (j < tl.where(on_diagonal, 0, size))[None, :]
    tl.store(matrix + j[None, :] * size + i[:, None], mirrored, mask=mask)


@triton.jit(do_not_specialize=["parts"])
def gram_kernel(partials, gram_matrix, size, parts, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr):
    block_i, block_j = triangle(tl.program_id(0))
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    i = block_i.to(tl.int64) * BLOCK + r
    j = block_j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = add_slices(partials, r, parts, BLOCK, BLOCK_R)
    store_mirrored(gram_matrix, size, i, j, total, total, block_i == block_j)


@triton.jit
def coordinate_tile(coordinates, b, k, batch, k_total):
    """U, Δ and V of the rows ``b`` at the coordinates ``k``, of which one is a row of the tile."""
    mask = (b < batch) & (k < k_total)
    at = coordinates + b * (3 * k_total) + k
    u = tl.load(at, mask=mask, other=0.0)
    delta = tl.load(at + k_total, mask=mask, other=0.0)
    v = tl.load(at + 2 * k_total, mask=mask, other=0.0)
    return u, delta, v


@triton.jit(do_not_specialize=["batch", "parts"])
def differences_kernel(
    partials, coordinates, class_part, norms, out, batch, k_total, parts,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``M = UΔᵀ + ΔVᵀ − FFᵀ`` and ``Z = AUᵀ − UAᵀ``, where A = −Δ or V gives the same Z.

    The smaller of the two rounds less; here every entry takes its own choice, by the rows it is of.
    With many classes, where neither is small, both come from one product, ``class_part``.
    """
    block_i, block_j = triangle(tl.program_id(0))
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    i = block_i.to(tl.int64) * BLOCK + r
    j = block_j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if class_part is not None:
        # G = (U+V)Δᵀ, whose symmetric part is UΔᵀ + ΔVᵀ and whose antisymmetric part is Z
        mask = (i < batch)[:, None] & (j < batch)[None, :]
        g = tl.load(class_part + i[:, None] * batch + j[None, :], mask=mask, other=0.0)
        g_t = tl.load(class_part + j[None, :] * batch + i[:, None], mask=mask, other=0.0)
        m = 0.5 * (g + g_t)
        z = 0.5 * (g - g_t)
    else:
        zeros = tl.zeros([BLOCK_R, BLOCK], tl.float32)
        m, z_delta, z_v = zeros, zeros, zeros
        excess_i = tl.zeros([BLOCK_R], tl.float32)
        excess_j = tl.zeros([BLOCK], tl.float32)
        for start in range(0, k_total, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            u_i, delta_i, v_i = coordinate_tile(coordinates, i[:, None], k[None, :], batch, k_total)
            u_j, delta_j, v_j = coordinate_tile(coordinates, j[None, :], k[:, None], batch, k_total)
            excess_i += tl.sum(delta_i * delta_i - v_i * v_i, 1)
            excess_j += tl.sum(delta_j * delta_j - v_j * v_j, 0)
            u_delta = multiply(u_i, delta_j, zeros, PRECISION)
            m = multiply(delta_i, v_j, m, PRECISION) + u_delta
            z_delta += u_delta - multiply(delta_i, u_j, zeros, PRECISION)
            z_v += multiply(v_i, u_j, zeros, PRECISION) - multiply(u_i, v_j, zeros, PRECISION)
        z = tl.where(excess_i[:, None] + excess_j[None, :] < 0.0, z_delta, z_v)
    m -= add_slices(partials, r, parts, BLOCK, BLOCK_R)
    # Rows have length one, or zero: the diagonals are known.
    n = tl.load(norms + i, mask=i < batch, other=0.0)
    length = tl.load(norms + batch + i, mask=i < batch, other=0.0)
    known = (length > 0.0).to(tl.float32) - (n > 0.0).to(tl.float32)
    diagonal = i[:, None] == j[None, :]
    m = tl.where(diagonal, known[:, None], m)
    z = tl.where(diagonal, 0.0, z)
    store_mirrored(out, batch, i, j, m, m, block_i == block_j)
    square = batch.to(tl.int64) * batch
    store_mirrored(out + square, batch, i, j, z, -z, block_i == block_j)


def symmetric_config(factor: Tensor, precision: str) -> Config:
    """The tile for ``A Aᵀ`` of this A on its device."""
    config = SYMMETRIC[precision]
    if precision == "bf16x6" and factor.stride(1) == 1:
        config = config | {"num_stages": 2}  # with three, the assembler for sm_80 spills
    return fitted(config, factor, group_axis(factor) is not None)


def slice_length(triangle_blocks: int, depth: int, step: int, precision: str) -> int:
    """How many terms one program adds up: enough programs, and no sum so long that it rounds."""
    length = min(blocks(depth, slices(triangle_blocks, depth, 256)), LONGEST[precision])
    return blocks(length, step) * step


def _slices_of_product(factor: Tensor, precision: str) -> tuple[Tensor, int, int]:
    """``A Aᵀ`` as (slices · blocks, block, block), how many blocks, and how many slices."""
    size, depth = factor.shape
    config = symmetric_config(factor, precision)
    block, step = config["BLOCK"], config["BLOCK_K"]
    along = blocks(size, block)
    triangle_blocks = along * (along + 1) // 2
    slice_depth = slice_length(triangle_blocks, depth, step, precision)
    parts = blocks(depth, slice_depth) if depth else 0
    partials = factor.new_empty(parts * triangle_blocks, block, block)
    if parts:
        symmetric_kernel[(triangle_blocks, parts)](
            factor,
            partials,
            size,
            depth,
            slice_depth,
            *factor.stride(),
            FOURS=fours(factor),
            PRECISION=precision,
            **config,
        )
    return partials, triangle_blocks, parts


def gram(outside: Tensor) -> Tensor:
    """``FᵀF`` (1, D, D), (1, 0, 0) when F is empty; two launches."""
    width = outside.shape[1]
    # the sum runs down the columns of F
    precision = precision_for(product_precision(outside), outside, False)
    result = outside.new_empty(1, width, width)
    if width:
        block = SYMMETRIC[precision]["BLOCK"]
        with on_device_of(outside):
            partials, triangle_blocks, parts = _slices_of_product(outside.T, precision)
            gram_kernel[(triangle_blocks, block // GRAM["BLOCK_R"])](
                partials, result, width, parts, BLOCK=block, **GRAM
            )
    return result


def differences(outside: Tensor, coordinates: Tensor, norms: Tensor) -> Tensor:
    """M and Z (2, B, B), symmetric and antisymmetric; two launches, four beyond 32 classes."""
    batch, precision = len(outside), product_precision(outside)
    k = coordinates.shape[1] // 3
    result = outside.new_empty(2, batch, batch)
    block = SYMMETRIC[precision]["BLOCK"]
    tile = DIFFERENCES | {"BLOCK_R": 8} if on_amd(outside) else DIFFERENCES  # or gfx1100 spills
    class_part = None
    if k > LOOPED_CLASSES:
        u, delta, v = coordinates.chunk(3, dim=1)
        class_part = product(u + v, delta.T)
    with on_device_of(outside):
        partials, triangle_blocks, parts = _slices_of_product(outside, precision)
        differences_kernel[(triangle_blocks, block // tile["BLOCK_R"])](
            partials,
            coordinates,
            class_part,
            norms,
            result,
            batch,
            k,
            parts,
            BLOCK=block,
            PRECISION=float32_precision(outside) if class_part is None else "ieee",
            **tile,
        )
    return result
