"""What moves data: loads and stores, asynchronous copies, matrices of a warp, shuffles."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arithmetic import Step
from .memory import IN_FLIGHT, WRITTEN, close, winners
from .parse import Instruction, Unknown, address, immediate, vector
from .registers import CLASS_OF, Layout, guarded


def _lanes(s: Any, guard: int, negated: bool) -> np.ndarray:
    if guard < 0:
        return s.every
    return np.flatnonzero(s.pred[guard] != negated)


class Address:
    """``[register + offset]``, or a constant place in shared memory."""

    def __init__(self, operand: str, layout: Layout) -> None:
        base, self.offset = address(operand)
        if immediate(base) is not None:
            self.kind, self.row = "s32", layout.row(base, "u32")
        else:
            self.kind, self.row = layout.place(base)
            self.kind = {"b32": "s32", "b64": "s64"}[self.kind]

    def of(self, s: Any, lanes: np.ndarray) -> np.ndarray:
        values = getattr(s, self.kind)[self.row]
        if lanes is not s.every:
            values = values[lanes]
        return values.astype(np.int64) + self.offset


def settle(
    s: Any, first: np.ndarray, data: np.ndarray, lanes: np.ndarray, ins: Instruction
) -> np.ndarray:
    """What stays of a store by which several lanes write different numbers to one place.

    One warp's lanes: any of them. Lanes of several warps that hold copies of one number, apart by
    rounding: any of them too, but then which one depends on the timing, so it is noted.
    """
    other = winners(first)
    same_warp = s.thread[lanes] // 32 == s.thread[lanes[other]] // 32
    near = close(data, data[other]).all(1)
    apart = (data != data[other]).any(1)
    if (apart & near & ~same_warp).any():
        s.undecided.add((s.code.program.name, ins.source))
    return np.where((same_warp | near)[:, None], data[other], data)


def put_shared(
    s: Any, at: np.ndarray, data: np.ndarray, lanes: np.ndarray, ins: Instruction
) -> None:
    """Stores (lanes, k) numbers at shared addresses."""
    size = data.dtype.itemsize * data.shape[1]
    s.shared.check(at, size, ins)
    flat = at + s.shared_base[lanes]
    places = s.shared.places(flat, size)
    s.shared.check_writable(places, ins)
    width = data.dtype.itemsize
    words, index = s.shared.words[width], (flat // width)[:, None] + np.arange(data.shape[1])
    words[index] = data
    if (words[index] != data).any():
        data = settle(s, flat, data, lanes, ins)
    s.log(s.shared, True, places, lanes, data, ins)
    s.shared.state[places] = WRITTEN


def get_shared(
    s: Any, at: np.ndarray, width: int, count: int, lanes: np.ndarray, ins: Instruction
) -> np.ndarray:
    s.shared.check(at, width * count, ins)
    flat = at + s.shared_base[lanes]
    places = s.shared.places(flat, width * count)
    s.shared.check_readable(places, ins)
    s.log(s.shared, False, places, lanes, None, ins)
    return s.shared.words[width][(flat // width)[:, None] + np.arange(count)]


def put_global(
    s: Any, at: np.ndarray, data: np.ndarray, lanes: np.ndarray, ins: Instruction
) -> None:
    width, count = data.dtype.itemsize, data.shape[1]
    whole = s.memory.resolve(at.view(np.uint64), width * count, lanes, True, ins)
    for allocation, offset, some in whole:
        part = data if some is lanes else data[np.searchsorted(lanes, some)]
        places = allocation.places(offset, width * count)
        allocation.touch(places, s.block[some], True, ins)
        words, index = allocation.words[width], (offset // width)[:, None] + np.arange(count)
        words[index] = part
        if (words[index] != part).any():
            part = settle(s, offset, part, some, ins)
        s.log(allocation, True, places, some, part, ins)


def get_global(
    s: Any, at: np.ndarray, width: int, count: int, lanes: np.ndarray, ins: Instruction
) -> np.ndarray:
    out = np.empty((len(lanes), count), f"u{width}")
    whole = s.memory.resolve(at.view(np.uint64), width * count, lanes, False, ins)
    for allocation, offset, some in whole:
        if allocation.tracked:
            places = allocation.places(offset, width * count)
            s.log(allocation, False, places, some, None, ins)
            allocation.touch(places, s.block[some], False, ins)
        values = allocation.words[width][(offset // width)[:, None] + np.arange(count)]
        if some is lanes:
            return values
        out[np.searchsorted(lanes, some)] = values
    return out


def build(ins: Instruction, layout: Layout) -> Step | None:
    head = ins.opcode.split(".")[0]
    if ins.opcode.startswith("ld.param."):
        return _parameter(ins, layout)
    if head in ("ld", "st"):
        return _load_or_store(ins, layout)
    if ins.opcode.startswith("cp.async."):
        return _copy(ins, layout)
    if head in ("ldmatrix", "stmatrix"):
        return _matrix(ins, layout)
    if head == "shfl":
        return _shuffle(ins, layout)
    return None


def _parameter(ins: Instruction, layout: Layout) -> Step:
    kind = ins.opcode.removeprefix("ld.param.")
    to, (name, offset) = ins.operands[0], address(ins.operands[1])
    if ins.guard or offset or kind not in CLASS_OF:
        raise Unknown(str(ins))
    source = layout.parameter(name, kind)
    bank, d = layout.place(to)
    if CLASS_OF[kind] != bank:  # into a wider register: by its sign
        kind, bank = (kind, f"{kind[0]}{bank[1:]}") if kind[0] in "su" else ("", "")
        if not kind:
            raise Unknown(str(ins))

    def step(s: Any) -> None:
        getattr(s, bank)[d][:] = getattr(s, kind)[source]

    return step


def _load_or_store(ins: Instruction, layout: Layout) -> Step:
    m = re.fullmatch(
        r"(ld|st)\.(global|shared)(?:::cta)?(?:\.L1::\w+|\.L2::\w+)*(?:\.v([24]))?\.([bsuf])(8|16|32|64)",
        ins.opcode,
    )
    if not m:
        raise Unknown(str(ins))
    loads, to_global, width = m[1] == "ld", m[2] == "global", int(m[5]) // 8
    registers, place = ins.operands if loads else reversed(ins.operands)
    names = vector(registers)
    if len(names) != int(m[3] or 1):
        raise Unknown(str(ins))
    at, guard, negated = Address(place, layout), guarded(ins, layout), ins.negated
    if loads:
        rows = [layout.place(name) for name in names]
        if m[4] == "s" and any(int(bank[1:]) != 8 * width for bank, _ in rows):
            raise Unknown(str(ins))
        get = get_global if to_global else get_shared

        def step(s: Any) -> None:
            lanes = _lanes(s, guard, negated)
            values = get(s, at.of(s, lanes), width, len(names), lanes, ins)
            for i, (bank, row) in enumerate(rows):
                getattr(s, bank)[row][lanes] = values[:, i]
    else:
        # a literal number is as wide as what is stored; 8 bits stand in a register of 16
        wide = f"b{max(16, 8 * width)}"
        rows = [
            layout.place(n) if immediate(n) is None else (wide, layout.row(n, wide)) for n in names
        ]
        put = put_global if to_global else put_shared
        dtype = np.dtype(f"u{width}")

        def step(s: Any) -> None:
            lanes = _lanes(s, guard, negated)
            data = np.empty((len(lanes), len(names)), dtype)
            for i, (bank, row) in enumerate(rows):
                data[:, i] = getattr(s, bank)[row][lanes].astype(dtype)
            put(s, at.of(s, lanes), data, lanes, ins)

    return step


# --- cp.async


@dataclass
class Copy:
    """A copy that was issued and not waited for: what will be at the flat addresses."""

    flat: np.ndarray
    data: np.ndarray  # (lanes, bytes / 4) numbers of 4 bytes
    lanes: np.ndarray
    ins: Instruction

    def of(self, kept: np.ndarray) -> Copy:
        """That of some lanes, which are numbered anew (−1 for those that are left out)."""
        here = kept[self.lanes] >= 0
        return replace(
            self, flat=self.flat[here], data=self.data[here], lanes=kept[self.lanes[here]]
        )

    def finish(self, s: Any) -> None:
        places = s.shared.places(self.flat, 4 * self.data.shape[1])
        s.log(s.shared, True, places, self.lanes, self.data, self.ins)
        s.shared.words[4][(self.flat // 4)[:, None] + np.arange(self.data.shape[1])] = self.data
        s.shared.state[places] = WRITTEN


def group(ins: Instruction, which: str) -> Step:
    """Ends a group of ``s.<which>`` or, as its operand says, waits for all but the last so many."""
    if "commit_group" in ins.opcode:
        return lambda s: getattr(s, which).append([])
    keep = immediate(ins.operands[0])
    if keep is None:
        raise Unknown(str(ins))

    def wait(s: Any) -> None:
        groups = getattr(s, which)
        while len(groups) > keep + 1:  # the last list is the group that is not committed yet
            for one in groups.pop(0):
                one.finish(s)

    return wait


def _copy(ins: Instruction, layout: Layout) -> Step:
    if ins.opcode in ("cp.async.commit_group", "cp.async.wait_group") and not ins.guard:
        return group(ins, "copies")
    m = re.fullmatch(r"cp\.async\.(ca|cg)\.shared\.global(\.L2::\w+)?", ins.opcode)
    size = immediate(ins.operands[2]) if m else None
    if size not in (4, 8, 16):
        raise Unknown(str(ins))
    to, source = Address(ins.operands[0], layout), Address(ins.operands[1], layout)
    guard, negated = guarded(ins, layout), ins.negated
    filled = layout.row(ins.operands[3], "u32") if len(ins.operands) > 3 else -1

    def issue(s: Any) -> None:
        lanes = _lanes(s, guard, negated)
        at = to.of(s, lanes)
        s.shared.check(at, size, ins)
        reading = np.full(len(lanes), True)
        if filled >= 0:
            asked = s.u32[filled][lanes]
            reading = asked == size
            if (~reading & (asked != 0)).any():
                raise Unknown(f"{ins}: a part of {size} bytes")
        data = np.zeros((len(lanes), size // 4), np.uint32)
        if reading.any():
            here = lanes[reading]
            data[reading] = get_global(s, source.of(s, here), 4, size // 4, here, ins)
            # together: hardware asks for the alignment of the whole
            list(s.memory.resolve(source.of(s, here).view(np.uint64), size, here, False, ins))
        flat = at + s.shared_base[lanes]
        places = s.shared.places(flat, size)
        s.shared.check_writable(places, ins)
        s.log(s.shared, True, places, lanes, data, ins)
        s.shared.state[places] = IN_FLIGHT
        s.copies[-1].append(Copy(flat, data, lanes, ins))

    return issue


# --- matrices and shuffles


def _matrix(ins: Instruction, layout: Layout) -> Step:
    m = re.fullmatch(
        r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16", ins.opcode
    )
    if not m or ins.guard:
        raise Unknown(str(ins))
    loads, trans = m[1] == "ld", bool(m[3])
    registers, place = ins.operands if loads else reversed(ins.operands)
    rows = [layout.row(name, "b32") for name in vector(registers)]
    if len(rows) != int(m[2]):
        raise Unknown(str(ins))
    at = Address(place, layout)
    lane = np.arange(32)
    # which of the eight rows of a matrix a lane's two halves lie in, and at which byte
    if trans:
        halves = [(2 * (lane % 4) + half, 2 * (lane // 4)) for half in (0, 1)]
    else:
        halves = [(lane // 4, 4 * (lane % 4) + 2 * half) for half in (0, 1)]

    def step(s: Any) -> None:
        addresses = at.of(s, s.every).reshape(-1, 32)
        if (addresses[:, : 8 * len(rows)] % 16).any():
            s.shared.check(np.array([1]), 16, ins)
        for i, row in enumerate(rows):
            matrix = addresses[:, 8 * i : 8 * i + 8]
            if trans:
                parts = [(matrix[:, r] + byte).ravel() for r, byte in halves]
                if loads:
                    both = [get_shared(s, part, 2, 1, s.every, ins)[:, 0] for part in parts]
                    s.b32[row][:] = np.stack(both, 1).view(np.uint32)[:, 0]
                else:
                    both = s.b32[row].view(np.uint16).reshape(-1, 2)
                    for half, part in enumerate(parts):
                        put_shared(s, part, both[:, half : half + 1].copy(), s.every, ins)
                continue
            words = (matrix[:, halves[0][0]] + halves[0][1]).ravel()
            if loads:
                s.b32[row][:] = get_shared(s, words, 4, 1, s.every, ins)[:, 0]
            else:
                put_shared(s, words, s.b32[row][:, None].copy(), s.every, ins)

    return step


def _shuffle(ins: Instruction, layout: Layout) -> Step:
    m = re.fullmatch(r"shfl\.sync\.(bfly|idx)\.b32", ins.opcode)
    clamp, members = (immediate(ins.operands[i]) for i in (3, 4))
    if not m or ins.guard or clamp != 31 or members not in (-1, 0xFFFFFFFF):
        raise Unknown(str(ins))
    to, _, valid = ins.operands[0].partition("|")
    d, source, by = (
        layout.row(operand, "u32") for operand in (to, ins.operands[1], ins.operands[2])
    )
    flag = layout.row(valid, "pred") if valid else -1
    crosses = m[1] == "bfly"

    def step(s: Any) -> None:
        amount = (s.u32[by] & np.uint32(31)).astype(np.int64)
        other = s.lane ^ amount if crosses else amount
        s.u32[d][:] = s.u32[source][s.every - s.lane + other]
        if flag >= 0:
            s.pred[flag][:] = True

    return step
