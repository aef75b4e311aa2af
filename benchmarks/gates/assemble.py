"""Compiles recorded launches with the Triton of the running Python, without PyTorch and NumPy.

    python benchmarks/gates/assemble.py cases.json folder --arch 90 [--jobs 2] [--sass]
    python benchmarks/gates/assemble.py cases.json folder --arch gfx942

A script and not a module of the package, so that any Triton in an environment of its own can run
it. Leaves ``index.json`` in the folder, and for case N ``N-ARCH.ptx`` and, where asked for,
``N-ARCH.sass``; for AMD's GPUs ``N-ARCH.amdgcn``.
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


def architecture(text: str) -> int | str:
    """90 of ``"90"``; AMD's names stay: ``"gfx942"``."""
    return int(text) if text.isdigit() else text


def target(arch: int | str) -> Any:
    """What Triton calls such a GPU. AMD's from gfx10 on have wavefronts of 32 threads."""
    from triton.backends.compiler import GPUTarget

    if isinstance(arch, int):
        return GPUTarget("cuda", arch, 32)
    return GPUTarget("hip", arch, 32 if arch.startswith("gfx1") else 64)


def assemble(
    case: dict[str, Any], number: int, arch: int | str, folder: str, sass: bool
) -> dict[str, Any]:
    """What the assembler made of one case, or why it made nothing."""
    import triton
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    if "drcl_kernels" not in sys.modules:
        load_kernels()
    module = importlib.import_module(f"drcl_kernels.{case['module']}")
    kernel = getattr(module, case["kernel"])
    gpu = target(arch)
    row = {"case": number, "arch": arch}
    try:
        parse = make_backend(gpu).parse_attr
        attributes = {
            (i,): parse(case["attributes"][name])
            for i, name in enumerate(kernel.arg_names)
            if name in case["attributes"]
        }
        source = ASTSource(kernel, case["types"], constexprs=case["constants"], attrs=attributes)
        compiled = triton.compile(source, target=gpu, options=case["options"])
    except Exception as error:  # any version may refuse in its own way
        return row | {"refused": " ".join(f"{type(error).__name__}: {error}".split())[-400:]}
    metadata = compiled.metadata
    row |= {"shared": metadata.shared, "warps": metadata.num_warps}
    if isinstance(arch, str):
        Path(folder, f"{number}-{arch}.amdgcn").write_text(compiled.asm["amdgcn"])
        return row
    cubin = compiled.asm["cubin"]
    usage = dump("--dump-resource-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    Path(folder, f"{number}-{arch}.ptx").write_text(compiled.asm["ptx"])
    if sass:
        Path(folder, f"{number}-{arch}.sass").write_text(dump("--dump-sass", cubin))
    return row | {
        "registers": int(found[1]),
        "spilled": int(found[2]),  # bytes of local memory a thread
        "tensor_memory": getattr(metadata, "tmem_size", 0) or 0,
    }


def dump(option: str, cubin: bytes) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [tool, option, file.name], capture_output=True, text=True, check=True
        ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", type=architecture, action="append", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sass", action="store_true", help="disassemble, too")
    options = parser.parse_args()
    import triton

    cases = json.loads(options.cases.read_text("utf-8"))
    options.folder.mkdir(parents=True, exist_ok=True)
    work = [
        (case, number, arch, str(options.folder), options.sass)
        for arch in options.arch
        for number, case in enumerate(cases)
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(assemble, *zip(*work, strict=True)))
    index = {"triton": triton.__version__, "rows": rows}
    (options.folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    main()
