"""The reversible consistency loss, forward and backward, beside its literal form.

The literal form is what a reader of the paper would write: three B×B matrices, the generalised
inverse found beforehand, all rows labelled. It is run as it is and under ``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drcl import Prior, functional
from drcl.benchmarks.suite import registry
from drcl.precision import allowed_on_gpu

Q = 0.5
# From here on a literal step takes ten seconds and more on a CPU, and gigabytes.
LITERAL_BATCH = {"cpu": 8192, "cuda": 32768}
COMPILED_BATCH = {"cpu": 4096, "cuda": 32768}


Mix = Callable[[Tensor], Tensor]


def mixed(permutation: Tensor, lam: float, values: Tensor) -> Tensor:
    return lam * values + (1 - lam) * values[permutation]


def batch(b: int, d: int, c: int) -> tuple[Tensor, Tensor, Prior]:
    """Unit rows that take a gradient, class ids, and a prior of the norm that learning gives it."""
    generator = torch.Generator().manual_seed(b + d + c)
    features = nnf.normalize(torch.randn(b, d, generator=generator))
    ids = torch.randint(0, c, (b,), generator=generator)
    weight = torch.randn(d, c, generator=generator) / d**0.5 * 2.9
    if d < 2 * c < 4 * d:  # nearly square, it could hardly be inverted
        weight += 9.0 * torch.eye(d, c)
    return features.requires_grad_(), ids, Prior(weight)


def literal(
    rows: Tensor, weight: Tensor, inverse: Tensor, mix: Mix | None = None
) -> Callable[[Tensor], Tensor]:
    """``0.1 J_D + 0.1 J_MSE + J_L`` of features, from its formulas."""
    one_hot = mix is None and bool((rows.sum(dim=1) == 1).all())
    rows = rows if mix is None else mix(rows)
    recast = rows @ inverse

    def loss(x: Tensor) -> Tensor:
        x = x if mix is None else mix(x)
        rr, xx, rx = (
            2 * nnf.normalize(a) @ nnf.normalize(b).T
            for a, b in ((recast, recast), (x, x), (recast, x))
        )
        consistency = (rr - xx).square().mean() + (rx - rx.T).square().mean()
        if one_hot:
            log_s = ((x @ weight).log_softmax(dim=1) * rows).sum(dim=1)
        else:
            log_s = ((x @ weight).softmax(dim=1) * rows).sum(dim=1).log()
        label = -torch.expm1(Q * log_s).mean() / Q
        return 0.1 * consistency + 0.1 * (recast - x).square().mean() + label

    return loss


def step(
    loss: Callable[[Tensor], Tensor], features: Tensor, forward: bool = False
) -> Callable[[], registry.Outcome]:
    """One forward and backward pass: value and gradient; or the value alone."""

    def run() -> registry.Outcome:
        if forward:
            with torch.no_grad():
                return (loss(features),)
        value = loss(features)
        return value.detach(), *torch.autograd.grad(value, features)

    return run


def graphed(loss: Callable[[Tensor], Tensor], features: Tensor) -> Callable[[], registry.Outcome]:
    """The same, captured in a CUDA graph when it first runs."""
    captured: list[tuple[torch.cuda.CUDAGraph, registry.Outcome]] = []

    def capture() -> tuple[torch.cuda.CUDAGraph, registry.Outcome]:
        once = step(loss, features)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                once()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outcome = once()
        return graph, outcome

    def run() -> registry.Outcome:
        if not captured:
            captured.append(capture())
        graph, outcome = captured[0]
        graph.replay()
        return outcome

    return run


def work(b: int, d: int, c: int, forward: bool = False) -> registry.Work:
    """A symmetric product and one with it, 3·B·D·min(B, D), unless the classes span all of space.

    And the logits there and back, 4·B·D·C. X is read once, its part outside the prior's space
    written once and read twice, the gradient written once. Forward alone it is the symmetric
    product, B·D·min(B, D), the logits, and X read once.
    """
    product = b * d * min(b, d) if c < d else 0
    if forward:
        return registry.Work(product + 2 * b * d * c, b * d * 4, (b, d, min(b, d)))
    return registry.Work(3 * product + 4 * b * d * c, 5 * b * d * 4, (b, d, min(b, d)))


def build(sizes: registry.Sizes, device: torch.device) -> registry.Problem:
    b, d, c = sizes["B"], sizes["D"], sizes["C"]
    features, ids, prior = batch(b, d, c)
    features = features.detach().to(device).requires_grad_()
    ids, prior = ids.to(device), prior.to(device)
    rows, forward = nnf.one_hot(ids, c).float(), bool(sizes.get("forward"))
    targets = ids
    if sizes.get("rows"):  # and one label more for each, mostly
        rows[torch.arange(b), ids.flip(0)] = 1.0
        targets = rows
    mix = None
    options: dict[str, Any] = {"q": Q}
    if sizes.get("mixed"):
        options |= {"permutation": ids.argsort(stable=True), "lam": 0.9}
        mix = partial(mixed, options["permutation"], 0.9)
    dense = literal(rows, prior.weight, prior.inverse, mix)

    def ours(x: Tensor) -> Tensor:
        return functional.reversible_consistency_loss(x, targets, prior, **options).total

    def oracle() -> registry.Outcome:
        exact = features.detach().double().requires_grad_()
        formulas = literal(rows.double(), prior.weight.double(), inverse, mix)
        return step(formulas, exact, forward)()

    inverse = torch.linalg.pinv(prior.weight.double())
    once = step(ours, features, forward)
    contenders = registry.our_backends("reversible_consistency", device, once)
    contenders["drcl in a CUDA graph"] = (
        registry.Contender(graphed(ours, features)) if device.type == "cuda" else "on a GPU only"
    )
    contenders["literal"] = registry.Contender(step(dense, features, forward))
    contenders["literal, torch.compile"] = registry.no_compiler(device) or registry.Contender(
        step(torch.compile(dense, dynamic=False), features, forward)
    )
    for name, limit in (("literal", LITERAL_BATCH), ("literal, torch.compile", COMPILED_BATCH)):
        if b > limit[device.type]:
            contenders[name] = f"B×B matrices of {b * b * 4 / 2**30:.1f} GiB each: not attempted"
    tf32 = device.type == "cuda" and allowed_on_gpu() == "high"
    least, tolerance = work(b, d, c, forward), 2e-3 if tf32 else 1e-5

    def joined(own: Callable[..., Tensor]) -> registry.Contender:
        """``own(features, targets, weight)`` returns the loss."""
        weight = prior.weight.detach()
        return registry.Contender(step(lambda x: own(x, targets, weight), features, forward))

    return registry.Problem(contenders, oracle, least, tolerance, joined)


NAMES = (
    *registry.backend_names("reversible_consistency"),
    "drcl in a CUDA graph",
    "literal",
    "literal, torch.compile",
)


def entry(b: int, d: int, c: int, note: str, **options: bool | str) -> registry.Entry:
    return at({"B": b, "D": d, "C": c}, note, **options)


def at(sizes: registry.Sizes, note: str, **options: bool | str) -> registry.Entry:
    """An entry of these sizes; beside B, D and C they say 1 where targets are ``rows`` of labels,
    rows are ``mixed``, and where it is ``forward`` alone."""
    # B above D stays above D: the two sides are different code.
    gate = {"B": max(4096, 2 * sizes["D"])}
    return registry.Entry("loss", sizes, build, NAMES, gate, note, **options)  # type: ignore[arg-type]


ENTRIES = [
    entry(1024, 2048, 10, "Wikipedia, NUS-WIDE; sweeps", quick=True),
    entry(1024, 2048, 20, "XMedia"),
    entry(1024, 2048, 100, "INRIA-Websearch; sweep over C"),
    entry(1024, 2048, 200, "XMediaNet"),
    entry(1024, 2048, 1000, "sweep over C"),
    *(entry(1024, d, 10, "sweep over D") for d in (64, 512)),
    *(entry(b, 2048, 10, "sweep over B") for b in (256, 2048, 4096, 8192)),
    *(
        entry(b, 512, 10, "sweep over B, D = 512", quick=b == 4096)
        for b in (4096, 16384, 65536, 131072)
    ),
    entry(2**20, 512, 10, "a batch whose B×B matrices would take 4 TB each", gpu=True),
    *(
        entry(b, 2048, 10, "sweep over B", precision="high", quick=b == 1024)
        for b in (1024, 8192, 32768)
    ),
]
