"""Stage ``combine`` of the reversible consistency loss: from the sums to total, J_L, J_D and J_MSE.

No products are left: traces of products of K×K matrices are sums of elementwise products. Some of
them cancel near convergence, hence float64.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .launch import on_device_of

if TYPE_CHECKING:
    from torch import Tensor

SIMILARITY = {"BLOCK": 1024, "num_warps": 4}
PARTS = {"BLOCK": 256, "num_warps": 4}
# A fixed number of partial sums, each over its share of every matrix: the result does not depend on
# the GPU, and the last step is one small program.
PROGRAMS = 256


@triton.jit
def similarity_kernel(
    inner, cross, gram, partials, k_total, width, gram_size, BLOCK: tl.constexpr
):
    """This program's share of ``‖R̂R̂ᵀ − X̂X̂ᵀ‖² + ‖R̂X̂ᵀ − X̂R̂ᵀ‖²``."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    step = tl.num_programs(0) * BLOCK
    total = tl.zeros([BLOCK], tl.float64)
    # ½[⟨ΔᵀΔ, ΣᵀΣ⟩ + tr((ΔᵀΣ)²)] + 2[⟨UᵀU, ΔᵀΔ⟩ − tr((UᵀΔ)²)]
    count = k_total * k_total
    for start in range(0, count, step):
        at = start + lane
        mask = at < count
        a = at // k_total
        b = at % k_total
        pitch = 2 * k_total
        uu = tl.load(inner + a * pitch + b, mask=mask, other=0.0).to(tl.float64)
        ud = tl.load(inner + a * pitch + k_total + b, mask=mask, other=0.0).to(tl.float64)
        du = tl.load(inner + b * pitch + k_total + a, mask=mask, other=0.0).to(tl.float64)
        corner = inner + k_total * pitch + k_total
        dd = tl.load(corner + a * pitch + b, mask=mask, other=0.0).to(tl.float64)
        dd_mirrored = tl.load(corner + b * pitch + a, mask=mask, other=0.0).to(tl.float64)
        sigma_sigma = 4.0 * uu - 2.0 * ud - 2.0 * du + dd
        delta_sigma = (2.0 * du - dd) * (2.0 * ud - dd_mirrored)
        total += 0.5 * (dd * sigma_sigma + delta_sigma) + 2.0 * (uu * dd - ud * du)
    # −2⟨ΔᵀF, ΣᵀF⟩
    count = k_total * width
    for start in range(0, count, step):
        at = start + lane
        mask = at < count
        uf = tl.load(cross + at, mask=mask, other=0.0).to(tl.float64)
        df = tl.load(cross + count + at, mask=mask, other=0.0).to(tl.float64)
        total -= 2.0 * df * (2.0 * uf - df)
    # ‖FᵀF‖²
    for start in range(0, gram_size, step):
        at = start + lane
        value = tl.load(gram + at, mask=at < gram_size, other=0.0).to(tl.float64)
        total += value * value
    tl.store(partials + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def parts_kernel(partials, sums, parts, alpha, beta, eta, width, BLOCK: tl.constexpr):
    similarity = tl.sum(tl.load(partials + tl.arange(0, BLOCK)), 0)
    count = tl.maximum(tl.load(sums + 2), 1.0)
    label = tl.load(sums) / count
    squared = tl.load(sums + 1) / (count * width)
    consistency = (similarity * 4.0).to(tl.float32) / (count * count)
    tl.store(parts, eta * label + alpha * consistency + beta * squared)
    tl.store(parts + 1, label)
    tl.store(parts + 2, consistency)
    tl.store(parts + 3, squared)


def combine(
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram_matrix: Tensor,
    alpha: float,
    beta: float,
    eta: float,
    width: int,
) -> Tensor:
    """Total, J_L, J_D and J_MSE (4,) from the sums alone; two launches. float64 takes the eager stage.

    Bytes: the Gram matrix once, 4·min(B, D)², from L2 where it was just written.
    """
    import torch

    if sums.dtype == torch.float64:
        from drcl.eager import reversible_consistency as eager

        return eager.combine(sums, inner, cross, gram_matrix, alpha, beta, eta, width)
    partials = sums.new_empty(PROGRAMS, dtype=torch.float64)
    parts = sums.new_empty(4)
    with on_device_of(sums):
        similarity_kernel[(PROGRAMS,)](
            inner,
            cross,
            gram_matrix,
            partials,
            len(inner) // 2,
            cross.shape[1],
            gram_matrix.numel(),
            **SIMILARITY,
        )
        parts_kernel[(1,)](partials, sums, parts, alpha, beta, eta, width, **PARTS)
    return parts
