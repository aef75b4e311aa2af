"""Instructions that only compute: from registers to registers, lane by lane.

``build`` turns an instruction into a step, a function of the lanes. Patterns have to match the
whole opcode, so that a modifier nobody thought of is an error.

fma in float32 is rounded twice, from float64: one case in 2²⁹ is off by a unit in the last place.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import approximate
from .parse import Instruction, Unknown, vector
from .registers import BITS, Layout

Step = Callable[[Any], None]
TINY = np.float32(2.0**-126)


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal numbers to zeros of the same sign, as ``.ftz`` does."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``a·b + c`` in float64 for float32, where the product is exact."""
    if a.dtype == np.float32:
        wide = np.multiply(a, b, dtype=np.float64)
        wide += c
        return wide.astype(np.float32)
    # the product in two numbers (Dekker), the sum in two (Knuth)
    product = a * b
    a_high, b_high = (x * 134217729.0 - (x * 134217729.0 - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    total = product + c
    back = total - product
    exact = total + (error + ((product - (total - back)) + (c - back)))
    return np.where(np.isfinite(exact), exact, product + c)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """float32 to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)) & 0xFFFF
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def bf16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def shift_left(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    bits = x.dtype.itemsize * 8
    return np.where(n < bits, x << np.minimum(n, bits - 1).astype(x.dtype), 0).astype(x.dtype)


def shift_right(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Arithmetic for signed x; more than all bits leave the sign, or zero."""
    bits = x.dtype.itemsize * 8
    shifted = x >> np.minimum(n, bits - 1).astype(x.dtype)
    if np.issubdtype(x.dtype, np.signedinteger):
        return shifted
    return np.where(n < bits, shifted, 0).astype(x.dtype)


def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Towards zero; by zero the manual leaves open, here it is all ones."""
    safe = np.where(y == 0, np.ones_like(y), y)
    quotient = x // safe
    quotient += ((quotient * safe != x) & ((x < 0) != (y < 0))).astype(x.dtype)
    return np.where(y == 0, ~np.zeros_like(x), quotient)


def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y == 0, x, x - divide(x, y) * y)


def extract(x: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """bfe: ``length`` bits from ``position`` on, the sign extended for signed x."""
    if np.any(position + length > 32) or np.any(length == 0):
        raise Unknown("bfe: expected the field inside 32 bits")
    up = (32 - position - length).astype(x.dtype)
    return (x << up) >> (32 - length).astype(x.dtype)


def permute(x: np.ndarray, y: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """prmt: four bytes out of the eight of y and x; bit 3 of a selector spreads the sign."""
    both = x.astype(np.uint64) | (y.astype(np.uint64) << np.uint64(32))
    result = np.zeros_like(x)
    for i in range(4):
        pick = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = (both >> (8 * (pick & np.uint32(7))).astype(np.uint64)).astype(np.uint32) & 255
        byte = np.where(pick & 8, np.where(byte & 128, 255, 0), byte).astype(np.uint32)
        result |= byte << np.uint32(8 * i)
    return result


COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal,
}  # fmt: skip


def compare(name: str, of_floats: bool) -> Callable[..., Any]:
    if not of_floats:
        return COMPARE[name]
    if name in ("num", "nan"):
        return lambda x, y: (np.isnan(x) | np.isnan(y)) == (name == "nan")
    if name in ("equ", "neu", "ltu", "leu", "gtu", "geu"):  # true where one is NaN
        ordered = COMPARE[name[:-1]]
        return lambda x, y: ordered(x, y) | np.isnan(x) | np.isnan(y)
    if name == "ne":
        return lambda x, y: (x != y) & ~(np.isnan(x) | np.isnan(y))
    return COMPARE[name]


def bit_function(name: str) -> Callable[..., Any]:
    return {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[name]


def flushing(function: Callable[..., Any], flag: str | None) -> Callable[..., Any]:
    if not flag:
        return function
    return lambda *x: flush(function(*map(flush, x)))


FLOAT = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "fma": fma,
    "min": np.fmin, "max": np.fmax, "abs": np.abs, "neg": np.negative, "sqrt": np.sqrt,
    "rcp": np.reciprocal,
}  # fmt: skip
INTEGER = {
    "add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "min": np.minimum,
    "max": np.maximum, "abs": np.abs, "neg": np.negative, "div": divide, "rem": remainder,
    "mad.lo": lambda a, b, c: a * b + c, "not": np.invert,
}  # fmt: skip
WIDE = {"16": "32", "32": "64"}


def _wide(bits: str, sign: str) -> Callable[..., Any]:
    dtype = np.dtype(f"{'i' if sign == 's' else 'u'}{2 * int(bits) // 8}")
    return lambda a, b, c=0: np.multiply(a, b, dtype=dtype) + c


def _high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = np.int64 if np.issubdtype(a.dtype, np.signedinteger) else np.uint64
    return (np.multiply(a, b, dtype=wide) >> wide(32)).astype(a.dtype)


def _convert(to: str, kind: str, rounding: str) -> Callable[..., Any]:
    dtype = {"bf16": None, "f16": np.float16, "f32": np.float32, "f64": np.float64}
    if to == "bf16":
        return bf16_bits
    if kind == "bf16":
        return lambda x: bf16_values(x)
    if to in dtype:
        return lambda x: x.astype(dtype[to])
    target = np.dtype(f"{'i' if to[0] == 's' else 'u'}{int(to[1:]) // 8}")
    if kind[0] == "f":
        info = np.iinfo(target)
        round_ = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding]
        return lambda x: np.where(
            np.isnan(x), 0, np.clip(round_(x.astype(np.float64)), info.min, info.max)
        ).astype(target)
    return lambda x: x.astype(target)


@functools.cache
def _describe(opcode: str) -> tuple[Callable[..., Any], str, list[str], bool] | None:
    """The function, the type of the result, those of the sources, whether it takes a rounding."""
    if m := re.fullmatch(
        r"(add|sub|mul|fma|div|sqrt|rcp)(\.rn)?(\.ftz)?\.(f32|f64)"
        r"|(?P<other>min|max|abs|neg)(?P<flush>\.ftz)?\.(?P<kind>f32|f64)",
        opcode,
    ):
        name, flush_, kind = m["other"] or m[1], m["flush"] or m[3], m["kind"] or m[4]
        if name in ("fma", "div", "sqrt", "rcp") and not m[2]:
            return None
        count = {"fma": 3, "abs": 1, "neg": 1, "sqrt": 1, "rcp": 1}.get(name, 2)
        return flushing(FLOAT[name], flush_), kind, [kind] * count, False
    if m := re.fullmatch(r"(ex2|lg2|rcp|sqrt|rsqrt)\.approx(\.ftz)?\.f32", opcode):
        function, flag = getattr(approximate, m[1]), m[2]
        if flag:
            return (lambda x, r: flush(function(flush(x), r))), "f32", ["f32"], True
        return function, "f32", ["f32"], True
    if m := re.fullmatch(r"div\.(?:full|approx)(\.ftz)?\.f32", opcode):
        if m[1]:
            return (
                (lambda x, y, r: flush(approximate.div(flush(x), flush(y), r))),
                "f32",
                ["f32"] * 2,
                True,
            )
        return approximate.div, "f32", ["f32"] * 2, True
    if m := re.fullmatch(
        r"(add|sub|mul\.lo|mad\.lo|min|max|div|rem|abs|neg)\.([su])(16|32|64)", opcode
    ):
        kind = m[2] + m[3]
        count = {"mad.lo": 3, "abs": 1, "neg": 1}.get(m[1], 2)
        return INTEGER[m[1]], kind, [kind] * count, False
    if m := re.fullmatch(r"(mul|mad)\.wide\.([su])(16|32)", opcode):
        kind, wide = m[2] + m[3], m[2] + WIDE[m[3]]
        return _wide(m[3], m[2]), wide, [kind, kind] + [wide] * (m[1] == "mad"), False
    if m := re.fullmatch(r"mul\.hi\.([su]32)", opcode):
        return _high, m[1], [m[1]] * 2, False
    if m := re.fullmatch(r"(and|or|xor)\.(pred|b16|b32|b64)", opcode):
        return bit_function(m[1]), m[2], [m[2]] * 2, False
    if m := re.fullmatch(r"not\.(pred|b16|b32|b64)", opcode):
        return np.logical_not if m[1] == "pred" else np.invert, m[1], [m[1]], False
    if m := re.fullmatch(r"(shl|shr)\.([bsu])(16|32|64)", opcode):
        return (
            shift_left if m[1] == "shl" else shift_right,
            m[2] + m[3],
            [m[2] + m[3], "u32"],
            False,
        )
    if m := re.fullmatch(r"bfe\.([su]32)", opcode):
        return extract, m[1], [m[1], "u32", "u32"], False
    if opcode == "prmt.b32":
        return permute, "u32", ["u32"] * 3, False
    if m := re.fullmatch(r"selp\.([bsuf](16|32|64))", opcode):
        kind = "b" + m[2]
        return (lambda a, b, p: np.where(p, a, b)), kind, [kind, kind, "pred"], False
    m = re.fullmatch(r"setp\.(\w+)\.([bsuf](16|32|64))", opcode)
    if m and (m[1] in COMPARE or m[2][0] == "f"):
        return compare(m[1], m[2][0] == "f"), "pred", [m[2]] * 2, False
    if m := re.fullmatch(r"mov\.(pred|[bsuf](?:16|32|64))", opcode):
        kind = m[1] if m[1] == "pred" else "b" + m[1][1:]
        return (lambda x: x), kind, [kind], False
    if m := re.fullmatch(r"cvt(?:\.(rn|rzi|rni|rmi|rpi))?\.(\w+)\.(\w+)", opcode):
        rounding, to, kind = m[1] or "", m[2], m[3]
        narrowing = (to, kind) in {("f32", "f64"), ("f16", "f32"), ("bf16", "f32")}
        integers = to[0] in "su" and kind[0] in "su"
        to_float = to in ("f32", "f64") and kind[0] in "su"
        to_integer = to[0] in "su" and kind in ("f32", "f64")
        widening = (to, kind) in {("f64", "f32"), ("f32", "f16"), ("f32", "bf16")}
        if (
            (narrowing and rounding == "rn")
            or (integers and not rounding)
            or (to_float and rounding == "rn")
            or (to == "f64" and kind in ("s32", "u32") and not rounding)
            or (to_integer and rounding.endswith("i"))
            or (widening and not rounding)
        ):
            place = {"bf16": "b16"}
            sources = [place.get(kind, kind)]
            return _convert(to, kind, rounding), place.get(to, to), sources, False
    if m := re.fullmatch(r"cvt\.rn\.(bf16|f16)x2\.f32", opcode):
        half = bf16_bits if m[1] == "bf16" else (lambda x: x.astype(np.float16).view(np.uint16))
        return (
            lambda high, low: half(low) | (half(high).astype(np.uint32) << np.uint32(16)),
            "u32", ["f32", "f32"], False,
        )  # fmt: skip
    if opcode == "cvt.rna.tf32.f32":
        return tf32_nearest, "u32", ["u32"], False
    return None


def tf32_nearest(bits: np.ndarray) -> np.ndarray:
    """To ten bits of significand, halves away from zero."""
    special = (bits & 0x7F800000) == 0x7F800000
    return np.where(special, bits, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000))


def build(instruction: Instruction, layout: Layout) -> Step | None:
    """The step of an instruction that computes; None if it is not one of these."""
    operands = instruction.operands
    if instruction.opcode.startswith("mov.") and any(o.startswith("{") for o in operands):
        return _pack(instruction, layout)
    found = _describe(instruction.opcode)
    if found is None:
        return None
    function, to, kinds, rounded = found
    if len(operands) != len(kinds) + 1:
        raise Unknown(f"{instruction}: expected {len(kinds)} sources")
    d = layout.row(operands[0], to)
    rows = [layout.row(operand, kind) for operand, kind in zip(operands[1:], kinds, strict=True)]

    if rounded:
        if len(rows) == 1:
            (a,) = rows

            def step(s: Any) -> None:
                s.f32[d][:] = function(s.f32[a], s.rounding)
        else:
            a, b = rows

            def step(s: Any) -> None:
                s.f32[d][:] = function(s.f32[a], s.f32[b], s.rounding)

    elif isinstance(function, np.ufunc) and len(rows) == 2:
        (a, b), (kind, _) = rows, kinds

        def step(s: Any) -> None:
            values = getattr(s, kind)
            function(values[a], values[b], out=getattr(s, to)[d])

    else:

        def step(s: Any) -> None:
            getattr(s, to)[d][:] = function(
                *[getattr(s, kind)[row] for kind, row in zip(kinds, rows, strict=True)]
            )

    return step


def _pack(instruction: Instruction, layout: Layout) -> Step:
    """``mov`` of several narrow registers to a wide one, or back."""
    m = re.fullmatch(r"mov\.b(32|64)", instruction.opcode)
    to, source = instruction.operands
    names = vector(to) if to.startswith("{") else vector(source)
    if not m or int(m[1]) // len(names) not in (16, 32):
        raise Unknown(str(instruction))
    wide, narrow = f"b{m[1]}", f"b{int(m[1]) // len(names)}"
    whole = layout.row(source if to.startswith("{") else to, wide)
    # "_" is a part that nobody wants
    parts = [(i, layout.row(name, narrow)) for i, name in enumerate(names) if name != "_"]
    if len(parts) != len(names) and not to.startswith("{"):
        raise Unknown(str(instruction))
    dtype = np.dtype(f"u{BITS[narrow] // 8}")

    if to.startswith("{"):

        def step(s: Any) -> None:
            halves = getattr(s, wide)[whole].view(dtype).reshape(s.lanes, -1).copy()
            for i, part in parts:
                getattr(s, narrow)[part][:] = halves[:, i]
    else:

        def step(s: Any) -> None:
            stacked = np.stack([getattr(s, narrow)[part] for _, part in parts], 1)
            getattr(s, wide)[whole][:] = stacked.view(getattr(s, wide)[whole].dtype)[:, 0]

    return step
