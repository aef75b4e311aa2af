"""Holds every kernel to the gates: see the package. Ends with exit code 1 where one is broken."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .amd import COMPUTE_UNITS
from .assemble import architecture
from .checks import check
from .device import MULTIPROCESSORS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m drcl.benchmarks.gates", description=__doc__)
    parser.add_argument(
        "--arch",
        type=architecture,
        action="append",
        choices=[*sorted(MULTIPROCESSORS), *COMPUTE_UNITS],
    )
    parser.add_argument(
        "--kernel", action="append", default=[], help="only kernels that fit this pattern"
    )
    parser.add_argument(
        "--problem", action="append", default=[], help="only what such problems launch"
    )
    parser.add_argument(
        "--one-each", action="store_true", help="of each kernel and precision the smallest tile"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="the Python with the Triton to use"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the table there")
    options = parser.parse_args()
    archs = options.arch or [80, 90, 100, 120]
    rows = check(
        archs, options.kernel, options.problem, options.python, options.jobs, options.one_each
    )
    print(
        f"{'kernel':24} {'configuration':42} arch    reg blocks warps  shared conflict  "
        "tensor cores"
    )
    for row in rows:
        line = f"{row['kernel']:24} {row['label']:42} {row['arch']:<7} "
        if "refused" not in row:
            line += (
                f"{row['registers']:3} {row['blocks']:6} {row['blocks'] * row['warps']:5} "
                f"{row['shared']:7} {row.get('conflict', '-'):>8}  {row['tensor_core']}"
            )
        print(line + "".join(f"  ! {problem}" for problem in row["problems"]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return int(any(row["problems"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
