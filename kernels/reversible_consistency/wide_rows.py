"""Stage ``rows`` for more than 32 classes, where V = X̂ Q and F = X̂ − V Qᵀ are products.

    unit_rows_kernel   x̂, the norms, and U
    product            V = X̂ Q, then V Qᵀ
    outside_kernel     F in the place of x̂, Δ, and the recasting error
    product, gce_rows  logits and their cross-entropy; the label gradient

Bytes: 2·B·D features and 7·4·B·D for x̂, V Qᵀ and F between the launches, of which a batch of 1,024
stays in L2. Operations: 4·B·D·K + 4·B·K·C, in float32.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ..arithmetic import divide, root, scales_of
from ..generalized_cross_entropy import GCE_ROWS, gce_partials
from ..launch import blocks, on_device_of, row_tile
from ..product import product, register_limit
from ..reduction import sum_partials
from .row_tiles import half_of_distance, load_unit_rows, recast_tile

if TYPE_CHECKING:
    from drcl.eager.reversible_consistency import Batch, Rows, Settings, Space

BLOCK_K = 128  # coordinates of a row at a time


@triton.jit(do_not_specialize=["batch"])
def unit_rows_kernel(
    features, targets, permutation, table, unit, coordinates, norms,
    batch, width, classes, k_total, known, features_stride, targets_stride, lam, rest,
    IDS: tl.constexpr, MIXED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    d = tl.arange(0, BLOCK_D)
    mask = in_batch[:, None] & (d < width)[None, :]
    x, n, first, second, labelled = load_unit_rows(
        features, features_stride, targets, targets_stride, permutation, row, in_batch, d, mask,
        classes, lam, rest, IDS, MIXED, BLOCK_K,
    )  # fmt: skip
    tl.store(unit + row[:, None] * width + d[None, :], x, mask=mask)
    largest = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        u = recast_tile(table, first, second, labelled, k, known, k_total, lam, rest, IDS, MIXED)
        largest = tl.maximum(largest, tl.max(tl.abs(u), 1))
    up, down = scales_of(largest)
    r = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        u = recast_tile(table, first, second, labelled, k, known, k_total, lam, rest, IDS, MIXED)
        u *= up[:, None]
        r += tl.sum(u * u, 1)
    r = root(r)
    divisor = tl.where(r > 0.0, r, 1.0)
    inverse = 1.0 / divisor
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        u = recast_tile(table, first, second, labelled, k, known, k_total, lam, rest, IDS, MIXED)
        u = divide(u * up[:, None], divisor[:, None], inverse[:, None])
        at = coordinates + row[:, None] * (3 * k_total) + k[None, :]
        tl.store(at, u, mask=in_batch[:, None] & (k < k_total)[None, :])
    tl.store(norms + row, n, mask=in_batch)
    tl.store(norms + batch + row, r * down, mask=in_batch)


@triton.jit(do_not_specialize=["batch"])
def outside_kernel(
    outside, projected, v_rows, coordinates, norms, partials, batch, width, k_total,
    OUTSIDE: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """F = x̂ − V Qᵀ where x̂ was, and what of a row needs |F|²."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    squared_f = tl.zeros([BLOCK_B], tl.float32)
    if OUTSIDE:
        d = tl.arange(0, BLOCK_D)
        mask = in_batch[:, None] & (d < width)[None, :]
        of_row = row[:, None] * width + d[None, :]
        f = tl.load(outside + of_row, mask=mask, other=0.0)
        f -= tl.load(projected + of_row, mask=mask, other=0.0)
        squared_f += tl.sum(f * f, 1)
        tl.store(outside + of_row, f, mask=mask)
    n = tl.load(norms + row, mask=in_batch, other=0.0)
    r = tl.load(norms + batch + row, mask=in_batch, other=0.0)
    squared_delta = tl.zeros([BLOCK_B], tl.float32)
    u_delta = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        here = in_batch[:, None] & (k < k_total)[None, :]
        u = tl.load(coordinates + row[:, None] * (3 * k_total) + k[None, :], mask=here, other=0.0)
        v = tl.load(v_rows + row[:, None] * k_total + k[None, :], mask=here, other=0.0)
        squared_delta += tl.sum((u - v) * (u - v), 1)
        u_delta += tl.sum(u * (u - v), 1)
    half = half_of_distance(squared_delta, squared_f, u_delta, n, r)
    error = n * (n * squared_f)  # n² may be infinite
    for start in range(0, k_total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        here = in_batch[:, None] & (k < k_total)[None, :]
        at = coordinates + row[:, None] * (3 * k_total) + k[None, :]
        u = tl.load(at, mask=here, other=0.0)
        v = tl.load(v_rows + row[:, None] * k_total + k[None, :], mask=here, other=0.0)
        delta = u - v + half[:, None] * u
        difference = (r - n)[:, None] * u + n[:, None] * delta
        error += tl.sum(difference * difference, 1)
        tl.store(at + k_total, delta, mask=here)
        tl.store(at + 2 * k_total, v, mask=here)
    own = partials + tl.program_id(0) * 3
    tl.store(own, 0.0)
    tl.store(own + 1, tl.sum(error, 0))
    tl.store(own + 2, 0.0)


def wide_rows(given: Batch, space: Space, settings: Settings, *, gradient: bool) -> Rows:
    """See :func:`drcl.eager.reversible_consistency.rows`, for arguments as the kernels read them;
    eight launches.

    What is recast is P Q (C, K) for ids, Y P Q (B, K) for target rows.
    """
    from drcl.eager.reversible_consistency import Rows

    (features, targets, permutation, q), (basis, table, weight) = given, space
    lam, temperature = settings.lam, settings.temperature
    (batch, width), (k, classes) = features.shape, weight.shape
    has_outside = k < width
    unit = basis.new_empty(batch, width)
    coordinates, norms = basis.new_empty(batch, 3 * k), basis.new_empty(2, batch)
    tile = row_tile(width)
    programs = blocks(batch, tile.block_rows)
    label_programs = blocks(batch, GCE_ROWS["BLOCK_B"])
    partials = basis.new_empty(programs + label_programs, 3)
    with on_device_of(features):
        unit_rows_kernel[(programs,)](
            features,
            targets,
            permutation,
            table,
            unit,
            coordinates,
            norms,
            *(batch, width, classes, k, len(table)),
            *(features.stride(0), targets.stride(0)),
            lam,
            1.0 - lam,
            IDS=targets.ndim == 1,
            MIXED=permutation is not None,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_K=BLOCK_K,
            num_warps=tile.num_warps,
            **register_limit(features, tile.num_warps),
        )
        v = product(unit, basis)
        outside_kernel[(programs,)](
            unit,
            product(v, basis.T) if has_outside else None,
            v,
            coordinates,
            norms,
            partials,
            batch,
            width,
            k,
            OUTSIDE=has_outside,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_K=BLOCK_K,
            num_warps=tile.num_warps,
        )
    slope = gce_partials(
        product(v, weight), targets, permutation, q, lam, norms, temperature, partials[programs:]
    )
    label_gradient = product(slope, weight.T) if gradient else slope.new_empty(0, k)
    sums = sum_partials(partials, basis.new_empty(3))
    outside = unit if has_outside else unit.new_empty(batch, 0)
    return Rows(outside, coordinates, label_gradient, norms, sums)
