"""A matrix product for any strides, in the precision that is asked for.

Precision follows ``torch.set_float32_matmul_precision`` where it may (the products of F with
itself and with its Gram matrix, which fade as training converges): "highest" multiplies with
float32 accuracy, "high" in TF32 or in two bf16 parts, "medium" in bf16. Sums are float32 always.

Float32 accuracy comes from the tensor cores, too. A float32 number is the exact sum of three bf16
numbers of 8 bits each, so six products of parts give all of a product but 2^-24 of it:

    a = a₁ + a₂ + a₃,   a b ≈ a₁b₁ + a₁b₂ + a₂b₁ + a₂b₂ + a₁b₃ + a₃b₁

bf16 operands may lie either way in shared memory, so no orientation of F is slow, and bf16 has the
exponents of float32: magnitude does not matter. Tensor cores truncate the sums that they run up
(which biases a long one), so each step starts at zero, the smallest products first, and is added
to the accumulator in ordinary arithmetic.

On sm_90 and sm_100 TF32 operands must lie along the sum. For others "high" takes a₁ and a₂ alone:
three products, 16 bits, which PyTorch's "high" allows as well.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from .launch import blocks, on_device_of

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, int]

# Per precision. 64×64 leaves room for three programs: one splits its operands while another
# multiplies. "ieee" is for GPUs without bf16 tensor cores: small tiles, or the operands spill.
# 128×128 with two warp groups keeps wgmma fed; three stages leave room for two programs.
PRODUCT: dict[str, Config] = {
    "ieee": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 3},
    "bf16x6": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2},
    "bf16x3": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2},
    "tf32": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
    "bf16": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
}


def matmul_precision() -> str:
    """The user's choice for float32 products, in the names of this file."""
    from drcl.precision import allowed_on_gpu

    return {"highest": "ieee", "high": "tf32", "medium": "bf16"}[allowed_on_gpu()]


class Gpu(NamedTuple):
    """What launchers tell GPUs apart by."""

    maker: str  # "nvidia" or "amd"
    generation: int  # of the compute capability, or of AMD's name: 9 of gfx942, 11 of gfx1100


def amd_generation(name: str) -> int:
    """9 of ``"gfx942"`` and of ``"gfx90a:sramecc+:xnack-"``, 11 of ``"gfx1100"``."""
    return int(name.partition(":")[0][3:-2])


def gpu(tensor: Tensor) -> Gpu:
    """This tensor's GPU; for a CPU's tensor, a recent one."""
    import torch

    if not tensor.is_cuda:
        return Gpu("nvidia", 9)
    if torch.version.hip:  # its compute capabilities read like NVIDIA's: (9, 4) is a gfx942
        name = torch.cuda.get_device_properties(tensor.device).gcnArchName
        return Gpu("amd", amd_generation(name))
    return Gpu("nvidia", torch.cuda.get_device_capability(tensor.device)[0])


def on_amd(tensor: Tensor) -> bool:
    return gpu(tensor).maker == "amd"


