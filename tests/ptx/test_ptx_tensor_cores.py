"""The PTX runner's tensor-core instructions against plain products of plain matrices.

The matrices are laid into registers here by the manual's tables, written out lane by lane, and into
shared memory by its canonical layouts, element by element.
"""

# ruff: noqa: E501 (lines of assembler)

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from ptx.test_ptx_instructions import run

LOAD = "mul.lo.s32 %r290, %r0, {size}; cvt.s64.s32 %rd40, %r290; add.s64 %rd41, {base}, %rd40;"


def to_bits(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f64":
        return values.astype(np.float64).view(np.uint64)
    tensor = torch.from_numpy(values.astype(np.float32))
    if kind == "tf32":
        return values.astype(np.float32).view(np.uint32)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16
    return tensor.to(dtype).view(torch.int16).numpy().view(np.uint16)


def small(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Whole numbers that every format holds, so that products are exact."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float64)


def lay_out(matrix: np.ndarray, kind: str, places) -> torch.Tensor:
    """(32 lanes, registers) from ``places(lane, register, half) → index``."""
    bits = to_bits(matrix, kind)
    halves = 2 if kind in ("bf16", "f16") else 1
    count = matrix.size // 32 // halves
    out = np.zeros((32, count, halves), bits.dtype)
    for lane, register, half in itertools.product(range(32), range(count), range(halves)):
        out[lane, register, half] = bits[places(lane, register, half)]
    return torch.from_numpy(out.reshape(32, -1).view(np.uint8).copy())


MMA = [
    (8, 4, "f64"), (16, 4, "f64"), (16, 8, "f64"), (16, 16, "f64"), (16, 4, "tf32"), (16, 8, "tf32"),
    (16, 8, "bf16"), (16, 16, "bf16"), (16, 16, "f16"),
]  # fmt: skip


@pytest.mark.parametrize("m, k, kind", MMA)
def test_mma_multiplies(m, k, kind):
    a, b, c = small((m, k), 1), small((k, 8), 2), small((m, 8), 3)
    per = 2 if kind in ("bf16", "f16") else 1  # numbers side by side in a register
    rows = m // 8

    def place_a(lane, i, h):
        return lane // 4 + 8 * (i % rows), lane % 4 * per + h + 4 * per * (i // rows)

    def place_b(lane, i, h):
        return lane % 4 * per + h + 4 * per * i, lane // 4

    def place_c(lane, i, h):
        return lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2

    total = "f64" if kind == "f64" else "f32"
    width = 8 if kind == "f64" else 4
    memory = [lay_out(a, kind, place_a), lay_out(b, kind, place_b)]
    memory.append(lay_out(c, "f64" if kind == "f64" else "tf32", place_c))
    lines, names = [], []
    first = 1
    for i, fragment in enumerate(memory):
        lines.append(LOAD.format(size=fragment.shape[1], base=f"%rd{60 + i}"))
        count = fragment.shape[1] // width
        prefix = "%rd" if width == 8 else "%r"
        names.append([f"{prefix}{first + n}" for n in range(count)])
        first += count
        lines += [
            f"ld.global.b{8 * width} {name}, [%rd41+{n * width}];"
            for n, name in enumerate(names[-1])
        ]
    vectors = ["{" + ", ".join(n) + "}" for n in names]
    kinds = f"{total}.{kind}.{kind}.{total}"
    lines.append(
        f"mma.sync.aligned.m{m}n8k{k}.row.col.{kinds} {vectors[2]}, {vectors[0]}, {vectors[1]}, {vectors[2]};"
    )
    lines.append(LOAD.format(size=memory[2].shape[1], base="%rd62"))
    lines += [
        f"st.global.b{8 * width} [%rd41+{n * width}], {name};" for n, name in enumerate(names[2])
    ]
    run("\n".join(lines), *memory)
    expected = lay_out(a @ b + c, "f64" if kind == "f64" else "tf32", place_c)
    assert torch.equal(memory[2], expected)


def test_tf32_operands_lose_their_last_bits():
    one = (np.float32(1) + np.float32(2.0**-11)).astype(np.float32)
    memory = torch.zeros(32, 4)
    ones = " ".join(f"mov.b32 %r{i}, {int(one.view(np.uint32))};" for i in range(1, 7))
    run(ones + "mov.b32 %r7, 0; mov.b32 %r8, 0; mov.b32 %r9, 0; mov.b32 %r10, 0;"
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r7,%r8,%r9,%r10}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r8,%r9,%r10};"
        "mul.wide.u32 %rd1, %r0, 16; add.s64 %rd2, %rd60, %rd1; st.global.v4.b32 [%rd2], {%r7,%r8,%r9,%r10};",
        memory)  # fmt: skip
    assert (memory == 8).all()


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_matrices_go_to_registers_and_back(trans):
    matrices = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    source, loaded = (
        torch.from_numpy(matrices.view(np.uint8).copy()),
        torch.zeros(32, 4, dtype=torch.int32),
    )
    back = torch.zeros(4 * 64, dtype=torch.int16)
    # lane i brings row i of the four matrices to shared memory, and names it
    run("mul.wide.u32 %rd1, %r0, 16; add.s64 %rd2, %rd60, %rd1; ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%rd2];"
        "shl.b32 %r5, %r0, 4; st.shared.v4.b32 [%r5], {%r1,%r2,%r3,%r4}; bar.sync 0;"
        f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r6,%r7,%r8,%r9}}, [%r5]; bar.sync 0;"
        "add.s64 %rd3, %rd61, %rd1; st.global.v4.b32 [%rd3], {%r6,%r7,%r8,%r9};"
        f"stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r5+512], {{%r6,%r7,%r8,%r9}}; bar.sync 0;"
        "ld.shared.v4.b32 {%r1,%r2,%r3,%r4}, [%r5+512]; add.s64 %rd4, %rd62, %rd1;"
        "st.global.v4.b32 [%rd4], {%r1,%r2,%r3,%r4};", source, loaded, back, shared=1024)  # fmt: skip
    got = loaded.numpy().view(np.uint16).reshape(32, 4, 2)
    for lane, i, h in itertools.product(range(32), range(4), range(2)):
        row, column = lane // 4, lane % 4 * 2 + h
        assert got[lane, i, h] == (matrices[i].T if trans else matrices[i])[row, column]
    np.testing.assert_array_equal(back.numpy().view(np.uint16).reshape(4, 8, 8), matrices)


