"""Matrix products: a general one, and the symmetric one of which only a triangle is computed.

Precision follows ``torch.set_float32_matmul_precision`` where it may (the products of F with itself and
with its Gram matrix, which fade as training converges): "highest" multiplies in float32, "high" in TF32,
"medium" in bf16. Sums are float32 always. Everything that must stay exact asks for "ieee".
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .launch import blocks, on_device_of
from .reduction import sum_partials

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, int]

# Per precision. float32 products run outside the tensor cores: small tiles, or the operands spill.
# 128×128 with two warp groups is what wgmma feeds best; three stages leave room for two programs.
PRODUCT: dict[str, Config] = {
    "ieee": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 3},
    "tf32": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
    "bf16": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
}
SYMMETRIC: dict[str, Config] = {
    "ieee": {"BLOCK": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 3},
    "tf32": {"BLOCK": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
    "bf16": {"BLOCK": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
}
MIRROR: Config = {"BLOCK_R": 16, "num_warps": 4}
# HᵀH and HᵀF: 2K is 20 for ten classes, so a tall tile would be mostly padding.
CLASS_SUMS: Config = {"BLOCK_H": 32, "BLOCK_D": 64, "BLOCK_B": 32, "num_warps": 4, "num_stages": 3}

# Enough programs for about four rounds on a large GPU: the last, partly filled round then costs little.
PROGRAMS = 512


def matmul_precision() -> str:
    """The user's choice for float32 products, in the names of this file."""
    import torch

    return {"highest": "ieee", "high": "tf32", "medium": "bf16"}[
        torch.get_float32_matmul_precision()
    ]


