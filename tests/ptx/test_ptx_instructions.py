"""The PTX runner's instructions against NumPy and PyTorch, and what it refuses."""

# ruff: noqa: E501 (lines of assembler)

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from ptx import approximate
from ptx.approximate import Rounding
from ptx.barriers import meets_alike, only_reads_meet
from ptx.compiling import Compiled
from ptx.launch import Gpu
from ptx.memory import Fault
from ptx.parse import Unknown, parse

HEAD = """.version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry tested({parameters})
.reqntid {threads}
{{
    .reg .pred %p<20>;
    .reg .b16 %rs<20>;
    .reg .b32 %r<300>;
    .reg .b64 %rd<80>;
    mov.u32 %r0, %tid.x;
{loads}
{body}
    ret;
}}
"""
DTYPES = {
    "pred": np.uint32, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "u16": np.uint16,
    "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
    "f32": np.float32, "f64": np.float64, "bf16": np.uint16, "f16": np.uint16,
}  # fmt: skip
PREFIX = {1: "%p", 2: "%rs", 4: "%r", 8: "%rd"}


def run(
    body: str, *tensors: torch.Tensor, threads: int = 32, shared: int = 0, grid=(1,), **options
):
    """A kernel whose pointers are in %rd60, %rd61, ..."""
    parameters = ", ".join(f".param .u64 tested_param_{i}" for i in range(len(tensors)))
    loads = "\n".join(
        f"    ld.param.b64 %rd{60 + i}, [tested_param_{i}];" for i in range(len(tensors))
    )
    ptx = HEAD.format(parameters=parameters, threads=threads, loads=loads, body=body)
    gpu = Gpu(**options)
    values = {f"tensor{i}": tensor for i, tensor in enumerate(tensors)}
    gpu.launch(Compiled(ptx, shared, frozenset()), values, grid)
    return gpu


def bits(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).view(np.uint8).copy())


def evaluate(opcode: str, to: str, kinds: list[str], *sources, **options) -> np.ndarray:
    """One instruction for 32 threads, operands and result through memory."""
    lines, names = [], []
    arrays = [
        np.broadcast_to(np.asarray(x, DTYPES[k]), 32) for x, k in zip(sources, kinds, strict=True)
    ]
    for i, (array, kind) in enumerate(zip(arrays, kinds, strict=True)):
        width = array.dtype.itemsize
        name = f"{PREFIX[width]}{i + 1}"
        lines += [f"mul.wide.u32 %rd10, %r0, {width};", f"add.s64 %rd11, %rd{60 + i}, %rd10;",
                  f"ld.global.b{8 * width} {name}, [%rd11];"]  # fmt: skip
        if kind == "pred":
            lines.append(f"setp.ne.b32 %p{i + 1}, {name}, 0;")
            name = f"%p{i + 1}"
        names.append(name)
    out = np.zeros(32, DTYPES[to])
    width = out.dtype.itemsize
    result = "%p10" if to == "pred" else f"{PREFIX[width]}15"
    lines.append(f"{opcode} {', '.join([result, *names])};")
    if to == "pred":
        lines.append("selp.b32 %r15, 1, 0, %p10;")
        result = "%r15"
    lines += [f"mul.wide.u32 %rd12, %r0, {width};", f"add.s64 %rd13, %rd{60 + len(arrays)}, %rd12;",
              f"st.global.b{8 * width} [%rd13], {result};"]  # fmt: skip
    memory = [*(bits(a) for a in arrays), bits(out)]
    run("\n".join(lines), *memory, **options)
    return memory[-1].numpy().view(DTYPES[to])


F32 = np.array([0, -0.0, 1, -1, 3.5, -2.25, 1e-40, -1e-40, 3e38, math.inf, -math.inf, math.nan, 0.1, 7,
                1e-38, -123.456] * 2, np.float32)  # fmt: skip
G32 = np.roll(F32, 5)
H32 = np.roll(F32, 11)
S32 = np.array(
    [0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 12345, -54321, 16, 31, 32, 33, 100, -100, 3] * 2,
    np.int32,
)
T32 = np.roll(S32, 3)
S64 = np.array([0, 1, -1, 2**40, -(2**40), 2**63 - 1, -(2**63), 77] * 4, np.int64)


