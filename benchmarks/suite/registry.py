"""What the suite measures: an entry is one workload, with everybody who can compute it.

To add a workload, add an :class:`Entry` to its family's ``ENTRIES``; to add a peer, add a
contender to what the family's ``build`` returns. A contender that cannot run here is given by the
reason instead.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from drcl.backends import probe_backends
from drcl.dispatch import FAMILIES, choose, use_backend

OURS = "drcl "  # how our contenders' names begin
FAMILY_FILES = ("loss", "prior_similarity", "mixup", "ranking", "training_epochs")

Outcome = tuple[Tensor, ...]
Sizes = Mapping[str, int]


class Wrong(Exception):
    """What was to be measured computes something else."""


@dataclass(frozen=True)
class Work:
    """The least that computing the workload takes: the floor that times are held against.

    ``product`` (m, k, n) is the shape at which the rate of a matrix product is measured for it.
    The floor is the longer of the two: operations at that rate, or bytes at the speed of a copy.
    """

    operations: float
    bytes: float
    product: tuple[int, int, int]

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The floor at rates in operations and bytes per second.

        >>> Work(operations=2e9, bytes=1e9, product=(1, 1, 1)).seconds(1e9, 1e10)
        2.0
        """
        return max(self.operations / flops, self.bytes / bandwidth)


@dataclass(frozen=True)
class Contender:
    """One way to compute the workload. ``run`` returns what the gate compares.

    ``share`` is the part of the workload that it runs, for what would take minutes: its time is
    scaled up, which is right where the work is linear (queries of a ranking). A ``run`` that
    returns a float has measured itself: that is its seconds, and the oracle is the whole gate.
    """

    run: Callable[[], Any]
    share: float = 1.0


@dataclass(frozen=True)
class Problem:
    """A workload made ready: inputs built, contenders by name, the oracle, the floor.

    ``oracle`` computes the outcome in float64 from the literal formulas, or raises
    :class:`Wrong`. An outcome passes if each of its tensors lies within ``tolerance`` of the
    oracle's, relative, in norm. ``joined`` makes a contender of somebody's own function.
    """

    contenders: Mapping[str, Contender | str]
    oracle: Callable[[], Outcome]
    work: Work
    tolerance: float = 1e-5
    joined: Callable[[Callable[..., Any]], Contender] | None = None


@dataclass(frozen=True)
class Entry:
    """One workload: the family that builds it, its sizes, and who takes part.

    ``contenders`` are the names that ``build`` gives, known before anything is built.
    ``gate`` caps sizes for the correctness gate, whose oracle is slow; the branch an
    implementation takes must be the same. ``note`` says where the sizes come from.
    """

    op: str
    sizes: Sizes
    build: Callable[[Sizes, torch.device], Problem]
    contenders: tuple[str, ...]
    gate: Sizes = field(default_factory=dict)
    note: str = ""
    quick: bool = False
    gpu: bool = False  # too large for anything else
    precision: str = "highest"  # of float32 products: "high" is TF32 where a GPU has it

    @property
    def name(self) -> str:
        """What ``drcl bench --only`` looks into, unique in the registry."""
        sizes = " ".join(f"{key}={value}" for key, value in self.sizes.items())
        return f"{self.op} {sizes}" + (" tf32" if self.precision == "high" else "")

    def gate_sizes(self) -> dict[str, int]:
        """The sizes at which correctness is checked."""
        return {key: min(value, self.gate.get(key, value)) for key, value in self.sizes.items()}


def entries(device: torch.device) -> list[Entry]:
    """Every workload that makes sense on a device."""
    found: list[Entry] = []
    for name in FAMILY_FILES:
        found += import_module(f"drcl.benchmarks.workloads.{name}").ENTRIES
    on_gpu = device.type == "cuda"
    return [entry for entry in found if on_gpu or not (entry.gpu or entry.precision == "high")]


def select(found: Sequence[Entry], only: Sequence[str] = (), quick: bool = False) -> list[Entry]:
    """Those of the quick run, and those whose name or note contains one of the texts.

    Raises ValueError when nothing is left, with the names there are.
    """
    chosen = [
        entry
        for entry in found
        if (entry.quick or not quick)
        and (not only or any(text in f"{entry.name} ({entry.note})" for text in only))
    ]
    if not chosen:
        names = "\n  ".join(entry.name for entry in found if entry.quick or not quick)
        raise ValueError(
            f"only: nothing matches {' or '.join(map(repr, only))}; there are\n  {names}"
        )
    return chosen


def own_function(spec: str) -> Callable[..., Any]:
    """The function that ``FILE.py:FUNCTION`` names."""
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not name:
        raise ValueError(f"peer: expected FILE.py:FUNCTION, got {spec!r}")
    found = runpy.run_path(path).get(name)
    if not callable(found):
        raise ValueError(f"peer: expected a function {name} in {path}, got {found!r}")
    return found


def with_peer(entry: Entry, spec: str, function: Callable[..., Any]) -> Entry:
    """The workload with somebody's own function as one more contender, which is called ``spec``."""

    def build(sizes: Sizes, device: torch.device) -> Problem:
        problem = entry.build(sizes, device)
        made = "takes no functions" if problem.joined is None else problem.joined(function)
        return replace(problem, contenders={**problem.contenders, spec: made})

    return replace(entry, build=build, contenders=(*entry.contenders, spec))


def backend_names(family: str) -> tuple[str, ...]:
    """Our contenders for an op family, the preferred one first.

    >>> backend_names("average_precision")
    ('drcl native', 'drcl eager')
    """
    return tuple(OURS + name for name in FAMILIES[family] if name != "reference")


def our_backends(
    family: str, device: torch.device, run: Callable[[], Any]
) -> dict[str, Contender | str]:
    """``run`` under every fast backend of an op family, by :func:`backend_names`."""
    reasons = {b.name: "" if b.available else b.reason for b in probe_backends()}
    if device.type == "cpu":
        reasons["triton"] = "kernels for a GPU"

    def under(backend: str) -> Callable[[], Any]:
        if backend == choose(family, device):  # the default, for which users set nothing
            return run

        def call() -> Any:
            with use_backend(backend):
                return run()

        return call

    found: dict[str, Contender | str] = {}
    for name in backend_names(family):
        backend = name.removeprefix(OURS)
        found[name] = reasons[backend] or Contender(under(backend))
    return found


def missing(module: str, name: str = "") -> str:
    """Why a library cannot take part; empty if it can.

    >>> missing("no_such_library", "that-library")
    'that-library is not installed (pip install drcl[bench])'
    """
    from importlib.util import find_spec

    if find_spec(module) is not None:
        return ""
    return f"{name or module} is not installed (pip install drcl[bench])"


def no_compiler(device: torch.device) -> str:
    """Why ``torch.compile`` cannot take part; empty if it can."""
    import os
    import shlex
    import shutil

    if device.type == "cuda":
        return missing("triton")
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    return "" if shutil.which(compiler) else f"no C++ compiler ({compiler}) for torch.compile"
