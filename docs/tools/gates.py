"""What the assemblers make of every kernel, written to compile_gates.json for the kernel pages.

    python docs/tools/gates.py

No GPU is needed. To be run after a kernel or one of its configurations has changed: a test compares
the kernels and configurations in the file with those in the sources. Takes some minutes.
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
ARCHITECTURES = (80, 90, 100)


def triton_kernels() -> list[dict[str, Any]]:
    """Every Triton kernel at every configuration that its launcher picks."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHITECTURES:
            out = Path(folder, f"{arch}.json")
            gates = ROOT / "benchmarks" / "compile_gates.py"
            subprocess.run([sys.executable, gates, "--arch", str(arch), "--json", out], check=True)
            rows += json.loads(out.read_text(encoding="utf-8"))
    for row in rows:
        del row["problems"]
    return rows


def cuda_kernels() -> list[dict[str, Any]]:
    """The CUDA kernels of ``csrc/cuda``; none without nvcc."""
    from torch.utils.cpp_extension import include_paths

    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return []
    rows = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        for arch in ARCHITECTURES:
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
                        "kernel": name[1],
                        "label": kind,
                        "arch": arch,
                        "registers": int(registers),
                        "spills": int(spills),
                        "shared": int(shared or 0),
                        "tensor_core": "",
                    }
                )
    return rows


def main() -> None:
    import triton

    rows = triton_kernels() + cuda_kernels()
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    TABLE.write_text(
        f'{{"triton": "{triton.__version__}", "rows": [\n{lines}\n]}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