def flushed(x):
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def exact_fma(a, b, c):
    """By rational numbers, rounded once."""
    if not all(map(math.isfinite, (a, b, c))):
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    with np.errstate(over="ignore"):
        return np.float32(float(exact)) if exact else np.float32(a) * np.float32(b) + np.float32(c)


CASES = [
    ("add.f32", "f32", ["f32"] * 2, (F32, G32), lambda: F32 + G32),
    ("add.ftz.f32", "f32", ["f32"] * 2, (F32, G32), lambda: flushed(flushed(F32) + flushed(G32))),
    ("sub.rn.f32", "f32", ["f32"] * 2, (F32, G32), lambda: F32 - G32),
    ("mul.f32", "f32", ["f32"] * 2, (F32, G32), lambda: F32 * G32),
    ("div.rn.f32", "f32", ["f32"] * 2, (F32, G32), lambda: F32 / G32),
    ("div.full.f32", "f32", ["f32"] * 2, (F32, G32), lambda: F32 / G32),
    ("fma.rn.f32", "f32", ["f32"] * 3, (F32, G32, H32),
     lambda: np.array([exact_fma(*x) for x in zip(F32, G32, H32, strict=True)])),
    ("fma.rn.f64", "f64", ["f64"] * 3, (1 + 2.0**-30, 1 - 2.0**-30, -1.0), lambda: np.full(32, -(2.0**-60))),
    ("min.f32", "f32", ["f32"] * 2, (F32, G32), lambda: np.fmin(F32, G32)),
    ("max.f32", "f32", ["f32"] * 2, (F32, G32), lambda: np.fmax(F32, G32)),
    ("abs.f32", "f32", ["f32"], (F32,), lambda: np.abs(F32)),
    ("neg.f32", "f32", ["f32"], (F32,), lambda: -F32),
    ("sqrt.approx.ftz.f32", "f32", ["f32"], (F32,), lambda: np.sqrt(flushed(F32))),
    ("ex2.approx.f32", "f32", ["f32"], (F32,), lambda: np.exp2(F32)),
    ("lg2.approx.f32", "f32", ["f32"], (np.abs(G32),), lambda: np.log2(np.abs(G32))),
    ("rcp.approx.ftz.f32", "f32", ["f32"], (F32,), lambda: flushed(1 / flushed(F32))),
    ("add.f64", "f64", ["f64"] * 2, (F32, G32), lambda: F32.astype(float) + G32),
    ("add.s32", "s32", ["s32"] * 2, (S32, T32), lambda: S32 + T32),
    ("sub.s32", "s32", ["s32"] * 2, (S32, T32), lambda: S32 - T32),
    ("add.s64", "s64", ["s64"] * 2, (S64, 5), lambda: S64 + 5),
    ("mul.lo.s32", "s32", ["s32"] * 2, (S32, T32), lambda: S32 * T32),
    ("mul.lo.s64", "s64", ["s64"] * 2, (S64, 3), lambda: S64 * 3),
    ("mul.wide.s32", "s64", ["s32"] * 2, (S32, T32), lambda: S32.astype(np.int64) * T32),
    ("mul.wide.u32", "u64", ["u32"] * 2, (S32.view(np.uint32), 8), lambda: S32.view(np.uint32).astype(np.uint64) * np.uint64(8)),
    ("mad.lo.s32", "s32", ["s32"] * 3, (S32, T32, 9), lambda: S32 * T32 + 9),
    ("mad.wide.s32", "s64", ["s32", "s32", "s64"], (S32, 4, S64), lambda: S32.astype(np.int64) * 4 + S64),
    ("div.s32", "s32", ["s32"] * 2, (S32[:8].repeat(4), 7), lambda: np.trunc(S32[:8].repeat(4) / 7).astype(np.int32)),
    ("rem.s32", "s32", ["s32"] * 2, (S32[:8].repeat(4), 7), lambda: np.fmod(S32[:8].repeat(4), 7)),
    ("min.s32", "s32", ["s32"] * 2, (S32, T32), lambda: np.minimum(S32, T32)),
    ("max.s64", "s64", ["s64"] * 2, (S64, 2), lambda: np.maximum(S64, 2)),
    ("min.u32", "u32", ["u32"] * 2, (S32.view(np.uint32), 9), lambda: np.minimum(S32.view(np.uint32), 9)),
    ("and.b32", "u32", ["u32"] * 2, (S32.view(np.uint32), 12), lambda: S32.view(np.uint32) & np.uint32(12)),
    ("or.b64", "s64", ["s64"] * 2, (S64, 6), lambda: S64 | 6),
    ("xor.b32", "s32", ["s32"] * 2, (S32, T32), lambda: S32 ^ T32),
    ("not.b32", "s32", ["s32"], (S32,), lambda: ~S32),
    ("neg.s32", "s32", ["s32"], (S32,), lambda: -S32),
    ("shl.b32", "u32", ["u32", "u32"], (7, np.arange(32) * 2),
     lambda: np.array([(7 << n) % 2**32 if n < 32 else 0 for n in range(0, 64, 2)], np.uint32)),
    ("shl.b64", "u64", ["u64", "u32"], (7, np.arange(32) * 3),
     lambda: np.array([(7 << n) % 2**64 if n < 64 else 0 for n in range(0, 96, 3)], np.uint64)),
    ("shr.u32", "u32", ["u32", "u32"], (2**31 + 5, np.arange(32) * 2),
     lambda: np.array([(2**31 + 5) >> n for n in range(0, 64, 2)], np.uint32)),
    ("shr.s32", "s32", ["s32", "u32"], (S32, 33), lambda: S32 >> 31),
    ("bfe.u32", "u32", ["u32"] * 3, (0xDEADBEEF, 8, 12), lambda: np.full(32, (0xDEADBEEF >> 8) & 0xFFF)),
    ("bfe.s32", "s32", ["s32", "u32", "u32"], (0x80, 7, 1), lambda: np.full(32, -1)),
    ("prmt.b32", "u32", ["u32"] * 3, (0x44332211, 0x88776655, 0x3715), lambda: np.full(32, 0x44882266)),
    ("prmt.b32", "u32", ["u32"] * 3, (0x00008000, 0, 0x0009), lambda: np.full(32, 0x000000FF)),
    ("selp.b32", "u32", ["u32", "u32", "pred"], (1, 2, np.arange(32) % 2), lambda: 2 - np.arange(32) % 2),
    ("setp.lt.f32", "pred", ["f32"] * 2, (F32, G32), lambda: F32 < G32),
    ("setp.ltu.f32", "pred", ["f32"] * 2, (F32, G32), lambda: ~(F32 >= G32)),
    ("setp.neu.f32", "pred", ["f32"] * 2, (F32, F32), lambda: np.isnan(F32)),
    ("setp.ne.f32", "pred", ["f32"] * 2, (F32, F32), lambda: np.zeros(32)),
    ("setp.nan.f32", "pred", ["f32"] * 2, (F32, G32), lambda: np.isnan(F32) | np.isnan(G32)),
    ("setp.lt.s32", "pred", ["s32"] * 2, (S32, T32), lambda: S32 < T32),
    ("setp.lt.u32", "pred", ["u32"] * 2, (S32.view(np.uint32), 7), lambda: S32.view(np.uint32) < 7),
    ("setp.gt.s64", "pred", ["s64"] * 2, (S64, -1), lambda: S64 > -1),
    ("cvt.f64.f32", "f64", ["f32"], (F32,), lambda: F32.astype(float)),
    ("cvt.rn.f32.f64", "f32", ["f64"], (1 / 3,), lambda: np.full(32, np.float32(1 / 3))),
    ("cvt.rn.f32.s32", "f32", ["s32"], (S32,), lambda: S32.astype(np.float32)),
    ("cvt.rzi.s32.f32", "s32", ["f32"], (np.array([2.7, -2.7, 3e9, -3e9, math.nan, 0.5, 7, -0.1] * 4),),
     lambda: np.array([2, -2, 2**31 - 1, -(2**31), 0, 0, 7, 0] * 4)),
    ("cvt.s64.s32", "s64", ["s32"], (S32,), lambda: S32.astype(np.int64)),
    ("cvt.u64.u32", "u64", ["u32"], (S32.view(np.uint32),), lambda: S32.view(np.uint32).astype(np.uint64)),
    ("cvt.u32.u64", "u32", ["u64"], (S64.view(np.uint64),), lambda: S64.view(np.uint64).astype(np.uint32)),
    ("cvt.u32.u16", "u32", ["u16"], (65535,), lambda: np.full(32, 65535)),
    ("cvt.rna.tf32.f32", "u32", ["u32"], (0x3F801000,), lambda: np.full(32, 0x3F802000)),
    ("mov.b32", "u32", ["u32"], (S32.view(np.uint32),), lambda: S32.view(np.uint32)),
]  # fmt: skip


