"""Products on the tensor cores: ``mma.sync`` of a warp, ``wgmma`` of four.

Products of operands are exact in float64, and a sum is rounded once an instruction; a chip may
round otherwise, the manual does not say how. TF32 operands lose their last 13 bits, as on a chip.
What a ``wgmma`` computes is there at once, though it may be used after its wait only; its operands
in shared memory are held until then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arithmetic import Step, bf16_values
from .parse import Instruction, Unknown, immediate, vector
from .registers import Layout
from .transfers import group


def build(ins: Instruction, layout: Layout) -> Step | None:
    if ins.opcode.startswith("mma."):
        return _mma(ins, layout)
    if ins.opcode.startswith("wgmma."):
        return _wgmma(ins, layout)
    return None


# --- fragments: in which row and column of a matrix a lane's i-th register lies


class Fragment:
    """Rows and columns (registers, lanes, numbers a register) of one operand of a warp."""

    def __init__(self, rows: Any, columns: Any, kind: str) -> None:
        self.rows, self.columns = np.broadcast_arrays(np.asarray(rows), np.asarray(columns))
        self.kind = kind

    def gather(self, s: Any, registers: list[int], shape: tuple[int, int]) -> np.ndarray:
        """The matrices (warps, *shape) in float64."""
        out = np.empty((s.lanes // 32, *shape))
        for i, register in enumerate(registers):
            for h in range(self.rows.shape[2]):
                values = numbers(s, register, self.kind, h).reshape(-1, 32)
                out[:, self.rows[i, :, h], self.columns[i, :, h]] = values
        return out

    def scatter(self, s: Any, registers: list[int], matrices: np.ndarray) -> None:
        for i, register in enumerate(registers):
            values = matrices[:, self.rows[i, :, 0], self.columns[i, :, 0]]
            getattr(s, self.kind)[register][:] = values.ravel()


def numbers(s: Any, register: int, kind: str, half: int) -> np.ndarray:
    """What a register holds as an operand: all of it, or one of two halves."""
    if kind in ("f32", "f64"):
        return getattr(s, kind)[register]
    if kind == "tf32":
        return (s.b32[register] & np.uint32(0xFFFFE000)).view(np.float32)
    return sixteen_bits(s.b32[register].view(np.uint16)[half::2], kind)


def sixteen_bits(bits: np.ndarray, kind: str) -> np.ndarray:
    return bf16_values(bits) if kind == "bf16" else bits.view(np.float16)


LANE = np.arange(32)[None, :, None]
GROUP, IN_GROUP = LANE // 4, LANE % 4


def left_fragment(registers: int, height: int, kind: str) -> Fragment:
    """A (height, depth): of two numbers of 16 bits side by side, or of one number."""
    i, halves = np.arange(registers)[:, None, None], np.arange(2 if kind in ("bf16", "f16") else 1)
    up = height // 8
    columns = IN_GROUP * len(halves) + 4 * len(halves) * (i // up) + halves
    return Fragment(GROUP + 8 * (i % up), columns, kind)


def right_fragment(registers: int, kind: str) -> Fragment:
    """B (depth, 8), column by column."""
    i, halves = np.arange(registers)[:, None, None], np.arange(2 if kind in ("bf16", "f16") else 1)
    return Fragment(IN_GROUP * len(halves) + 4 * len(halves) * i + halves, GROUP, kind)


def sum_fragment(registers: int, kind: str) -> Fragment:
    """C and D (height, width) in strips of 8 columns."""
    i = np.arange(registers)[:, None, None]
    if registers == 2:
        return Fragment(GROUP, 2 * IN_GROUP + i, kind)
    return Fragment(GROUP + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * IN_GROUP + i % 2, kind)


def _mma(ins: Instruction, layout: Layout) -> Step:
    m = re.fullmatch(
        r"mma\.sync\.aligned\.m(8|16)n8k(4|8|16)\.row\.col\.(f32|f64)\.(tf32|bf16|f16|f64)\.\4\.\3",
        ins.opcode,
    )
    if not m or ins.guard:
        raise Unknown(str(ins))
    height, depth, to, kind = int(m[1]), int(m[2]), m[3], m[4]
    each = 2 if kind in ("bf16", "f16") else 1
    counts = [height // 4, height * depth // 32 // each, depth // 4 // each, height // 4]
    operands = [vector(operand) for operand in ins.operands]
    if [len(names) for names in operands] != counts or (to == "f64") != (kind == "f64"):
        raise Unknown(str(ins))
    place = "f64" if kind == "f64" else "b32"
    d, c = ([layout.row(name, to) for name in operands[i]] for i in (0, 3))
    a, b = ([layout.row(name, place) for name in operands[i]] for i in (1, 2))
    left, right = left_fragment(len(a), height, kind), right_fragment(len(b), kind)
    total = sum_fragment(len(c), to)

    def step(s: Any) -> None:
        product = left.gather(s, a, (height, depth)) @ right.gather(s, b, (depth, 8))
        total.scatter(s, d, total.gather(s, c, (height, 8)) + product)

    return step


# --- wgmma


@dataclass
class Reads:
    """Shared memory that a product still reads."""

    places: np.ndarray  # (warp groups, n)
    lanes: np.ndarray  # the first of every warp group
    ins: Instruction

    def of(self, kept: np.ndarray) -> Reads:
        here = kept[self.lanes] >= 0
        return replace(self, places=self.places[here], lanes=kept[self.lanes[here]])

    def finish(self, s: Any) -> None:
        s.shared.held[self.places] -= 1
        s.log(s.shared, False, self.places, self.lanes, None, self.ins)


def operand_bytes(descriptor: int, count: int, depth: int, size: int, mn_major: bool) -> np.ndarray:
    """Addresses (count, depth) of the numbers of ``size`` bytes that a descriptor tells of.

    Without the swizzling; ``count`` is M or N. Rows of K, or with ``mn_major`` of M or N, lie in
    strips as wide as the swizzle, eight strips one below the other, and then the two strides.
    """
    start, leading, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    width = {0: 16, 1: 128, 2: 64, 3: 32}[descriptor >> 62]
    n, k = np.arange(count)[:, None], np.arange(depth)[None, :]
    if descriptor >> 49 & 7:
        raise Unknown("wgmma: a base offset")
    if mn_major:
        if width == 16:
            return start + n * size % 16 + n * size // 16 * stride + k % 8 * 16 + k // 8 * leading
        return (
            start + n * size % width + n * size // width * leading + k % 8 * width + k // 8 * stride
        )
    if width == 16:
        return start + n % 8 * 16 + n // 8 * stride + k * size % 16 + k * size // 16 * leading
    return start + n % 8 * width + n // 8 * stride + k * size


def swizzled(at: np.ndarray, descriptor: int) -> np.ndarray:
    mask = {0: 0, 1: 7, 2: 3, 3: 1}[descriptor >> 62]
    return at ^ ((at >> 7 & mask) << 4)


def _from_shared(
    s: Any, row: int, count: int, depth: int, kind: str, mn_major: bool, ins: Instruction
) -> np.ndarray:
    """An operand (warp groups, count, depth) in float64, checked and held."""
    groups = s.u64[row].reshape(-1, 128)
    if (groups != groups[:, :1]).any():
        raise Unknown(f"{ins}: descriptors differ in a warp group")
    size = 4 if kind == "tf32" else 2
    layouts = {}
    for descriptor in set(groups[:, 0].tolist()):
        at = swizzled(operand_bytes(descriptor, count, depth, size, mn_major), descriptor)
        layouts[descriptor] = at
    at = np.stack([layouts[descriptor] for descriptor in groups[:, 0].tolist()])
    s.shared.check(at.ravel(), size, ins)
    first = np.arange(0, s.lanes, 128)
    flat = (at + s.shared_base[first][:, None, None]).reshape(len(groups), -1)
    places = s.shared.places(flat.ravel(), size).reshape(len(groups), -1)
    s.shared.check_readable(places, ins)
    s.log(s.shared, False, places, first, None, ins)
    s.shared.held[places] += 1
    s.products[-1].append(Reads(places, first, ins))
    bits = s.shared.words[size][flat // size]
    if kind == "tf32":
        values = (bits & np.uint32(0xFFFFE000)).view(np.float32)
    else:
        values = sixteen_bits(bits, kind)
    return values.astype(np.float64).reshape(-1, count, depth)


def _wgmma(ins: Instruction, layout: Layout) -> Step:
    if ins.opcode in ("wgmma.commit_group.sync.aligned", "wgmma.wait_group.sync.aligned"):
        return group(ins, "products")
    m = re.fullmatch(
        r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(8|16)\.f32\.(tf32|bf16|f16)\.\3", ins.opcode
    )
    if not m or ins.guard:
        raise Unknown(str(ins))
    width, depth, kind = int(m[1]), int(m[2]), m[3]
    in_registers = ins.operands[1].startswith("{")
    scales = [immediate(operand) for operand in ins.operands[4:]]
    # without a descriptor of A there is no order of A to tell; TF32 has one order only
    orders = 0 if kind == "tf32" else 1 if in_registers else 2
    if scales[:2] != [1, 1] or len(scales) != 2 + orders or depth != (8 if kind == "tf32" else 16):
        raise Unknown(str(ins))
    a_mn, b_mn = ([False, False, *map(bool, scales[2:])])[-2:]
    a_mn = a_mn and not in_registers
    d = [layout.row(name, "f32") for name in vector(ins.operands[0])]
    if len(d) != width // 2:
        raise Unknown(str(ins))
    if in_registers:
        a = [layout.row(name, "b32") for name in vector(ins.operands[1])]
        left = left_fragment(len(a), 16, kind)
    else:
        a, left = [layout.row(ins.operands[1], "u64")], None
    b, added = layout.row(ins.operands[2], "u64"), layout.row(ins.operands[3], "pred")
    total = sum_fragment(len(d), "f32")

    def step(s: Any) -> None:
        if left is not None:
            rows = left.gather(s, a, (16, depth)).reshape(-1, 64, depth)
        else:
            rows = _from_shared(s, a[0], 64, depth, kind, a_mn, ins)
        columns = _from_shared(s, b, width, depth, kind, b_mn, ins)
        product = (rows @ columns.transpose(0, 2, 1)).reshape(-1, 16, width)
        before = total.gather(s, d, (16, width))
        keep = s.pred[added].reshape(-1, 32)[:, :1, None]
        total.scatter(s, d, np.where(keep, before, 0.0) + product)

    return step
