"""In the place of a GPU under Triton's launches: compiles for sm_90, and runs the PTX on a CPU.

    with launched() as gpu:
        kernel[grid](tensor, ...)     # a CPU tensor

``gpu.launches`` tells what ran. A wrong access raises :class:`ptx.memory.Fault`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from .approximate import Rounding
from .blocks import Blocks, Code
from .compiling import Compiled, Request, compile_here
from .memory import Allocation, Fault, Global
from .parse import parse

TARGET = GPUTarget("cuda", 90, 32)
LANES = 4096  # that run in step: enough to make Python's share small, few enough for the cache


class NoDriver:
    """Answers what Triton asks a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> str:
        return "sm_90 on a CPU"  # Triton keeps what it compiled by this

    def get_current_stream(self, device: str) -> int:
        return 0


@dataclass
class Launch:
    compiled: Compiled
    values: dict[str, Any]  # the arguments that are not compiled in
    grid: tuple[int, int, int]
    code: Code
    source: tuple[Any, Request] | None = None  # the kernel, and what was asked of the compiler
    before: dict[str, Any] = field(default_factory=dict)  # copies of the values, if they are kept
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def kernel(self) -> str:
        return self.code.program.name


def all_of(grid: tuple[int, int, int]) -> range:
    return range(math.prod(grid))


@dataclass
class Gpu:
    """How launches are run, and what came of it.

    rounding   of approximate instructions
    compile    by which Triton
    blocks     the numbers of those blocks of a grid that run, counted along x first
    keeps      whether every launch keeps copies of its arguments, to be run again
    launches   all that ran
    undecided  kernel and line where the timing of warps decides on a last digit (transfers.settle)
    """

    rounding: Rounding = field(default_factory=Rounding)
    compile: Callable[[Any, Request], Compiled] = compile_here
    blocks: Callable[[tuple[int, int, int]], Sequence[int]] = all_of
    keeps: bool = False
    launches: list[Launch] = field(default_factory=list)
    undecided: set[tuple[str, str]] = field(default_factory=set)

    def launch(
        self,
        compiled: Compiled,
        values: dict[str, Any],
        grid: tuple[int, ...],
        source: tuple[Any, Request] | None = None,
    ) -> None:
        """Runs a compiled kernel with the arguments that are not compiled in."""
        launch = Launch(compiled, values, (*grid, 1, 1)[:3], code_of(compiled), source)
        if self.keeps:
            launch.before = copied(values)
        self.launches.append(launch)
        self.run(launch)
        if self.keeps:
            launch.after = copied(values)

    def run(self, launch: Launch) -> None:
        """``launch`` (again), with its arguments as they are now."""
        program = launch.code.program
        names = list(program.parameters)
        # the last parameters are scratch memory, which these kernels have none of
        given = dict(zip(names, launch.values.values(), strict=False))
        bits = {name: as_bits(given.get(name, 0)) for name in names}
        memory = Global(allocations(names, launch.values, launch.code.written))
        chosen = self.blocks(launch.grid)
        step = max(1, LANES // program.threads)
        with np.errstate(all="ignore"):
            for start in range(0, len(chosen), step):
                numbers = np.array(chosen[start : start + step])
                blocks = Blocks(
                    launch.code, numbers, launch.grid, bits, memory, launch.compiled.shared,
                    self.rounding, self.undecided,
                )  # fmt: skip
                try:
                    blocks.run()
                except Fault as fault:
                    fault.args = (f"{program.name}: {fault}",)
                    raise


CODE: dict[str, Code] = {}
COMPILED: dict[Any, Compiled] = {}


def code_of(compiled: Compiled) -> Code:
    if compiled.ptx not in CODE:
        CODE[compiled.ptx] = Code(parse(compiled.ptx))
    return CODE[compiled.ptx]


def copied(values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a launch in memory of their own; what shared memory still does."""
    return copy.deepcopy(
        {n: v.detach() if isinstance(v, torch.Tensor) else v for n, v in values.items()}
    )


def as_bits(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return struct.unpack("<I", struct.pack("<f", value))[0]
    return int(value)


def allocations(
    parameters: list[str], values: dict[str, Any], written: set[str] | None
) -> list[Allocation]:
    """One for every storage among the arguments, as far as its tensors reach."""
    storages: dict[int, list[tuple[str, torch.Tensor]]] = {}
    stored = set()  # the storages that are written to
    for parameter, (name, value) in zip(parameters, values.items(), strict=False):
        if isinstance(value, torch.Tensor) and value.numel():
            storage = value.untyped_storage().data_ptr()
            storages.setdefault(storage, []).append((name, value))
            if written is None or parameter in written:
                stored.add(storage)
    found = []
    for storage, tensors in storages.items():
        low = min(t.data_ptr() for _, t in tensors)
        high = max(
            t.data_ptr()
            + (1 + sum((n - 1) * d for n, d in zip(t.shape, t.stride(), strict=True)))
            * t.element_size()
            for _, t in tensors
        )
        names = [name for name, _ in tensors]
        unit = min(4, *(t.element_size() for _, t in tensors))
        found.append(Allocation("/".join(names), low, low, high, unit, storage in stored))
    return found


@contextlib.contextmanager
def launched(gpu: Gpu | None = None) -> Iterator[Gpu]:
    """Inside, Triton's launches run here; they take CPU tensors."""
    gpu = gpu or Gpu()
    run, do_compile = JITFunction.run, JITFunction._do_compile
    asked: list[tuple[Any, Request]] = []

    def compile_(kernel: Any, key: Any, signature: Any, device: Any, constants: Any, options: Any,
                 attributes: Any, warmup: bool) -> Compiled:  # fmt: skip
        request = Request.of(kernel, signature, constants, attributes, options)
        asked.append((kernel, request))
        key = kernel.cache_key, repr(request), gpu.compile
        if key not in COMPILED:
            COMPILED[key] = gpu.compile(kernel, request)
        return COMPILED[key]

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Compiled:
        compiled = run(kernel, *args, grid=grid, warmup=True, **named)
        if not warmup:
            given = dict(zip(kernel.arg_names, args, strict=False)) | named
            values = {
                name: given[name]
                for i, name in enumerate(kernel.arg_names)
                if i not in compiled.constants
            }
            gpu.launch(compiled, values, tuple(grid(given) if callable(grid) else grid), asked[-1])
        return compiled

    before = driver._active
    driver.set_active(NoDriver())
    JITFunction.run, JITFunction._do_compile = launch, compile_
    try:
        yield gpu
    finally:
        JITFunction.run, JITFunction._do_compile = run, do_compile
        driver._active = before
