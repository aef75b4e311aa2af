"""In the place of a GPU under Triton's launches: compiles for sm_90, and runs the PTX on a CPU.

    with launched() as gpu:
        kernel[grid](tensor, ...)     # a CPU tensor

``gpu.launches`` tells what ran. A wrong access raises :class:`ptx.memory.Fault`.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from .approximate import Rounding
from .blocks import Blocks, Code
from .memory import Allocation, Fault, Global
from .parse import Program, address, parse, vector

TARGET = GPUTarget("cuda", 90, 32)
LANES = 4096  # that run in step: enough to make Python's share small, few enough for the cache


class NoDriver:
    """Answers what Triton's compiler asks a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass
class Launch:
    kernel: str
    grid: tuple[int, int, int]
    threads: int
    code: Code


@dataclass
class Gpu:
    """``rounding`` of approximate instructions; ``blocks`` picks those that run (default: all);
    ``change`` is applied to every program before it runs, for the controls."""

    rounding: Rounding = field(default_factory=Rounding)
    blocks: Callable[[int], range] = range
    change: Callable[[Program], Program] = lambda program: program
    launches: list[Launch] = field(default_factory=list)
    undecided: set[tuple[str, str]] = field(default_factory=set)  # see transfers.settle

    def launch(
        self, compiled: Any, values: dict[str, Any], grid: tuple[int, ...], change_key: Any = None
    ) -> None:
        """Runs a compiled kernel with the arguments that its signature does not fix."""
        key = compiled.asm["ptx"], self.change
        if key not in CODE:
            program = self.change(parse(key[0]))
            CODE[key] = Code(program), written_parameters(program)
        code, written = CODE[key]
        names = list(code.program.parameters)
        # the last parameters are scratch memory, which these kernels have none of
        given = dict(zip(names, values.values(), strict=False))
        bits = {name: as_bits(given.get(name, 0)) for name in names}
        memory = Global(allocations(dict(zip(values, names, strict=False)), values, written))
        size = (*grid, 1, 1)[:3]
        self.launches.append(Launch(code.program.name, size, code.program.threads, code))
        chosen = self.blocks(size[0] * size[1] * size[2])
        step = max(1, LANES // code.program.threads)
        with np.errstate(all="ignore"):
            for start in range(0, len(chosen), step):
                numbers = np.array(chosen[start : start + step])
                blocks = Blocks(
                    code, numbers, size, bits, memory, compiled.metadata.shared, self.rounding,
                    self.undecided,
                )  # fmt: skip
                try:
                    blocks.run()
                except Fault as fault:
                    fault.args = (f"{code.program.name}: {fault}",)
                    raise


CODE: dict[Any, tuple[Code, set[str] | None]] = {}


def as_bits(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return struct.unpack("<I", struct.pack("<f", value))[0]
    return int(value)


def written_parameters(program: Program) -> set[str] | None:
    """The pointers that stores may go through; None where that cannot be told.

    Follows every value from the parameters on, whatever is done to it.
    """
    sources: dict[str, set[str]] = {}
    writes: set[str] = set()
    changed = True
    while changed:
        changed = False
        for ins in program.instructions:
            if not ins.operands:
                continue
            found: set[str] = set()
            for operand in ins.operands:
                if operand.startswith("[") and (name := address(operand)[0]) in program.parameters:
                    found.add(name)
            if ins.opcode.startswith("st.global"):
                found = sources.get(address(ins.operands[0])[0], set())
                changed |= not found <= writes
                writes |= found
                continue
            if ins.opcode.startswith(("ld.global", "ld.shared", "cp.", "bra", "st.", "bar")):
                continue
            for operand in ins.operands[1:]:
                for name in vector(operand):
                    found |= sources.get(name, set())
            for name in vector(ins.operands[0]):
                for part in name.split("|"):
                    before = sources.setdefault(part, set())
                    changed |= not found <= before
                    before |= found
    stores = [i for i in program.instructions if i.opcode.startswith("st.global")]
    if any(not sources.get(address(i.operands[0])[0]) for i in stores):
        return None  # an address that came through memory
    return writes


def allocations(
    parameters: dict[str, str], values: dict[str, Any], written: set[str] | None
) -> list[Allocation]:
    """One for every storage among the arguments, as far as its tensors reach."""
    storages: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.numel():
            storages.setdefault(value.untyped_storage().data_ptr(), []).append((name, value))
    found = []
    for tensors in storages.values():
        low = min(t.data_ptr() for _, t in tensors)
        high = max(
            t.data_ptr()
            + (1 + sum((n - 1) * d for n, d in zip(t.shape, t.stride(), strict=True)))
            * t.element_size()
            for _, t in tensors
        )
        names = [name for name, _ in tensors]
        tracked = written is None or any(parameters[name] in written for name in names)
        unit = min(t.element_size() for _, t in tensors)
        found.append(
            Allocation("/".join(names), low, low, high, min(unit, 4) if unit < 4 else 4, tracked)
        )
    return found


@contextlib.contextmanager
def launched(gpu: Gpu | None = None) -> Iterator[Gpu]:
    """Inside, Triton's launches run here; they take CPU tensors."""
    gpu = gpu or Gpu()
    original = JITFunction.run

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        compiled = original(kernel, *args, grid=grid, warmup=True, **named)
        if warmup:
            return compiled
        given = dict(zip(kernel.arg_names, args, strict=False)) | named
        if callable(grid):
            grid = grid(given)
        constants = {path[0] for path in compiled.src.constants}
        values = {
            name: given[name] for i, name in enumerate(kernel.arg_names) if i not in constants
        }
        gpu.launch(compiled, values, tuple(grid))
        return compiled

    before = driver._active
    driver.set_active(NoDriver())
    JITFunction.run = run
    try:
        yield gpu
    finally:
        JITFunction.run = original
        driver._active = before
