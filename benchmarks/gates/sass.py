"""Reads the assembler's code, and follows one thread through it to see how often its loops turn.

Branches depend on sizes and on where a block lies. The whole-number instructions are therefore
carried out for thread 0 of one block, with the launch's arguments in the constant bank; whatever
comes from memory or from floating point is unknown. Where a branch is unknown, the path is taken
that calls no subroutine (those are the slow paths of divisions and roots), and a loop is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

WORD = 0xFFFFFFFF
LIMIT = 50_000_000  # steps; a loop that has not ended by then is not followed rightly


class Instruction(NamedTuple):
    address: int
    guard: str
    name: str  # with its modifiers
    operands: list[str]
    stall: int  # cycles until the next one of this warp
    writes: int  # the scoreboard that its result sets; 7 is none
    reads: int  # the one that its operands set once they are read
    waits: int  # a bit for each scoreboard waited for

    @property
    def base(self) -> str:
        return self.name.split(".")[0]


class Trace(NamedTuple):
    """What one thread executes; turns of innermost loops beyond a number are left out."""

    path: list[int]  # indices of instructions
    turns: dict[int, int]  # loops, by the index of their branch -> turns left out


def read(text: str) -> list[Instruction]:
    """The instructions of the one kernel in the text of ``cuobjdump --dump-sass``."""
    pattern = re.compile(
        r"/\*([0-9a-f]{4,5})\*/\s+(?:@(!?U?P\w+)\s+)?([^;]*?)\s*;\s*/\* 0x[0-9a-f]{16} \*/\s*\n"
        r"\s*/\* 0x([0-9a-f]{16}) \*/"
    )
    result = []
    for address, guard, body, high in pattern.findall(text):
        name, _, rest = body.strip().partition(" ")
        control = int(high, 16) >> 41
        operands = [part.strip() for part in rest.split(",")]
        boards = control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
        result.append(Instruction(int(address, 16), guard, name, operands, control & 15, *boards))
    return result


def parameters(types: Mapping[str, str], sizes: Mapping[str, int], base: int) -> dict[int, int]:
    """The constant bank by byte: whole numbers as they are, pointers far apart.

    Arguments that are constants are not passed; floats are left unknown.
    """
    bank: dict[int, int] = {}
    at = base
    for number, (name, kind) in enumerate(types.items()):
        if kind == "constexpr":
            continue
        size = 8 if kind.startswith("*") or kind.endswith("64") else 4
        at = -(-at // size) * size
        value = (number + 1) << 40 if kind.startswith("*") else sizes.get(name)
        if value is not None:
            for word in range(size // 4):
                bank[at + 4 * word] = value >> (32 * word) & WORD
        at += size
    return bank


class Thread:
    """The registers of one thread of the first warp of a block; None is unknown."""

    def __init__(self, bank: Mapping[int, int], block: tuple[int, int, int], lane: int = 0) -> None:
        self.bank = bank
        self.special = {"SR_TID.X": lane, "SRZ": 0, "SR_LANEID": lane, "SR_CgaCtaId": 0}
        self.special |= {f"SR_CTAID.{axis}": at for axis, at in zip("XYZ", block, strict=True)}
        self.registers: dict[str, int | None] = {}

    def get(self, text: str) -> int | None:
        text = text.removesuffix(".reuse")
        if text.startswith("!"):
            value = self.get(text[1:])
            return None if value is None else 1 - value
        if text[0] in "-~" and not text[1:].startswith("0x"):
            value = self.get(text[1:])
            if value is None:
                return None
            return (~value & WORD) + (text[0] == "-")
        if text in ("RZ", "URZ"):
            return 0
        if text in ("PT", "UPT"):
            return 1
        if text.startswith("c[0x0]["):
            return self.bank.get(int(text[7:-1], 16)) if text[7:-1].startswith("0x") else None
        if text[0].isdigit() or text.startswith("-0x"):
            try:
                return int(text, 0) & WORD
            except ValueError:
                return None  # a floating-point constant
        return self.registers.get(text)

    def set(self, name: str, value: int | None) -> None:
        if name not in ("RZ", "URZ", "PT", "UPT"):
            self.registers[name] = value

    def set_pair(self, name: str, value: int | None) -> None:
        self.set(name, None if value is None else value & WORD)
        self.set(following(name), None if value is None else value >> 32 & WORD)

    def pair(self, name: str) -> int | None:
        low, high = self.get(name), self.get(following(name.removesuffix(".reuse")))
        return None if low is None or high is None else high << 32 | low

    def address(self, instruction: Instruction) -> int | None:
        """What is in its square brackets: registers and a number, added."""
        match = re.search(r"\[([^\]]+)\]", ",".join(instruction.operands))
        terms = [] if match is None else [t.strip() for t in match[1].split("+")]
        values = [self.get(re.sub(r"\.(X4|X8|X16|reuse)$", "", term)) for term in terms]
        if not terms or any(value is None for value in values):
            return None
        scale = re.search(r"\.X(\d+)", terms[0])
        first, *others = (value for value in values if value is not None)
        return (first * (int(scale[1]) if scale else 1) + sum(others)) & WORD

    def holds(self, guard: str) -> bool | None:
        value = self.get(guard) if guard else 1
        return None if value is None else bool(value)

    def takes(self, instruction: Instruction) -> bool | None:
        """Whether an instruction is carried out, a branch taken."""
        all_of = [self.holds(name) for name in conditions(instruction)]
        return False if False in all_of else None if None in all_of else True

    def step(self, instruction: Instruction, certain: bool) -> None:
        """One instruction that is no branch; its results are unknown if its guard is."""
        targets = _targets(instruction)
        rule = RULES.get(instruction.base.removeprefix("U")) if certain else None
        if rule is not None and rule(self, instruction.name, instruction.operands):
            return
        for target in targets:
            self.set(target, None)


def conditions(instruction: Instruction) -> list[str]:
    """Its guard, and for a branch the predicates among its operands."""
    more = instruction.operands if instruction.base == "BRA" else []
    named = [o for o in more if re.fullmatch(r"!?U?P\w+", o)]
    return [instruction.guard, *named] if instruction.guard else named


def following(name: str) -> str:
    """The register after one: R8 -> R9."""
    match = re.fullmatch(r"(U?R)(\d+)", name)
    return f"{match[1]}{int(match[2]) + 1}" if match else name


def _targets(instruction: Instruction) -> list[str]:
    if instruction.base in ("ST", "STG", "STS", "STSM", "RED", "BAR", "NOP", "LDGSTS", "BSSY"):
        return []
    result = []
    for operand in instruction.operands:
        if not re.fullmatch(r"U?[RP]\w+", operand):
            break
        result.append(operand)
        if operand.lstrip("U").startswith("R"):
            break
    if result and result[-1].lstrip("U").startswith("R"):
        wide = 4 if ".128" in instruction.name else 2
        if wide == 4 or ".64" in instruction.name or instruction.base in ("CS2R", "DFMA", "DADD"):
            for _ in range(wide - 1):
                result.append(following(result[-1]))
    return result


def _split(operands: list[str]) -> tuple[str, list[str], list[str], list[str]]:
    """The target, the predicates it sets, the sources, and the predicates read at the end."""
    rest = list(operands)
    sets = []
    while re.fullmatch(r"U?P[\dT]", rest[0]):
        sets.append(rest.pop(0))
    target = rest.pop(0)
    while rest and re.fullmatch(r"U?P[\dT]", rest[0]):
        sets.append(rest.pop(0))
    takes: list[str] = []
    while rest and re.fullmatch(r"!?U?P[\dT]", rest[-1]):
        takes.insert(0, rest.pop())
    return target, sets, rest, takes


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 & 1 else value


def _known(thread: Thread, names: list[str]) -> list[int] | None:
    values = [thread.get(name) for name in names]
    return None if any(value is None for value in values) else values  # type: ignore[return-value]


Rule: TypeAlias = Callable[[Thread, str, list[str]], bool]


def _move(thread: Thread, name: str, operands: list[str]) -> bool:
    thread.set(operands[0], thread.get(operands[1]))
    return True


def _load_constant(thread: Thread, name: str, operands: list[str]) -> bool:
    match = re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operands[1])
    at = int(match[1], 16) if match else -8
    target = operands[0]
    for word in range(2 if ".64" in name else 1):
        thread.set(target, thread.bank.get(at + 4 * word))
        target = following(target)
    return True


def _special(thread: Thread, name: str, operands: list[str]) -> bool:
    value = thread.special.get(operands[1])
    if name == "CS2R":
        thread.set_pair(operands[0], value)
    else:
        thread.set(operands[0], value)
    return True


def _add(thread: Thread, name: str, operands: list[str]) -> bool:
    target, carries, sources, takes = _split(operands)
    values = _known(thread, sources + (takes[:2] if ".X" in name else []))
    total = None if values is None else sum(values)
    thread.set(target, None if total is None else total & WORD)
    for carry in carries:
        thread.set(carry, None if total is None else int(total > WORD))
    return True


def _multiply_add(thread: Thread, name: str, operands: list[str]) -> bool:
    target, _, (a, b, c, *_), takes = _split(operands)
    values = _known(thread, [a, b])
    if ".WIDE" in name:
        added = thread.pair(c) if re.fullmatch(r"U?R\d+(\.reuse)?", c) else thread.get(c)
    else:
        added = thread.get(c)
    if values is None or added is None:
        result = None
    else:
        x, y = values if ".U32" in name else map(_signed, (v & WORD for v in values))
        result = x * y + (0 if ".HI" in name else added)
        if ".X" in name and takes:
            carry = thread.get(takes[0])
            result = None if carry is None else result + carry
        if result is not None and ".HI" in name:
            result = (result >> 32) + added
    if ".WIDE" in name:
        thread.set_pair(target, None if result is None else result & (1 << 64) - 1)
    else:
        thread.set(target, None if result is None else result & WORD)
    return True


def _shifted_add(thread: Thread, name: str, operands: list[str]) -> bool:
    target, carries, sources, takes = _split(operands)
    values = _known(thread, sources)
    carry = thread.get(takes[0]) if ".X" in name and takes else 0
    total = None
    if values is not None and carry is not None:
        a, b, *rest, shift = values
        if ".HI" not in name:
            total = (a << shift & WORD) + b
        else:
            high = (WORD if a >> 31 else 0) if "SX32" in name else rest[0]
            total = ((high << 32 | a) << shift >> 32 & WORD) + b + carry
    thread.set(target, None if total is None else total & WORD)
    for name_of_carry in carries:
        thread.set(name_of_carry, None if total is None else int(total > WORD))
    return True


def _of_three(result: Callable[[str, int, int, int], int]) -> Rule:
    """The rule of an instruction whose result follows from its name and three known operands."""

    def rule(thread: Thread, name: str, operands: list[str]) -> bool:
        values = _known(thread, operands[1:4])
        if values is not None:
            thread.set(operands[0], result(name, *values))
        return values is not None

    return rule


def _shift(name: str, low: int, by: int, high: int) -> int:
    both = high << 32 | low
    if ".L." in name:
        result = both << by >> 32 if ".HI" in name else low << by
    elif ".HI" in name:
        result = (_signed(high) if ".S32" in name else high) >> min(by, 63)
    else:
        result = both >> by
    return result & WORD


def _logic(thread: Thread, name: str, operands: list[str]) -> bool:
    target, sets, sources, _ = _split(operands)
    values, table = [thread.get(s) for s in sources[:3]], int(sources[3], 16)
    result: int | None = 0
    for i in range(8):
        if table >> i & 1 and result is not None:
            term: int | None = WORD
            for value, bit in zip(values, (4, 2, 1), strict=True):
                if value is None:
                    term = None if term else term
                elif term is not None:
                    term &= value if i & bit else ~value & WORD
                elif not (value if i & bit else ~value & WORD):
                    term = 0
            result = None if term is None else result | term
    thread.set(target, result)
    for predicate in sets:
        thread.set(predicate, None if result is None else int(result != 0))
    return True


def _predicate_logic(thread: Thread, name: str, operands: list[str]) -> bool:
    values, table = _known(thread, operands[2:5]), int(operands[5], 16)
    if values is None:
        return False
    a, b, c = values
    thread.set(operands[0], table >> (a << 2 | b << 1 | c) & 1)
    return True


def _compare(thread: Thread, name: str, operands: list[str]) -> bool:
    how, *modifiers = name.split(".")[1:]
    target, _, sources, takes = operands[0], operands[1], operands[2:4], operands[4:]
    values = _known(thread, sources)
    inputs = _known(thread, takes)
    if values is None or inputs is None:
        thread.set(target, None)
        return True
    x, y = (v & WORD for v in values)
    if "U32" not in modifiers:
        x, y = _signed(x), _signed(y)
    if "EX" in modifiers and x == y:
        result = inputs[1]
    else:
        result = {"LT": x < y, "LE": x <= y, "GT": x > y, "GE": x >= y, "EQ": x == y,
                  "NE": x != y}[how]  # fmt: skip
    if "OR" in modifiers:
        result = bool(result) or bool(inputs[0])
    else:
        result = bool(result) and bool(inputs[0])
    thread.set(target, int(result))
    return True


def _select(thread: Thread, name: str, operands: list[str]) -> bool:
    condition = thread.get(operands[3])
    if condition is None:
        return False
    thread.set(operands[0], thread.get(operands[1] if condition else operands[2]))
    return True


def _extreme(name: str, a: int, b: int, smaller: int) -> int:
    order: Callable[[int], int] = (lambda v: v) if ".U32" in name else _signed
    return (min if smaller else max)(a, b, key=order)


def _pack(thread: Thread, name: str, operands: list[str]) -> bool:
    """P2R R, PR, Rc, mask: predicates as bits."""
    values = _known(thread, operands[2:4])
    if values is None:
        return False
    kept, mask = values
    wanted = [i for i in range(7) if mask >> i & 1]
    bits = _known(thread, [f"P{i}" for i in wanted])
    if bits is None:
        return False
    packed = sum(bit << i for i, bit in zip(wanted, bits, strict=True))
    thread.set(operands[0], kept & ~mask | packed)
    return True


RULES: dict[str, Rule] = {
    "MOV": _move, "R2UR": _move, "LDC": _load_constant, "LDCU": _load_constant,
    "S2R": _special, "S2UR": _special, "CS2R": _special, "IADD3": _add, "VIADD": _add,
    "IADD": _add, "IMAD": _multiply_add, "LEA": _shifted_add, "SHF": _of_three(_shift),
    "LOP3": _logic, "PLOP3": _predicate_logic, "ISETP": _compare, "SEL": _select,
    "IMNMX": _of_three(_extreme), "VIMNMX": _of_three(_extreme), "P2R": _pack,
}  # fmt: skip


def follow(
    code: list[Instruction], bank: Mapping[int, int], block: tuple[int, int, int], keep: int
) -> Trace:
    """The path of thread 0, with at most ``keep`` turns of an innermost loop each time."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    jumps = {i: at.get(_goal(ins), i) for i, ins in enumerate(code) if ins.base == "BRA"}
    backward = {i: goal for i, goal in jumps.items() if goal < i}
    inner = {branch for branch, goal in backward.items() if _is_simple(code, jumps, goal, branch)}
    thread = Thread(bank, block)
    path: list[int] = []
    turns = dict.fromkeys(inner, 0)
    running: dict[int, int] = {}
    here = steps = 0
    while here < len(code) and steps < LIMIT:
        steps += 1
        instruction = code[here]
        path.append(here)
        holds = thread.takes(instruction)
        if instruction.base == "EXIT" and holds is not False:
            if holds:
                break
        elif instruction.base == "BRA":
            goal = jumps[here]
            if goal == here:
                break
            if holds is None:
                holds = goal > here and any(i.base == "CALL" for i in code[here:goal])
            if here in inner:
                count = running[here] = running.get(here, 0) + 1
                if holds and count >= keep:
                    turns[here] += 1 + _remaining(code, thread, goal, here)
                    running[here] = 0
                    here += 1
                    continue
                if not holds:
                    running[here] = 0
            if holds:
                here = goal
                continue
        elif holds is not False:
            thread.step(instruction, holds is True)
        here += 1
    return Trace(path, {branch: count for branch, count in turns.items() if count})


