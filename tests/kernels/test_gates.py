"""The instruments of the compile gates, held to what can be worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from drcl import backends
from drcl.benchmarks.gates import amd, banks, checks, model, sass
from drcl.benchmarks.gates.device import resident_blocks
from drcl.benchmarks.gates.launches import HEADLINES, Problem, launches_of, named
from drcl.kernels.reversible_consistency import rows

LANES = np.arange(32)
LOOP = """
    mov.u32 %r1, %tid.x;
    {address}
$L__BB0_1:
    {access}
    {multiply}
    bar.sync 0;
    setp.lt.s32 %p1, %r9, 7;
    @%p1 bra $L__BB0_1;
    ret;
"""


def worst(address: str, access: str, threads: int = 64) -> tuple[int, int]:
    text = LOOP.format(
        address=address, access=access, multiply="fma.rn.f32 %f1,%f2,%f3,%f1;\n" * 16
    )
    (only,) = banks.accesses(text, threads)
    assert only.loop in banks.product_loops(text)
    return only.conflict, only.wavefronts


@pytest.mark.parametrize("ways", [1, 2, 4, 8, 16, 32])
def test_a_stride_of_words_gives_its_conflict(ways):
    assert banks.conflict(LANES * 4 * ways, 4) == (ways, ways)


def test_threads_that_want_the_same_word_share_it():
    assert banks.conflict(np.zeros(32, int), 4) == (1, 1)
    assert banks.conflict(LANES // 2 * 4, 4) == (1, 1)
    # 16 bytes in pairs: half warps at once
    assert banks.conflict(LANES // 2 * 16, 16) == (1, 2)
    assert banks.conflict(LANES // 4 * 16, 16) == (1, 2)


def test_wide_accesses_are_served_in_parts():
    """16 bytes a thread take four wavefronts a warp, 8 bytes two, when they lie side by side."""
    assert banks.conflict(LANES * 16, 16) == (1, 4)
    assert banks.conflict(LANES * 8, 8) == (1, 2)
    assert banks.conflict(LANES * 128, 16) == (8, 32)


@pytest.mark.parametrize(
    "address, access, expected",
    [
        ("shl.b32 %r2, %r1, 2;", "ld.shared.b32 %f1, [%r2+64];", (1, 1)),
        ("mul.lo.s32 %r2, %r1, 132;", "ld.shared.b32 %f1, [%r2];", (1, 1)),  # a padded column
        ("mul.lo.s32 %r2, %r1, 128;", "ld.shared.b32 %f1, [%r2];", (32, 32)),
        ("mad.lo.s32 %r2, %r1, 64, 4096;", "st.shared.b32 [%r2], %f1;", (16, 16)),
        ("shl.b32 %r2, %r1, 4;", "ld.shared.v4.b32 {%f1,%f2,%f3,%f4}, [%r2];", (1, 4)),
        # rows of 64 bytes, four to the line: eight rows of a matrix meet in pairs of lines
        ("shl.b32 %r2, %r1, 6;",
         "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r2];", (4, 16)),
        ("shl.b32 %r2, %r1, 7;", "cp.async.ca.shared.global [ %r2 + 0 ], [ %rd1 + 0 ], 0x4, 0x4;",
         (32, 32)),
        # the swizzle xor((tid / 8) mod 8) that lets columns of 16 bytes pass
        ("shr.u32 %r3, %r1, 0;\n and.b32 %r4, %r3, 7;\n shl.b32 %r5, %r4, 4;\n"
         "shl.b32 %r6, %r1, 7;\n xor.b32 %r2, %r6, %r5;",
         "ld.shared.v4.b32 {%f1,%f2,%f3,%f4}, [%r2];", (1, 4)),
    ],
)  # fmt: skip
def test_conflicts_are_counted_from_address_arithmetic(address, access, expected):
    assert worst(address, access) == expected


def test_only_threads_that_take_part_are_counted():
    """A guard that is known leaves out the lanes it names."""
    address = "shl.b32 %r2, %r1, 7;\n and.b32 %r3, %r1, 31;\n setp.lt.u32 %p2, %r3, 4;"
    assert worst(address, "@%p2 ld.shared.b32 %f1, [%r2];") == (4, 4)
    assert worst(address, "@!%p2 ld.shared.b32 %f1, [%r2];") == (28, 28)


def test_an_address_from_memory_is_reported_as_unknown():
    assert worst("ld.global.b32 %r2, [%rd1];", "ld.shared.b32 %f1, [%r2];") == (0, 0)


def test_an_address_that_the_text_sets_further_down_is_known():
    """As where the head of a loop is placed behind its body."""
    text = LOOP.format(
        address="bra.uni $L__BB0_2;",
        access="ld.shared.b32 %f1, [%r2];",
        multiply="fma.rn.f32 %f1,%f2,%f3,%f1;\n" * 16,
    ).replace("    ret;", "$L__BB0_2:\n    shl.b32 %r2, %r1, 3;\n    bra.uni $L__BB0_1;")
    assert [access.conflict for access in banks.accesses(text, 64)] == [2]


@pytest.mark.parametrize(
    "arch, warps, registers, shared, expected",
    [  # by hand, from 64 Ki registers and the limits of each compute capability
        (90, 8, 199, 0, 1),  # 256·200 registers a block
        (90, 4, 128, 0, 4),
        (90, 1, 32, 0, 32),  # blocks
        (90, 4, 32, 100 * 1024, 2),  # shared memory
        (80, 4, 32, 81 * 1024, 2),
        (120, 4, 32, 49 * 1024, 2),
        (120, 16, 40, 0, 3),  # warps: 48
        (75, 8, 64, 0, 4),
    ],
)
def test_resident_blocks(arch, warps, registers, shared, expected):
    assert resident_blocks(arch, warps, registers, shared, 0) == expected


GOOD = {
    "kernel": "a_kernel", "label": "", "arch": 90, "registers": 64, "spilled": 0, "shared": 1024,
    "warps": 4, "blocks": 8, "precision": "ieee", "tensor_core": "", "conflict": 2, "unknown": 0,
}  # fmt: skip
WGMMA = "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32"


@pytest.mark.parametrize(
    "change, word",
    [
        ({"spilled": 8}, "spilled"),
        ({"shared": 228 * 1024}, "shared memory"),
        ({"blocks": 1}, "fewer than"),
        ({"conflict": 3}, "bank conflicts"),
        ({"unknown": 1}, "followed"),
        ({"tensor_core": WGMMA}, "float32 products"),
        ({"precision": "tf32"}, "tf32 products run as fma"),
        ({"precision": "tf32x3"}, "tf32x3 products run as fma"),
        ({"precision": "bf16", "tensor_core": WGMMA}, "bf16 products"),
        ({"precision": "bf16x6"}, "bf16x6 products run as fma"),
        ({"precision": "tf32", "arch": 100, "tensor_core": WGMMA}, "tf32 products"),
        ({"precision": "bf16x6", "kernel": "differences_kernel"}, "bf16x6 products run as fma"),
        ({"precision": "bf16x6", "arch": 75}, "no such instructions"),
        ({"refused": "no"}, "does not compile"),
    ],
)
def test_every_gate_can_fail(change, word):
    assert checks.problems(GOOD) == []  # 32 warps
    (problem,) = checks.problems(GOOD | change)
    assert word in problem


AMD = {
    "kernel": "a_kernel", "label": "", "arch": "gfx942", "wavefront": 64, "registers": 128,
    "spilled": 0, "spilled_registers": 0, "spilled_scalars": 64, "shared": 65536, "warps": 4,
    "blocks": 1, "precision": "ieee", "tensor_core": "v_mfma_f32_32x32x2_f32",
}  # fmt: skip


@pytest.mark.parametrize(
    "change, word",
    [
        ({"spilled": 4}, "4 bytes a thread"),
        ({"spilled_registers": 2}, "2 vector registers are spilled"),
        ({"spilled_scalars": 65}, "scalar registers"),
        ({"shared": 65537}, "LDS"),
        ({"blocks": 0}, "SIMD units idle"),
        ({"warps": 2}, "SIMD units idle"),
        ({"warps": 32}, "32 wavefronts of 64 threads"),
        ({"registers": 513}, "513 vector registers"),
        ({"arch": "gfx1100"}, "wavefronts of 64 threads, not 32"),
        ({"precision": "bf16"}, "bf16 products run as v_mfma_f32_32x32x2_f32"),
        ({"precision": "bf16x3", "tensor_core": ""}, "bf16x3 products run as fma"),
        ({"tensor_core": "v_mfma_f32_32x32x8_bf16"}, "float32 products"),
        ({"tensor_core": "v_mfma_f32_32x32x4_xf32"}, "float32 products"),
        ({"refused": "no"}, "does not compile"),
    ],
)
def test_every_gate_for_amd_can_fail(change, word):
    assert checks.problems(AMD) == []
    assert checks.problems(AMD | {"precision": "bf16", "tensor_core": "v_wmma_f32_bf16"}) == []
    (problem,) = checks.problems(AMD | change)
    assert word in problem


def test_what_amd_code_says_of_itself_is_read():
    """Of its description, not of a comment; the launch adds its own LDS to the code's."""
    text = """
        ; .vgpr_count: 7
        v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
        v_mfma_f32_32x32x8_bf16 a[0:15], v[4:5], v[6:7], a[0:15]
    amdhsa.kernels:
      - .agpr_count: 16
        .group_segment_fixed_size: 512
        .private_segment_fixed_size: 12
        .sgpr_count: 30
        .sgpr_spill_count: 3
        .vgpr_count: 100
        .vgpr_spill_count: 2
        .wavefront_size: 64
    """
    found = amd.counted({"arch": "gfx90a", "warps": 4, "shared": 1024}, text)
    assert found["registers"] == 100 and found["scalar_registers"] == 30
    assert (found["spilled"], found["spilled_registers"], found["spilled_scalars"]) == (12, 2, 3)
    assert (found["wavefront"], found["shared"], found["blocks"]) == (64, 1536, 4)
    assert found["tensor_core"] == "v_mfma_f32_32x32x8_bf16"


