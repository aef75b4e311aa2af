"""Barriers that keep nothing apart in any launch, by the PTX alone.

Triton puts a barrier behind every wait for ``wgmma``, also where only the next one reads what this
one did, and one between the reading of a tile and the writing of another to its place, also where
every thread writes where it has read itself.
"""

from __future__ import annotations

import re
from collections import Counter

from .parse import Instruction, Program, address, immediate, vector

WRITES = re.compile(r"st\.|stmatrix\.|cp\.")  # to memory, at once or at some time
SHARED = re.compile(r"(ld|st)(\.shared|matrix\.)")
NOT_AT_ONCE = re.compile(r"cp\.|wgmma\.")


def of_thread(program: Program) -> set[str]:
    """Registers that come from the thread's number alone, and are set once."""
    set_times = Counter(
        part
        for ins in program.instructions
        for name in vector(ins.operands[0] if ins.operands else "")
        for part in name.split("|")
    )
    found = {"%tid.x"}
    for ins in program.instructions:
        to, *sources = ins.operands or ("",)
        known = all(s in found or immediate(s) is not None for s in sources)
        if sources and known and not ins.guard and set_times[to] == 1 and to.startswith("%"):
            found.add(to)
    return found


def halves(program: Program, number: int) -> tuple[list[Instruction], list[Instruction]] | None:
    """The straight code between a barrier and its two neighbours; None where it is not straight."""
    code = program.instructions
    here = [n for n, ins in enumerate(code) if ins.opcode.startswith("bar.")][number]
    ends = [-1, *(n for n, ins in enumerate(code) if ins.opcode == "bar.sync"), len(code)]
    start, end = max(n for n in ends if n < here), min(n for n in ends if n > here)
    jumps = any(ins.opcode.split(".")[0] == "bra" for ins in code[start + 1 : end])
    if jumps or any(start < n <= end for n in program.labels.values()):
        return None
    return code[start + 1 : here], code[here + 1 : end]


def only_reads_meet(program: Program, number: int) -> bool:
    """Around the barrier nothing is written: without it nothing can race, wherever it is read."""
    found = halves(program, number)
    return found is not None and not any(WRITES.match(i.opcode) for half in found for i in half)


def meets_alike(program: Program, number: int) -> bool:
    """What meets without the barrier meets alike in every launch, so that one launch tells of all.

    One half reads and the other one writes, in shared memory, at places that come from the thread's
    number alone.
    """
    found = halves(program, number)
    if found is None:
        return False
    fixed = of_thread(program)

    def known(ins: Instruction) -> bool:
        if not SHARED.match(ins.opcode):
            return not WRITES.match(ins.opcode) and not NOT_AT_ONCE.match(ins.opcode)
        place = ins.operands[ins.opcode.startswith("ld")]
        base = address(place)[0]
        return not ins.guard and (base in fixed or immediate(base) is not None)

    writing = [any(WRITES.match(ins.opcode) for ins in half) for half in found]
    return sum(writing) == 1 and all(known(ins) for half in found for ins in half)
