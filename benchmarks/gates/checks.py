"""The gates: what must hold of every kernel in every form its launchers start."""

from __future__ import annotations

import fnmatch
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import amd, banks
from .device import MULTIPROCESSORS, Architecture, resident_blocks
from .floors import CONFLICTS, LOW_TILES, SPILLS, WARPS, Table
from .launches import PROBLEMS, Launch, named, record

Row = dict[str, Any]
ASSEMBLE = Path(__file__).with_name("assemble.py")


def recorded(
    kernels: Sequence[str] = (),
    problems: Sequence[str] = (),
    arch: Architecture = 90,
    one_each: bool = False,
) -> dict[str, Launch]:
    """The compiled kernels by name, where kernel and problem fit a pattern, as they are launched
    on such a GPU; or of each kernel and precision the one with the smallest tile."""

    def fits(name: str, patterns: Sequence[str]) -> bool:
        return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    chosen = [problem for problem in PROBLEMS if fits(problem.label, problems)]
    found = {
        name: launch
        for name, launch in named(record(arch, chosen)).items()
        if fits(launch.kernel, kernels)
    }
    if one_each:
        ordered = sorted(found.items(), key=lambda item: tile(item[1]))
        smallest: dict[tuple[str, str], str] = {}
        for name, launch in ordered:
            smallest.setdefault((launch.kernel, precision(launch)), name)
        found = {name: found[name] for name in smallest.values()}
    return found


def assembled(
    cases: dict[str, Launch],
    archs: Sequence[Architecture],
    folder: Path,
    python: str = sys.executable,
    jobs: int = 1,
    sass: bool = False,
) -> list[Row]:
    """One row for each case and architecture; the assemblers' texts stay in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    given = folder / "cases.json"
    given.write_text(json.dumps([launch._asdict() for launch in cases.values()]), "utf-8")
    command = [python, str(ASSEMBLE), str(given), str(folder), f"--jobs={jobs}"]
    command += ["--sass"] if sass else []
    run = subprocess.run(
        [*command, *(f"--arch={arch}" for arch in archs)], capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"{python}: {run.stderr[-4000:]}")
    index = json.loads((folder / "index.json").read_text("utf-8"))
    names = list(cases)
    rows = []
    for found in index["rows"]:
        name = names[found.pop("case")]
        launch = cases[name]
        row = {"triton": index["triton"], "kernel": launch.kernel,
               "label": name.removeprefix(launch.kernel).strip(),
               "configuration": configuration(launch), "precision": precision(launch)}  # fmt: skip
        row |= found
        if "refused" not in row:
            text = folder / f"{names.index(name)}-{row['arch']}"
            if isinstance(row["arch"], str):
                row |= amd.counted(row, text.with_suffix(".amdgcn").read_text("utf-8"))
            else:
                row |= counted(row, text.with_suffix(".ptx").read_text("utf-8"))
        row["problems"] = problems(row)
        rows.append(row)
    return rows


def configuration(launch: Launch) -> str:
    """Its tile and its warps, in short."""
    constants = launch.constants.items()
    sizes = [f"{n.removeprefix('BLOCK_')} {v}" for n, v in constants if n.startswith("BLOCK")]
    return ", ".join([*sizes, f"{launch.options.get('num_warps', 4)} warps"])


def tile(launch: Launch) -> int:
    """Its sizes multiplied."""
    return math.prod(v for n, v in launch.constants.items() if n.startswith("BLOCK"))


def precision(launch: Launch) -> str:
    return str(launch.constants.get("PRECISION", "ieee"))


def counted(row: Row, ptx: str) -> Row:
    """What is counted from the code of one compiled kernel."""
    loops = banks.product_loops(ptx)
    inside = [a for a in banks.accesses(ptx, 32 * row["warps"]) if a.loop in loops]
    core = re.search(r"(wgmma\.mma_async|tcgen05\.mma|mma\.sync)[\w.:]*", ptx)
    loads = [a for a in inside if a.instruction.startswith("ld")]
    return {
        "blocks": resident_blocks(
            row["arch"], row["warps"], row["registers"], row["shared"], row["tensor_memory"]
        ),
        "tensor_core": core[0] if core else "",
        "conflict": max((a.conflict for a in inside), default=0),
        "unknown": sum(a.conflict == 0 for a in inside),
        "load_wavefronts": sum(a.wavefronts for a in loads),
        "multiplications": max(loops.values(), default=0),
        "barriers": barriers(ptx),
    }


def barriers(ptx: str) -> int:
    """Of the whole block, in a single turn of the loop that has the most."""
    return max((len(re.findall(r"\bbar(?:rier)?\.(?:cta\.)?sync", text))
                for text in banks.innermost(ptx)), default=0)  # fmt: skip


def problems(row: Row) -> list[str]:
    """The gates that a row breaks, in words."""
    if "refused" in row:
        return [f"does not compile: {row['refused']}"]
    if isinstance(row["arch"], str):
        return amd.problems(row)
    arch = MULTIPROCESSORS[row["arch"]]
    found = []
    if row["spilled"] > first_line(SPILLS, row):
        found.append(f"{row['spilled']} bytes a thread are spilled")
    if row["shared"] > arch.shared_block * 1024:
        found.append(f"needs {row['shared'] / 1024:.0f} KiB of shared memory")
    least = first_line(WARPS, row)
    if row["blocks"] * row["warps"] < least:
        found.append(f"{row['blocks']} blocks of {row['warps']} warps, fewer than {least} warps")
    allowed = first_line(CONFLICTS, row)
    if row["conflict"] > allowed:
        found.append(f"{row['conflict']}-way bank conflicts, more than {allowed}-way")
    if row["unknown"]:
        found.append(f"{row['unknown']} addresses in shared memory cannot be followed")
    if row["precision"] == "ieee":
        if row["tensor_core"] and ".f64" not in row["tensor_core"]:
            found.append(f"float32 products run as {row['tensor_core']}")
    elif not arch.tensor_core:
        found.append(f"{row['precision']} products on a GPU that has no such instructions")
    else:
        kind = (
            r"\.(bf16|kind::f16)" if row["precision"].startswith("bf16") else r"\.(tf32|kind::tf32)"
        )
        core = row["tensor_core"]
        low = any(fnmatch.fnmatchcase(row["kernel"], kernel) for kernel in LOW_TILES)
        instruction = "mma.sync" if low else arch.tensor_core
        if not (core.startswith(instruction) and re.search(kind, core)):
            found.append(f"{row['precision']} products run as {core or 'fma'}")
    return found


def first_line(table: Table, row: Row) -> int:
    """The number in the first line of a table that fits a row."""
    for kernel, label, archs, value in table:
        if (
            fnmatch.fnmatchcase(row["kernel"], kernel)
            and fnmatch.fnmatchcase(row["label"], label)
            and row["arch"] in archs
        ):
            return value
    raise KeyError(f"no line for {row['kernel']} {row['label']} on sm_{row['arch']}")


def check(
    archs: Sequence[Architecture],
    kernels: Sequence[str] = (),
    problems: Sequence[str] = (),
    python: str = sys.executable,
    jobs: int = 1,
    one_each: bool = False,
) -> list[Row]:
    """Records, compiles and counts; rows with their ``problems``."""
    rows: list[Row] = []
    for arch in archs:  # launchers start other forms on other GPUs
        with tempfile.TemporaryDirectory() as folder:
            cases = recorded(kernels, problems, arch, one_each)
            rows += assembled(cases, [arch], Path(folder), python, jobs)
    return rows
