"""Shared-memory bank conflicts, counted from PTX.

Addresses in shared memory depend on a thread's number and on constants alone, so the whole-number
instructions are carried out for every thread of a block, in the order of the text, and each access
is dealt out to the 32 banks of four bytes. A value that depends on anything else is unknown; of a
choice by an unknown condition the first known side is taken (the stages of a pipelined loop lie
apart by whole tiles, which moves no bank).

The hardware serves 128 bytes a wavefront: a warp's accesses of 4 bytes a thread at once, of 8 bytes
by half warps, of 16 bytes and of matrices by 8 threads. Threads that want the same word share it,
and where neighbours (or next neighbours) want the same, twice the threads are served at once. A
conflict is n-way when one bank has to give n different words in such a group.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

Values = np.ndarray | None  # of every thread; None is unknown

LABEL = re.compile(r"(\$\w+):")
BRANCH = re.compile(r"bra(?:\.uni)?\s+(\$\w+)")
ACCESS = re.compile(r"(ld|st)\.shared|ldmatrix|stmatrix|cp\.async\.c[ag]\.shared")
PRODUCT = re.compile(r"fma\.rn|mma\.|dp4a")


class Access(NamedTuple):
    """One instruction on shared memory, over all warps of a block."""

    instruction: str
    loop: int  # the innermost loop around it; -1 for none
    conflict: int  # n-way, the worst of its groups; 0 where the address is unknown
    wavefronts: int  # a warp, on average rounded up


class Loop(NamedTuple):
    first: int
    last: int


def accesses(ptx: str, threads: int) -> list[Access]:
    """Every access to shared memory in the text of one kernel."""
    lines = [_clean(line) for line in ptx.splitlines()]
    loops = loops_of(lines)
    machine = _Machine(threads)
    first = machine.walk(lines, loops)
    if all(access.conflict for access in first):
        return first
    # a loop's head may stand behind its body: what the text sets later is known by now
    again = machine.walk(lines, loops)
    return [one if one.conflict else other for one, other in zip(first, again, strict=True)]


def loops_of(lines: list[str]) -> list[Loop]:
    """Stretches that a branch backward repeats."""
    at = {match[1]: i for i, line in enumerate(lines) if (match := LABEL.match(line))}
    found: dict[int, int] = {}
    for i, line in enumerate(lines):
        match = BRANCH.search(line)
        if match and at.get(match[1], i) < i:
            found[at[match[1]]] = max(i, found.get(at[match[1]], 0))
    return [Loop(first, last) for first, last in sorted(found.items())]


def bytes_of(name: str) -> int:
    """What a load or store moves for each thread.

    >>> bytes_of("ld.shared.v4.b32"), bytes_of("st.shared.b16")
    (16, 2)
    """
    vector = int((re.search(r"\.v(\d)", name) or ["", "1"])[1])
    return vector * int(re.findall(r"\d+", name.split(".")[-1])[0]) // 8


def innermost(ptx: str) -> list[str]:
    """The text of every loop, without that of the loops inside it."""
    lines = [_clean(line) for line in ptx.splitlines()]
    loops = loops_of(lines)
    text: dict[int, list[str]] = {}
    for number, line in enumerate(lines):
        inner = _inner(loops, number)
        if inner >= 0:
            text.setdefault(inner, []).append(line)
    return ["\n".join(some) for some in text.values()]


def product_loops(ptx: str) -> dict[int, int]:
    """By loop, the multiplications in it that no inner loop repeats, where there are 16 or more."""
    lines = [_clean(line) for line in ptx.splitlines()]
    loops = loops_of(lines)
    counts: dict[int, int] = {}
    for number, line in enumerate(lines):
        if PRODUCT.search(line):
            inner = _inner(loops, number)
            counts[inner] = counts.get(inner, 0) + (16 if "mma" in line else 1)
    return {loop: count for loop, count in counts.items() if loop >= 0 and count >= 16}


def conflict(addresses: np.ndarray, size: int) -> tuple[int, int]:
    """The worst conflict and the wavefronts of one warp: (lanes,) byte addresses, size bytes each.

    >>> conflict(np.arange(32) * 4, 4), conflict(np.arange(32) * 128, 4)
    ((1, 1), (32, 32))
    >>> conflict(np.zeros(32, int), 16), conflict(np.arange(32) * 16, 16)
    ((1, 2), (1, 4))
    """
    words = max(1, size // 4)
    group = 32 // words
    if words > 1 and any(_in_pairs(addresses, distance) for distance in (1, 2)):
        group *= 2
    total = worst = 0
    for start in range(0, len(addresses), group):
        some = addresses[start : start + group]
        wanted = np.unique((some[:, None] // 4 + np.arange(words)).ravel())
        ways = int(np.bincount(wanted % 32).max())
        total += ways
        worst = max(worst, ways)
    return worst, total


def _in_pairs(addresses: np.ndarray, distance: int) -> bool:
    """Whether threads whose numbers differ in one bit want the same."""
    other = np.arange(len(addresses)) ^ distance
    return len(addresses) % 4 == 0 and bool((addresses == addresses[other]).all())


def _inner(loops: list[Loop], number: int) -> int:
    """The shortest loop around a line; -1 for none."""
    around = [i for i, loop in enumerate(loops) if loop.first <= number <= loop.last]
    return min(around, key=lambda i: loops[i].last - loops[i].first, default=-1)


def _clean(line: str) -> str:
    return line.split("//")[0].strip().rstrip(";").strip()


def _guarded(line: str) -> tuple[str, str]:
    match = re.match(r"@(!?%\w+)\s+(.*)", line)
    return (match[1], match[2]) if match else ("", line)


class _Machine:
    """Registers as arrays over threads; whole numbers as they are kept, modulo 2^width."""

    def __init__(self, threads: int) -> None:
        self.threads = np.arange(threads, dtype=np.int64)
        self.registers: dict[str, Values] = {}

    def value(self, text: str) -> Values:
        text = text.strip()
        if text.startswith("%"):
            if text == "%tid.x":
                return self.threads
            return self.registers.get(text)
        if text.startswith("global_smem"):
            return np.zeros_like(self.threads)
        try:
            return np.full_like(self.threads, int(text.rstrip("U"), 0))
        except (ValueError, OverflowError):
            return None

    def walk(self, lines: list[str], loops: list[Loop]) -> list[Access]:
        """Carries the text out once, line by line."""
        found = []
        for number, line in enumerate(lines):
            if not line or line.startswith(".") or LABEL.match(line):
                continue
            guard, body = _guarded(line)
            if ACCESS.match(body):
                found.append(self.access(body, guard, _inner(loops, number)))
            else:
                self.step(body)
        return found

    def step(self, body: str) -> None:
        name, _, rest = body.partition(" ")
        if not rest.strip():
            name, _, rest = body.partition("\t")
        operands = [part.strip() for part in re.split(r",(?![^{]*})", rest)]
        target = operands[0].partition("|")[0]
        if not target.startswith("%"):
            return
        operation, *modifiers = name.split(".")
        with np.errstate(over="ignore"):
            result = self.compute(operation, modifiers, [self.value(o) for o in operands[1:]])
        self.registers[target] = result

    def compute(self, operation: str, modifiers: list[str], values: list[Values]) -> Values:
        kind = modifiers[-1] if modifiers else ""
        if operation == "selp":
            yes, no, condition = values
            if condition is None or yes is None or no is None:
                return yes if yes is not None else no
            return np.where(condition != 0, yes, no)
        if operation == "and" and len(values) == 2:
            # zero with anything is zero: what masks leave of an unknown may still be known
            for one, other in (values, values[::-1]):
                if one is not None and other is None and not one.any():
                    return one
        if any(value is None for value in values) or not values:
            return None
        wide = {"16": 16, "32": 32, "64": 64}.get(kind[-2:], 64)
        if kind.startswith("f") and operation != "mov":
            return None
        signed = kind.startswith("s")
        a, *others = (_wrap(value, wide, signed) for value in values if value is not None)
        b = others[0] if others else a
        c = others[1] if len(others) > 1 else a
        if operation in ("mov", "cvt", "cvta"):
            result = a
        elif operation == "setp":
            return _compare(modifiers[0], a, b)
        elif operation == "mul" and "wide" in modifiers:
            return a * b
        elif operation == "mad" and "wide" in modifiers:
            return a * b + c
        elif operation == "bfe":
            result = (a >> b) & ((1 << c) - 1)
        elif operation == "bfi":
            mask = ((np.int64(1) << others[2]) - 1) << c
            result = (b & ~mask) | ((a << c) & mask)
        elif operation == "lop3":
            result = _lop3(a, b, c, int(others[2][0]))
        elif operation == "shr":
            result = np.where(b < wide, a >> np.minimum(b, 63), 0)
        elif operation == "shl":
            result = np.where(b < wide, a << np.minimum(b, 63), 0)
        elif operation in ("div", "rem"):
            if not b.all():
                return None
            result = a // b if operation == "div" else a % b
        elif operation in SIMPLE:
            result = SIMPLE[operation](a, b, c)
        else:
            return None
        return _wrap(result, wide, False)

    def access(self, body: str, guard: str, loop: int) -> Access:
        name = body.split()[0]
        match = re.search(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", body)
        assert match is not None, body
        base = self.value(match[1])
        for target in re.findall(r"%\w+", body.partition("[")[0]):
            if not name.startswith("st"):
                self.registers[target] = None
        if base is None:
            return Access(name, loop, 0, 0)
        addresses = _wrap(base + int(match[2] or "0", 0), 32, False)
        active = self.value(guard.lstrip("!")) if guard else None
        keep = np.ones(len(addresses), bool)
        if active is not None:
            keep = (active == 0) if guard.startswith("!") else (active != 0)
        if "matrix" in name:
            lanes, size = 8 * int((re.search(r"\.x(\d)", name) or ["", "1"])[1]), 16
        elif name.startswith("cp.async"):
            found = re.search(r"\],\s*(\w+)", body)
            lanes, size = 32, int(found[1], 0) if found else 16
        else:
            lanes, size = 32, bytes_of(name)
        worst, waves, warps = 1, 0, 0
        for warp in range(0, len(addresses), 32):
            some = addresses[warp : warp + lanes][keep[warp : warp + lanes]]
            if len(some):
                ways, wavefronts = conflict(some, size)
                worst, waves, warps = max(worst, ways), waves + wavefronts, warps + 1
        return Access(name, loop, worst, -(-waves // max(1, warps)))


SIMPLE = {
    "and": lambda a, b, c: a & b,
    "or": lambda a, b, c: a | b,
    "xor": lambda a, b, c: a ^ b,
    "not": lambda a, b, c: ~a,
    "neg": lambda a, b, c: -a,
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: a - b,
    "mul": lambda a, b, c: a * b,
    "mad": lambda a, b, c: a * b + c,
    "min": lambda a, b, c: np.minimum(a, b),
    "max": lambda a, b, c: np.maximum(a, b),
}


def _wrap(value: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    if bits == 64:
        return value
    value = value & ((1 << bits) - 1)
    return np.where(value >> (bits - 1) == 1, value - (1 << bits), value) if signed else value


def _compare(how: str, a: np.ndarray, b: np.ndarray) -> Values:
    ways = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b,
            "lo": a < b, "ls": a <= b, "hi": a > b, "hs": a >= b}  # fmt: skip
    return ways[how].astype(np.int64) if how in ways else None


def _lop3(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: int) -> np.ndarray:
    result = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result
