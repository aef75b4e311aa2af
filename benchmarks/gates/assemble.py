"""Compiles recorded launches with the Triton of the running Python, without PyTorch and NumPy.

    python benchmarks/gates/assemble.py cases.json folder --arch 90 [--jobs 2]

A script and not a module of the package, so that any Triton in an environment of its own can run
it. Leaves ``N-ARCH.ptx`` and ``N-ARCH.sass`` in the folder for case N, and ``index.json``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def load_kernels() -> None:
    """Imports the kernels as ``drcl_kernels``: under their own name PyTorch would come along."""
    spec = importlib.util.spec_from_file_location(
        "drcl_kernels", KERNELS / "__init__.py", submodule_search_locations=[str(KERNELS)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["drcl_kernels"] = module
    spec.loader.exec_module(module)


def assemble(case: dict[str, Any], number: int, arch: int, folder: str) -> dict[str, Any]:
    """What the assembler made of one case, or why it made nothing."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    if "drcl_kernels" not in sys.modules:
        load_kernels()
    module = importlib.import_module(f"drcl_kernels.{case['module']}")
    kernel = getattr(module, case["kernel"])
    target = GPUTarget("cuda", arch, 32)
    row = {"case": number, "arch": arch}
    try:
        parse = make_backend(target).parse_attr
        attributes = {
            (i,): parse(case["attributes"][name])
            for i, name in enumerate(kernel.arg_names)
            if name in case["attributes"]
        }
        source = ASTSource(
            kernel, case["types"], constexprs=case["constants"], attrs=attributes
        )
        compiled = triton.compile(source, target=target, options=case["options"])
    except Exception as error:  # any version may refuse in its own way
        return row | {"refused": f"{type(error).__name__}: {error}"[:500]}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True)
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers = re.findall(r"REG:(\d+)", usage.stdout)
    assert registers and "EXIT" in code.stdout, usage.stdout + code.stdout
    Path(folder, f"{number}-{arch}.ptx").write_text(compiled.asm["ptx"])
    Path(folder, f"{number}-{arch}.sass").write_text(code.stdout)
    metadata = compiled.metadata
    return row | {
        "registers": max(map(int, registers)),
        "shared": metadata.shared,
        "warps": metadata.num_warps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", type=int, action="append", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    import triton

    cases = json.loads(options.cases.read_text("utf-8"))
    options.folder.mkdir(parents=True, exist_ok=True)
    work = [
        (case, number, arch, str(options.folder))
        for arch in options.arch
        for number, case in enumerate(cases)
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(assemble, *zip(*work, strict=True)))
    index = {"triton": triton.__version__, "rows": rows}
    (options.folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    main()