@pytest.mark.parametrize("opcode, to, kinds, sources, oracle", CASES, ids=[c[0] for c in CASES])
def test_an_instruction_computes_what_the_manual_says(opcode, to, kinds, sources, oracle):
    with np.errstate(all="ignore"):
        expected = np.asarray(oracle()).astype(DTYPES[to])
    got = evaluate(opcode, to, kinds, *sources)
    if ".approx" in opcode or ".full" in opcode:  # rounded from float64 here
        np.testing.assert_allclose(got, expected, rtol=2.0**-22, atol=0)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind, dtype", [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_narrow_numbers_are_rounded_to_nearest_even(kind, dtype):
    x = torch.cat(
        [
            torch.randn(24),
            torch.tensor([1 + 2.0**-9, 1 + 3 * 2.0**-9, 1 + 2.0**-12, 0, -0.0, math.inf, -1, 2]),
        ]
    )
    expected = x.to(dtype).view(torch.int16).numpy().view(np.uint16)
    narrow = evaluate(f"cvt.rn.{kind}.f32", kind, ["f32"], x.numpy())
    np.testing.assert_array_equal(narrow, expected)
    back = evaluate(f"cvt.f32.{kind}", "f32", [kind], expected)
    np.testing.assert_array_equal(back, x.to(dtype).float().numpy())
    pair = evaluate(f"cvt.rn.{kind}x2.f32", "u32", ["f32", "f32"], x.numpy(), x.numpy()[::-1])
    np.testing.assert_array_equal(pair & 0xFFFF, expected[::-1])
    np.testing.assert_array_equal(pair >> 16, expected)


