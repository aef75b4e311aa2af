"""Predicts a kernel's time on an H200 from the assembler's code. Not calibrated: ±30 %.

    python -m drcl.benchmarks.gates.model [--python PYTHON] [--json out.json] [--factors f.json]

One multiprocessor is simulated: four schedulers issue an instruction a cycle each, warps wait as
the control codes of the assembler say (stall counts and scoreboards), units are busy as long as
their rate in the CUDA programming guide says, shared memory serves the wavefronts that `banks`
counts, barriers wait for all warps. Loops turn as often as `sass` finds; of long ones a few turns
are simulated, the others take what these take. Device memory enters as a floor: what a launch reads
and writes, each tensor once, at 4 TB/s. Caches, clocks and the launches' overlap are not simulated.

Figures from here are *predicted*, never measured. With ``--factors`` each kernel's prediction is
multiplied by the factor that a measurement on a card gave: a JSON object by kernel's name, as
``calibrated`` makes it from measured times.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import banks, sass
from .checks import Row, assembled
from .launches import HEADLINES, Launch, Problem, launches_of, named

ARCH = 90
MULTIPROCESSORS = 132
CLOCK = 1.755e9
BANDWIDTH = 4.0e12  # bytes a second
SGEMM = 48e12  # operations a second of a large float32 product in a library
LAUNCH = 2e-6  # seconds from the end of one kernel of a graph to the work of the next
PARAMETERS = 0x210  # where sm_90 keeps arguments in the constant bank
KEEP = 8  # turns of a loop that are simulated
WARM = 3  # of those, the first are not typical

# Cycles until a result is there, where scoreboards say that it is waited for.
LATENCY = {
    "LDS": 30, "LDSM": 33, "STS": 25, "STSM": 25, "SHFL": 24, "MUFU": 26, "LDG": 300, "STG": 20,
    "LDC": 35, "S2R": 25, "S2UR": 25, "ATOMG": 600, "DADD": 16, "DFMA": 16, "DMUL": 16,
    "DSETP": 20, "DMMA": 33, "REDUX": 30, "LDGSTS": 300, "POPC": 26, "FLO": 26, "HGMMA": 32,
}  # fmt: skip
# Unit and cycles for which one warp's instruction keeps it, a quarter of the multiprocessor each.
UNITS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("FFMA", "FADD", "FMUL"), ("fma", 1)),
    **dict.fromkeys(("IMAD", "HFMA2"), ("fma", 2)),
    **dict.fromkeys(("FSEL", "FSETP", "FMNMX", "IADD3", "LOP3", "ISETP", "SEL", "SHF", "LEA",
                     "PRMT", "VIADD", "PLOP3", "VIMNMX", "IABS", "SGXT", "FSET"), ("alu", 2)),
    **dict.fromkeys(("MUFU", "F2F", "I2F", "F2I", "POPC", "FLO"), ("special", 8)),
    **dict.fromkeys(("DADD", "DFMA", "DMUL", "DSETP"), ("double", 2)),
}  # fmt: skip
BARRIER = 22  # cycles from the last warp's arrival


class Kernel(NamedTuple):
    """A compiled kernel and what is counted of it."""

    row: Row
    code: list[sass.Instruction]


class Prediction(NamedTuple):
    launch: Launch
    row: Row
    cycles: float  # of one round of blocks on a multiprocessor
    rounds: float
    microseconds: float


def compiled(launches: Sequence[Launch], python: str, folder: Path) -> dict[str, Kernel]:
    """The kernels of some launches, by ``Launch.binary``."""
    cases = named(list(launches))
    rows = assembled(cases, [ARCH], folder, python, sass=True)
    result = {}
    for number, (launch, row) in enumerate(zip(cases.values(), rows, strict=True)):
        if "refused" in row:
            raise RuntimeError(f"{launch.kernel}: {row['refused']}")
        code = (folder / f"{number}-{ARCH}.sass").read_text("utf-8")
        result[launch.binary] = Kernel(row, sass.read(code))
    return result


def wavefronts(code: list[sass.Instruction], addresses: Mapping[int, list[int]]) -> dict[int, int]:
    """By instruction: of an access to shared memory, those of the first warp.

    Counted in the assembler's code, which may join four loads of the PTX into one.
    """
    result = {}
    for index, some in addresses.items():
        name = code[index].name
        if "M" in code[index].base.removeprefix("LDS").removeprefix("STS"):
            count = 4 if ".4" in name else 2 if ".2" in name else 1
            result[index] = banks.conflict(np.array(some[: 8 * count]), 16)[1]
        else:
            result[index] = banks.conflict(np.array(some), 4 * width(name))[1]
    return result


def width(name: str) -> int:
    """Words a thread."""
    return 4 if ".128" in name else 2 if ".64" in name else 1


def predict(launch: Launch, kernel: Kernel, factor: float = 1.0) -> Prediction:
    """The time of one launch."""
    middle = tuple(size // 2 for size in launch.grid)
    bank = sass.parameters(launch.types, launch.sizes, PARAMETERS)
    bank |= dict(zip((0xC, 0x10, 0x14), launch.grid, strict=True))
    block = middle[0], middle[1], middle[2]
    trace = sass.follow(kernel.code, bank, block, KEEP)
    once = sass.follow(kernel.code, bank, block, 1).path
    waves = wavefronts(kernel.code, sass.shared_addresses(kernel.code, once, bank, block))
    programs = launch.grid[0] * launch.grid[1] * launch.grid[2]
    each = programs / MULTIPROCESSORS
    resident = max(1, min(kernel.row["blocks"], -(-programs // MULTIPROCESSORS)))
    full = simulate(kernel, trace, waves, resident)
    rounds = float(int(each / resident))
    left = -(-(programs - int(rounds) * resident * MULTIPROCESSORS) // MULTIPROCESSORS)
    cycles = rounds * full
    if left > 0:
        cycles += simulate(kernel, trace, waves, left) if rounds else full
        rounds += left / resident
    seconds = max(cycles / CLOCK, launch.moved / BANDWIDTH)
    return Prediction(launch, kernel.row, full, rounds, factor * seconds * 1e6)


def simulate(kernel: Kernel, trace: sass.Trace, waves: Mapping[int, int], blocks: int) -> float:
    """Cycles until so many blocks that start together have run a trace."""
    warps = kernel.row["warps"]
    total = warps * blocks
    made = {i: _step(kernel.code[i], waves.get(i)) for i in set(trace.path)}
    steps = [made[i] for i in trace.path]
    marks: dict[int, list[int]] = {}  # of loops cut short: the positions at which a turn ends
    for position, index in enumerate(trace.path):
        if index in trace.turns:
            marks.setdefault(index, []).append(position)
    seen: dict[int, list[float]] = {position: [] for p in marks.values() for position in p}
    scoreboards = [[0.0] * 6 for _ in range(total)]
    place = [0] * total
    scheduler = [0.0] * 4
    units: dict[tuple[str, int], float] = defaultdict(float)
    memory = 0.0  # when the path to shared memory and the caches is free
    arrived: list[list[int]] = [[] for _ in range(blocks)]
    running = [warps] * blocks
    # when a warp may try, since when it could: the longest waiting goes first
    ready = [(0.0, 0.0, warp) for warp in range(total)]
    end = 0.0
    while ready:
        time, since, warp = heapq.heappop(ready)
        step = steps[place[warp]]
        quarter = warp % 4
        start = max(time, scheduler[quarter])
        for board in step.waits:
            since = max(since, scoreboards[warp][board])
        start = max(start, since)
        if step.unit:
            start = max(start, units[step.unit, quarter])
        if step.wavefronts:
            start = max(start, memory - 8)  # some accesses queue
        if start > time:
            heapq.heappush(ready, (start, since, warp))
            continue
        scheduler[quarter] = start + 1
        if step.unit:
            units[step.unit, quarter] = start + step.busy
        served = start
        if step.wavefronts:
            served = memory = max(start, memory) + step.wavefronts
        if step.writes < 6:
            boards = scoreboards[warp]
            boards[step.writes] = max(boards[step.writes], served + step.latency)
        if step.reads < 6:
            boards = scoreboards[warp]
            boards[step.reads] = max(boards[step.reads], served + 12)
        if place[warp] in seen:
            seen[place[warp]].append(start)
        place[warp] += 1
        block = warp // warps
        end = max(end, start + step.stall)
        if place[warp] == len(steps):
            running[block] -= 1
        elif step.barrier:
            arrived[block].append(warp)
        else:
            heapq.heappush(ready, (start + step.stall, start + step.stall, warp))
        if arrived[block] and len(arrived[block]) == running[block]:
            for other in arrived[block]:
                heapq.heappush(ready, (start + BARRIER, start + BARRIER, other))
            arrived[block] = []
    return end + sum(
        trace.turns[loop] * _turn([sum(seen[p]) / len(seen[p]) for p in positions])
        for loop, positions in marks.items()
    )


def _turn(times: Sequence[float]) -> float:
    """Cycles of a typical turn, from the times at which turns end."""
    return max(0.0, (times[-1] - times[WARM]) / (len(times) - 1 - WARM))


class _Step(NamedTuple):
    stall: int
    writes: int
    reads: int
    waits: tuple[int, ...]
    unit: str
    busy: int
    wavefronts: int
    latency: int
    barrier: bool


def _step(instruction: sass.Instruction, counted: int | None) -> _Step:
    base, name = instruction.base, instruction.name
    unit, busy = UNITS.get(base, ("", 0))
    wavefronts = counted or 0
    if counted is None and base in ("LDS", "STS", "LDG", "STG", "LDGSTS", "SHFL", "ATOMG", "RED"):
        wavefronts = width(name)
    elif counted is None and base in ("LDSM", "STSM"):
        wavefronts = 4
    if base in ("HGMMA", "DMMA"):
        unit, busy = "tensor", tensor_cycles(name)
    return _Step(
        max(1, instruction.stall), instruction.writes, instruction.reads,
        tuple(b for b in range(6) if instruction.waits >> b & 1), unit, busy, wavefronts,
        LATENCY.get(base, 20) + (busy if unit == "tensor" else 0),
        base == "BAR" and "SYNC" in name,
    )  # fmt: skip


def tensor_cycles(name: str) -> int:
    """How long a quarter's tensor core is busy: multiplications of a warp over those a cycle.

    >>> tensor_cycles("HGMMA.64x128x8.F32.TF32"), tensor_cycles("HGMMA.64x128x16.F32.BF16")
    (64, 64)
    """
    shape = re.search(r"\.(\d+)x(\d+)x(\d+)", name)
    if shape is None:
        return 16
    m, n, k = map(int, shape.groups())
    if name.startswith("DMMA"):
        return m * n * k // 32
    return m // 4 * n * k // (256 if "TF32" in name else 512)


def floor(problem: Problem) -> float:
    """Seconds that a step of the loss needs at least: products as a library's, bytes once.

    3·B·D·min(B, D) + 4·B·D·C operations and 20·B·D bytes, as in the benchmark suite.
    """
    b, d, c = problem.batch, problem.width, problem.classes
    return (3.0 * b * d * min(b, d) + 4.0 * b * d * c) / SGEMM + 20.0 * b * d / BANDWIDTH


def calibrated(measured: Mapping[str, float], predicted: Mapping[str, float]) -> dict[str, float]:
    """By kernel: what to multiply predictions with, given times in any one unit.

    >>> calibrated({"rows_kernel": 30.0}, {"rows_kernel": 20.0, "finish_kernel": 5.0})
    {'rows_kernel': 1.5}
    """
    return {name: time / predicted[name] for name, time in measured.items() if name in predicted}


def summary(
    problems: Sequence[Problem], python: str, factors: Mapping[str, float]
) -> dict[str, Any]:
    """The predicted steps of some problems: each launch, the sum with gaps, and the floor."""
    launches = {problem: launches_of(problem) for problem in problems}
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        kernels = compiled([x for some in launches.values() for x in some], python, Path(folder))
    for problem, some in launches.items():
        rows = []
        for launch in some:
            kernel = kernels[launch.binary]
            found = predict(launch, kernel, factors.get(launch.kernel, 1.0))
            row = kernel.row
            rows.append({
                "kernel": launch.kernel, "grid": launch.grid, "registers": row["registers"],
                "blocks": row["blocks"], "barriers": row["barriers"],
                "conflict": row["conflict"], "load_wavefronts": row["load_wavefronts"],
                "bytes": launch.moved, "predicted_us": round(found.microseconds, 2),
            })  # fmt: skip
        busy = sum(row["predicted_us"] for row in rows)
        steps.append({
            "problem": problem.label, "launches": rows,
            "predicted_us": round(busy + len(rows) * LAUNCH * 1e6, 1),
            "floor_us": round(floor(problem) * 1e6, 1),
        })  # fmt: skip
    version = next(iter(kernels.values())).row["triton"]
    return {"triton": version, "device": "H200", "steps": steps}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m drcl.benchmarks.gates.model")
    parser.add_argument(
        "--python", default=sys.executable, help="the Python with the Triton to use"
    )
    parser.add_argument("--factors", type=Path, help="measured over predicted, by kernel")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--shape", action="append", default=[], help="B,D,C; default: the headline shapes"
    )
    options = parser.parse_args()
    problems = []
    for shape in options.shape:
        b, d, c = map(int, shape.split(","))
        problems.append(Problem("loss", b, d, c))
    factors = json.loads(options.factors.read_text("utf-8")) if options.factors else {}
    result = summary(problems or HEADLINES, options.python, factors)
    for step in result["steps"]:
        ratio = step["predicted_us"] / step["floor_us"]
        print(
            f"{step['problem']}: predicted {step['predicted_us']:,.0f} µs with launches, "
            f"floor {step['floor_us']:,.0f} µs, {ratio:.2f} times the floor"
        )
        for row in step["launches"]:
            print(
                f"  {row['kernel']:24} {row['predicted_us']:10,.1f} µs  {row['registers']:3} "
                f"registers, {row['blocks']:2} blocks, {row['barriers']} barriers a turn, "
                f"{row['load_wavefronts']} wavefronts, {row['bytes'] / 1e6:,.1f} MB"
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