def test_the_amd_gpus_with_gates_are_those_that_may_be_asked_for():
    assert tuple(amd.COMPUTE_UNITS) == backends.AMD


compiled = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes the compiler's place"
)


@compiled
def test_launches_are_bound_as_on_a_gpu():
    """Sizes that 16 divides are marked, a size of one is a constant, and grids cover the batch."""
    launches = launches_of(Problem("loss", 1000, 48, 1))
    kernels = [launch.kernel for launch in launches]
    assert kernels[0] == "rows_kernel" and kernels[-1] == "finish_kernel"
    finish = launches[-1]
    assert finish.attributes["width"] == "D" and "batch" not in finish.attributes
    assert finish.types["k_total"] == "constexpr" and finish.constants["k_total"] == 1
    assert finish.types["out"] == "*fp32" and finish.attributes["out"] == "D"
    tile = finish.constants["BLOCK_B"], finish.constants["BLOCK_D"]
    assert finish.grid == (-(-1000 // tile[0]), -(-48 // tile[1]), 1)


@compiled
def test_every_form_of_a_kernel_has_a_name_of_its_own():
    launches = launches_of(HEADLINES[3])
    assert len(named(launches)) == len({launch.binary for launch in launches})
    assert len(named(launches)) < len(launches)


@compiled
def test_old_gpus_are_given_float32_arithmetic():
    """Whatever the matmul precision: compute capability 7.5 has neither TF32 nor bf16."""
    for precision in ("highest", "high", "medium"):
        launches = launches_of(Problem("loss", 64, 128, 10, precision=precision), arch=75)
        assert {x.constants.get("PRECISION", "ieee") for x in launches} == {"ieee"}
    newer = launches_of(Problem("loss", 64, 128, 10, precision="high"), arch=80)
    assert {"tf32", "bf16x6"} <= {x.constants.get("PRECISION") for x in newer}


def test_the_documentation_counts_the_launches_of_a_step():
    """Those of the shapes that it gives figures for, in the order of HEADLINES."""
    small, large, huge, wide = (len(launches_of(problem)) for problem in HEADLINES)
    root = Path(__file__).parents[2]
    page = " ".join((root / "docs/kernels/reversible-consistency.md").read_text().split())
    assert f"are {small} launches for B < D and {large} otherwise ({huge} where" in page
    assert f"D = 2,048 a step is {wide} launches" in page
    pending = (root / "benchmarks/PENDING_GPU.md").read_text()
    assert f"{small} for B < D, {large} for more rows, {wide} at C = 1,000" in pending


@compiled
@pytest.mark.parametrize("arch", amd.COMPUTE_UNITS)
def test_amd_is_launched_without_what_it_lacks(monkeypatch, arch):
    """TF32, float32 products out of six of bf16, and a limit of registers."""
    asked = {
        precision: launches_of(Problem("loss", 64, 128, 10, precision=precision), arch)
        for precision in ("highest", "high", "medium")
    }
    found = {
        precision: {launch.constants.get("PRECISION", "ieee") for launch in launches}
        for precision, launches in asked.items()
    }
    parts = set() if arch == "gfx1100" else {"bf16x3"}
    assert found == {"highest": {"ieee"}, "high": {"ieee"} | parts, "medium": {"ieee", "bf16"}}
    monkeypatch.setattr(rows, "register_limit", lambda *tile: {"maxnreg": 255})
    with pytest.raises(KeyError, match="maxnreg"):
        launches_of(Problem("loss", 64, 128, 10), arch)


def code(*lines: tuple[str, int]) -> list[sass.Instruction]:
    """Instructions with their stall counts, as cuobjdump prints them, without scoreboards."""
    text = ""
    for number, (line, stall) in enumerate(lines):
        control = stall | 7 << 5 | 7 << 8
        text += f"        /*{16 * number:04x}*/   {line} ;   /* 0x{0:016x} */\n"
        text += f"                            /* 0x{control << 41:016x} */\n"
    return sass.read(text)


COUNTING = code(
    ("LDC R1, c[0x0][0x210]", 1),
    ("MOV R2, RZ", 1),
    ("IADD3 R2, R2, 0x10, RZ", 4),
    ("ISETP.GE.AND P0, PT, R2, R1, PT", 4),
    ("FFMA R9, R9, R9, R9", 1),
    ("@!P0 BRA 0x20", 5),
    ("EXIT", 5),
)


@pytest.mark.parametrize("depth", [1, 16, 17, 160, 1000])
def test_a_loop_turns_as_often_as_its_size_says(depth):
    turns = -(-depth // 16)
    trace = sass.follow(COUNTING, {0x210: depth}, (0, 0, 0), keep=4)
    assert sum(trace.turns.values()) == max(0, turns - 4)
    assert trace.path.count(5) == min(turns, 4)


def test_a_loop_of_unknown_length_turns_once():
    trace = sass.follow(COUNTING, {}, (0, 0, 0), keep=4)
    assert trace.path.count(5) == 1 and not trace.turns


def test_numbers_of_64_bits_are_followed():
    """A carry, a wide product and a comparison of the upper halves, by hand."""
    thread = sass.Thread({}, (0, 0, 0))
    for line in (
        "MOV R4, 0xffffffff", "MOV R5, 0x1", "IADD3 R6, P0, R4, 0x2, RZ",
        "IADD3.X R7, R5, RZ, RZ, P0, !PT", "IMAD.WIDE.U32 R8, R4, 0x4, R6",
        "ISETP.GT.U32.AND P1, PT, R6, R4, PT", "ISETP.GT.AND.EX P1, PT, R7, R5, PT, P1",
        "LEA.HI R10, R4, R5, RZ, 0x4", "LOP3.LUT R11, R4, 0xf0, RZ, 0xc0, !PT",
        "SHF.R.S32.HI R12, RZ, 0x1f, R4", "IADD3 R13, R5, -R5, RZ",
    ):  # fmt: skip
        (instruction,) = code((line, 1))
        thread.step(instruction, True)
    assert thread.pair("R6") == 0x1FFFFFFFF + 2
    assert thread.pair("R8") == 0xFFFFFFFF * 4 + thread.pair("R6")
    assert thread.get("P1") == 1
    assert thread.get("R10") == 0xF + 1 and thread.get("R11") == 0xF0
    assert thread.get("R12") == 0xFFFFFFFF and thread.get("R13") == 0


def kernel(instructions: list[sass.Instruction], warps: int) -> model.Kernel:
    return model.Kernel({"warps": warps}, instructions)


def test_the_model_is_held_back_by_what_is_busy():
    """Eight warps are two a scheduler: 100 fused multiply-adds each take 200 cycles, whole-number
    additions at half the rate twice that; 16-byte loads share one path of four wavefronts each."""
    trace = sass.Trace(list(range(100)), {})
    for line, waves, least in (
        ("FFMA R1, R2, R3, R4", {}, 200),
        ("IADD3 R1, R2, R3, R4", {}, 400),
        ("LDS.128 R4, [R1]", dict.fromkeys(range(100), 4), 3200),
        ("LDS.128 R4, [R1]", dict.fromkeys(range(100), 16), 12800),
    ):
        cycles = model.simulate(kernel(code(*[(line, 1)] * 100), 8), trace, waves, 1)
        assert 0.99 * least <= cycles <= 1.05 * least + 20  # the last instruction need not end


def test_turns_left_out_take_what_those_simulated_take():
    whole = sass.follow(COUNTING, {0x210: 16 * 200}, (0, 0, 0), keep=1000)
    short = sass.follow(COUNTING, {0x210: 16 * 200}, (0, 0, 0), keep=8)
    one, other = (model.simulate(kernel(COUNTING, 4), t, {}, 2) for t in (whole, short))
    assert len(short.path) < len(whole.path) / 10
    assert other == pytest.approx(one, rel=0.02)


def test_wavefronts_come_from_the_addresses_of_a_warp():
    instructions = code(
        ("S2R R1, SR_TID.X", 1), ("IMAD.SHL.U32 R2, R1, 0x80, RZ", 4), ("LDS R3, [R2+0x10]", 1),
        ("IMAD.SHL.U32 R4, R1, 0x10, RZ", 4), ("LDS.128 R8, [R4]", 1),
        ("LDGSTS.E [R2+0x20], desc[UR4][R10.64]", 1), ("EXIT", 5),
    )  # fmt: skip
    found = sass.shared_addresses(instructions, list(range(7)), {}, (0, 0, 0))
    assert found[2] == [128 * lane + 16 for lane in range(32)]
    assert model.wavefronts(instructions, found) == {2: 32, 4: 4, 5: 32}