@pytest.mark.parametrize("share", [-1.0, 1.0])
def test_approximate_instructions_stay_inside_the_bounds_of_the_manual_and_use_them(share):
    x = np.random.default_rng(0).uniform(0.01, 20, 4096).astype(np.float32)
    wide, rounding = x.astype(float), Rounding(share)
    for name, exact, bound in (
        ("ex2", np.exp2(wide), 2.0**-21), ("rcp", 1 / wide, 2.0**-22), ("sqrt", np.sqrt(wide), 2.0**-23),
        ("rsqrt", 1 / np.sqrt(wide), 2.0**-22.9),
    ):  # fmt: skip
        off = (getattr(approximate, name)(x, rounding) - exact) / exact * np.sign(share)
        assert off.max() <= bound and off.max() > bound / 4, name
    off = np.abs(approximate.lg2(x, rounding) - np.log2(wide))
    near = (x > 0.5) & (x < 2)
    assert off[near].max() <= 2.0**-22 and off[near].max() > 2.0**-23
    assert (off[~near] <= 2.0**-22 * np.abs(np.log2(wide[~near]))).all()


def test_drawn_approximations_are_inside_the_bounds_and_the_same_for_the_same_operand():
    x = np.random.default_rng(0).uniform(0.01, 20, 4096).astype(np.float32)
    one = approximate.rcp(x, Rounding(1.0, seed=3))
    off = (one * x.astype(float) - 1) * 2.0**22
    assert np.abs(off).max() <= 1 and off.max() > 0.3 and off.min() < -0.3
    np.testing.assert_array_equal(one[::-1], approximate.rcp(x[::-1].copy(), Rounding(1.0, seed=3)))
    assert (one != approximate.rcp(x, Rounding(1.0, seed=4))).any()


