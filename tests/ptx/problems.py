"""Small problems that between them launch every kernel, and what the result should be."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drcl import Prior, dispatch, functional, use_backend

from .launch import Gpu, launched

Results = list[Tensor]


@contextlib.contextmanager
def on(gpu: Gpu) -> Iterator[Gpu]:
    """Ops take the backend "triton", their launches run on ``gpu``, and what launchers allocate
    starts as NaN."""
    new_empty = torch.Tensor.new_empty

    def poisoned(tensor: Tensor, *size: object, **options: object) -> Tensor:
        made = new_empty(tensor, *size, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-(2**40))

    dispatch._reasons()
    before = dispatch._probed["triton"]
    dispatch._probed["triton"] = None
    torch.Tensor.new_empty = poisoned
    try:
        with launched(gpu), use_backend("triton"):
            yield gpu
    finally:
        torch.Tensor.new_empty = new_empty
        dispatch._probed["triton"] = before


@dataclass(frozen=True)
class Problem:
    """``compute(dtype)`` gives values and gradients; ``narrow`` is the features' own dtype."""

    name: str
    compute: Callable[[torch.dtype], Results]
    precision: str = "highest"
    narrow: torch.dtype = torch.float32

    def ours(self, gpu: Gpu) -> Results:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        try:
            with on(gpu):
                return self.compute(torch.float32)
        finally:
            torch.set_float32_matmul_precision(before)

    @functools.cache  # noqa: B019 (there are few)
    def literal(self, dtype: torch.dtype) -> Results:
        with use_backend("reference"):
            return self.compute(dtype)

    def check(self, gpu: Gpu) -> None:
        assert_as_exact(self, self.ours(gpu))

    def __str__(self) -> str:
        return self.name


def labels(b: int, c: int, kind: str) -> Tensor:
    """Ids or rows; one row is unlabelled where there are enough."""
    if kind == "ids":
        targets = torch.arange(b) % c
        targets[1:2] = targets[1:2] if b < 6 else -1
    else:
        targets = torch.rand(b, c) * (torch.rand(b, c) < 0.4)
        targets[:, 0] += 0.1
        targets[1:2] *= float(b < 6)
    return targets


def loss(
    b: int, d: int, c: int, kind: str = "ids", mixing: bool = True,
    narrow: torch.dtype = torch.float32, precision: str = "highest", converging: bool = False,
) -> Problem:  # fmt: skip
    """The reversible consistency loss: its four values and its gradient.

    ``converging``: features near the recast labels, where other differences are the small ones.
    """

    def compute(dtype: torch.dtype) -> Results:
        torch.manual_seed(1000 * b + d + c)
        features, weight = nnf.normalize(torch.randn(b, d)), torch.randn(d, c)
        targets = labels(b, c, kind)
        if converging:
            rows = torch.eye(c)[targets] if kind == "ids" else targets
            features = rows @ torch.linalg.pinv(weight) + 0.01 * features
        if b > 5:
            features[3] = 0
        x = features.to(narrow)
        # what the features' own dtype holds, whatever is computed in
        x = (x if narrow != torch.float32 and _ours() else x.to(dtype)).requires_grad_()
        parts = functional.reversible_consistency_loss(
            x, targets.to(dtype) if kind == "rows" else targets,
            Prior(weight.double()).to(dtype=dtype),
            q=0.3, temperature=0.7, lam=0.9 if mixing else 1.0,
            permutation=torch.arange(b).roll(1).flip(0) if mixing else None,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(parts.total + 0.5 * parts[2], x, retain_graph=True)
        (by_labels,) = torch.autograd.grad(parts.label, x)
        return [*(part.detach() for part in parts), gradient, by_labels]

    mixed = "mixed" if mixing else "plain"
    name = f"loss-{b}x{d}x{c}-{kind}-{mixed}-{str(narrow)[6:]}-{precision}"
    name += "-converging" * converging
    return Problem(name, compute, precision, narrow)


def similarity(
    b: int, d: int, c: int, kind: str = "ids", narrow: torch.dtype = torch.float32,
    converging: bool = False,
) -> Problem:  # fmt: skip
    """Logits, probabilities, loss and score, and the gradients by features and weight.

    ``converging``: probabilities of nearly 0 and 1, of whose differences little is left.
    """

    def compute(dtype: torch.dtype) -> Results:
        torch.manual_seed(1000 * b + d + c)
        features, weight = nnf.normalize(torch.randn(b, d)), torch.randn(d, c)
        targets = labels(b, c, kind)
        if converging:
            rows = torch.eye(c)[targets if kind == "ids" else targets.argmax(1)]
            features = 8 * rows @ torch.linalg.pinv(weight) + 0.01 * features
            targets = targets if kind == "ids" else rows * targets
        x = features.to(narrow)
        x = (x if narrow != torch.float32 and _ours() else x.to(dtype)).requires_grad_()
        weight = weight.to(dtype).requires_grad_()
        out = functional.prior_similarity(
            x, weight, targets.to(dtype) if kind == "rows" else targets, q=0.3, temperature=0.7
        )
        logits, probabilities, value = out[:3]
        total = value + (logits * logits.detach().cos()).sum() + probabilities.square().sum()
        gradients = [
            gradient
            for of in (total, value, probabilities.square().sum())
            for gradient in torch.autograd.grad(of, (x, weight), retain_graph=True)
        ]
        return [*(o.detach() for o in out), *gradients]

    name = f"similarity-{b}x{d}x{c}-{kind}-{str(narrow)[6:]}" + "-converging" * converging
    return Problem(name, compute, narrow=narrow)


def mix(b: int, d: int, narrow: torch.dtype = torch.float32) -> Problem:
    """Mixed rows and the gradient by the rows."""

    def compute(dtype: torch.dtype) -> Results:
        torch.manual_seed(1000 * b + d)
        x, grad = (torch.randn(b, d).to(narrow) for _ in range(2))
        if narrow == torch.float32 or not _ours():
            x, grad = x.to(dtype), grad.to(dtype)
        x.requires_grad_()
        order, targets = torch.arange(b).roll(1).flip(0), torch.eye(b).to(dtype)
        mixed, _ = functional.mixup(x, targets, permutation=order, lam=0.9)
        (gradient,) = torch.autograd.grad(mixed, x, grad)
        return [mixed.detach(), gradient]

    return Problem(f"mix-{b}x{d}-{str(narrow)[6:]}", compute, narrow=narrow)


def _ours() -> bool:
    return dispatch.choose("mixup", torch.device("cpu")) == "triton"


def assert_as_exact(problem: Problem, ours: Results) -> None:
    """No further from float64 than four times the literal float32 form, plus 1e-6, in norm.

    Results in a narrower dtype may add what rounding into it costs, products in TF32 and bf16 what
    rounding their operands costs.
    """
    operands = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-8}[problem.precision]
    exact, literal = (problem.literal(dtype) for dtype in (torch.float64, torch.float32))
    for i, (got, plain, oracle) in enumerate(zip(ours, literal, exact, strict=True)):
        narrow = 0.0 if got.dtype == torch.float32 else 0.5 * torch.finfo(got.dtype).eps
        got, plain = got.double(), plain.double()
        assert got.isfinite().all(), f"{problem}: result {i} is not finite"
        allowed = 4 * (plain - oracle).norm() + (1e-6 + narrow + operands) * oracle.norm()
        error = (got - oracle).norm()
        assert error <= allowed, f"{problem}: result {i}: error {error:.3g}, allowed {allowed:.3g}"
