"""Prior similarity with its loss and score, forward and backward, beside the literal form."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drcl import functional
from drcl.benchmarks.suite import registry
from drcl.benchmarks.workloads.loss import Q, batch
from drcl.precision import allowed_on_gpu

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def literal(rows: Tensor) -> Loss:
    """Mean ``(1 − s^q)/q`` and the mean of s, the probability of the true class."""

    def loss(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        log_s = ((x @ weight).log_softmax(dim=1) * rows).sum(dim=1)
        return -torch.expm1(Q * log_s).mean() / Q, log_s.detach().exp().mean()

    return loss


def step(loss: Loss, features: Tensor, weight: Tensor) -> Callable[[], registry.Outcome]:
    """Value, score, and the gradients by features and prior."""

    def run() -> registry.Outcome:
        value, score = loss(features, weight)
        return value.detach(), score, *torch.autograd.grad(value, (features, weight))

    return run


def build(sizes: registry.Sizes, device: torch.device) -> registry.Problem:
    b, d, c = sizes["B"], sizes["D"], sizes["C"]
    features, ids, prior = batch(b, d, c)
    features = features.detach().to(device).requires_grad_()
    weight = prior.weight.to(device).requires_grad_()
    ids = ids.to(device)
    rows = nnf.one_hot(ids, c).float()
    dense = literal(rows)

    def ours(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        found = functional.prior_similarity(x, w, ids, q=Q, loss_only=True)
        assert found.loss is not None and found.score is not None
        return found.loss, found.score

    def oracle() -> registry.Outcome:
        x, w = (leaf.detach().double().requires_grad_() for leaf in (features, weight))
        return step(literal(rows.double()), x, w)()

    contenders = registry.our_backends("prior_similarity", device, step(ours, features, weight))
    contenders["literal"] = registry.Contender(step(dense, features, weight))
    contenders["literal, torch.compile"] = registry.no_compiler(device) or registry.Contender(
        step(torch.compile(dense, dynamic=False), features, weight)
    )
    # XW, its two gradients; X read for both of its products, its gradient written
    least = registry.Work(6 * b * d * c, (3 * b * d + 3 * d * c) * 4, (b, d, d))
    tf32 = device.type == "cuda" and allowed_on_gpu() == "high"

    def joined(own: Callable[..., tuple[Tensor, Tensor]]) -> registry.Contender:
        """``own(features, targets, weight)`` returns the loss and the score."""
        return registry.Contender(step(lambda x, w: own(x, ids, w), features, weight))

    return registry.Problem(contenders, oracle, least, 2e-3 if tf32 else 1e-5, joined)


NAMES = (*registry.backend_names("prior_similarity"), "literal", "literal, torch.compile")


def entry(b: int, d: int, c: int, note: str, quick: bool = False) -> registry.Entry:
    return at({"B": b, "D": d, "C": c}, note, quick=quick)


def at(sizes: registry.Sizes, note: str, quick: bool = False) -> registry.Entry:
    """An entry of these sizes."""
    return registry.Entry("prior_similarity", sizes, build, NAMES, note=note, quick=quick)


ENTRIES = [
    entry(1024, 2048, 10, "Wikipedia, NUS-WIDE", quick=True),
    entry(1024, 2048, 20, "XMedia"),
    entry(1024, 2048, 100, "INRIA-Websearch"),
    entry(1024, 2048, 200, "XMediaNet"),
    *(entry(b, d, 10, "sweep over B") for b, d in ((8192, 2048), (65536, 512))),
]
