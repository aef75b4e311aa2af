"""Device functions on a tile of whole rows: mixed rows of length one, and recast labels."""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import divide, root, scales_of
from ..generalized_cross_entropy import find_targets


@triton.jit
def recast_tile(
    table, first, second, labelled, k, known, k_total, lam, rest, IDS: tl.constexpr,
    MIXED: tl.constexpr,
):  # fmt: skip
    """Mixed rows of ``Y P Q`` at the coordinates ``k``, zero where there is no such coordinate.

    The table is P Q itself for ids, Y P Q for target rows. An id that is no class reads NaN, which
    then reaches the loss.
    """
    here = labelled[:, None] & (k < k_total)[None, :]
    at = table + k[None, :]
    value = tl.load(
        at + first[:, None] * k_total,
        mask=here & ((first >= 0) & (first < known))[:, None],
        other=float("nan"),
    )
    if MIXED:
        partner = tl.load(
            at + second[:, None] * k_total,
            mask=here & ((second >= 0) & (second < known))[:, None],
            other=float("nan"),
        )
        value = lam * value + rest * partner
    return tl.where(here, value, 0.0)


@triton.jit
def unit_rows(rows):
    """The rows of a tile scaled to length one, and their lengths; a zero row stays zero."""
    up, down = scales_of(tl.max(tl.abs(rows), 1))
    rows = rows * up[:, None]
    length = root(tl.sum(rows * rows, 1))
    divisor = tl.where(length > 0.0, length, 1.0)
    return divide(rows, divisor[:, None], (1.0 / divisor)[:, None]), length * down


@triton.jit
def load_unit_rows(
    features, features_stride, targets, targets_stride, permutation, row, in_batch, d, mask,
    classes, lam, rest, IDS: tl.constexpr, MIXED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x̂ and |x| of mixed rows, zero in unlabelled ones, and where their targets are found.

    The one pass over device memory.
    """
    other = row
    if MIXED:
        other = tl.load(permutation + row, mask=in_batch, other=0)
    first, second, labelled = find_targets(
        targets, targets_stride, row, other, in_batch, classes, IDS, MIXED, BLOCK_C
    )
    x = tl.load(features + row[:, None] * features_stride + d[None, :], mask=mask, other=0.0)
    x = x.to(tl.float32)
    if MIXED:
        at = features + other[:, None] * features_stride + d[None, :]
        partner = tl.load(at, mask=mask, other=0.0)
        x = lam * x + rest * partner.to(tl.float32)
    # an unlabelled row may hold anything, NaN too
    x, n = unit_rows(tl.where(labelled[:, None], x, 0.0))
    return x, n, first, second, labelled


@triton.jit
def half_of_distance(squared_delta, squared_f, u_delta, n, r):
    """What u·Δ lacks: unit rows at the distance |x̂ − r̂|² = |Δ|² + |F|² have u·Δ = half of it.

    Near convergence that is far more exact than the projection, whose rounding is relative to 1 and
    not to Δ.
    """
    return tl.where((n > 0.0) & (r > 0.0), 0.5 * (squared_delta + squared_f) - u_delta, 0.0)
