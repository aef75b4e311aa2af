"""What this installation and this machine offer, and why not the rest. ``drcl info`` prints it."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import threading
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from drcl._version import __version__

REBUILD = (
    "to get it, install torch, setuptools, ninja and a C++ compiler, then run "
    "pip install --no-build-isolation on the source"
)


@dataclass(frozen=True)
class Backend:
    """One way to compute the ops: whether it can be used here, and why or why not."""

    name: str
    available: bool
    reason: str


def probe_backends() -> tuple[Backend, ...]:
    """Every backend, the plainest first.

    >>> [backend.name for backend in probe_backends()]
    ['reference', 'torch', 'triton', 'native']
    """
    return (
        Backend("reference", True, "the formulas written literally"),
        Backend("torch", True, "linear-memory algebra in PyTorch, any device"),
        probe_triton(),
        probe_native(),
    )


def probe_triton() -> Backend:
    """Triton kernels: they need Triton and a CUDA device, or Triton's interpreter."""
    if util.find_spec("triton") is None:
        return Backend("triton", False, "Triton is not installed (a CUDA build of torch brings it)")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Backend("triton", True, "interpreted, on any device (TRITON_INTERPRET=1): for tests")
    if not torch.cuda.is_available():
        why = "torch is built without CUDA" if torch.version.cuda is None else "no CUDA device"
        return Backend("triton", False, f"{why} (TRITON_INTERPRET=1 interprets the kernels)")
    return Backend("triton", True, f"kernels on {torch.cuda.get_device_name()}")


def probe_native() -> Backend:
    """Compiled ops: they need ``drcl._C`` and the library of ops that it loads."""
    extension, problem = import_extension()
    problem = problem or _load_ops()
    if extension is None or problem:
        return Backend("native", False, problem)
    return Backend("native", True, f"compiled with {extension.compiler}")


def import_extension() -> tuple[ModuleType | None, str]:
    """``drcl._C`` and an empty string, or None and the reason why it cannot be had."""
    try:
        return importlib.import_module("drcl._C"), ""
    except ModuleNotFoundError:
        return None, f"drcl._C is not built: {REBUILD}"
    except ImportError as error:
        return None, f"drcl._C does not load ({error})"


def _ops_library() -> Path:
    return Path(__file__).with_name("_ops.so")


# Loading changes, for its time, how the whole process opens libraries: one thread after the other.
_loading = threading.Lock()


@functools.cache
def _load_ops() -> str:
    """Register the compiled ops under ``torch.ops.drcl``; the reason when that cannot be done."""
    library = _ops_library()
    if not library.is_file():
        return "this build has no compiled ops"
    extension, problem = import_extension()
    if extension is None:
        return problem
    try:
        with _loading:
            extension.load_ops(str(library))
    except OSError as error:
        return f"{library.name} does not load ({error})"
    return ""


def build_info() -> dict[str, Any]:
    """Versions, compiled part, processor and devices, in values that JSON can hold.

    Keys: ``drcl``, ``python``, ``platform``, ``torch``, ``triton`` (None when absent), ``numpy``,
    ``extension`` (``built``, ``reason`` when not, else ``compiler``, ``cxx_standard``,
    ``cuda_arch_list``), ``cpu_capability`` (``"default"``, ``"avx2"`` or ``"avx512"``),
    ``threads``, ``cuda`` (``available``, ``version`` that torch is built for or None,
    ``devices``), ``backends`` (name → ``available``, ``reason``).

    >>> build_info()["backends"]["reference"]["available"]
    True
    """
    extension, problem = import_extension()
    if extension is None:
        compiled: dict[str, Any] = {"built": False, "reason": problem}
        capability = torch.backends.cpu.get_cpu_capability().lower()
    else:
        compiled = {
            "built": True,
            "compiler": extension.compiler,
            "cxx_standard": extension.cxx_standard,
            "cuda_arch_list": extension.cuda_arch_list if _ops_library().is_file() else "",
        }
        capability = extension.cpu_capability()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return {
        "drcl": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "extension": compiled,
        "cpu_capability": capability,
        "threads": torch.get_num_threads(),
        "cuda": {
            "available": torch.cuda.is_available(),
            "version": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(device) for device in devices],
        },
        "backends": {
            backend.name: {"available": backend.available, "reason": backend.reason}
            for backend in probe_backends()
        },
    }


def format_info() -> str:
    """:func:`build_info` as the text that ``drcl info`` prints.

    >>> print(format_info())
    drcl ...
    backends
      reference  yes the formulas written literally
    ...
    """
    info = build_info()
    compiled, cuda = info["extension"], info["cuda"]
    extension = (
        f"drcl._C by {compiled['compiler']}, C++{compiled['cxx_standard']}, "
        f"CUDA code for {compiled['cuda_arch_list'] or 'no architecture'}"
        if compiled["built"]
        else compiled["reason"]
    )
    if cuda["version"] is None:
        devices = "torch is built without CUDA"
    else:
        devices = f"{cuda['version']}: {', '.join(cuda['devices']) or 'no device'}"
    facts = {
        "python": f"{info['python']} on {info['platform']}",
        "torch": info["torch"],
        "triton": info["triton"] or "not installed",
        "numpy": info["numpy"],
        "extension": extension,
        "processor": f"{info['cpu_capability']}, {info['threads']} threads",
        "CUDA": devices,
    }
    lines = [f"drcl {info['drcl']}", *(f"  {name:<10} {fact}" for name, fact in facts.items())]
    lines.append("backends")
    for name, backend in info["backends"].items():
        lines.append(
            f"  {name:<10} {'yes' if backend['available'] else 'no ':<4}{backend['reason']}"
        )
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
