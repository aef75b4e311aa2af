"""Which kernels the launchers start, and how: recorded, so that nobody has to write them down.

Every problem below is given to its ops with empty tensors on the CPU. A launch is not run: it is
bound as Triton's just-in-time compiler binds it on a GPU (types, what 16 divides, sizes of one as
constants), and kept as plain data, from which any Triton compiles the same kernel without PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .assemble import target
from .device import Architecture


class Problem(NamedTuple):
    """What a user asks for; ``precision`` as in ``torch.set_float32_matmul_precision``."""

    op: str
    batch: int
    width: int
    classes: int
    targets: str = "ids"
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def label(self) -> str:
        shape = f"{self.batch}×{self.width} C={self.classes}"
        unusual = [
            self.targets if self.targets != "ids" else "",
            self.dtype if self.dtype != "float32" else "",
            self.precision if self.precision != "highest" else "",
        ]
        return " ".join([shape, *filter(None, unusual)])


# The shapes that the documentation gives figures for.
HEADLINES = [
    Problem("loss", 1024, 2048, 10),
    Problem("loss", 8192, 2048, 10),
    Problem("loss", 1048576, 512, 10),
    Problem("loss", 1024, 2048, 1000),
]
PROBLEMS = [
    *HEADLINES,
    # the other precisions, on both sides of B = D
    *(Problem("loss", 1024, 2048, 10, precision=p) for p in ("high", "medium")),
    *(Problem("loss", 8192, 2048, 10, precision=p) for p in ("high", "medium")),
    Problem("loss", 1024, 2048, 10, dtype="bfloat16"),
    Problem("loss", 8192, 2048, 10, "rows"),
    # the last number of classes that is held on chip, and one at which products take over
    Problem("loss", 1024, 2048, 128, "rows"),
    Problem("loss", 8192, 2048, 100),
    # narrow, ragged, and the widest row
    Problem("loss", 1024, 64, 10),
    Problem("loss", 1000, 300, 10),
    Problem("loss", 1024, 16384, 10),
    Problem("prior", 1024, 2048, 10),
    Problem("prior", 1024, 2048, 128, "rows"),
    Problem("prior", 1024, 2048, 1000),
    Problem("mixup", 1024, 2048, 1),
    Problem("mixup", 1024, 64, 1),
    Problem("mixup", 1024, 2048, 1, dtype="bfloat16"),
]


class Launch(NamedTuple):
    """One launch: its compiled form (all but ``problem``, ``grid`` and ``sizes``), and its size."""

    problem: str
    module: str
    kernel: str
    types: dict[str, str]  # by argument; "constexpr" for constants
    attributes: dict[str, str]  # by argument: "D" where 16 divides it
    constants: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...]
    sizes: dict[str, int]  # the arguments that are whole numbers
    moved: int  # bytes of all tensors it is given, each once

    @property
    def binary(self) -> str:
        """Equal for launches of one compiled kernel."""
        return repr((self.module, self.kernel, self.types, self.attributes, self.constants,
                     sorted(self.options.items())))  # fmt: skip


@contextmanager
def recorded(arch: Architecture) -> Iterator[list[Launch]]:
    """The launches made inside the block, for such a GPU; none of them runs."""
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    backend = make_backend(target(arch))
    known = vars(backend.parse_options({}))
    launches: list[Launch] = []

    def record(kernel: Any, *values: Any, grid: Any, warmup: bool, **named: Any) -> None:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        arguments, specialised, options = bind(*values, **named)
        unknown = options.keys() - known.keys()
        if unknown:  # as Triton does when it launches
            raise KeyError(f"{kernel.__name__}: {backend.target} has no options {unknown}")
        pairs = dict(zip(arguments, specialised, strict=True))
        sizes = tuple(grid(arguments) if callable(grid) else grid)
        launches.append(
            Launch(
                "",
                kernel.fn.__module__.partition("kernels.")[2],
                kernel.__name__,
                {name: kind for name, (kind, _) in pairs.items()},
                {n: a for n, (kind, a) in pairs.items() if kind != "constexpr" and a},
                {name: arguments[name] for name, (kind, _) in pairs.items() if kind == "constexpr"},
                options,
                sizes + (1,) * (3 - len(sizes)),
                {n: v for n, v in arguments.items() if type(v) is int},
                sum(
                    {
                        v.data_ptr(): v.numel() * v.element_size()
                        for v in arguments.values()
                        if hasattr(v, "data_ptr")
                    }.values()
                ),
            )
        )

    run = JITFunction.run
    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run


def launches_of(problem: Problem, arch: Architecture = 90) -> list[Launch]:
    """What one step of the problem launches on such a GPU, forward and backward, in order."""
    import torch

    from drcl.kernels import product

    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET: the compiler is needed here, unset it")
    before = torch.get_float32_matmul_precision()
    gpu = product.gpu
    if isinstance(arch, int):
        product.gpu = lambda tensor: product.Gpu("nvidia", arch // 10)
    else:
        product.gpu = lambda tensor: product.Gpu("amd", product.amd_generation(arch))
    torch.set_float32_matmul_precision(problem.precision)
    try:
        with recorded(arch) as launches:
            STEPS[problem.op](problem)
    finally:
        torch.set_float32_matmul_precision(before)
        product.gpu = gpu
    return [launch._replace(problem=problem.label) for launch in launches]


def _loss(problem: Problem) -> None:
    import torch

    from drcl.ops.reversible_consistency import reversible_consistency

    batch, width, classes = problem.batch, problem.width, problem.classes
    k = min(width, classes)
    x = torch.empty(batch, width, dtype=getattr(torch, problem.dtype), requires_grad=True)
    order, q = torch.empty(batch, dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    total, *_ = reversible_consistency(
        x, _targets(problem), order, q,
        [torch.empty(width, k), torch.empty(classes, k), torch.empty(k, classes)],
        (0.1, 0.1, 1.0, 1.0, 0.9), "", batch < width, "triton",
    )  # fmt: skip
    torch.autograd.grad(total.sum(), x)


def _prior(problem: Problem) -> None:
    import torch

    from drcl.ops.prior_similarity import prior_similarity

    x = torch.empty(problem.batch, problem.width, requires_grad=True)
    weight = torch.empty(problem.width, problem.classes, requires_grad=True)
    q = torch.zeros((), dtype=torch.float64)
    loss, _, logits, p, _ = prior_similarity(x, weight, _targets(problem), q, 1.0, False, "triton")
    torch.autograd.grad(loss, (x, weight), retain_graph=True)
    torch.autograd.grad(logits.sum() + p.sum() + loss, (x, weight))


def _mixup(problem: Problem) -> None:
    import torch

    from drcl.ops import mixup as ops

    rows = torch.empty(problem.batch, problem.width, dtype=getattr(torch, problem.dtype))
    order = torch.empty(problem.batch, dtype=torch.int64)
    ops.mixup_backward(ops.mixup(rows, order, 0.9, "triton"), order, 0.9, "triton")


def _targets(problem: Problem) -> Any:
    import torch

    if problem.targets == "ids":
        return torch.empty(problem.batch, dtype=torch.int64)
    return torch.empty(problem.batch, problem.classes)


STEPS: dict[str, Callable[[Problem], None]] = {"loss": _loss, "prior": _prior, "mixup": _mixup}


def named(launches: list[Launch]) -> dict[str, Launch]:
    """Every compiled kernel once, under the problem that came first and, where that launches the
    kernel in several forms, the constants that tell them apart."""
    first: dict[str, Launch] = {}
    for launch in launches:
        first.setdefault(launch.binary, launch)
    families: dict[tuple[str, str], list[Launch]] = {}
    for launch in first.values():
        families.setdefault((launch.kernel, launch.problem), []).append(launch)
    result = {}
    for (kernel, problem), family in families.items():
        names = sorted({name for launch in family for name in launch.constants})
        telling = [n for n in names if len({repr(i.constants.get(n)) for i in family}) > 1]
        for number, launch in enumerate(family, 1):
            parts = [f"{n}={launch.constants[n]}" for n in telling if n in launch.constants]
            label = ", ".join([problem, *parts])
            if f"{kernel} {label}" in result:
                label += f", form {number}"
            result[f"{kernel} {label}"] = launch
    return result


def record(arch: Architecture, problems: Sequence[Problem]) -> list[Launch]:
    """The launches of some problems on such a GPU."""
    return [launch for problem in problems for launch in launches_of(problem, arch)]