def shared_image(matrix: np.ndarray, kind: str, width: int, mn_major: bool):
    """An operand (M or N, K) in shared memory by the canonical layout of a swizzle, as bytes, and
    its descriptor at address 0.

    With ``width`` bytes a row: eight rows make an atom, atoms follow one another. 16-byte units of
    a row are exchanged by the row's number.
    """
    bits = to_bits(matrix, kind)
    size = bits.dtype.itemsize
    count, depth = matrix.shape
    each = width // size
    mode = {128: 1, 64: 2, 32: 3}[width]
    if mn_major:  # rows of ``each`` numbers of M or N; K goes down
        lines, strips = depth, -(-count // each)
    else:
        lines, strips = count, -(-depth // each)
    atoms = lines // 8
    image = np.zeros(strips * atoms * 8 * width, np.uint8)
    for n, k in itertools.product(range(count), range(depth)):
        line, along = (k, n) if mn_major else (n, k)
        strip, within = divmod(along, each)
        at = strip * atoms * 8 * width + line * width + within * size
        unit = (at >> 4) ^ ((at >> 7) & {128: 7, 64: 3, 32: 1}[width])
        at = (unit << 4) | (at & 15)
        image[at : at + size] = bits[n : n + 1, k].view(np.uint8)
    stride, leading = 8 * width, atoms * 8 * width
    return image, mode << 62 | (stride >> 4) << 32 | (leading >> 4) << 16


WGMMA = [
    (kind, width, a_mn, b_mn, from_registers)
    for kind, width in (("tf32", 128), ("tf32", 32), ("bf16", 128), ("bf16", 64), ("bf16", 32), ("f16", 128))
    for a_mn, b_mn, from_registers in itertools.product((0, 1), repeat=3)
    # TF32 has one order, and so has an operand in registers
    if not (kind == "tf32" and (a_mn or b_mn)) and not (from_registers and a_mn)
]  # fmt: skip


@pytest.mark.parametrize("kind, width, a_mn, b_mn, from_registers", WGMMA)
def test_wgmma_multiplies(kind, width, a_mn, b_mn, from_registers):
    n, k = 64, 8 if kind == "tf32" else 16
    a, b, c = small((64, k), 4), small((n, k), 5), small((64, n), 6)
    a_image, a_descriptor = shared_image(a, kind, width, bool(a_mn))
    b_image, b_descriptor = shared_image(b, kind, width, bool(b_mn))
    per = 1 if kind == "tf32" else 2

    def place_c(warp, lane, i):
        return 16 * warp + lane // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (lane % 4) + i % 2

    c_lanes = torch.tensor(
        [[c[place_c(w, lane, i)] for i in range(n // 2)] for w in range(4) for lane in range(32)]
    ).float()
    a_lanes = torch.cat([
        lay_out(a[16 * w : 16 * w + 16], kind, lambda lane, i, h: (
            lane // 4 + 8 * (i % 2), lane % 4 * per + h + 4 * per * (i // 2)))
        for w in range(4)
    ])  # fmt: skip
    lines = [
        # the operands to shared memory, B behind A, 4 bytes a thread and step
        *(
            f"mul.lo.s32 %r280, %r0, 4; add.s32 %r280, %r280, {at}; setp.lt.s32 %p5, %r280, {len(image)};"
            f"cvt.s64.s32 %rd30, %r280; add.s64 %rd31, %rd{60 + i}, %rd30;"
            f"@%p5 ld.global.b32 %r281, [%rd31]; @%p5 st.shared.b32 [%r280+{base}], %r281;"
            for i, (image, base) in enumerate(((a_image, 0), (b_image, 16384)))
            for at in range(0, len(image), 512)
        ),
        LOAD.format(size=a_lanes.shape[1], base="%rd63"),
        *(f"ld.global.b32 %r{250 + i}, [%rd41+{4 * i}];" for i in range(4)),
        LOAD.format(size=2 * n, base="%rd62"),
        *(f"ld.global.b32 %r{1 + i}, [%rd41+{4 * i}];" for i in range(n // 2)),
        f"mov.b64 %rd1, {a_descriptor}; mov.b64 %rd2, {b_descriptor | 16384 >> 4};",
        "fence.proxy.async.shared::cta; bar.sync 0; wgmma.fence.sync.aligned; mov.pred %p1, -1;",
    ]
    d = "{" + ",".join(f"%r{1 + i}" for i in range(n // 2)) + "}"
    left = "{%r250,%r251,%r252,%r253}" if from_registers else "%rd1"
    orders = "" if kind == "tf32" else f", {b_mn}" if from_registers else f", {a_mn}, {b_mn}"
    lines += [
        f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{kind}.{kind} {d}, {left}, %rd2, %p1, 1, 1{orders};",
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        *(f"st.global.b32 [%rd41+{4 * i}], %r{1 + i};" for i in range(n // 2)),
    ]
    run("\n".join(lines), torch.from_numpy(a_image), torch.from_numpy(b_image), c_lanes, a_lanes,
        threads=128, shared=32768)  # fmt: skip
    total = a @ b.T + c
    expected = [
        [total[place_c(w, lane, i)] for i in range(n // 2)] for w in range(4) for lane in range(32)
    ]
    assert c_lanes.double().tolist() == expected


def test_shared_memory_may_not_be_written_while_wgmma_reads_it():
    from ptx.memory import Fault

    fill = "shl.b32 %r280, %r0, 4; " + " ".join(
        f"st.shared.v4.b32 [%r280+{at}], {{%r0,%r0,%r0,%r0}};" for at in range(0, 8192, 2048)
    )
    descriptor = 1 << 62 | 64 << 32
    d = "{" + ",".join(f"%r{1 + i}" for i in range(4)) + "}"
    product = (
        f"mov.b64 %rd1, {descriptor}; mov.pred %p1, 0; bar.sync 0;"
        f"wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {d}, %rd1, %rd1, %p1, 1, 1;"
        "wgmma.commit_group.sync.aligned;"
    )
    wait, store = "wgmma.wait_group.sync.aligned 0;", "st.shared.b32 [%r280], %r0;"
    run(fill + product + wait + "bar.sync 0;" + store, torch.zeros(4), threads=128, shared=8192)
    for body in (product + store + wait, product + wait + store, product):
        with pytest.raises(Fault, match=r"race within a block|in flight"):
            run(fill + body, torch.zeros(4), threads=128, shared=8192)