def test_lanes_that_a_guard_leaves_out_keep_what_they_had():
    out = torch.zeros(32, dtype=torch.int32)
    run("mov.b32 %r1, 5; setp.lt.s32 %p1, %r0, 10; @%p1 mov.b32 %r1, 7; @!%p1 add.s32 %r1, %r1, 1;"
        "mad.wide.s32 %rd1, %r0, 4, %rd60; st.global.b32 [%rd1], %r1;", out)  # fmt: skip
    assert out.tolist() == [7] * 10 + [6] * 22


def test_wide_registers_are_packed_and_taken_apart():
    out = torch.zeros(32, 2, dtype=torch.int32)
    run("mov.b64 %rd1, {%r0, 9}; mov.b64 {%r1, %r2}, %rd1; mad.wide.s32 %rd2, %r0, 8, %rd60;"
        "st.global.v2.b32 [%rd2], {%r2, %r1};", out)  # fmt: skip
    assert out.tolist() == [[9, i] for i in range(32)]


def test_shuffles_exchange_within_a_warp():
    out = torch.zeros(64, 2, dtype=torch.int32)
    run("shfl.sync.bfly.b32 %r1, %r0, 4, 31, -1; shfl.sync.idx.b32 %r2, %r0, 3, 31, -1;"
        "mad.wide.s32 %rd2, %r0, 8, %rd60; st.global.v2.b32 [%rd2], {%r1, %r2};", out, threads=64)  # fmt: skip
    assert out.tolist() == [[i ^ 4, i // 32 * 32 + 3] for i in range(64)]


def test_blocks_of_a_launch_may_take_different_ways():
    out = torch.zeros(6, 32, dtype=torch.int32)
    run("mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ctaid.y; mov.b32 %r4, 0; mov.b32 %r5, 0;\n"
        "$L__again:\n setp.ge.s32 %p1, %r5, %r1; @%p1 bra $L__end; add.s32 %r4, %r4, 10; add.s32 %r5, %r5, 1;"
        " bra.uni $L__again;\n$L__end:\n mad.lo.s32 %r6, %r3, %r2, %r1; mad.lo.s32 %r6, %r6, 32, %r0;"
        "mad.wide.s32 %rd1, %r6, 4, %rd60; st.global.b32 [%rd1], %r4;", out, grid=(3, 2))  # fmt: skip
    assert out[:, 0].tolist() == [0, 10, 20, 0, 10, 20] and (out == out[:, :1]).all()


def test_blocks_that_have_parted_take_wide_registers_apart():
    out = torch.zeros(4, 32, dtype=torch.int32)
    run("mov.u32 %r1, %ctaid.x; and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; mov.b32 %r3, 5; @%p1 bra $L__even;"
        " mov.b32 %r3, 6;\n$L__even:\n mov.b64 %rd1, {%r3, %r0}; mov.b64 {%r4, %r5}, %rd1;"
        "add.s32 %r4, %r4, %r5; mad.lo.s32 %r6, %r1, 32, %r0; mad.wide.s32 %rd2, %r6, 4, %rd60;"
        "st.global.b32 [%rd2], %r4;", out, grid=(4,))  # fmt: skip
    assert out.tolist() == [[5 + block % 2 + lane for lane in range(32)] for block in range(4)]


@pytest.mark.parametrize(
    "text",
    [
        "sin.approx.f32 %r1, %r2;", "add.sat.f32 %r1, %r2, %r3;", "fma.rz.f32 %r1, %r2, %r3, %r4;",
        "atom.global.add.f32 %r1, [%rd60], %r2;", "bar.sync 1;", "bar.sync 0, 64;", "st.global.v8.b32 [%rd60], {%r1};",
        "shfl.sync.up.b32 %r1, %r0, 1, 0, -1;", "add.s32 %rd1, %r1, %r2;", "cvt.rz.f32.f64 %r1, %rd1;",
        "mov.b32 %r1, %laneid;", "ld.local.b32 %r1, [%rd60];", "call (), f, ();",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r2}, {%r3}, {%r4};",
        "wgmma.mma_async.sp.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, %p1, 1, 1;",
        "cp.async.bulk.commit_group;", "mbarrier.init.shared.b64 [%r1], 1;",
    ],
)  # fmt: skip
def test_an_unknown_instruction_is_refused(text):
    with pytest.raises(Unknown):
        run(text, torch.zeros(4))


def test_a_branch_that_parts_the_threads_of_a_block_is_refused():
    with pytest.raises(Unknown, match="threads of a block part"):
        run(
            "setp.lt.s32 %p1, %r0, 3;\n@%p1 bra $L__end;\nmov.b32 %r1, 0;\n$L__end:\n",
            torch.zeros(4),
        )


def test_a_jump_to_nowhere_is_refused():
    with pytest.raises(Unknown, match="jumps"):
        parse(HEAD.format(parameters="", threads=32, loads="", body="bra $L__nowhere;"))


# --- memory: what is reported

STORE = "mul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd60, %rd1; st.global.b32 [%rd2{}], %r0;"
TO_SHARED = "shl.b32 %r1, %r0, 2; st.shared.b32 [%r1], %r0;"
FROM_NEIGHBOUR = "xor.b32 %r2, %r0, {}; shl.b32 %r2, %r2, 2; ld.shared.b32 %r3, [%r2];"


@pytest.mark.parametrize(
    "kind, body, options",
    [
        ("out of bounds", STORE.format("+4"), {}),
        ("out of bounds", STORE.format("+-4"), {}),
        ("misaligned", STORE.format("+2"), {}),
        ("out of bounds", "ld.shared.b32 %r1, [global_smem+256];", {"shared": 256}),
        ("never written", "ld.shared.b32 %r1, [global_smem];", {"shared": 256}),
        ("misaligned", "st.shared.b32 [global_smem+2], %r0;", {"shared": 256}),
        ("race within a block", TO_SHARED + FROM_NEIGHBOUR.format(32), {"shared": 256}),
        ("race within a block", TO_SHARED + FROM_NEIGHBOUR.format(1), {"shared": 256}),
        ("race within a block", TO_SHARED + "bar.sync 0;" + FROM_NEIGHBOUR.format(1) + "st.shared.b32 [%r1], 1;",
         {"shared": 256}),
        ("race within a block", "st.shared.b32 [global_smem], %r0;", {"shared": 256}),
        ("race within a block", TO_SHARED + "bar.warp.sync -1;" + FROM_NEIGHBOUR.format(32), {"shared": 256}),
        ("race within a block", STORE.format("") + "xor.b32 %r2, %r0, 1; mad.wide.s32 %rd3, %r2, 4, %rd60;"
         "ld.global.b32 %r3, [%rd3];", {}),
        ("race between blocks", STORE.format(""), {"grid": (2,)}),
        ("still being copied", "shl.b32 %r1, %r0, 2; cp.async.ca.shared.global [%r1], [%rd60], 4;"
         "cp.async.commit_group; ld.shared.b32 %r2, [%r1]; cp.async.wait_group 0;", {"shared": 256}),
        ("race within a block", "shl.b32 %r1, %r0, 2; cp.async.ca.shared.global [%r1], [%rd60], 4;"
         "cp.async.commit_group; cp.async.wait_group 0;" + FROM_NEIGHBOUR.format(1), {"shared": 256}),
        ("still being copied", "shl.b32 %r1, %r0, 2; cp.async.ca.shared.global [%r1], [%rd60], 4;", {"shared": 256}),
    ],
)  # fmt: skip
def test_a_wrong_access_is_reported(kind, body, options):
    with pytest.raises(Fault) as caught:
        run(body, torch.zeros(64, dtype=torch.int32), threads=64, **options)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "body",
    [
        TO_SHARED + "bar.sync 0;" + FROM_NEIGHBOUR.format(33),
        TO_SHARED + "bar.warp.sync -1;" + FROM_NEIGHBOUR.format(1),
        "st.shared.b32 [global_smem], 7; bar.sync 0; ld.shared.b32 %r1, [global_smem];",
        STORE.format("") + "ld.global.b32 %r3, [%rd2];",
        "shl.b32 %r1, %r0, 2; cp.async.ca.shared.global [%r1], [%rd60], 4; cp.async.commit_group;"
        "cp.async.wait_group 0; bar.sync 0;" + FROM_NEIGHBOUR.format(1),
    ],
)
def test_a_right_access_is_not_reported(body):
    run(body, torch.zeros(64, dtype=torch.int32), threads=64, shared=256)


