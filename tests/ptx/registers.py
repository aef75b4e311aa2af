"""The registers of many lanes: a row for every register, a column for every lane.

A literal number, a parameter and a special register have a row too, filled once, so that every
operand is a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .parse import Instruction, Program, Unknown, immediate

BITS = {"pred": 1, "b16": 16, "b32": 32, "b64": 64}
# How a row of a class can be read: the bits are the same.
VIEWS = {
    "pred": {"pred": np.bool_},
    "b16": {"b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16},
    "b32": {"b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32},
    "b64": {"b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64},
}
CLASS_OF = {kind: name for name, views in VIEWS.items() for kind in views}
SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ctaid", "nctaid", "ntid") for axis in "xyz"}


class Layout:
    """Which row of which class holds an operand."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.rows: dict[str, dict[Any, int]] = {name: {} for name in BITS}

    def place(self, name: str) -> tuple[str, int]:
        """Class and row of a register."""
        kind = self.program.register_class(name)
        if not kind:
            raise Unknown(f"operand {name}")
        return kind, self._row(kind, name)

    def row(self, operand: str, kind: str) -> int:
        """The row of an operand that is read or written as ``kind``, such as f32."""
        expected = CLASS_OF[kind]
        if self.program.register_class(operand):
            found, row = self.place(operand)
            if found != expected:
                raise Unknown(f"{operand} is {found}, expected {expected}")
            return row
        if operand in SPECIAL and expected == "b32":
            return self._row("b32", operand)
        value = immediate(operand)
        if value is None:
            raise Unknown(f"operand {operand}")
        return self._row(expected, value & ((1 << BITS[expected]) - 1))

    def parameter(self, name: str, kind: str) -> int:
        if name not in self.program.parameters:
            raise Unknown(f"parameter {name}")
        return self._row(CLASS_OF[kind], ("parameter", name))

    def _row(self, kind: str, key: Any) -> int:
        rows = self.rows[kind]
        return rows.setdefault(key, len(rows))


class Registers:
    """The rows themselves; ``f32[i]`` and ``u32[i]`` are the same bits."""

    def __init__(self, layout: Layout, lanes: int) -> None:
        self.lanes = lanes
        self.banks = {
            # what no instruction has written is a number that shows itself: NaN, or a wild address
            name: np.full((len(rows), lanes), ~np.zeros((), VIEWS[name][name]))
            for name, rows in layout.rows.items()
        }
        self.bind()
        for name, rows in layout.rows.items():
            for key, row in rows.items():
                if isinstance(key, int):
                    self.banks[name][row] = key

    def bind(self) -> None:
        for name, bank in self.banks.items():
            for kind, dtype in VIEWS[name].items():
                setattr(self, kind, list(bank.view(dtype)))


def guarded(instruction: Instruction, layout: Layout) -> int:
    """The row of the guard, -1 without one."""
    return layout.row(instruction.guard, "pred") if instruction.guard else -1