def _is_simple(code: list[Instruction], jumps: Mapping[int, int], first: int, branch: int) -> bool:
    """A loop without another inside, left nowhere but at its end, and there on a condition."""
    inside = [(i, goal) for i, goal in jumps.items() if first <= i < branch]
    ends = any(instruction.base == "EXIT" for instruction in code[first:branch])
    forward = all(i < goal <= branch for i, goal in inside)
    return forward and not ends and bool(conditions(code[branch]))


def _remaining(code: list[Instruction], thread: Thread, first: int, branch: int) -> int:
    """How often a loop turns after the turn that begins now, which is carried out as well.

    Only the instructions that its branch depends on are; what the others set is unknown after.
    """
    body = range(first, branch)
    needed = {name.lstrip("!") for name in conditions(code[branch])}
    chosen: set[int] = set()
    while True:
        found = {i for i in body if needed & set(_targets(code[i]))}
        if found == chosen:
            break
        chosen = found
        for i in chosen:
            for name in re.findall(r"\bU?[RP]\d+\b", f"{code[i].guard} {code[i].operands}"):
                needed |= {name, following(name)}
    count = 0
    while count < LIMIT:
        for i in body:
            holds = thread.holds(code[i].guard) if i in chosen else False
            if holds is not False:
                thread.step(code[i], holds is True)
        if not thread.takes(code[branch]):
            break
        count += 1
    for i in set(body) - chosen:
        for target in _targets(code[i]):
            thread.set(target, None)
    return count


def shared_addresses(
    code: list[Instruction], path: list[int], bank: Mapping[int, int], block: tuple[int, int, int]
) -> dict[int, list[int]]:
    """Of each access to shared memory on a path, the addresses of the first warp's threads, when
    it comes by first; those that are known."""
    result: dict[int, list[int]] = {}
    for lane in range(32):
        thread, passed = Thread(bank, block, lane), set()
        for index in path:
            instruction = code[index]
            holds = thread.holds(instruction.guard)
            if instruction.base in SHARED and index not in passed and holds is not False:
                passed.add(index)
                address = thread.address(instruction)
                if address is not None:
                    result.setdefault(index, []).append(address)
            if instruction.base not in ("BRA", "EXIT") and holds is not False:
                thread.step(instruction, holds is True)
    return result


SHARED = ("LDS", "STS", "LDSM", "STSM", "LDGSTS")


def _goal(instruction: Instruction) -> int:
    return next((int(o, 16) for o in instruction.operands if o.startswith("0x")), -1)