def slices(tiles: int, depth: int, shortest: int) -> int:
    """Into how many slices a product's sum is cut so that few tiles still fill the GPU."""
    return max(1, min(blocks(PROGRAMS, tiles), depth // shortest))


@triton.jit
def multiply(a, b, accumulator, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), accumulator)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit(do_not_specialize=["m_total"])
def product_kernel(
    a, b, out, factor, dots, m_total, n_total, k_total,
    a_stride_m, a_stride_k, b_stride_k, b_stride_n, factor_stride,
    DOTS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``A B`` for any strides; with DOTS also every row's inner product with that row of ``factor``.

    Neighbouring programs share their rows of A, or their columns of B, through L2.
    """
    tiles_n = tl.cdiv(n_total, BLOCK_N)
    program = tl.program_id(0)
    band = 8 * tiles_n
    first = (program // band) * 8
    height = tl.minimum(tl.cdiv(m_total, BLOCK_M) - first, 8)
    tile_m = first + (program % band) % height
    tile_n = (program % band) // height

    m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    in_m = m < m_total
    in_n = n < n_total
    a_at = a + m[:, None] * a_stride_m + k[None, :] * a_stride_k
    b_at = b + k[:, None] * b_stride_k + n[None, :] * b_stride_n
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        in_k = k < k_total - start
        left = tl.load(a_at, mask=in_m[:, None] & in_k[None, :], other=0.0).to(tl.float32)
        right = tl.load(b_at, mask=in_k[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        accumulator = multiply(left, right, accumulator, PRECISION)
        a_at += BLOCK_K * a_stride_k
        b_at += BLOCK_K * b_stride_k
    mask = in_m[:, None] & in_n[None, :]
    tl.store(out + m[:, None] * n_total + n[None, :], accumulator, mask=mask)
    if DOTS:
        # the same rows of F went through this program as an operand a moment ago: L2 has them
        f = tl.load(factor + m[:, None] * factor_stride + n[None, :], mask=mask, other=0.0)
        dot = tl.sum(accumulator * f, 1)
        tl.store(dots + tile_n.to(tl.int64) * m_total + m, dot, mask=in_m)


@triton.jit
def store_mirrored(product, size, i, j, tile, mirror):
    """A tile of a symmetric matrix, in its place and, off the diagonal, in the mirrored one."""
    mask = (i < size)[:, None] & (j < size)[None, :]
    tl.store(product + i[:, None] * size + j[None, :], tile, mask=mask)
    tl.store(product + j[None, :] * size + i[:, None], tile, mask=mask & mirror)


@triton.jit
def triangle(tile):
    """Row and column of the tile-th block of a lower triangle, counted row by row."""
    i = ((tl.sqrt((8 * tile + 1).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    return i, tile - i * (i + 1) // 2


@triton.jit(do_not_specialize=["depth", "slice_depth"])
def symmetric_kernel(
    factor, product, partials, size, depth, slice_depth, stride_i, stride_k,
    SLICED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``A Aᵀ``: one program per block of the lower triangle and slice of the sum."""
    tile_i, tile_j = triangle(tl.program_id(0))
    part = tl.program_id(1)
    i = tile_i.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tile_j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
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
    if SLICED:
        at = (part * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * BLOCK * BLOCK
        a = tl.arange(0, BLOCK)
        tl.store(partials + at + a[:, None] * BLOCK + a[None, :], accumulator)
    else:
        store_mirrored(product, size, i, j, accumulator, tile_i != tile_j)


@triton.jit(do_not_specialize=["tiles", "parts"])
def mirror_kernel(
    partials, product, size, tiles, parts, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr
):
    """The slices of some rows of a block, added in order, in both places of the symmetric product."""
    tile_i, tile_j = triangle(tl.program_id(0))
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK)
    at = partials + tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    total = tl.zeros([BLOCK_R, BLOCK], tl.float32)
    for _ in range(0, parts):
        total += tl.load(at + r[:, None] * BLOCK + c[None, :])
        at += tiles.to(tl.int64) * BLOCK * BLOCK
    i = tile_i.to(tl.int64) * BLOCK + r
    j = tile_j.to(tl.int64) * BLOCK + c
    store_mirrored(product, size, i, j, total, tile_i != tile_j)


@triton.jit(do_not_specialize=["batch", "slice_rows"])
def class_sums_kernel(
    coordinates, outside, partials, batch, height, width, slice_rows,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """One slice of rows, added up to a block of ``HᵀH`` (the first columns) or of ``HᵀF``."""
    tile_d = tl.program_id(0)
    part = tl.program_id(2)
    inner_tiles = tl.cdiv(height, BLOCK_D)
    inner = tile_d < inner_tiles
    right = coordinates if inner else outside
    columns = tl.where(inner, height, width)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = (tile_d - tl.where(inner, 0, inner_tiles)) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = part.to(tl.int64) * slice_rows
    end = tl.minimum(begin + slice_rows, batch)
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for start in range(0, slice_rows, BLOCK_B):
        b = begin + start + tl.arange(0, BLOCK_B)
        left = tl.load(
            coordinates + b[None, :] * height + h[:, None],
            mask=(b < end)[None, :] & (h < height)[:, None],
            other=0.0,
        )
        values = tl.load(
            right + b[:, None] * columns + d[None, :],
            mask=(b < end)[:, None] & (d < columns)[None, :],
            other=0.0,
        )
        accumulator = tl.dot(left, values, accumulator, input_precision="ieee")
    # a slice's partials: HᵀH, then HᵀF
    at = part.to(tl.int64) * height * (height + width) + tl.where(inner, 0, height * height)
    mask = (h < height)[:, None] & (d < columns)[None, :]
    tl.store(partials + at + h[:, None] * columns + d[None, :], accumulator, mask=mask)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``A B`` (M, N) in float32 multiplications whatever the matmul precision; any strides."""
    return _product(a, b, "ieee")


def product_with_dots(a: Tensor, b: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """``T = A B`` in the chosen precision, and parts (n, M) that add up to each row's ``⟨T, factor⟩``."""
    precision = matmul_precision()
    dots = factor.new_empty(blocks(b.shape[1], PRODUCT[precision]["BLOCK_N"]), len(a))
    return _product(a, b, precision, factor, dots), dots


def _product(
    a: Tensor, b: Tensor, precision: str, factor: Tensor | None = None, dots: Tensor | None = None
) -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    out = b.new_empty(m, n)
    config = PRODUCT[precision]
    grid = (blocks(m, config["BLOCK_M"]) * blocks(n, config["BLOCK_N"]),)
    with on_device_of(b):
        product_kernel[grid](
            a,
            b,
            out,
            factor,
            dots,
            m,
            n,
            k,
            *a.stride(),
            *b.stride(),
            0 if factor is None else factor.stride(0),
            DOTS=dots is not None,
            PRECISION=precision,
            **config,
        )
    return out


def gram(outside: Tensor, by_rows: bool) -> Tensor:
    """``FFᵀ`` (B, B) if ``by_rows``, else ``FᵀF`` (D, D); one launch, or two where the sum is sliced.

    Operations: B·D·min(B, D), half of the full product. Bytes: F once from device memory, and the
    result; slices come and go through L2. float64 takes the eager stage.
    """
    if outside.dtype.itemsize == 8:
        from drcl.eager import reversible_consistency as eager

        return eager.gram(outside, by_rows)
    factor = outside if by_rows else outside.T
    size, depth = factor.shape
    result = outside.new_empty(size, size)
    if size == 0:
        return result
    precision = matmul_precision()
    config = SYMMETRIC[precision]
    block, step = config["BLOCK"], config["BLOCK_K"]
    along = blocks(size, block)
    tiles = along * (along + 1) // 2
    slice_depth = blocks(blocks(depth, slices(tiles, depth, shortest=256)), step) * step
    parts = blocks(depth, slice_depth)
    partials = outside.new_empty(parts * tiles, block, block) if parts > 1 else None
    with on_device_of(outside):
        symmetric_kernel[(tiles, parts)](
            factor,
            result,
            partials,
            size,
            depth,
            slice_depth,
            *factor.stride(),
            SLICED=parts > 1,
            PRECISION=precision,
            **config,
        )
        if parts > 1:
            mirror_kernel[(tiles, block // MIRROR["BLOCK_R"])](
                partials, result, size, tiles, parts, BLOCK=block, **MIRROR
            )
    return result


def class_sums(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """``HᵀH`` (2K, 2K) and ``HᵀF`` (2K, D), in float32 multiplications; two launches.

    Bytes: F and H once, and the slices' partial sums. Operations: 4·K·B·(D + 2K). float64 takes the
    eager stage.
    """
    if coordinates.dtype.itemsize == 8:
        from drcl.eager import reversible_consistency as eager

        return eager.class_sums(coordinates, outside)
    (batch, height), width = coordinates.shape, outside.shape[1]
    config = CLASS_SUMS
    tiles_h = blocks(height, config["BLOCK_H"])
    tiles_d = blocks(height, config["BLOCK_D"]) + blocks(width, config["BLOCK_D"])
    step = config["BLOCK_B"]
    cut = slices(tiles_h * tiles_d, batch, shortest=128)
    slice_rows = blocks(blocks(batch, cut), step) * step
    parts = blocks(batch, slice_rows)
    partials = outside.new_empty(parts, height * (height + width))
    inner, cross = outside.new_empty(height, height), outside.new_empty(height, width)
    with on_device_of(outside):
        class_sums_kernel[(tiles_d, tiles_h, parts)](
            coordinates, outside, partials, batch, height, width, slice_rows, **config
        )
    sum_partials(partials, inner, cross)
    return inner, cross
