"""Some blocks of a launch that run in step: control flow, barriers, what they have in flight."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import arithmetic, tensor_cores, transfers
from .approximate import Rounding
from .arithmetic import Step
from .memory import Access, Epoch, Fault, Global, Shared, Storage
from .parse import Instruction, Program, Unknown, address, vector
from .registers import Layout, Registers, guarded

NOTHING = re.compile(
    # A barrier in one thread's view of memory. That generic and asynchronous accesses are ordered
    # by such a fence is not checked.
    r"fence\.proxy\.async(\.shared::cta)?|wgmma\.fence\.sync\.aligned"
)
ENDLESS = 10**7  # parts of straight code: no kernel of a test takes so many


def shared_width(instruction: Instruction) -> int:
    """How many bytes a number has that the instruction reads or writes in shared memory, or 0."""
    opcode = instruction.opcode
    if re.match(r"(ld|st)\.shared", opcode):
        return int(opcode[-2:].lstrip("bsuf")) // 8
    if opcode.startswith("wgmma.mma_async") and "tf32" not in opcode:
        return 2
    return 2 if re.match(r"(ld|st)matrix.*\.trans", opcode) else 0


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


class Code:
    """A program as steps, cut at jumps and labels."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.layout = Layout(program)
        instructions = program.instructions
        warps = program.threads // 32
        self.warp_barriers = warps > 1 and any(i.opcode == "bar.warp.sync" for i in instructions)
        self.unit = min([4, *filter(None, map(shared_width, instructions))])
        starts = sorted({0, *program.labels.values()} | {
            n + 1 for n, i in enumerate(instructions) if self._ends(i)
        })  # fmt: skip
        self.starts = {start: n for n, start in enumerate(starts)}
        self.barriers: list[tuple[int, int]] = []  # part, and place in it
        self.parts: list[tuple[list[Step], Instruction | None, int, int]] = []
        for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True):
            body = instructions[start:end]
            last = body.pop() if body and self._ends(body[-1]) else None
            guard = guarded(last, self.layout) if last else -1
            target = program.labels[last.operands[0]] if last and last.opcode != "ret" else -1
            steps = [self._step(i) for i in body]
            self.barriers += [
                (len(self.parts), n) for n, i in enumerate(body) if i.opcode.startswith("bar.")
            ]
            self.parts.append((steps, last, guard, self.starts.get(target, -1)))
        self.written = written_parameters(program)

    def without_barrier(self, number: int) -> Code:
        """The same but for one barrier, for tests of what then is noticed."""
        part, n = self.barriers[number]
        other = object.__new__(Code)
        other.__dict__.update(self.__dict__)
        steps, *rest = self.parts[part]
        other.parts = [*self.parts]
        other.parts[part] = (steps[:n] + steps[n + 1 :], *rest)
        return other

    @staticmethod
    def _ends(instruction: Instruction) -> bool:
        if instruction.opcode in ("bra", "bra.uni", "ret"):
            return True
        if instruction.opcode.split(".")[0] in ("bra", "brx", "ret", "exit", "call", "trap"):
            raise Unknown(str(instruction))
        return False

    def _step(self, instruction: Instruction) -> Step:
        layout = self.layout
        if NOTHING.fullmatch(instruction.opcode):
            return lambda s: None
        if instruction.opcode in ("bar.sync", "bar.warp.sync"):
            everyone = {"bar.sync": ("0",), "bar.warp.sync": ("-1",)}[instruction.opcode]
            if instruction.operands != everyone or instruction.guard:
                raise Unknown(str(instruction))
            of_block = instruction.opcode == "bar.sync" or not self.warp_barriers
            return lambda s: s.barrier(of_block)
        for family in (transfers, tensor_cores):
            step = family.build(instruction, layout)
            if step is not None:
                return step
        step = arithmetic.build(instruction, layout)
        if step is None:
            raise Unknown(str(instruction))
        return self._guarded(step, instruction)

    def _guarded(self, step: Step, instruction: Instruction) -> Step:
        """Lanes that the guard leaves out keep what they had."""
        guard = guarded(instruction, self.layout)
        if guard < 0:
            return step
        bank, d = self.layout.place(instruction.operands[0])
        negated = instruction.negated

        def guarded_step(s: Any) -> None:
            row = getattr(s, bank)[d]
            before = row.copy()
            out = s.pred[guard] == negated
            step(s)
            np.copyto(row, before, where=out)

        return guarded_step


