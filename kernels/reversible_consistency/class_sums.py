"""Stage ``class_sums``: ``HᵀH`` (3K, 3K) in float64 and ``[Δ, V]ᵀF`` (2K, D) in float32.

The loss is a difference of products of HᵀH: rounding there is what would limit it, and float64
costs nothing while K is small. Batches are cut into slices, one program each, and slices into
chunks of rows; both are added in a fixed order.

Bytes: 4·B·D for F, 12·B·K for H, and the slices. Operations: 4·K·B·D in float32, 18·K²·B in
float64.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .. import product
from ..launch import LOOPED_CLASSES, blocks, on_device_of, slices
from ..reduction import sum_partials
from .symmetric import gram

if TYPE_CHECKING:
    from torch import Tensor

# 2K is 20 for ten classes: a taller tile would be mostly padding.
CROSS = {"BLOCK_H": 32, "BLOCK_D": 64, "BLOCK_B": 32, "num_warps": 4, "num_stages": 3}
WIDE_CROSS = CROSS | {"BLOCK_H": 64, "BLOCK_B": 16, "num_warps": 8}
INNER = {"BLOCK_H": 32, "BLOCK_D": 32, "BLOCK_B": 16, "num_warps": 4, "num_stages": 2}
# Rows that are added up before they join the rest of the slice: of 1,048,576 rows with a bias, one
# float32 sum after the other is off by 2e-5 at 70,000 rows a slice, in such parts by 1e-7.
CHUNK = 1024


@triton.jit(do_not_specialize=["batch", "slice_rows"])
def class_sums_kernel(
    coordinates, right, partials, batch, pitch, skipped, height, width, slice_rows,
    EXACT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """A block of ``Aᵀ right`` over a slice of rows; A is H less ``skipped`` columns."""
    part = tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    begin = part.to(tl.int64) * slice_rows
    end = tl.minimum(begin + slice_rows, batch)
    dtype: tl.constexpr = tl.float64 if EXACT else tl.float32
    total = tl.zeros([BLOCK_H, BLOCK_D], dtype)
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], dtype)
    for start in range(0, slice_rows, BLOCK_B):
        b = begin + start + tl.arange(0, BLOCK_B)
        a = tl.load(
            coordinates + b[None, :] * pitch + skipped + h[:, None],
            mask=(b < end)[None, :] & (h < height)[:, None],
            other=0.0,
        )
        values = tl.load(
            right + b[:, None] * width + d[None, :],
            mask=(b < end)[:, None] & (d < width)[None, :],
            other=0.0,
        )
        accumulator = tl.dot(
            a.to(dtype), values.to(dtype), accumulator, input_precision="ieee", out_dtype=dtype
        )
        if not EXACT:
            # not a loop in a loop: that takes twice the registers
            full = (start + BLOCK_B) % CHUNK == 0
            total += tl.where(full, accumulator, 0.0)
            accumulator = tl.where(full, 0.0, accumulator)
    total += accumulator
    at = partials + part.to(tl.int64) * height * width
    mask = (h < height)[:, None] & (d < width)[None, :]
    tl.store(at + h[:, None] * width + d[None, :], total, mask=mask)


def by_features(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`drcl.eager.reversible_consistency.by_features`."""
    return *class_sums(coordinates, outside), gram(outside)


def class_sums(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`drcl.eager.reversible_consistency.class_sums`; four launches.

    With K large against D, HᵀH is multiplied in float32 as there.
    """
    import torch

    pitch, width = coordinates.shape[1], outside.shape[1]
    k = pitch // 3
    exact = k <= max(32, width // 12)
    inner = coordinates.new_empty(pitch, pitch, dtype=torch.float64)
    cross = coordinates.new_empty(2 * k, width)
    inner_config = INNER
    maker, generation = product.gpu(coordinates)
    if maker == "nvidia" and generation >= 10:
        # rows of 3K numbers are rarely whole groups of four, and single numbers that are copied
        # past the registers collide 16-way where float64 has no tensor cores
        inner_config = INNER | {"num_stages": 1}
    _slice_and_add(coordinates, coordinates, 0, inner, exact, inner_config)
    if width:
        cross_config = CROSS if k <= LOOPED_CLASSES else WIDE_CROSS
        if product.on_amd(outside):
            cross_config = cross_config | {"num_stages": 2}  # gfx1100 spills with three
        _slice_and_add(coordinates, outside, k, cross, False, cross_config)
    return inner, cross


def _slice_and_add(
    coordinates: Tensor,
    right: Tensor,
    skipped: int,
    out: Tensor,
    exact: bool,
    config: dict[str, int],
) -> None:
    (batch, pitch), (height, width) = coordinates.shape, out.shape
    grid = (blocks(width, config["BLOCK_D"]), blocks(height, config["BLOCK_H"]))
    step = config["BLOCK_B"]
    slice_rows = blocks(blocks(batch, slices(grid[0] * grid[1], batch, 64)), step) * step
    parts = blocks(batch, slice_rows)
    partials = (out if exact else right).new_empty(parts, height * width)
    with on_device_of(right):
        class_sums_kernel[(*grid, parts)](
            coordinates,
            right,
            partials,
            batch,
            pitch,
            skipped,
            height,
            width,
            slice_rows,
            EXACT=exact,
            CHUNK=CHUNK,
            **config,
        )
    sum_partials(partials, out)
