"""Every Triton kernel, compiled for sm_90 and run instruction by instruction on the CPU.

``tests/ptx`` is what runs them: it reports accesses out of bounds, reads of shared memory that
nobody wrote, and races, and any of these fails a test here. DRCL_TRITON_PYTHON names a Python with
another Triton (it needs nothing else), for the PTX of that version.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place", allow_module_level=True)

from drcl.kernels.product import product_with_dots
from drcl.kernels.reversible_consistency import symmetric
from ptx.approximate import Rounding
from ptx.compiling import OtherPython, compile_here
from ptx.launch import Gpu
from ptx.problems import Problem, loss, mix, on, similarity

BF16, F16 = torch.bfloat16, torch.float16
# Between them every kernel, ids and rows, mixed and not, B on both sides of D, ragged everywhere.
QUICK = [
    loss(3, 5, 5),  # K = D
    loss(20, 150, 130, "rows"),  # more classes than a tile; M and Z, class space as products
    loss(45, 40, 34),  # FᵀF, class space as products
    loss(131, 140, 3, precision="high"),  # M and Z
    loss(50, 44, 3, "rows", mixing=False, narrow=BF16, precision="medium"),  # FᵀF
    similarity(5, 64, 1, "rows"),  # the exact gradient is 0
    similarity(19, 70, 5),
    similarity(19, 70, 200, "rows"),  # more classes than stay on chip
    mix(37, 70, BF16),
]
LONG = [
    loss(90, 70, 5, "rows", mixing=False), loss(150, 136, 3, narrow=BF16, precision="medium"),
    loss(3, 2100, 2), loss(3, 4200, 2),  # rows of several warps
    loss(20, 300, 10), loss(1, 1, 1), loss(7, 64, 1, "rows"), loss(7, 64, 2, converging=True),
    loss(2, 10, 1), loss(7, 10, 40), loss(12, 10, 40, "rows"), loss(11, 10, 2),
    loss(7, 64, 10, "rows"), loss(80, 64, 10), loss(70, 80, 4, "rows", mixing=False),
    loss(70, 120, 40), loss(130, 120, 33, "rows"), loss(20, 48, 200), loss(12, 64, 200, "rows"),
    loss(70, 300, 200), loss(5, 2048, 10), loss(9, 2048, 10, "rows", narrow=BF16),
    loss(3, 2048, 128), loss(140, 1030, 7), loss(300, 128, 10), loss(7, 24, 3, narrow=F16),
    loss(150, 140, 10, precision="high"), loss(150, 140, 10, precision="medium"),
    loss(140, 288, 10, precision="medium"), loss(140, 160, 40, "rows", precision="high"),
    similarity(33, 130, 128), similarity(5, 64, 1), similarity(40, 100, 300, narrow=BF16),
    similarity(7, 64, 2, converging=True), similarity(7, 64, 2, "rows", converging=True),
    similarity(5, 200, 130, "rows", converging=True),
    mix(9, 1030), mix(70, 2048, F16),
]  # fmt: skip


def all_kernels() -> set[str]:
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "kernels").rglob("*.py")]
    return {name for text in sources for name in re.findall(r"^def (\w+_kernel)\(", text, re.M)}


@pytest.mark.slow
def test_every_kernel_runs_without_a_fault_and_as_exact_as_float32():
    """A new kernel has to be launched by one of these problems."""
    launched, undecided = set(), set()
    for problem in QUICK:
        gpu = Gpu(Rounding(1.0, seed=0))
        problem.check(gpu)
        launched |= {launch.kernel for launch in gpu.launches}
        undecided |= gpu.undecided
    assert launched == all_kernels()
    # no last digit depends on which warp writes first
    assert not undecided


@pytest.fixture(scope="module")
def compiler(request):
    if request.param == "this Triton":
        yield compile_here
        return
    if "DRCL_TRITON_PYTHON" not in os.environ:
        pytest.skip("DRCL_TRITON_PYTHON names no Python with another Triton")
    other = OtherPython(os.environ["DRCL_TRITON_PYTHON"])
    yield other
    other.close()


ROUNDINGS = {
    "exact": Rounding(),
    "drawn": Rounding(1.0, seed=1),
    "low": Rounding(-1.0),
    "high": Rounding(1.0),
}


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["this Triton", "another"], indirect=True)
@pytest.mark.parametrize("problem", QUICK + LONG, ids=str)
def test_problems_run_without_a_fault_however_approximations_round(problem: Problem, compiler):
    for rounding in ROUNDINGS.values():
        gpu = Gpu(rounding, compiler)
        problem.check(gpu)
        assert not gpu.undecided


def leading(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers cut off after so many bits."""
    return (x.contiguous().view(torch.int32) & (-1 << (24 - bits))).view(torch.float32)


def in_parts(f: torch.Tensor) -> torch.Tensor:
    """``FᵀF`` of two parts of 8 bits each, less the product of the small ones, in float64."""
    first = leading(f, 8)
    second = leading(f - first, 8)
    whole = first.double() + second.double()
    return whole.T @ whole - second.double().T @ second.double()


# The operands as the tensor cores take them; "highest": in parts that lose nothing. TF32 wants both
# along the sum, as FᵀF is not.
TENSOR_CORES = {
    "highest": ("highest", False, "bf16", lambda f: f.double().T @ f.double(), 0.0, 1e-6),
    "TF32": ("high", True, "tf32", lambda f: leading(f, 11).double().T @ leading(f, 11).double(),
             1e-5, 1e-3),
    "two parts": ("high", False, "bf16", in_parts, 1e-7, 3e-5),
    "medium": ("medium", False, "bf16", lambda f: f.to(BF16).double().T @ f.to(BF16).double(),
               1e-5, 1e-2),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", TENSOR_CORES)
@pytest.mark.parametrize("shape", [(70, 132), pytest.param((300, 260), marks=pytest.mark.long)])
def test_products_on_tensor_cores_round_their_operands_and_nothing_else(shape, case):
    precision, along_the_sum, kind, product_of, least, most = TENSOR_CORES[case]
    f = torch.randn(shape)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with on(Gpu()) as gpu:
            if along_the_sum:
                g = f.T.contiguous()
                got = product_with_dots(g, g.T, torch.zeros(len(g), len(g)))[0].double()
            else:
                got = symmetric.gram(f)[0].double()
    finally:
        torch.set_float32_matmul_precision(before)
    expected = product_of(f)
    assert (got - expected).norm() <= 1e-6 * expected.norm()
    off = (got - f.double().T @ f.double()).norm()
    assert least * expected.norm() <= off <= most * expected.norm()
    opcodes = " ".join(
        i.opcode for launch in gpu.launches for i in launch.code.program.instructions
    )
    assert re.search(rf"wgmma\S*\.{kind}\.{kind}", opcodes)


@pytest.mark.slow
def test_the_way_approximations_round_reaches_the_results():
    problem = similarity(19, 70, 5)
    exact, low = problem.ours(Gpu()), problem.ours(Gpu(Rounding(-1.0)))
    assert not torch.equal(exact[1], low[1])
