"""Stage ``rows`` of the reversible consistency loss: everything that needs a row and nothing else.

A warp holds a row in registers. It reads row i and row π(i) once, and while they are there mixes,
normalises, takes the row apart along the prior's basis, and finishes logits, cross-entropy,
recasting error and the label gradient. F is the only large thing written.

Bytes: 2·B·D features (the partner's row comes from L2 while the batch fits there) + 4·B·D for F.
The basis (K·D) stays in L1, and every vector of it is read once a row. Operations: 4·B·D·K, all in
float32 fused multiply-adds: the exact part of the loss uses no tensor cores.

Up to 32 classes and D = 8,192; what is beyond is in ``wide_rows.py``, as products.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ..generalized_cross_entropy import gce_tile, store_sums, target_tile
from ..launch import (
    LOOPED_CLASSES,
    LOOPED_WIDTH,
    blocks,
    columns_first,
    on_device_of,
    power_of_two,
    row_tile,
    unit_stride,
)
from ..product import product, register_limit
from ..reduction import sum_partials
from .row_tiles import half_of_distance, load_unit_rows, recast_tile, unit_rows
from .wide_rows import wide_rows

if TYPE_CHECKING:
    from drcl.eager.reversible_consistency import Batch, Rows, Settings, Space


@triton.jit(do_not_specialize=["batch"])
def rows_kernel(
    features, targets, permutation, q_ptr, basis, table, weight,
    outside, coordinates, label_gradient, norms, partials,
    batch, width, classes, k_total, known,
    features_stride, targets_stride, basis_stride, lam, rest, inverse_temperature,
    IDS: tl.constexpr, MIXED: tl.constexpr, OUTSIDE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    d = tl.arange(0, BLOCK_D)
    in_width = d < width
    mask = in_batch[:, None] & in_width[None, :]
    x, n, first, second, labelled = load_unit_rows(
        features, features_stride, targets, targets_stride, permutation, row, in_batch, d, mask,
        classes, lam, rest, IDS, MIXED, BLOCK_C,
    )  # fmt: skip
    c = tl.arange(0, BLOCK_C)
    u, r = unit_rows(
        recast_tile(table, first, second, labelled, c, known, k_total, lam, rest, IDS, MIXED)
    )

    # V, and what is left: modified Gram–Schmidt. The basis is orthonormal, so taking away one
    # direction after the other is the projection, and what is left is orthogonal to rounding.
    in_classes = c < classes
    v = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    logits = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for k in range(k_total):
        along = tl.load(basis + k * basis_stride + d, mask=in_width, other=0.0)
        w = tl.load(weight + k * classes + c, mask=in_classes, other=0.0)
        share = tl.sum(x * along[None, :], 1)
        x = tl.fma(-share[:, None], along[None, :], x)
        v = tl.where((c == k)[None, :], share[:, None], v)
        logits += (n * share)[:, None] * w[None, :]

    squared_f = tl.zeros([BLOCK_B], tl.float32)
    if OUTSIDE:
        squared_f += tl.sum(x * x, 1)
        tl.store(outside + row[:, None] * width + d[None, :], x, mask=mask)
    delta = u - v
    half = half_of_distance(tl.sum(delta * delta, 1), squared_f, tl.sum(u * delta, 1), n, r)
    delta += half[:, None] * u
    difference = (r - n)[:, None] * u + n[:, None] * delta
    error = n * (n * squared_f)  # n² may be infinite
    error += tl.sum(difference * difference, 1)
    at = coordinates + row[:, None] * (3 * k_total) + c[None, :]
    here = in_batch[:, None] & (c < k_total)[None, :]
    tl.store(at, u, mask=here)
    tl.store(at + k_total, delta, mask=here)
    tl.store(at + 2 * k_total, v, mask=here)
    tl.store(norms + row, n, mask=in_batch)
    tl.store(norms + batch + row, r, mask=in_batch)

    y = target_tile(
        targets, targets_stride, first, second, labelled, c, classes, lam, rest, IDS, MIXED
    )
    columns = tl.broadcast_to(in_classes[None, :], [BLOCK_B, BLOCK_C])
    q = tl.load(q_ptr).to(tl.float32)
    loss, slope, _, _ = gce_tile(logits * inverse_temperature, y, labelled, columns, q)
    slope *= inverse_temperature
    by_coordinate = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for k in range(k_total):
        w = tl.load(weight + k * classes + c, mask=in_classes, other=0.0)
        share = tl.sum(slope * w[None, :], 1)
        by_coordinate = tl.where((c == k)[None, :], share[:, None], by_coordinate)
    at = label_gradient + row[:, None] * k_total + c[None, :]
    tl.store(at, by_coordinate, mask=here)
    store_sums(partials, loss, error, labelled)


def rows(given: Batch, space: Space, settings: Settings, *, gradient: bool = True) -> Rows:
    """See :func:`drcl.eager.reversible_consistency.rows`; two launches.

    Target rows take a small product more, Y P Q. More than 32 classes, and rows wider than 8,192,
    go through :mod:`.wide_rows`. No row is wider than 16,384, which is what a program can hold.
    """
    from drcl.eager.reversible_consistency import Batch, Rows, Space

    features, targets, permutation, q = given
    features, targets = unit_stride(features), unit_stride(targets)
    permutation = None if permutation is None else permutation.contiguous()
    given = Batch(features, targets, permutation, q.to(features.device, non_blocking=True))
    basis, table = columns_first(space.basis), space.recast.contiguous()
    (width, k), classes = basis.shape, len(table)
    if targets.ndim == 2:
        table = product(targets, table)
    space = Space(basis, table, space.weight.contiguous())
    if classes > LOOPED_CLASSES or width > LOOPED_WIDTH:
        return wide_rows(given, space, settings, gradient=gradient)
    batch, lam = len(features), settings.lam
    outside = basis.new_empty(batch, width if k < width else 0)
    coordinates = basis.new_empty(batch, 3 * k)
    label_gradient = basis.new_empty(batch, k)
    norms = basis.new_empty(2, batch)
    tile = row_tile(width)
    programs = blocks(batch, tile.block_rows)
    partials = basis.new_empty(programs, 3)
    with on_device_of(features):
        rows_kernel[(programs,)](
            *given,
            *space,
            outside,
            coordinates,
            label_gradient,
            norms,
            partials,
            *(batch, width, classes, k, len(table)),
            *(features.stride(0), targets.stride(0), basis.stride(1)),
            lam,
            1.0 - lam,
            1.0 / settings.temperature,
            IDS=targets.ndim == 1,
            MIXED=permutation is not None,
            OUTSIDE=k < width,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_C=power_of_two(classes, 16),
            num_warps=tile.num_warps,
            **register_limit(features, tile.num_warps),
        )
    sums = sum_partials(partials, basis.new_empty(3))
    return Rows(outside, coordinates, label_gradient, norms, sums)
