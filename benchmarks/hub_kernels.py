"""The ops and losses as a folder for Hugging Face's ``kernels`` loader.

    python -m drcl.benchmarks.hub_kernels FOLDER

FOLDER holds ``build.toml`` and ``torch-ext/``, from which kernel-builder builds, and what it would
build, as there is nothing to compile: ``build/torch-BACKEND/`` with the Triton kernels, the eager
backend for where they do not run, and the functions and modules of :mod:`drcl.functional` and
:mod:`drcl.losses`. It needs torch and NumPy, and nothing of an installed drcl: imports become
relative, and the ops have a namespace of their own, so that any number of versions can be loaded.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import drcl
import drcl.kernels
from drcl._version import __version__
from drcl.storage.files import entries, write_together

NAME, VERSION = "drcl-ops", 1
# The backends that the eager form and the kernels have been run on or compiled for.
BACKENDS = ("cpu", "cuda")
ROOTS = ("functional", "losses", "prior")
# Imported by name, when an op first needs them.
LATER = [f"{place}.{op}" for place in ("eager", "kernels") for op in ("mixup", "prior_similarity")]

INIT = f'''"""The ops and losses of drcl {__version__}: functional, losses, Prior, use_backend."""

from . import functional, losses
from .dispatch import use_backend
from .prior import Prior

__version__ = "{__version__}"
__all__ = ["Prior", "functional", "losses", "use_backend"]
'''
OPS = """import torch

ops = torch.ops.{id}


def add_op_namespace_prefix(op_name: str) -> str:
    return f"{id}::{{op_name}}"
"""
BUILD = f"""[general]
name = "{NAME}"
version = {VERSION}
edition = 5
license = "MIT"
backends = {json.dumps(BACKENDS)}

[torch-noarch]
"""
README = f"""---
library_name: kernels
license: mit
---

# {NAME}

The losses and ops of drcl {__version__} for cross-modal retrieval, in Triton on NVIDIA GPUs and in
PyTorch's own operations elsewhere. They need torch and NumPy; saving a prior needs safetensors.

```python
from pathlib import Path

import torch
from kernels import get_local_kernel

drcl = get_local_kernel(Path("FOLDER"))
loss = drcl.losses.ReversibleConsistencyLoss(drcl.Prior.orthogonal(dim=16, classes=4))
value = loss(torch.randn(8, 16, requires_grad=True), torch.arange(8) % 4, q=0.5)
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m drcl.benchmarks.hub_kernels")
    parser.add_argument("folder", type=Path, help="a folder that is empty or does not exist")
    folder = parser.parse_args().folder
    try:
        export(folder)
    except OSError as error:
        raise SystemExit(str(error)) from None
    print(f"{folder}: {NAME} {VERSION}, from drcl {__version__}")


def export(folder: Path) -> None:
    """Write the folder; raises FileExistsError where there is something in it."""
    if folder.exists() and entries(folder):
        raise FileExistsError(f"{folder}: expected an empty folder or none, it holds something")
    package = NAME.replace("-", "_")
    source = standalone()
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:7]
    files = {"build.toml": BUILD, "README.md": README}
    files |= {f"torch-ext/{package}/{name}": text for name, text in source.items()}
    for backend in BACKENDS:
        place, own = f"build/torch-{backend}", f"_{package}_{backend}_{digest}"
        about = {
            "name": NAME,
            "id": own,
            "version": VERSION,
            "license": "MIT",
            "python-depends": [],
            "backend": {"type": backend},
        }
        files |= {f"{place}/{name}": text for name, text in source.items()}
        files[f"{place}/_ops.py"] = OPS.format(id=own)
        files[f"{place}/metadata.json"] = json.dumps(about, indent=2) + "\n"
    write_together({folder / name: text.encode() for name, text in files.items()})


def standalone() -> dict[str, str]:
    """Path -> text of every module that the roots need, as parts of a package of any name."""
    waiting, found = [*ROOTS, *LATER], {"__init__.py": INIT}
    while waiting:
        name = waiting.pop()
        parents = [name.rpartition(".")[0]] if "." in name else []
        path = _file(name)
        if path is None:
            raise ModuleNotFoundError(f"drcl.{name}: imported, and there is no such file")
        is_package = path.name == "__init__.py"
        relative = "/".join([*name.split("."), "__init__.py"] if is_package else name.split("."))
        relative = relative if is_package else f"{relative}.py"
        if relative in found:
            continue
        text = path.read_text("utf-8")
        package = name if is_package else name.rpartition(".")[0]
        found[relative] = _rewritten(text, package)
        waiting += [*parents, *_imported(text, package)]
    return found


def _file(name: str) -> Path | None:
    """Where ``drcl.name`` lies; the kernels have a folder of their own in a checkout."""
    first, *rest = name.split(".")
    root = Path(drcl.kernels.__path__[0]) if first == "kernels" else Path(drcl.__path__[0], first)
    path = root.joinpath(*rest)
    candidates = path / "__init__.py", path.with_suffix(".py")
    return next((one for one in candidates if one.is_file()), None)


def _imported(text: str, package: str) -> Iterator[str]:
    """The modules of drcl that a module imports, anywhere but for its annotations."""
    tree = ast.parse(text)
    unused = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in unused:
            continue
        parts = (node.module or "").split(".")
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = ["drcl", *above, *filter(None, parts)]
        if parts[0] == "drcl":
            for alias in node.names:
                inner = ".".join([*parts[1:], alias.name])
                yield inner if _file(inner) else ".".join(parts[1:])


def _rewritten(text: str, package: str) -> str:
    """Imports relative; ops in the namespace of ``_ops.py``, which kernel-builder writes anew."""
    dots = "." * (len(package.split(".")) + 1 if package else 1)
    text = re.sub(r"^(\s*from )drcl import", rf"\g<1>{dots} import", text, flags=re.M)
    text = re.sub(r"^(\s*from )drcl\.", rf"\g<1>{dots}", text, flags=re.M)
    text = re.sub(r'"drcl\.(\w+\.?)"', r'__package__ + ".\1"', text)
    ours = re.sub(r'custom_op\("drcl::(\w+)"', r'custom_op(add_op_namespace_prefix("\1")', text)
    ours = ours.replace('f"drcl::{family}"', "add_op_namespace_prefix(family)")
    ours = ours.replace("torch.ops.drcl", "own_ops")
    if ours != text:
        names = "add_op_namespace_prefix, ops as own_ops"
        ours = ours.replace(
            "\nimport torch\n", f"\nimport torch\n\nfrom {dots}_ops import {names}\n", 1
        )
    return ours


if __name__ == "__main__":
    main()
