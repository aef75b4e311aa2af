"""Generalised cross-entropy on chip: device functions for a tile, and a kernel for long rows.

With ``s = Σ Y p`` and ``p = softmax(logits)`` a row's loss is ``(1 − s^q)/q`` and its gradient by
the logits ``s^q (p − Y p / s)``. Both come from ``log s``, formed from differences to the largest
logit, so that nothing overflows and a row that is almost right keeps its digits.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .arithmetic import shares
from .launch import FUSED_CLASSES, blocks, on_device_of
from .reduction import sum_partials

if TYPE_CHECKING:
    from torch import Tensor

# One warp: sums over a row need no barrier. Four warps share rows of a length that 16 does not
# divide, 15 barriers a block of columns, and some assemblers spill.
GCE_ROWS = {"BLOCK_B": 1, "BLOCK_C": FUSED_CLASSES, "num_warps": 1}


@triton.jit
def expm1(x):
    # exp(x) − 1 has no digits left near 0; there nine terms of the series are exact in float32.
    series = 1.0 + x * (1.0 / 9.0)
    series = 1.0 + x * (1.0 / 8.0) * series
    series = 1.0 + x * (1.0 / 7.0) * series
    series = 1.0 + x * (1.0 / 6.0) * series
    series = 1.0 + x * (1.0 / 5.0) * series
    series = 1.0 + x * (1.0 / 4.0) * series
    series = 1.0 + x * (1.0 / 3.0) * series
    series = 1.0 + x * 0.5 * series
    return tl.where(tl.abs(x) < 0.5, x * series, tl.exp(x) - 1.0)


@triton.jit
def gce_of_log(log_s, q):
    positive = q > 0.0
    power = -expm1(q * log_s) / tl.where(positive, q, 1.0)
    return tl.where(positive, power, -log_s)


@triton.jit
def log_share(top, total, rest, top_chosen, mass):
    """``log s`` of ``s = Σ Y p``: ``total = Σ exp(x − top)``, ``mass = Σ Y exp(x − top_chosen)``.

    ``rest = Σ (1−Y) exp(x − top)``: a row that is almost right has s = 1/(1+ε), whose logarithm the
    difference of two logarithms does not see; there it is −2 atanh(ε/(2+ε)), as a series.
    """
    whole = mass * tl.exp(top_chosen - top)
    epsilon = rest / tl.where(whole > 0.0, whole, 1.0)
    z = epsilon / (2.0 + epsilon)
    zz = z * z
    series = 1.0 / 9.0 + zz * (1.0 / 11.0)
    series = 1.0 / 7.0 + zz * series
    series = 1.0 / 5.0 + zz * series
    series = 1.0 / 3.0 + zz * series
    near = -2.0 * z * (1.0 + zz * series)
    far = (top_chosen - top) + (tl.log(mass) - tl.log(total))
    log_s = tl.where((whole > 0.0) & (tl.abs(epsilon) < 0.5), near, far)
    # No mass in a labelled row: its id is no class. The loss says so by being NaN.
    return tl.where(mass > 0.0, log_s, float("nan"))


@triton.jit
def gce_tile(logits, y, labelled, columns, q):
    """Loss, gradient by the logits, probabilities and log s of a tile that holds whole rows.

    ``columns`` marks the real columns. An unlabelled row is scored against all classes at
    once: s = 1, loss and gradient vanish.
    """
    logits = tl.where(columns, logits, float("-inf"))
    chosen = columns & ((y > 0.0) | (labelled == 0)[:, None])
    weight = tl.where(labelled[:, None], y, 1.0)
    top = tl.max(logits, 1)
    exponential = tl.exp(logits - top[:, None])
    total = tl.sum(exponential, 1)
    top_chosen = tl.max(tl.where(chosen, logits, float("-inf")), 1)
    joint = tl.where(chosen, weight * tl.exp(logits - top_chosen[:, None]), 0.0)
    mass = tl.sum(joint, 1)
    rest = tl.sum((1.0 - weight) * exponential, 1)
    log_s = log_share(top, total, rest, top_chosen, mass)
    p = shares(exponential, total)
    slope = tl.where(labelled, tl.exp(q * log_s), 0.0)
    loss = tl.where(labelled, gce_of_log(log_s, q), 0.0)
    return loss, slope[:, None] * (p - shares(joint, mass)), p, log_s


@triton.jit
def find_targets(
    targets, stride, row, other, in_batch, classes, IDS: tl.constexpr, MIXED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Where the targets of a row and of the row mixed into it are found, and whether both have one.

    Ids are themselves where to look (a class); of target rows it is the row's number.
    """
    first = row
    second = other
    if IDS:
        first = tl.load(targets + row, mask=in_batch, other=-1)
        labelled = first != -1
        if MIXED:
            second = tl.load(targets + other, mask=in_batch, other=-1)
            labelled = labelled & (second != -1)
    else:
        mass = tl.zeros_like(row).to(tl.float32)
        mass_other = tl.zeros_like(row).to(tl.float32)
        for start in range(0, classes, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            mask = in_batch[:, None] & (c < classes)[None, :]
            y = tl.load(targets + row[:, None] * stride + c[None, :], mask=mask, other=0)
            mass += tl.sum(y.to(tl.float32), 1)
            if MIXED:
                y = tl.load(targets + other[:, None] * stride + c[None, :], mask=mask, other=0)
                mass_other += tl.sum(y.to(tl.float32), 1)
        labelled = mass != 0.0
        if MIXED:
            labelled = labelled & (mass_other != 0.0)
    return first, second, labelled & in_batch


@triton.jit
def target_tile(
    targets, stride, first, second, labelled, c, classes, lam, rest,
    IDS: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """Mixed target rows at the classes ``c``; ids become rows here and nowhere else."""
    if IDS:
        y = (first[:, None] == c[None, :]).to(tl.float32)
        if MIXED:
            y = lam * y + rest * (second[:, None] == c[None, :]).to(tl.float32)
    else:
        mask = labelled[:, None] & (c < classes)[None, :]
        y = tl.load(targets + first[:, None] * stride + c[None, :], mask=mask, other=0).to(
            tl.float32
        )
        if MIXED:
            y2 = tl.load(targets + second[:, None] * stride + c[None, :], mask=mask, other=0)
            y = lam * y + rest * y2.to(tl.float32)
    return y


@triton.jit
def class_tile(
    logits, targets, stride, row, first, second, in_batch, labelled, scale, start, classes, lam,
    rest, IDS: tl.constexpr, MIXED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Logits of the classes from ``start`` on, −∞ beyond the last; which count, and how much.

    Also where the logits lie, and which of them there are.
    """
    c = start + tl.arange(0, BLOCK_C)
    columns = in_batch[:, None] & (c < classes)[None, :]
    at = row[:, None] * classes + c[None, :]
    x = tl.load(logits + at, mask=columns, other=0.0).to(tl.float32)
    x = tl.where(columns, x * scale[:, None], float("-inf"))
    y = target_tile(targets, stride, first, second, labelled, c, classes, lam, rest, IDS, MIXED)
    chosen = (y > 0.0) | (labelled == 0)[:, None]
    return x, chosen, tl.where(labelled[:, None], y, 1.0), at, columns


@triton.jit(do_not_specialize=["batch"])
def gce_rows_kernel(
    logits, targets, permutation, q_ptr, norms, probabilities, gradient, partials,
    batch, classes, targets_stride, lam, rest, inverse_temperature,
    IDS: tl.constexpr, MIXED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows of any length, in two walks: online log-sum-exp, then probabilities and gradient.

    Reads the logits twice (the second time mostly from L2), writes p and the gradient once. With
    ``norms`` the logits are still to be multiplied by them and by 1/temperature, the gradient is
    that by what was given, less the norm; p and Σ s are left out.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    in_batch = row < batch
    other = row
    if MIXED:
        other = tl.load(permutation + row, mask=in_batch, other=0)
    first, second, labelled = find_targets(
        targets, targets_stride, row, other, in_batch, classes, IDS, MIXED, BLOCK_C
    )
    q = tl.load(q_ptr).to(tl.float32)
    scale = tl.full([BLOCK_B], 1.0, tl.float32)
    if norms is not None:
        scale = tl.load(norms + row, mask=in_batch, other=0.0) * inverse_temperature
    # A finite start: −inf minus −inf would be NaN in rows that meet their class late.
    top = tl.full([BLOCK_B], -3.0e38, tl.float32)
    top_chosen = tl.full([BLOCK_B], -3.0e38, tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    others = tl.zeros([BLOCK_B], tl.float32)
    mass = tl.zeros([BLOCK_B], tl.float32)
    for start in range(0, classes, BLOCK_C):
        x, chosen, weight, at, columns = class_tile(
            logits, targets, targets_stride, row, first, second, in_batch, labelled, scale, start,
            classes, lam, rest, IDS, MIXED, BLOCK_C,
        )  # fmt: skip
        chosen = columns & chosen
        higher = tl.maximum(top, tl.max(x, 1))
        shrink = tl.exp(top - higher)
        exponential = tl.exp(x - higher[:, None])
        total = total * shrink + tl.sum(exponential, 1)
        others = others * shrink + tl.sum((1.0 - weight) * exponential, 1)
        top = higher
        higher = tl.maximum(top_chosen, tl.max(tl.where(chosen, x, float("-inf")), 1))
        joint = tl.where(chosen, weight * tl.exp(x - higher[:, None]), 0.0)
        mass = mass * tl.exp(top_chosen - higher) + tl.sum(joint, 1)
        top_chosen = higher
    log_s = log_share(top, total, others, top_chosen, mass)
    slope = tl.where(labelled, tl.exp(q * log_s), 0.0)
    for start in range(0, classes, BLOCK_C):
        x, chosen, weight, at, columns = class_tile(
            logits, targets, targets_stride, row, first, second, in_batch, labelled, scale, start,
            classes, lam, rest, IDS, MIXED, BLOCK_C,
        )  # fmt: skip
        p = shares(tl.exp(x - top[:, None]), total)
        joint = tl.where(chosen, weight * tl.exp(x - top_chosen[:, None]), 0.0)
        by_logits = slope[:, None] * (p - shares(joint, mass))
        if norms is None:
            tl.store(probabilities + at, p, mask=columns)
        else:
            by_logits *= inverse_temperature
        tl.store(gradient + at, by_logits, mask=columns)
    loss = tl.where(labelled, gce_of_log(log_s, q), 0.0)
    score = tl.zeros([BLOCK_B], tl.float32)
    if norms is None:
        score += tl.where(labelled, tl.exp(log_s), 0.0)
    store_sums(partials, loss, score, labelled)


@triton.jit
def store_sums(partials, a, b, labelled):
    """This program's three sums, for :func:`sum_partials`."""
    at = partials + tl.program_id(0) * 3
    tl.store(at, tl.sum(a, 0))
    tl.store(at + 1, tl.sum(b, 0))
    tl.store(at + 2, tl.sum(labelled.to(tl.float32), 0))


def gce_rows(
    logits: Tensor, targets: Tensor, permutation: Tensor | None, q: Tensor, lam: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and gradient of the summed loss (B, C), sums of loss, s and labelled rows (3,).

    ``logits`` are contiguous (B, C); targets ids (B,) or rows (B, C), mixed here with
    ``permutation``.
    """
    probabilities = logits.new_empty(logits.shape)
    partials = logits.new_empty(blocks(len(logits), GCE_ROWS["BLOCK_B"]), 3)
    gradient = _gce_rows(logits, targets, permutation, q, lam, None, 1.0, probabilities, partials)
    return probabilities, gradient, sum_partials(partials, logits.new_empty(3))


def gce_partials(
    logits: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    lam: float,
    norms: Tensor,
    temperature: float,
    partials: Tensor,
) -> Tensor:
    """The same of ``norms · logits / temperature``, logits those of unit rows.

    Returns the gradient by x W (B, C) for x of these norms; ``partials`` (programs, 3) receive sums
    of loss, zeros, and labelled rows.
    """
    return _gce_rows(logits, targets, permutation, q, lam, norms, temperature, None, partials)


def _gce_rows(
    logits: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    lam: float,
    norms: Tensor | None,
    temperature: float,
    probabilities: Tensor | None,
    partials: Tensor,
) -> Tensor:
    batch, classes = logits.shape
    gradient = logits.new_empty(logits.shape)
    with on_device_of(logits):
        gce_rows_kernel[(len(partials),)](
            logits,
            targets,
            permutation,
            q,
            norms,
            probabilities,
            gradient,
            partials,
            batch,
            classes,
            targets.stride(0),
            lam,
            1.0 - lam,
            1.0 / temperature,
            IDS=targets.ndim == 1,
            MIXED=permutation is not None,
            **GCE_ROWS,
        )
    return gradient
