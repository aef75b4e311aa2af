"""Feature augmentation of a batch and its label rows, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drcl import functional
from drcl.benchmarks.suite import registry
from drcl.benchmarks.workloads.loss import batch

LAM = 0.9

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def literal(permutation: Tensor) -> Mix:
    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return LAM * x + (1 - LAM) * x[permutation], LAM * y + (1 - LAM) * y[permutation]

    return mix


def step(mix: Mix, features: Tensor, rows: Tensor, grad: Tensor) -> Callable[[], registry.Outcome]:
    """Mixed features and rows, and the gradient by the features."""

    def run() -> registry.Outcome:
        x, y = mix(features, rows)
        return x.detach(), y, *torch.autograd.grad(x, features, grad)

    return run


def build(sizes: registry.Sizes, device: torch.device) -> registry.Problem:
    b, d, c = sizes["B"], sizes["D"], sizes["C"]
    features, ids, _ = batch(b, d, c)
    features = features.detach().to(device).requires_grad_()
    rows = nnf.one_hot(ids, c).float().to(device)
    generator = torch.Generator().manual_seed(0)
    permutation = torch.randperm(b, generator=generator).to(device)
    grad = torch.randn(b, d, generator=generator).to(device)

    def ours(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return functional.mixup(x, y, lam=LAM, permutation=permutation)

    def oracle() -> registry.Outcome:
        exact = features.detach().double().requires_grad_()
        return step(literal(permutation), exact, rows.double(), grad.double())()

    contenders = registry.our_backends("mixup", device, step(ours, features, rows, grad))
    contenders["literal"] = registry.Contender(step(literal(permutation), features, rows, grad))
    contenders["literal, torch.compile"] = registry.no_compiler(device) or registry.Contender(
        step(torch.compile(literal(permutation), dynamic=False), features, rows, grad)
    )
    # each row read as itself and as a partner, and written; there and back
    least = registry.Work(6 * b * d, 6 * b * d * 4, (b, d, d))

    def joined(own: Callable[..., tuple[Tensor, Tensor]]) -> registry.Contender:
        """``own(features, rows, permutation)`` returns both mixed."""
        return registry.Contender(step(lambda x, y: own(x, y, permutation), features, rows, grad))

    return registry.Problem(contenders, oracle, least, joined=joined)


NAMES = (*registry.backend_names("mixup"), "literal", "literal, torch.compile")


def entry(b: int, d: int, note: str, quick: bool = False) -> registry.Entry:
    return registry.Entry("mixup", {"B": b, "D": d, "C": 10}, build, NAMES, note=note, quick=quick)


ENTRIES = [
    entry(1024, 2048, "a batch of any of the five sets", quick=True),
    entry(8192, 2048, "sweep over B"),
    entry(65536, 512, "sweep over B"),
]
