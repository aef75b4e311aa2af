"""PTX text to a list of instructions, as far as Triton writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class Unknown(Exception):
    """PTX that this runner does not know."""


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[str, ...]
    guard: str = ""  # the predicate register of ``@%p`` or ``@!%p``
    negated: bool = False
    source: str = ""  # file:line of the kernel

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}" + (
            f" ({self.source})" if self.source else ""
        )


@dataclass
class Program:
    name: str
    parameters: dict[str, str]  # name → type, in order
    threads: int
    registers: dict[str, str] = field(default_factory=dict)  # prefix or name → pred, b16, b32, b64
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # name → index of the instruction after it

    def register_class(self, name: str) -> str:
        """pred, b16, b32 or b64; "" for what is not a register."""
        return self.registers.get(name) or self.registers.get(name.rstrip("0123456789"), "")


OPERAND = re.compile(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,]+?)\s*(?:,|$)")
CLASSES = {"pred": "pred"} | {
    f"{kind}{bits}": f"b{bits}" for kind in "busf" for bits in (16, 32, 64)
}


def parse(ptx: str) -> Program:
    """The one kernel of a PTX file."""
    header = re.search(r"\.entry\s+(\w+)\((.*?)\)(.*?)\{", ptx, re.S)
    threads = re.search(r"\.reqntid\s+(\d+)", ptx)
    if not header or not threads or len(re.findall(r"\.entry\b", ptx)) != 1:
        raise Unknown("a PTX file: expected one kernel with .reqntid")
    parameters = re.findall(r"\.param\s+\.(\w+)[^,]*?(\w+)\s*(?:,|$)", header[2].strip())
    program = Program(header[1], {name: kind for kind, name in parameters}, int(threads[1]))
    source = ""
    for line in ptx[header.end() :].splitlines():
        code, _, comment = line.partition("//")
        if code.strip().startswith(".loc"):
            source = comment.strip().rpartition(":")[0]
            continue
        if code.strip().startswith((".section", ".file")):
            break  # what follows is for debuggers
        for statement in code.replace("{ .reg", "; .reg").split(";"):
            _statement(statement.strip(), program, source)
    missing = {
        instruction.operands[0]
        for instruction in program.instructions
        if instruction.opcode.split(".")[0] == "bra"
    } - set(program.labels)
    if missing:
        raise Unknown(f"jumps to {missing}")
    return program


def _statement(text: str, program: Program, source: str) -> None:
    while match := re.match(r"(\$?\w+):(?!:)\s*", text):
        program.labels[match[1]] = len(program.instructions)
        text = text[match.end() :]
    if text in ("", "{", "}"):
        return
    if text.startswith("."):
        declared = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        if declared:
            for name in declared[2].split(","):
                prefix = re.sub(r"<\d+>", "", name.strip())
                if (
                    program.registers.setdefault(prefix, CLASSES[declared[1]])
                    != CLASSES[declared[1]]
                ):
                    raise Unknown(f"{prefix} declared twice")
        elif not text.startswith(".pragma"):
            raise Unknown(text)
        return
    match = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", text, re.S)
    if not match:
        raise Unknown(text)
    operands = tuple(
        re.sub(r"\s+", "", operand) for operand in OPERAND.findall(match[4]) if operand.strip()
    )
    program.instructions.append(
        Instruction(match[3], operands, match[2] or "", bool(match[1]), source)
    )


def vector(operand: str) -> list[str]:
    """The names in ``{a, b}``, or the one that stands without braces."""
    return [name for name in operand.strip("{}").split(",") if name]


def address(operand: str) -> tuple[str, int]:
    """Base and offset of ``[base + offset]``."""
    match = re.fullmatch(r"\[(.+?)(?:\+(-?\d+))?\]", operand)
    if not match:
        raise Unknown(f"address {operand}")
    return match[1], int(match[2] or 0)


def immediate(text: str) -> int | None:
    """The bits of a literal number; None for anything else. Shared memory begins at 0."""
    if match := re.fullmatch(r"0[fd]([0-9A-Fa-f]+)", text):
        return int(match[1], 16)
    if match := re.fullmatch(r"global_smem(?:\+(\d+))?", text):
        return int(match[1] or 0)
    try:
        return int(text.rstrip("U"), 0)
    except ValueError:
        return None