def register_limit(tensor: Tensor, num_warps: int) -> dict[str, int]:
    """What to say to the assembler for tiles of whole rows: on some GPUs it spills a few bytes
    unless it is told of all registers. On others that costs a quarter of the programs.
    """
    told = gpu(tensor) in (("nvidia", 7), ("nvidia", 10))
    return {"maxnreg": min(255, 65536 // (32 * num_warps))} if told else {}


def has_bf16(tensor: Tensor) -> bool:
    """Whether this tensor's device multiplies bf16: NVIDIA's from compute capability 8.0 on."""
    return on_amd(tensor) or gpu(tensor).generation >= 8


def float32_precision(tensor: Tensor) -> str:
    """How this tensor's device multiplies with float32 accuracy. The matrix cores of AMD's gfx9
    take float32 itself, and gfx11 multiplies bf16 only twice to four times as fast."""
    return "ieee" if on_amd(tensor) or not has_bf16(tensor) else "bf16x6"


def product_precision(tensor: Tensor) -> str:
    """The user's choice, on this tensor's device. GPUs before compute capability 8.0 have neither
    TF32 nor bf16, and multiply in float32 whatever is chosen. AMD's have no TF32; parts are worth
    their products on gfx9 alone."""
    precision = matmul_precision()
    if precision == "tf32" and on_amd(tensor):
        precision = "bf16x3" if gpu(tensor).generation == 9 else "ieee"
    exact = precision == "ieee" or not has_bf16(tensor)
    return float32_precision(tensor) if exact else precision


def precision_for(precision: str, tensor: Tensor, along_the_sum: bool) -> str:
    """Two parts in place of TF32 where an operand does not lie along the sum and the tensor cores
    read it from shared memory: stored across it, number by number, it collides 16-way.
    """
    across = gpu(tensor) in (("nvidia", 9), ("nvidia", 10)) and not along_the_sum
    return "bf16x3" if precision == "tf32" and across else precision


def fitted(config: Config, tensor: Tensor, grouped: bool) -> Config:
    """The configuration on this tensor's GPU; ``grouped``: operands are copied to shared memory in
    fours.

    Where they are not, they go through registers, in short steps: copies past the registers collide
    up to 32-way, and every number takes an address. sm_100 takes the left operand from tensor
    memory, a row a thread; from copies in shared memory rows are read with 8-way conflicts. AMD's
    have 64 KiB of it, which three stages of the largest tiles fill, and on gfx11 these spill in
    longer steps.
    """
    if not grouped:
        return config | {"BLOCK_K": 16, "num_stages": 1}
    match gpu(tensor):
        case ("nvidia", 10):
            return config | {"num_stages": 1}
        case ("amd", 11):
            return config | {"BLOCK_K": 16, "num_stages": 2}
        case ("amd", _):
            return config | {"num_stages": 2}
    return config


# Triton's interpreter would multiply the bit patterns of bf16 operands. In float32, which holds
# every bf16 number, their products are the same.
OPERAND: tl.constexpr = tl.constexpr(
    tl.float32 if os.environ.get("TRITON_INTERPRET") == "1" else tl.bfloat16
)


@triton.jit
def leading_part(x):
    """The float32 ``x`` cut off after 8 bits: what bf16 holds. NaN stays NaN."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def bf16_parts(x):
    """Three operands that add up to the float32 ``x``, exactly."""
    first = leading_part(x)
    rest = x - first
    second = leading_part(rest)
    third = rest - second
    return (
        first.to(tl.bfloat16).to(OPERAND),
        second.to(tl.bfloat16).to(OPERAND),
        third.to(tl.bfloat16).to(OPERAND),
    )


@triton.jit
def multiply(a, b, accumulator, PRECISION: tl.constexpr):
    if PRECISION == "bf16x6":
        a_1, a_2, a_3 = bf16_parts(a)
        b_1, b_2, b_3 = bf16_parts(b)
        step = tl.dot(a_3, b_1)
        step = tl.dot(a_1, b_3, step)
        step = tl.dot(a_2, b_2, step)
        step = tl.dot(a_2, b_1, step)
        step = tl.dot(a_1, b_2, step)
        accumulator += tl.dot(a_1, b_1, step)
    elif PRECISION == "bf16x3":
        a_1, a_2, _ = bf16_parts(a)
        b_1, b_2, _ = bf16_parts(b)
        accumulator = tl.dot(a_2, b_1, accumulator)
        accumulator = tl.dot(a_1, b_2, accumulator)
        accumulator = tl.dot(a_1, b_1, accumulator)
    elif PRECISION == "bf16":
        a_1, b_1 = a.to(tl.bfloat16).to(OPERAND), b.to(tl.bfloat16).to(OPERAND)
        accumulator = tl.dot(a_1, b_1, accumulator)
    else:
        accumulator = tl.dot(a, b, accumulator, input_precision=PRECISION)
    return accumulator


@triton.jit(do_not_specialize=["m_total"])
def product_kernel(
    a, b, out, factor, dots, m_total, n_total, k_total,
    a_stride_m, a_stride_k, b_stride_k, b_stride_n, factor_stride,
    A_FOURS: tl.constexpr, B_FOURS: tl.constexpr, DOTS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``A B`` for any strides; with DOTS also every row's inner product with that row of
    ``factor``.

    Neighbouring programs share their rows of A, or their columns of B, through L2. The axes along
    which numbers lie in fours (see :func:`fours`) are A_FOURS and B_FOURS.
    """
    if A_FOURS == 1:
        k_total, a_stride_m = k_total // 4 * 4, a_stride_m // 4 * 4
    if B_FOURS == 0:
        k_total, b_stride_n = k_total // 4 * 4, b_stride_n // 4 * 4
    if B_FOURS == 1:
        n_total, b_stride_k = n_total // 4 * 4, b_stride_k // 4 * 4
    tiles_n = tl.cdiv(n_total, BLOCK_N)
    program = tl.program_id(0)
    band = 8 * tiles_n
    first = (program // band) * 8
    height = tl.minimum(tl.cdiv(m_total, BLOCK_M) - first, 8)
    tile_m = first + (program % band) % height
    tile_n = (program % band) // height

    m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    in_m = m < m_total
    in_n = n < n_total
    a_at = a + m[:, None] * a_stride_m + k[None, :] * a_stride_k
    b_at = b + k[:, None] * b_stride_k + n[None, :] * b_stride_n
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, k_total, BLOCK_K):
        in_k = k < k_total - start
        left = tl.load(a_at, mask=in_m[:, None] & in_k[None, :], other=0.0).to(tl.float32)
        right = tl.load(b_at, mask=in_k[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        accumulator = multiply(left, right, accumulator, PRECISION)
        a_at += BLOCK_K * a_stride_k
        b_at += BLOCK_K * b_stride_k
    mask = in_m[:, None] & in_n[None, :]
    tl.store(out + m[:, None] * n_total + n[None, :], accumulator, mask=mask)
    if DOTS:
        # the same rows of F went through this program as an operand a moment ago: L2 has them
        f = tl.load(factor + m[:, None] * factor_stride + n[None, :], mask=mask, other=0.0)
        dot = tl.sum(accumulator * f, 1)
        tl.store(dots + tile_n.to(tl.int64) * m_total + m, dot, mask=in_m)


def group_axis(matrix: Tensor) -> int | None:
    """The axis along which the matrix lies in whole groups of four numbers, if there is one."""
    for axis, other in ((0, 1), (1, 0)):
        if matrix.stride(axis) == 1 and matrix.shape[axis] % 4 == matrix.stride(other) % 4 == 0:
            return axis
    return None


def fours(matrix: Tensor) -> int | None:
    """:func:`group_axis` where a kernel has to tell the compiler by dividing and multiplying by 4;
    else None.

    Groups of four are copied to shared memory by 16 bytes, other numbers by themselves. What 16
    divides the compiler is told anyhow.
    """
    axis = group_axis(matrix)
    if axis is None or matrix.shape[axis] % 16 == matrix.stride(1 - axis) % 16 == 0:
        return None
    return axis


def product(a: Tensor, b: Tensor) -> Tensor:
    """``A B`` (M, N) with float32 accuracy whatever the matmul precision; any strides."""
    return _product(a, b, float32_precision(b))


def product_with_dots(
    a: Tensor, b: Tensor, factor: Tensor, *, b_is_symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """``T = A B`` in the chosen precision, and parts (n, M) of the rows' ⟨T, factor⟩."""
    precision = product_precision(b)
    if b_is_symmetric and precision in ("tf32", "bf16"):
        b = b.T  # the order that tensor cores want for TF32; plain float32 wants the other
    precision = precision_for(precision, b, a.stride(1) == b.stride(0) == 1)
    dots = factor.new_empty(blocks(b.shape[1], PRODUCT[precision]["BLOCK_N"]), len(a))
    return _product(a, b, precision, factor, dots), dots


def _product(
    a: Tensor, b: Tensor, precision: str, factor: Tensor | None = None, dots: Tensor | None = None
) -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    out = b.new_empty(m, n)
    grouped = group_axis(a) is not None and group_axis(b) is not None
    config = fitted(PRODUCT[precision], b, grouped)
    grid = (blocks(m, config["BLOCK_M"]) * blocks(n, config["BLOCK_N"]),)
    with on_device_of(b):
        product_kernel[grid](
            a,
            b,
            out,
            factor,
            dots,
            m,
            n,
            k,
            *a.stride(),
            *b.stride(),
            0 if factor is None else factor.stride(0),
            A_FOURS=fours(a),
            B_FOURS=fours(b),
            DOTS=dots is not None,
            PRECISION=precision,
            **config,
        )
    return out
