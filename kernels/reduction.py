"""Adding up what programs left behind, in a fixed order: two runs give the same bits."""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .launch import blocks, on_device_of

if TYPE_CHECKING:
    from torch import Tensor

# Few sums of many programs (a row stage's totals), or many sums of few (a product in slices).
NARROW = {"BLOCK_N": 1024, "BLOCK_W": 4, "num_warps": 4}
WIDE = {"BLOCK_N": 8, "BLOCK_W": 256, "num_warps": 4}
# What one program adds up. Of more there are several, and one more launch for their sums.
LONGEST = 8192


@triton.jit(do_not_specialize=["count"])
def sum_partials_kernel(
    partials, out, count, width, LONGEST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr
):  # fmt: skip
    part = tl.program_id(1).to(tl.int64)
    begin = part * LONGEST
    w = tl.program_id(0).to(tl.int64) * BLOCK_W + tl.arange(0, BLOCK_W)
    total = tl.zeros([BLOCK_W], tl.float64)
    for start in range(0, tl.minimum(LONGEST, count - begin), BLOCK_N):
        n = begin + start + tl.arange(0, BLOCK_N)
        mask = (n < count)[:, None] & (w < width)[None, :]
        tile = tl.load(partials + n[:, None] * width + w[None, :], mask=mask, other=0.0)
        total += tl.sum(tile.to(tl.float64), 0)
    tl.store(out + part * width + w, total.to(out.dtype.element_ty), mask=w < width)


def sum_partials(partials: Tensor, out: Tensor) -> Tensor:
    """``out = Σ_n partials[n]`` for partials (n, numel of ``out``), added in float64.

    A launch, and one more for every factor of 8,192 in n.
    """
    import torch

    count, width = partials.shape
    config = NARROW if width <= NARROW["BLOCK_W"] else WIDE
    parts = blocks(count, LONGEST)
    sums = out if parts <= 1 else partials.new_empty(parts, width, dtype=torch.float64)
    with on_device_of(partials):
        sum_partials_kernel[(blocks(width, config["BLOCK_W"]), max(1, parts))](
            partials, sums, count, width, LONGEST=LONGEST, **config
        )
    return out if parts <= 1 else sum_partials(sums, out)
