"""Stage ``combine``: from the sums to total, J_L, J_D and J_MSE.

No products are left: traces of products of K×K matrices are sums of elementwise products. Some of
them cancel, hence float64. Bytes: the last stage's matrices once, 4·D² or 8·B², from L2.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ..launch import blocks, on_device_of

if TYPE_CHECKING:
    from torch import Tensor

    from drcl.eager.reversible_consistency import Settings

SIMILARITY = {"BLOCK": 1024, "num_warps": 4}
PARTS = {"BLOCK": 256, "num_warps": 4}
# As many partial sums as the last step takes in one small program; their number, and so the result,
# depends on shapes only.
PROGRAMS = PARTS["BLOCK"]


@triton.jit
def is_converging(inner, k_total, BLOCK: tl.constexpr):
    """Whether Δ is smaller than V: tr ΔᵀΔ < tr VᵀV, out of HᵀH."""
    pitch = 3 * k_total
    excess = tl.zeros([BLOCK], tl.float64)
    for start in range(0, k_total, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < k_total
        dd = tl.load(inner + (k_total + k) * (pitch + 1), mask=mask, other=0.0)
        vv = tl.load(inner + (2 * k_total + k) * (pitch + 1), mask=mask, other=0.0)
        excess += dd - vv
    return tl.sum(excess, 0) < 0.0


@triton.jit
def similarity_kernel(
    inner, cross, matrices, partials, k_total, width, matrices_size, BLOCK: tl.constexpr
):
    """This program's share of ``‖R̂R̂ᵀ − X̂X̂ᵀ‖² + ‖R̂X̂ᵀ − X̂R̂ᵀ‖²``.

    With M and Z both are sums of squares, and ``k_total`` is 0; with FᵀF the class sums join in.
    """
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step = tl.num_programs(0) * BLOCK
    total = tl.zeros([BLOCK], tl.float64)
    pitch = 3 * k_total
    converging = is_converging(inner, k_total, 128)
    for start in range(0, k_total * k_total, step):
        at = start + lane
        mask = at < k_total * k_total
        a = at // k_total
        b = at % k_total
        # blocks of HᵀH at (a, b), and where the trace of a square asks for it at (b, a)
        here = inner + a * pitch + b
        there = inner + b * pitch + a
        uu = tl.load(here, mask=mask, other=0.0)
        du = tl.load(here + k_total * pitch, mask=mask, other=0.0)
        ud = tl.load(there + k_total * pitch, mask=mask, other=0.0)
        dd = tl.load(here + k_total * (pitch + 1), mask=mask, other=0.0)
        vu = tl.load(here + 2 * k_total * pitch, mask=mask, other=0.0)
        uv = tl.load(there + 2 * k_total * pitch, mask=mask, other=0.0)
        vd = tl.load(here + 2 * k_total * pitch + k_total, mask=mask, other=0.0)
        dv = tl.load(there + 2 * k_total * pitch + k_total, mask=mask, other=0.0)
        vv = tl.load(here + 2 * k_total * (pitch + 1), mask=mask, other=0.0)
        total += du * ud + 2.0 * dd * vu + vd * dv
        symmetric = tl.where(converging, dd, vv) * uu
        total += 2.0 * (symmetric - tl.where(converging, du * ud, vu * uv))
    for start in range(0, k_total * width, step):
        at = start + lane
        mask = at < k_total * width
        delta_f = tl.load(cross + at, mask=mask, other=0.0).to(tl.float64)
        v_f = tl.load(cross + k_total * width + at, mask=mask, other=0.0).to(tl.float64)
        total -= 2.0 * delta_f * (delta_f + 2.0 * v_f)
    for start in range(0, matrices_size, step):
        at = start + lane.to(tl.int64)
        value = tl.load(matrices + at, mask=at < matrices_size, other=0.0).to(tl.float64)
        total += value * value
    tl.store(partials + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["programs"])
def parts_kernel(
    partials, sums, total, label_part, consistency_part, squared_part, programs, alpha, beta, eta,
    width, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.arange(0, BLOCK)
    similarity = tl.sum(tl.load(partials + program, mask=program < programs, other=0.0), 0)
    count = tl.maximum(tl.load(sums + 2), 1.0)
    label = tl.load(sums) / count
    squared = tl.load(sums + 1) / (count * width)
    consistency = (similarity * 4.0).to(tl.float32) / (count * count)
    tl.store(total, eta * label + alpha * consistency + beta * squared)
    tl.store(label_part, label)
    tl.store(consistency_part, consistency)
    tl.store(squared_part, squared)


def combine(
    sums: Tensor, inner: Tensor, cross: Tensor, gram_matrix: Tensor, settings: Settings, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Total, J_L, J_D and J_MSE from the sums alone; two launches."""
    import torch

    largest = max(inner.numel() // 9, cross.numel() // 2, gram_matrix.numel())
    programs = min(PROGRAMS, max(1, blocks(largest, SIMILARITY["BLOCK"])))
    partials = sums.new_empty(programs, dtype=torch.float64)
    total, label, consistency, squared = (sums.new_empty(()) for _ in range(4))
    with on_device_of(sums):
        similarity_kernel[(programs,)](
            inner,
            cross,
            gram_matrix,
            partials,
            len(inner) // 3,
            cross.shape[1],
            gram_matrix.numel(),
            **SIMILARITY,
        )
        parts_kernel[(1,)](
            partials,
            sums,
            total,
            label,
            consistency,
            squared,
            programs,
            *settings[:3],
            width,
            **PARTS,
        )
    return total, label, consistency, squared