def test_lanes_of_a_warp_may_write_to_one_place_and_warps_that_differ_by_rounding_are_noted():
    body = "{} st.shared.b32 [global_smem], %r1; bar.sync 0;"
    gpu = run(body.format("cvt.rn.f32.s32 %r1, %r0;"), torch.zeros(4), shared=16)
    assert not gpu.undecided
    ulp = "shr.u32 %r1, %r0, 5; add.s32 %r1, %r1, 0x3f800000;"
    assert run(body.format(ulp), torch.zeros(4), threads=64, shared=16).undecided


# --- barriers of which the text says that they keep nothing apart

READ, WRITE = "ld.shared.b32 %r3, [%r1];", "st.shared.b32 [%r1], %r0;"
OF_THREAD = "shl.b32 %r1, %r0, 2;"


@pytest.mark.parametrize(
    "address, before, behind, only_reads, alike",
    [
        (OF_THREAD, READ, READ, True, False),
        ("ld.global.b32 %r1, [%rd60];", READ, READ, True, False),
        (OF_THREAD, READ, "cp.async.wait_group 0;" + READ, False, False),
        (OF_THREAD, READ, "st.global.b32 [%rd60], %r3;", False, False),
        (OF_THREAD, READ + "\n$L__again:\n", READ, False, False),
        (OF_THREAD, READ, "@%p1 bra $L__end;" + READ, False, False),
        (OF_THREAD, READ, WRITE, False, True),
        (OF_THREAD, WRITE, READ, False, True),
        ("mov.b32 %r1, global_smem;", READ, WRITE, False, True),
        ("", "ld.shared.b32 %r3, [global_smem];", "st.shared.b32 [global_smem], 1;", False, True),
        (OF_THREAD, WRITE, WRITE, False, False),
        (OF_THREAD, READ, WRITE + "st.global.b32 [%rd60], %r3;", False, False),
        (OF_THREAD, READ, "@%p1 " + WRITE, False, False),
        (OF_THREAD, READ, "cp.async.ca.shared.global [%r1], [%rd60], 4;", False, False),
        (OF_THREAD + "add.s32 %r1, %r1, 4;", READ, WRITE, False, False),
        ("mov.u32 %r1, %ctaid.x;", READ, WRITE, False, False),
        ("ld.global.b32 %r1, [%rd60];", READ, WRITE, False, False),
        ("ld.param.b32 %r2, [tested_param_0]; add.s32 %r1, %r0, %r2;", READ, WRITE, False, False),
        (OF_THREAD + "@%p1 mov.b32 %r4, 8; add.s32 %r5, %r1, %r4;", "ld.shared.b32 %r3, [%r5];", WRITE, False, False),
    ],
)  # fmt: skip
def test_what_a_barrier_keeps_apart_is_told_from_the_text(
    address, before, behind, only_reads, alike
):
    body = f"{address} bar.sync 0; {before} bar.sync 0; {behind} bar.sync 0;\n$L__end:\n {WRITE}"
    program = parse(HEAD.format(parameters="", threads=64, loads="", body=body))
    assert only_reads_meet(program, 1) == only_reads
    assert meets_alike(program, 1) == alike
