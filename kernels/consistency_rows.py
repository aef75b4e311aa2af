"""Stage ``rows`` of the reversible consistency loss: everything that needs a row and nothing else.

A program holds a few whole rows in registers. It reads row i and row π(i) once, and while they
are there mixes, normalises, projects on the prior's basis, and finishes logits, cross-entropy,
recasting error and the label gradient. F is the only large thing written.

Bytes: 2·B·D features (the partner's row comes from L2 while the batch fits there) + 4·B·D for F.
The basis (K·D) stays in L1. Operations: 8·B·D·K, all in float32 fused multiply-adds: the exact
part of the loss uses no tensor cores.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .gce import find_targets, gce_rows, gce_tile, store_sums, target_tile
from .launch import (
    FUSED_CLASSES,
    FUSED_WIDTH,
    blocks,
    columns_first,
    on_device_of,
    power_of_two,
    row_tile,
    unit_stride,
)
from .product import product
from .reduction import sum_partials

if TYPE_CHECKING:
    from torch import Tensor

    from drcl.eager.reversible_consistency import Rows


@triton.jit
def recast_tile(
    table, first, second, labelled, k, known, k_total, lam, rest, IDS: tl.constexpr,
    MIXED: tl.constexpr,
):  # fmt: skip
    """Mixed rows of ``Y P Q`` at the coordinates ``k`` (broadcast against the rows).

    The table is P Q itself for ids, Y P Q for target rows. An id that is no class reads NaN, which
    then reaches the loss.
    """
    value = tl.load(
        table + first * k_total + k, mask=(first >= 0) & (first < known), other=float("nan")
    )
    if MIXED:
        partner = tl.load(
            table + second * k_total + k, mask=(second >= 0) & (second < known), other=float("nan")
        )
        value = lam * value + rest * partner
    return tl.where(labelled, value, 0.0)


@triton.jit
def divide(x, y, inverse):
    """``x / y`` as division rounds it (Markstein), in three instructions given 1/y.

    Not ``x · (1/y)``: at D = 1 unit rows are then exactly ±1.
    """
    quotient = x * inverse
    return tl.fma(tl.fma(-quotient, y, x), inverse, quotient)


@triton.jit
def root(x):
    """``√x`` to the last digit: the fast one and a Newton step. The exact one costs a call."""
    fast = tl.sqrt(x)
    return fast + tl.fma(-fast, fast, x) * (0.5 / tl.where(fast > 0.0, fast, 1.0))


@triton.jit
def unit_of(largest):
    """A power of two that brings a row of this largest entry to where squares keep their range."""
    return tl.where(largest > 1e15, 2.0**-64, tl.where(largest < 1e-15, 2.0**64, 1.0))


@triton.jit(do_not_specialize=["batch"])
def rows_kernel(
    features, targets, permutation, q_ptr, basis, table, weight,
    outside, coordinates, label_gradient, norms, partials,
    batch, width, classes, k_total, known,
    features_stride, targets_stride, basis_stride, lam, rest, inverse_temperature,
    IDS: tl.constexpr, MIXED: tl.constexpr, LABEL: tl.constexpr, OUTSIDE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    d = tl.arange(0, BLOCK_D)
    in_width = d < width
    mask = in_batch[:, None] & in_width[None, :]
    other = row
    if MIXED:
        other = tl.load(permutation + row, mask=in_batch, other=0)
    first, second, labelled = find_targets(
        targets, targets_stride, row, other, in_batch, classes, IDS, MIXED, BLOCK_C
    )

    # x, mixed: the one pass over device memory
    x = tl.load(features + row[:, None] * features_stride + d[None, :], mask=mask, other=0.0)
    x = x.to(tl.float32)
    if MIXED:
        partner = tl.load(
            features + other[:, None] * features_stride + d[None, :], mask=mask, other=0.0
        )
        x = lam * x + rest * partner.to(tl.float32)
    unit = unit_of(tl.max(tl.abs(x), 1))
    scaled = x * unit[:, None]
    n = tl.where(labelled, root(tl.sum(scaled * scaled, 1)) / unit, 0.0)
    safe_n = tl.where(n > 0.0, n, 1.0)
    x = divide(x, safe_n[:, None], (1.0 / safe_n)[:, None])
    x = tl.where(labelled[:, None], x, 0.0)

    c = tl.arange(0, BLOCK_C)
    largest = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_C):
        some = start + c
        value = recast_tile(
            table, first[:, None], second[:, None], labelled[:, None] & (some < k_total)[None, :],
            tl.where(some < k_total, some, 0)[None, :], known, k_total, lam, rest, IDS, MIXED,
        )  # fmt: skip
        largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
    unit = unit_of(largest)
    r = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, k_total, BLOCK_C):
        some = start + c
        value = recast_tile(
            table, first[:, None], second[:, None], labelled[:, None] & (some < k_total)[None, :],
            tl.where(some < k_total, some, 0)[None, :], known, k_total, lam, rest, IDS, MIXED,
        )  # fmt: skip
        value *= unit[:, None]
        r += tl.sum(value * value, 1)
    r = root(r) / unit
    safe_r = tl.where(r > 0.0, r, 1.0)
    inverse_r = 1.0 / safe_r

    # V, and x̂ − r̂. Taking r̂ away along one direction leaves V along the others as it is, so each
    # basis vector is loaded once for both.
    pitch = 3 * k_total
    coordinate = coordinates + row * pitch
    in_classes = c < classes
    logits = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    for k in range(k_total):
        along = tl.load(basis + k * basis_stride + d, mask=in_width, other=0.0)
        u = recast_tile(table, first, second, labelled, k, known, k_total, lam, rest, IDS, MIXED)
        u = divide(u, safe_r, inverse_r)
        v = tl.sum(x * along[None, :], 1)
        x = tl.fma(-u[:, None], along[None, :], x)
        if LABEL:
            w = tl.load(weight + k * classes + c, mask=in_classes, other=0.0)
            logits += (n * v)[:, None] * w[None, :]
        tl.store(coordinate + k, u, mask=in_batch)
        tl.store(coordinate + 2 * k_total + k, v, mask=in_batch)

    # Δ and F by modified Gram–Schmidt: the basis is orthonormal, so taking away one direction after
    # the other is the projection, and what is left is orthogonal to rounding.
    squared_delta = tl.zeros([BLOCK_B], tl.float32)
    u_delta = tl.zeros([BLOCK_B], tl.float32)
    for k in range(k_total):
        along = tl.load(basis + k * basis_stride + d, mask=in_width, other=0.0)
        u = recast_tile(table, first, second, labelled, k, known, k_total, lam, rest, IDS, MIXED)
        u = divide(u, safe_r, inverse_r)
        delta = -tl.sum(x * along[None, :], 1)
        x = tl.fma(delta[:, None], along[None, :], x)
        squared_delta += delta * delta
        u_delta += u * delta
        tl.store(coordinate + k_total + k, delta, mask=in_batch)
    squared_f = tl.zeros([BLOCK_B], tl.float32)
    if OUTSIDE:
        squared_f += tl.sum(x * x, 1)
        tl.store(outside + row[:, None] * width + d[None, :], x, mask=mask)

    # Unit rows at the distance |x̂ − r̂|² = |Δ|² + |F|² have u·Δ = half of it, which near
    # convergence is far more exact than the projection, whose rounding is relative to 1 and not
    # to Δ.
    half = tl.where((n > 0.0) & (r > 0.0), 0.5 * (squared_delta + squared_f) - u_delta, 0.0)
    error = n * (n * squared_f)  # n² may be infinite
    tl.debug_barrier()  # U and Δ were written by other threads of this program
    for start in range(0, k_total, BLOCK_C):
        some = start + c
        here = in_batch[:, None] & (some < k_total)[None, :]
        at = coordinates + row[:, None] * pitch + some[None, :]
        some_u = tl.load(at, mask=here, other=0.0)
        some_delta = tl.load(at + k_total, mask=here, other=0.0) + half[:, None] * some_u
        tl.debug_barrier()  # a small tile is loaded by several warps: all before one overwrites it
        tl.store(at + k_total, some_delta, mask=here)
        difference = (r - n)[:, None] * some_u + n[:, None] * some_delta
        error += tl.sum(difference * difference, 1)
    tl.store(norms + row, n, mask=in_batch)
    tl.store(norms + batch + row, r, mask=in_batch)

    loss = tl.zeros([BLOCK_B], tl.float32)
    if LABEL:
        y = target_tile(
            targets, targets_stride, first, second, labelled, c, classes, lam, rest, IDS, MIXED
        )
        columns = tl.broadcast_to(in_classes[None, :], [BLOCK_B, BLOCK_C])
        q = tl.load(q_ptr).to(tl.float32)
        loss, slope, _, _ = gce_tile(logits * inverse_temperature, y, labelled, columns, q)
        slope *= inverse_temperature
        for k in range(k_total):
            w = tl.load(weight + k * classes + c, mask=in_classes, other=0.0)
            value = tl.sum(slope * w[None, :], 1)
            tl.store(label_gradient + row * k_total + k, value, mask=in_batch)
    store_sums(partials, loss, error, labelled)


def rows(
    features: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    basis: Tensor,
    recast_coordinates: Tensor,
    weight_coordinates: Tensor,
    lam: float,
    temperature: float,
) -> Rows:
    """See :func:`drcl.eager.reversible_consistency.rows`; two launches.

    Target rows take a small product more, Y P Q. With more than 128 classes the logits, their
    cross-entropy and the label gradient follow in three launches of their own. float64, and rows
    wider than 16,384, take the eager stage.
    """
    from drcl.eager import reversible_consistency as eager

    (width, k), classes = basis.shape, len(recast_coordinates)
    if basis.dtype.itemsize == 8 or width > FUSED_WIDTH:
        return eager.rows(
            features,
            targets,
            permutation,
            q,
            basis,
            recast_coordinates,
            weight_coordinates,
            lam,
            temperature,
        )
    features, basis = unit_stride(features), columns_first(basis)
    targets = unit_stride(targets)
    batch, ids, fused = len(features), targets.ndim == 1, classes <= FUSED_CLASSES
    permutation = None if permutation is None else permutation.contiguous()
    weight = weight_coordinates.contiguous()
    q = q.to(features.device, non_blocking=True)
    table = recast_coordinates.contiguous()
    if not ids:
        table = product(targets, table)
    outside = basis.new_empty(batch, width if k < width else 0)
    coordinates = basis.new_empty(batch, 3 * k)
    label_gradient = basis.new_empty(batch, k)
    norms = basis.new_empty(2, batch)
    tile = row_tile(width, classes)
    programs = blocks(batch, tile.block_rows)
    partials = basis.new_empty(programs, 3)
    with on_device_of(features):
        rows_kernel[(programs,)](
            features,
            targets,
            permutation,
            q,
            basis,
            table,
            weight,
            outside,
            coordinates,
            label_gradient,
            norms,
            partials,
            batch,
            width,
            classes,
            k,
            len(table),
            features.stride(0),
            targets.stride(0),
            basis.stride(1),
            lam,
            1.0 - lam,
            1.0 / temperature,
            IDS=ids,
            MIXED=permutation is not None,
            LABEL=fused,
            OUTSIDE=k < width,
            BLOCK_B=tile.block_rows,
            BLOCK_D=tile.block_width,
            BLOCK_C=power_of_two(classes, 16) if fused else 32,
            num_warps=tile.num_warps,
        )
    sums = sum_partials(partials, basis.new_empty(3))
    if not fused:
        projected = coordinates[:, 2 * k :] * (norms[0] / temperature)[:, None]
        _, slope, label_sums = gce_rows(product(projected, weight), targets, permutation, q, lam)
        label_gradient = product(slope, weight.T / temperature)
        sums[0].copy_(label_sums[0])
    return eager.Rows(outside, coordinates, label_gradient, norms, sums)
