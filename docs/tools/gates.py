"""What the assemblers make of every kernel, and the times predicted from that, for the pages.

    python docs/tools/gates.py PYTHON

PYTHON is one that has the Triton that comes with PyTorch; the running one has another. Writes
compile_gates.json (counted) and predicted.json (predicted) beside this file. No GPU is needed. To
be run after a kernel or one of its configurations has changed: a test compares the kernels and
configurations in the file with those that the launchers start. Takes some minutes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("compile_gates.json")
PREDICTED = Path(__file__).with_name("predicted.json")
CUDA_ARCHITECTURES = (80, 90, 100)
KEPT = (
    "triton", "kernel", "label", "configuration", "precision", "arch", "registers", "spilled",
    "shared", "warps", "blocks", "tensor_core", "conflict", "load_wavefronts", "barriers",
)  # fmt: skip


def triton_kernels(pythons: list[str]) -> list[dict[str, Any]]:
    """Every Triton kernel in every form that the launchers start, for sm_90, by each Python."""
    from drcl.benchmarks.gates.checks import check

    rows = [row for python in pythons for row in check([90], python=python, jobs=2)]
    refused = [row for row in rows if "refused" in row]
    if refused:
        raise RuntimeError(f"kernels that do not compile: {refused}")
    return [{key: row[key] for key in KEPT} for row in rows]


def cuda_kernels() -> list[dict[str, Any]]:
    """The CUDA kernels of ``csrc/cuda``; none without nvcc."""
    from torch.utils.cpp_extension import include_paths

    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return []
    rows = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        for arch in CUDA_ARCHITECTURES:
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    *(nvcc, "-O3", "-std=c++20", "--fmad=false", "-Xptxas", "-v", "-DUSE_CUDA"),
                    *(f"-arch=sm_{arch}", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
                    *(f"-I{path}" for path in (ROOT / "csrc", *include_paths())),
                    *("-c", str(source), "-o", str(Path(folder, "object.o"))),
                ]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            found = re.findall(
                r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores"
                r".*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
                said,
                flags=re.S,
            )
            for mangled, spills, registers, shared in found:
                name = re.search(r"\d([a-z][a-z_]*_kernel)I([fd])E", mangled)
                assert name is not None, mangled
                kind = {"f": "float32 scores", "d": "float64 scores"}[name[2]]
                rows.append(
                    {
                        "triton": "",
                        "kernel": name[1],
                        "label": kind,
                        "arch": arch,
                        "registers": int(registers),
                        "spilled": int(spills),
                        "shared": int(shared or 0),
                    }
                )
    return rows


def main() -> None:
    from drcl.benchmarks.gates.launches import HEADLINES
    from drcl.benchmarks.gates.model import summary

    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    older = sys.argv[1]
    rows = triton_kernels([older, sys.executable]) + cuda_kernels()
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    steps = summary(HEADLINES, older, {})
    PREDICTED.write_text(json.dumps(steps, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
