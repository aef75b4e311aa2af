"""What this installation and this machine offer, and why not the rest. ``drcl info`` prints it."""

from __future__ import annotations

import functools
import os
import platform
import threading
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch

from drcl import portable
from drcl._version import __version__

REBUILD = (
    "to get it, install torch, setuptools, ninja and a C++ compiler, then run "
    "pip install --no-build-isolation on the source"
)
# What a bug report should say beside the versions of torch, Triton and NumPy.
LIBRARIES = (
    *("safetensors", "tqdm", "click", "scipy", "scikit-learn", "h5py", "pyarrow", "matplotlib"),
    *("jinja2", "tensorboard"),
)
# Other projects' variables that change what is computed, where, or how fast.
VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD"),
    *("MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "TRITON_INTERPRET"),
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
    ['reference', 'eager', 'triton', 'native']
    """
    return (
        Backend("reference", True, "the formulas written literally"),
        Backend("eager", True, "linear-memory algebra in PyTorch, any device"),
        probe_triton(),
        probe_native(),
    )


# AMD's GPUs that the Triton kernels are compiled for, without ever having run on one.
AMD = ("gfx90a", "gfx942", "gfx1100")


def probe_triton() -> Backend:
    """Triton kernels: they need Triton and a CUDA or ROCm device, or Triton's interpreter."""
    if util.find_spec("triton") is None:
        return Backend("triton", False, "Triton is not installed (a CUDA build of torch brings it)")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Backend("triton", True, "interpreted, on any device (TRITON_INTERPRET=1): for tests")
    if not torch.cuda.is_available():
        why = f"no {_platform()} device" if _platform() else "torch is built without CUDA"
        return Backend("triton", False, f"{why} (TRITON_INTERPRET=1 interprets the kernels)")
    if torch.version.hip is None:
        return Backend("triton", True, f"kernels on {torch.cuda.get_device_name()}")
    architecture = _architecture(torch.cuda.get_device_properties(torch.cuda.current_device()))
    card = f"{torch.cuda.get_device_name()} ({architecture})"
    if architecture not in AMD:
        return Backend("triton", False, f"{card}: expected one of {', '.join(AMD)}")
    asked = "compiled, never run: only where DRCL_BACKEND or drcl.use_backend asks for them"
    return Backend("triton", True, f"kernels on {card}, {asked}")


def _platform() -> str:
    """What torch means by "cuda"; empty where it has neither."""
    return "ROCm" if torch.version.hip else "CUDA" if torch.version.cuda else ""


def _architecture(properties: Any) -> str:
    """``"sm_90"``, or AMD's name without its features: ``"gfx942"``."""
    if torch.version.hip:  # which gives them compute capabilities, too
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def probe_native() -> Backend:
    """Compiled ops: the library of ops, one file for every Python and every torch from 2.10 on."""
    problem = load_ops()
    if problem:
        return Backend("native", False, problem)
    return Backend("native", True, f"compiled with {_compiled()['compiler']}")


def _ops_library() -> Path:
    return Path(__file__).with_name("_ops.so")


# Loading changes, for its time, how the whole process opens libraries: one thread after the other.
_loading = threading.Lock()


@functools.cache
def load_ops() -> str:
    """Register the compiled ops under ``torch.ops.drcl``; the reason when that cannot be done."""
    library = _ops_library()
    if not library.is_file():
        return f"the compiled ops are not built: {REBUILD}"
    try:
        with _loading:
            torch.ops.load_library(str(library))
        _compiled()
    except (OSError, AttributeError) as error:  # the latter where it was built from older source
        return f"{library.name} does not load ({error})"
    return ""


def _compiled() -> dict[str, str]:
    """What the library of ops, once loaded, says of how it was built and of this processor."""
    lines = portable.told_by(_ops_library(), "drcl_build").splitlines()
    return dict(line.split("=", 1) for line in lines)


def build_info() -> dict[str, Any]:
    """Versions, compiled part, processor and devices, in values that JSON can hold.

    Keys: ``drcl``, ``location``, ``python``, ``platform`` (with kernel and C library), ``torch``,
    ``triton`` (None when absent), ``numpy``, ``libraries`` (the others that are installed, name →
    version), ``extension`` (``built``, ``reason`` when not, else ``compiler``, ``cxx_standard``,
    ``flags``, ``torch`` that it was compiled against, ``cuda_arch_list``), ``processor``,
    ``cores``, ``cpu_capability`` (``"default"``, ``"avx2"`` or
    ``"avx512"``), ``threads``, ``cuda`` (``available``, ``version`` that torch is built for or
    None, ``rocm``: the same of ROCm, which torch calls "cuda", ``driver`` or None, ``devices``:
    ``name``, ``capability``, ``architecture``, ``memory`` in bytes),
    ``environment`` (those set of the variables that matter), ``backends`` (name → ``available``,
    ``reason``).

    >>> build_info()["backends"]["reference"]["available"]
    True
    """
    if problem := load_ops():
        extension: dict[str, Any] = {"built": False, "reason": problem}
        capability = torch.backends.cpu.get_cpu_capability().lower()
    else:
        compiled = _compiled()
        capability = compiled.pop("cpu_capability")
        standard = int(compiled.pop("cxx_standard"))
        extension = {"built": True, "cxx_standard": standard, **compiled}
    versions = {name: installed_version(name) for name in LIBRARIES}
    return {
        "drcl": __version__,
        "location": str(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": installed_version("triton"),
        "numpy": installed_version("numpy"),
        "libraries": {name: version for name, version in versions.items() if version},
        "extension": extension,
        "processor": portable.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_capability": capability,
        "threads": torch.get_num_threads(),
        "cuda": {
            "available": torch.cuda.is_available(),
            "version": torch.version.cuda,
            "rocm": torch.version.hip,
            "driver": portable.nvidia_driver(),
            "devices": _devices(),
        },
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in VARIABLES or name.startswith("DRCL_")
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
        f"_ops.so by {compiled['compiler']}, C++{compiled['cxx_standard']}, "
        f"against torch {compiled['torch']}, "
        f"CUDA code for {compiled['cuda_arch_list'] or 'no architecture'}; {compiled['flags']}"
        if compiled["built"]
        else compiled["reason"]
    )
    devices = ", ".join(
        f"{device['name']} ({device['architecture']}, {device['memory'] / 2**30:.0f} GiB)"
        for device in cuda["devices"]
    )
    version = f"{cuda['rocm'] or cuda['version']}: {devices or 'no device'}"
    libraries = (f"{name} {version}" for name, version in info["libraries"].items())
    settings = (f"{name}={value}" for name, value in info["environment"].items())
    facts = {
        "in": info["location"],
        "python": f"{info['python']} on {info['platform']}",
        "torch": info["torch"],
        "triton": info["triton"] or "not installed",
        "numpy": info["numpy"],
        "libraries": ", ".join(libraries),
        "extension": extension,
        "processor": f"{info['processor']}: {info['cpu_capability']}, {info['cores']} cores, "
        f"{info['threads']} threads",
        _platform() or "CUDA": version if _platform() else "torch is built without CUDA",
        "driver": cuda["driver"] or ("unknown" if cuda["available"] else "no NVIDIA driver"),
        "set": ", ".join(settings) or "no environment variable of ours",
    }
    lines = [f"drcl {info['drcl']}", *(f"  {name:<10} {fact}" for name, fact in facts.items())]
    lines.append("backends")
    for name, backend in info["backends"].items():
        lines.append(
            f"  {name:<10} {'yes' if backend['available'] else 'no ':<4}{backend['reason']}"
        )
    return "\n".join(lines)


def _devices() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        {
            "name": d.name,
            "capability": f"{d.major}{d.minor}",
            "architecture": _architecture(d),
            "memory": d.total_memory,
        }
        for d in found
    ]


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
