"""``drcl::mixup``: rows mixed with a permutation of themselves, one pass each way.

Bytes: every row is read as itself and as somebody's partner (the second time often from L2) and
written once.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .launch import blocks, on_device_of, power_of_two, unit_stride

if TYPE_CHECKING:
    from torch import Tensor

INVERT = {"BLOCK": 1024, "num_warps": 4}


def mix_tile(width: int) -> dict[str, int]:
    """4,096 values a program: 16-byte loads for 4 warps, four of them in flight in every thread."""
    block_width = min(1024, power_of_two(width, 16))
    return {"BLOCK_B": max(1, 4096 // block_width), "BLOCK_D": block_width, "num_warps": 4}


@triton.jit(do_not_specialize=["batch"])
def mix_kernel(
    rows, permutation, out, batch, width, stride, lam, rest,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_batch = row < batch
    mask = in_batch[:, None] & (d < width)[None, :]
    other = tl.load(permutation + row, mask=in_batch, other=0)
    x = tl.load(rows + row[:, None] * stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
    y = tl.load(rows + other[:, None] * stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
    mixed = lam * x + rest * y
    tl.store(out + row[:, None] * width + d[None, :], mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def invert_kernel(permutation, origin, batch, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < batch
    tl.store(origin + tl.load(permutation + i, mask=mask, other=0), i, mask=mask)


def mix(rows: Tensor, permutation: Tensor, lam: float) -> Tensor:
    """``λ·rows + (1−λ)·rows[π]`` in the rows' dtype, computed in float32."""
    rows = unit_stride(rows)
    batch, width = rows.shape
    out = rows.new_empty(rows.shape)
    config = mix_tile(width)
    grid = (blocks(batch, config["BLOCK_B"]), blocks(width, config["BLOCK_D"]))
    with on_device_of(rows):
        mix_kernel[grid](
            rows,
            permutation.contiguous(),
            out,
            batch,
            width,
            rows.stride(0),
            lam,
            1.0 - lam,
            **config,
        )
    return out


def unmix(grad: Tensor, permutation: Tensor, lam: float) -> Tensor:
    """The transpose of :func:`mix`: ``λ·grad + (1−λ)·grad[π⁻¹]``, a gather like the way there."""
    origin = permutation.new_empty(permutation.shape)
    with on_device_of(permutation):
        invert_kernel[(blocks(len(origin), INVERT["BLOCK"]),)](
            permutation.contiguous(), origin, len(origin), **INVERT
        )
    return mix(grad, origin, lam)