class Blocks(Registers):
    """The lanes of some blocks, and all that a step may need."""

    def __init__(
        self,
        code: Code,
        numbers: np.ndarray,  # of the blocks, in the launch
        grid: tuple[int, int, int],
        parameters: dict[str, int],
        memory: Global,
        shared: int,
        rounding: Rounding,
        undecided: set[tuple[str, str]],
    ) -> None:
        threads = code.program.threads
        super().__init__(code.layout, len(numbers) * threads)
        self.code, self.grid, self.memory, self.rounding = code, grid, memory, rounding
        self.threads, self.undecided = threads, undecided
        self.block = np.repeat(numbers, threads)
        tid = np.tile(np.arange(threads), len(numbers))
        self.thread = self.block * threads + tid  # in the launch
        self.shared = Shared(len(numbers), shared, code.unit)
        self.shared_base = np.repeat(np.arange(len(numbers)) * self.shared.size, threads)
        self.copies: list[list[transfers.Copy]] = [[]]
        self.products: list[list[tensor_cores.Reads]] = [[]]
        self.epochs: dict[int, list[Epoch]] = {}
        self._number_lanes()
        special = {"%tid.x": tid, "%ntid.x": threads}
        for axis, at, size in zip("xyz", self.coordinates(self.block), grid, strict=True):
            special |= {f"%ctaid.{axis}": at, f"%nctaid.{axis}": size}
        for name, row in code.layout.rows["b32"].items():
            if isinstance(name, str) and (name in special or "tid." in name):
                self.b32[row][:] = special.get(name, 1 if "ntid" in name else 0)
        for bank, rows in code.layout.rows.items():
            for key, row in rows.items():
                if isinstance(key, tuple):
                    self.banks[bank][row] = parameters[key[1]] & (2 ** int(bank[1:]) - 1)

    def _number_lanes(self) -> None:
        self.every = np.arange(self.lanes)
        self.lane = self.every % 32

    def coordinates(self, block: Any) -> tuple[Any, Any, Any]:
        x, y, _ = self.grid
        return block % x, block // x % y, block // (x * y)

    def describe(self, thread: int) -> str:
        at = ", ".join(str(int(c)) for c in self.coordinates(thread // self.threads))
        return f"thread {thread % self.threads} of block ({at})"

    # --- what happens between barriers

    def log(
        self,
        storage: Storage,
        write: bool,
        places: np.ndarray,
        lanes: np.ndarray,
        values: np.ndarray | None,
        instruction: Instruction,
    ) -> None:
        if not len(lanes):
            return
        epochs = self.epochs.get(id(storage))
        if epochs is None:
            kinds = (
                [(self.threads, 32), (32, 1)] if self.code.warp_barriers else [(self.threads, 1)]
            )
            epochs = self.epochs[id(storage)] = [Epoch(storage.count, *kind) for kind in kinds]
        if values is not None:
            values = np.ascontiguousarray(values).view(f"u{storage.unit}")
        access = Access(write, places, self.thread[lanes], values, instruction)
        for epoch in epochs:
            epoch.accesses.append(access)

    def barrier(self, of_block: bool = True) -> None:
        for epochs in self.epochs.values():
            for epoch in epochs if of_block else epochs[1:]:
                epoch.close(self.describe)

    # --- control flow

    def run(self) -> None:
        waiting = [(self, 0)]
        while waiting:
            blocks, part = waiting.pop()
            waiting += blocks._run_from(part)

    def _run_from(self, part: int) -> list[tuple[Blocks, int]]:
        """To the end, or to where the blocks part: then what is left to run."""
        parts = self.code.parts
        for _ in range(ENDLESS):
            steps, last, guard, target = parts[part]
            for step in steps:
                step(self)
            if last is None:
                part += 1
                continue
            if guard < 0:
                if last.opcode == "ret":
                    self._end()
                    return []
                part = target
                continue
            taken = (self.pred[guard] != last.negated).reshape(-1, self.threads)
            if last.opcode == "ret" or (taken != taken[:, :1]).any():
                raise Unknown(f"{last}: threads of a block part")
            if taken.all():
                part = target
            elif not taken.any():
                part += 1
            else:
                jump = taken[:, 0]
                return [(self.some(jump), target), (self.some(~jump), part + 1)]
        raise Fault("endless", str(last))

    def _end(self) -> None:
        if any(self.copies) or any(self.products):
            raise Fault("still being copied", "a block ends with copies or products in flight")
        self.barrier()

    def some(self, chosen: np.ndarray) -> Blocks:
        """A part of the blocks, on their own from here on; shared memory stays where it is."""
        lanes = np.flatnonzero(np.repeat(chosen, self.threads))
        kept = np.full(self.lanes, -1)
        kept[lanes] = np.arange(len(lanes))
        other = object.__new__(Blocks)
        other.__dict__.update(self.__dict__)
        other.lanes = len(lanes)
        other.banks = {name: bank.take(lanes, axis=1) for name, bank in self.banks.items()}
        other.bind()
        other.block, other.thread = self.block[lanes], self.thread[lanes]
        other.shared_base = self.shared_base[lanes]
        other.copies = [[copy.of(kept) for copy in group] for group in self.copies]
        other.products = [[reads.of(kept) for reads in group] for group in self.products]
        other.epochs = {
            key: [epoch.of(np.unique(other.block), self.threads) for epoch in epochs]
            for key, epochs in self.epochs.items()
        }
        other._number_lanes()
        return other
