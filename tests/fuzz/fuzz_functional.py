"""Targets: :mod:`drcl.functional`, against :mod:`drcl.reference` in float64.

Bounds. With ε the resolution of the dtype that computes, a result may be off by some roundings of
the largest quantity that goes into it: ``ROUNDINGS·ε·(that quantity)``. Each check names it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from arrays import FLOATS, TAME, WILD, laid_out, spoil, target_rows, tensor, values
from bad_arguments import (
    of_count,
    of_matrix,
    of_number,
    of_permutation,
    of_positive,
    of_share,
    of_targets,
    of_word,
    refuses,
)
from fuzzing import Draw, array, target, within
from torch import Tensor

from drcl import Prior, functional, reference, use_backend
from drcl.prior import rank_cutoff

# Sums here have at most a few dozen terms, and an op some ten steps.
ROUNDINGS = 64
OPS = ("eager", "reference")
RANKINGS = ("native", "eager", "reference")


class Batch(NamedTuple):
    """Features and targets as they are passed, and the same numbers exactly."""

    features: Tensor
    targets: Tensor
    x: Tensor
    y: Tensor
    classes: int


def draw_batch(
    draw: Draw, name: str = "features", *kinds: str, classes: int | None = None
) -> Batch:
    """A batch: B 1..8, D 1..9 (rarely 40), C 1..6."""
    rows = draw.integer("B", 1, 8)
    classes = draw.integer("C", 1, 6) if classes is None else classes
    width = draw.choose("D", 3, 1, 2, 5, 9, 40)
    features = tensor(draw, name, values(draw, name, rows, width, *kinds))
    return with_targets(draw, features, classes)


def with_targets(draw: Draw, features: Tensor, classes: int) -> Batch:
    """Targets for these features, as ids where that can be."""
    rows = target_rows(draw, len(features), classes)
    whole = bool((rows == rows.round()).all())
    if (
        whole
        and bool((rows.sum(axis=1) <= 1).all())
        and draw.choose("form", "ids", "rows") == "ids"
    ):
        ids = np.where(rows.any(axis=1), rows.argmax(axis=1), -1)
        targets = laid_out(draw, "targets", torch.from_numpy(ids))
    else:
        more = (torch.bool, torch.uint8, torch.int64) if whole else ()
        more = more[:1] if classes == 1 else more  # integers may be ids
        dtype = draw.choose("targets dtype", *FLOATS, *more)
        targets = laid_out(draw, "targets", torch.from_numpy(rows).to(dtype))
    if features.is_floating_point() and draw.choose("requires grad", False, True):
        features = features.detach().requires_grad_()
    return Batch(features, targets, features.detach().double(), torch.from_numpy(rows), classes)


def eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def within_range(ours: Tensor, exact: Tensor, bound: float, what: str) -> None:
    """:func:`within` and rounded to its dtype, where it is in the dtype's range."""
    info = torch.finfo(ours.dtype)
    fits = exact.abs() < info.max / 2
    rounding = 2 * info.eps * exact.abs() + info.tiny
    within(torch.where(fits, ours, exact), exact, array(rounding) + bound, what)


def finite(*tensors: Tensor) -> None:
    for t in tensors:
        assert bool(t.isfinite().all()), t


def of_q(name: str = "q") -> dict[str, Any]:
    return {
        **of_share(name),
        f"{name}: a tensor of one": lambda: torch.tensor([0.5]),
        f"{name}: an integer tensor": lambda: torch.tensor(1),
        f"{name}: a tensor above 1": lambda: torch.tensor(1.5),
        f"{name}: a tensor of NaN": lambda: torch.tensor(float("nan")),
    }


def draw_q(draw: Draw) -> float | Tensor:
    q = draw.choose("q", 1.0, 0.0, 0.01, 0.3, 1e-8, 1e-46, 1e-300, 1, 0)
    return torch.tensor(float(q)) if draw.choose("q as", "number", "tensor") == "tensor" else q


@target("drcl.functional.mixup")
def mixup(draw: Draw) -> None:
    batch = draw_batch(draw, "features", *TAME, *WILD)
    rows, dtype = len(batch.x), batch.features.dtype
    lam = draw.choose("lam", 0.9, 1.0, 0.0, 0.5, 1e-300, 1, 0)
    generator = torch.Generator().manual_seed(draw.seed)
    permutation = torch.randperm(rows, generator=generator)
    arguments: dict[str, Any] = {
        "features": batch.features,
        "targets": batch.targets,
        "lam": lam,
        "permutation": laid_out(draw, "permutation", permutation),
        "classes": batch.classes
        if batch.targets.ndim == 1
        else draw.choose("C given", None, True) and batch.classes,
    }
    backend = draw.choose("backend", *OPS)
    with use_backend(backend):
        faults = {
            **of_matrix("features", batch.features),
            **of_targets("targets", batch.targets, rows, batch.classes),
            **of_share("lam"),
            **of_permutation("permutation", rows),
            "classes: text": lambda: "2",
            "classes: half": lambda: 2.5,
            "classes/targets: another number": lambda: (
                batch.classes + 1 if batch.targets.ndim == 2 else 0
            ),
        }
        if refuses(draw, functional.mixup, arguments, faults):
            return
        if draw.choose("permutation", "given", "drawn") == "drawn":
            arguments["permutation"] = None
            arguments["generator"] = torch.Generator().manual_seed(draw.seed)
        x, y = functional.mixup(**arguments)
    assert x.dtype == y.dtype == dtype
    exact_x, exact_y = reference.mixup(batch.x, batch.y, permutation, lam)
    if lam == 1:
        assert torch.equal(x, batch.features) and torch.equal(y, batch.y.to(dtype))
    size = batch.x.abs() + batch.x[permutation].abs()
    # Two rows are mixed through their difference, which has to be a number of the dtype.
    fits = size < torch.finfo(dtype).max
    bound = 4 * eps(dtype) * size + torch.finfo(dtype).tiny
    within(torch.where(fits, x, exact_x), exact_x, array(bound), "X")
    within(y, exact_y, 4 * eps(dtype), "Y")
    if batch.features.requires_grad:
        weight = torch.from_numpy(draw.random.integers(-4, 5, size=x.shape)).to(dtype)
        (found,) = torch.autograd.grad((x * weight).sum(), batch.features)
        exact = lam * weight.double()
        exact[permutation] += (1 - lam) * weight.double()
        within(found, exact, 16 * eps(dtype) * 8, "gradient")


@target("drcl.functional.generalized_cross_entropy")
def generalized_cross_entropy(draw: Draw) -> None:
    cross_entropy(draw, functional.generalized_cross_entropy)


def cross_entropy(draw: Draw, function: Any) -> None:
    classes = draw.integer("C", 1, 6)
    logits = tensor(
        draw, "logits", values(draw, "logits", draw.integer("B", 1, 8), classes, *TAME, *WILD)
    )
    batch = with_targets(draw, logits, classes)
    q, dtype = draw_q(draw), batch.features.dtype
    arguments = {"logits": batch.features, "targets": batch.targets, "q": q}
    with use_backend(draw.choose("backend", *OPS)):
        faults = {
            **of_matrix("logits", batch.features),
            **of_targets("targets", batch.targets, len(batch.x), classes),
            **of_q(),
        }
        if refuses(draw, function, arguments, faults):
            return
        labelled = batch.y.sum(dim=1) > 0
        if bool(labelled.any()) and draw.choose("a bad number", False, True):
            bad, row = spoil(draw, batch.features)
            loss = function(bad, batch.targets, q=q)
            # Where it counts it must be seen; a logit of −∞ is a class that is switched off.
            if labelled[row] and not bool((bad[row] == -float("inf")).any()):
                assert not bool(loss.isfinite()), loss
            elif not labelled[row]:
                # An unlabelled row may hold anything.
                assert torch.equal(loss, function(batch.features, batch.targets, q=q))
            return
        loss = function(**arguments)
        if batch.features.requires_grad:
            (gradient,) = torch.autograd.grad(loss * 3, batch.features)
    assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss.ndim == 0
    exact_logits = batch.x.clone().requires_grad_()
    exact = reference.generalized_cross_entropy(exact_logits, batch.y, q)
    # log s is a difference of logits, each known to a rounding of the largest.
    largest = float(batch.x.abs().max())
    if largest * len(batch.x) < torch.finfo(dtype).max / 4:
        within(loss, exact, ROUNDINGS * eps(dtype) * (1 + largest), "loss")
    if batch.features.requires_grad:
        finite(gradient)
        (expected,) = torch.autograd.grad(exact * 3, exact_logits)
        slack = ROUNDINGS * eps(dtype) * (1 + min(largest, 1 / eps(dtype)))
        within(gradient, expected, slack * 3 / max(1, int(labelled.sum())), "gradient")


@target("drcl.functional.prior_similarity")
def prior_similarity(draw: Draw) -> None:
    batch = draw_batch(draw, "features", *TAME, "zero", "denormal")
    width = batch.x.shape[1]
    weight = tensor(
        draw, "prior", values(draw, "prior", width, batch.classes), torch.float32, torch.float64
    )
    # W is trained through the loss, so it may be anything finite, even of low rank.
    prior = Prior(weight) if bool(weight.any()) and draw.choose("Prior", False, True) else weight
    temperature = draw.choose("temperature", 1.0, 0.07, 30.0)
    q = draw_q(draw)
    arguments: dict[str, Any] = {
        "features": batch.features,
        "prior": prior,
        "targets": batch.targets,
        "q": q,
        "temperature": temperature,
    }
    if draw.choose("W learns", False, True) and prior is weight:
        weight.requires_grad_()
    backend = draw.choose("backend", *OPS)
    with use_backend(backend):
        faults = {
            **of_matrix("features", batch.features),
            **of_targets("targets", batch.targets, len(batch.x), batch.classes),
            **of_matrix("prior/weight", weight.detach()),
            "prior/features: another width": lambda: torch.ones(width + 1, batch.classes),
            **of_q(),
            **of_positive("temperature"),
        }
        if refuses(draw, functional.prior_similarity, arguments, faults):
            return
        alone = draw.choose("loss_only", False, True)
        if draw.choose("targets given", True, False):
            out = functional.prior_similarity(**arguments, loss_only=alone)
        else:
            out = functional.prior_similarity(**{**arguments, "targets": None})
            assert out.loss is None and out.score is None
        learning = [t for t in (batch.features, weight) if t.requires_grad]
        if out.loss is not None and learning:
            gradients = torch.autograd.grad(2 * out.loss + out.logits.sum(), learning)
    alone = alone and out.loss is not None
    exact_x, exact_w = batch.x.clone().requires_grad_(), weight.detach().double().requires_grad_()
    logits, p = reference.prior_similarity(exact_x, exact_w, temperature)
    dtype = out.logits.dtype
    # Each logit is a sum of products; softmax passes their error on.
    size = float(batch.x.norm(dim=1).max() * exact_w.detach().norm() / temperature)
    slack = ROUNDINGS * eps(dtype) * (1 + size)
    shown = slice(0) if alone else slice(None)
    within(out.logits, logits[shown], slack, "logits")
    within(out.probabilities, p[shown], slack, "probabilities")
    if out.loss is None or out.score is None:
        return
    exact = reference.generalized_cross_entropy(logits, batch.y, q)
    within(out.loss, exact, slack, "loss")
    labelled = batch.y.sum(dim=1) > 0
    score = (batch.y * p)[labelled].sum(dim=1).mean() if bool(labelled.any()) else 0.0
    within(out.score, score, slack * max(1.0, float(batch.y.sum(dim=1).max())), "score")
    if learning:
        expected = torch.autograd.grad(2 * exact + logits[shown].sum(), (exact_x, exact_w))
        by = dict(zip((id(batch.features), id(weight)), expected, strict=True))
        for leaf, gradient in zip(learning, gradients, strict=True):
            assert gradient.dtype == leaf.dtype
            size = float(by[id(leaf)].abs().max()) * eps(leaf.dtype)
            scale = float(batch.x.norm() + exact_w.detach().norm()) / temperature
            within_range(gradient, by[id(leaf)], slack * scale + 4 * size, "gradient")


class Conditioning(NamedTuple):
    """How far the formula itself passes on errors of its input; see :func:`conditioning`."""

    clear: bool
    amplification: float
    largest_recast: float


def conditioning(x: Tensor, y: Tensor, mixed: Tensor, w: Tensor, unit: float) -> Conditioning:
    """Where the value is well defined, and by how much an error of one rounding grows; y is mixed.

    Only directions of r = yP and of x enter J_D. r may cancel: its error is a rounding of |y||P|,
    not of |r|; so may a mixed row x. The rank of W is a matter of a cut-off at ``unit·√min(D, C)``:
    a singular value close to it may count or not.
    """
    singular = torch.linalg.svdvals(w)
    share = singular / singular[0]
    cutoff = unit * min(w.shape) ** 0.5
    close = bool(((share > cutoff / 100) & (share < cutoff * 100)).any())
    p = torch.linalg.pinv(w, rtol=cutoff)
    labelled = y.sum(dim=1) > 0
    if close or not bool(labelled.any()):
        return Conditioning(not close, 1.0, 0.0)
    r, size = (y @ p).norm(dim=1), y.norm(dim=1) * torch.linalg.matrix_norm(p, 2)
    # Cancelled to nothing: the direction is that of the rounding. A zero row of x is exactly zero.
    gone = labelled & (r < size * unit * 100)
    n, whole = mixed.norm(dim=1), x.norm()
    gone_x = labelled & (n > 0) & (n < whole * unit * 100) & (n < x.norm(dim=1).clamp(min=1e-300))
    if bool(gone.any() | gone_x.any()):
        return Conditioning(False, 1.0, 0.0)
    growth = (size / r)[labelled].max()
    ratio = torch.where(n > 0, x.norm(dim=1) / n, 1.0)[labelled].max().clamp(min=1.0)
    return Conditioning(True, float(growth * ratio), float(size[labelled].max()))


@target("drcl.functional.reversible_consistency_loss")
def reversible_consistency_loss(draw: Draw) -> None:
    consistency(draw, as_module=False)


def consistency(draw: Draw, as_module: bool) -> None:
    """A case of the loss, as a function or as :class:`drcl.losses.ReversibleConsistencyLoss`."""
    from drcl.losses import ReversibleConsistencyLoss

    batch = draw_batch(draw, "features", *TAME, *WILD)
    rows, width = batch.x.shape
    weight = tensor(
        draw,
        "prior",
        values(draw, "prior", width, batch.classes, "normal", "small integers", "equal rows"),
        torch.float32,
        torch.float64,
    )
    if not bool(weight.any()):
        weight = torch.ones_like(weight)
    options: dict[str, Any] = {
        "alpha": draw.choose("alpha", 0.1, 0.0, 1.0, 3),
        "beta": draw.choose("beta", 0.1, 0.0, 1.0),
        "eta": draw.choose("eta", 1.0, 0.0, 2),
        "temperature": draw.choose("temperature", 1.0, 0.07, 30.0),
        "lam": draw.choose("lam", 1.0, 0.9, 0.5, 0.0),
    }
    q, lam = draw_q(draw), options["lam"]
    permutation = torch.from_numpy(draw.random.permutation(rows))
    prior = Prior(weight) if draw.choose("Prior", True, False) else weight
    arguments: dict[str, Any] = {
        "features": batch.features,
        "targets": batch.targets,
        "prior": prior,
        "q": q,
        "permutation": None if lam == 1 else permutation,
        **options,
    }

    def call(**given: Any) -> functional.ReversibleConsistency:
        if not as_module:
            return functional.reversible_consistency_loss(**given)
        own = {name: given.pop(name) for name in ("prior", *options)}
        return ReversibleConsistencyLoss(own.pop("prior"), **own).parts(**given)

    with use_backend(draw.choose("backend", *OPS)):
        faults = {
            **of_matrix("features", batch.features),
            **of_targets("targets", batch.targets, rows, batch.classes),
            **of_matrix("prior/weight", weight),
            "prior/features: another width": lambda: torch.ones(width + 1, batch.classes),
            "prior/weight: NaN": lambda: torch.full_like(weight, float("nan")),
            "prior/weight: zero": lambda: torch.zeros_like(weight),
            **of_q(),
            **of_positive("temperature"),
            **of_share("lam"),
            **{
                fault: bad
                for name in ("alpha", "beta", "eta")
                for fault, bad in of_number(name, -1.0, float("inf")).items()
            },
            **(of_permutation("permutation", rows) if lam < 1 else {}),
        }
        if refuses(draw, call, arguments, faults):
            return
        labelled = batch.y.sum(dim=1) > 0
        if bool(labelled.any()) and lam == 1 and draw.choose("a bad number", False, True):
            bad, row = spoil(draw, batch.features)
            total = call(**{**arguments, "features": bad}).total
            if labelled[row] and all(options[part] > 0 for part in ("alpha", "beta", "eta")):
                assert not bool(total.isfinite()), total
            elif not labelled[row]:
                bad[row] = 0  # in the same memory: another layout may round otherwise
                clean = call(**{**arguments, "features": bad}).total
                torch.testing.assert_close(total, clean, rtol=0, atol=0, equal_nan=True)
            return
        found = call(**arguments)
        if batch.features.requires_grad:
            (gradient,) = torch.autograd.grad(2 * found.total, batch.features)
    judge_consistency(batch, weight, permutation, q, options, found)
    if batch.features.requires_grad:
        assert gradient.dtype == batch.features.dtype
        judge_gradient(batch, weight, permutation, q, options, gradient)


def judge_consistency(
    batch: Batch,
    weight: Tensor,
    permutation: Tensor,
    q: float | Tensor,
    options: dict[str, Any],
    found: functional.ReversibleConsistency,
) -> None:
    own = dict(options)
    lam, w = own.pop("lam"), weight.double()
    x, y = reference.mixup(batch.x, batch.y, permutation, lam)
    unit = eps(weight.dtype)
    exact = reference.reversible_consistency(x, y, w, q=q, rtol=rank_cutoff(weight), **own)
    state = conditioning(batch.x, y, x, w, unit)
    lengths = batch.x.norm(dim=1)
    sizes = lengths[lengths > 0]
    if len(sizes) and (float(sizes.min()) < 1e-12 or float(sizes.max()) > 1e12):
        return  # squares leave float32's range; lengths are meant to be around 1
    finite(*found)
    if not state.clear:
        assert -1e-5 <= float(found.consistency.detach()) <= 33, found
        return
    slack = ROUNDINGS * max(eps(found.total.dtype), unit) * state.amplification
    largest = float(lengths.max())
    norm = float(torch.linalg.matrix_norm(w, 2))
    bounds = {
        "label": slack * (1 + largest * norm / options["temperature"]),
        "consistency": slack * 32,
        "recasting": slack * (state.largest_recast + largest) ** 2,
    }
    bounds["total"] = (
        options["eta"] * bounds["label"]
        + options["alpha"] * bounds["consistency"]
        + options["beta"] * bounds["recasting"]
    ) + slack * abs(float(exact[0]))
    for name, value in zip(("total", "label", "consistency", "recasting"), exact, strict=True):
        within(getattr(found, name), value, bounds[name], name)


def judge_gradient(
    batch: Batch,
    weight: Tensor,
    permutation: Tensor,
    q: float | Tensor,
    options: dict[str, Any],
    gradient: Tensor,
) -> None:
    own = dict(options)
    lam, w = own.pop("lam"), weight.double()
    leaf = batch.x.clone().requires_grad_()
    x, y = reference.mixup(leaf, batch.y, permutation, lam)
    unit = eps(weight.dtype)
    total = reference.reversible_consistency(x, y, w, q=q, rtol=rank_cutoff(weight), **own)[0]
    (expected,) = torch.autograd.grad(2 * total, leaf)
    state = conditioning(batch.x, y, x.detach(), w, unit)
    lengths = x.detach().norm(dim=1)
    sizes = lengths[(lengths > 0)]
    if not state.clear or not len(sizes):
        return
    if float(sizes.min()) < 1e-12 or float(batch.x.norm(dim=1).max()) > 1e12:
        return
    count = max(1, int((y.sum(dim=1) > 0).sum()))
    computed = torch.promote_types(torch.float32, gradient.dtype)
    slack = 2 * ROUNDINGS * max(eps(computed), unit) * state.amplification / count
    norm = float(torch.linalg.matrix_norm(w, 2)) / options["temperature"]
    largest = float(batch.x.norm(dim=1).max())
    # J_D acts on directions: its gradient is divided by the length.
    bound = slack * (
        options["alpha"] * 64 / float(sizes.min())
        + options["beta"] * (state.largest_recast + largest) / batch.x.shape[1]
        + options["eta"] * norm * (1 + largest * norm)
    )
    within_range(gradient, expected, bound, "gradient")


@target("drcl.functional.average_precision")
def average_precision(draw: Draw) -> None:
    queries, items = draw.integer("Q", 1, 5), draw.choose("N", 4, 1, 2, 7, 12, 40)
    ties = draw.choose("ties", "index", "average")
    if ties == "average":
        items = min(items, 6)  # the oracle goes through all orders of equal scores
    scores = tensor(draw, "scores", values(draw, "scores", queries, items, *TAME, *WILD))
    relevant = torch.from_numpy(
        draw.random.random((queries, items)) < draw.choose("relevant", 0.3, 0.0, 0.8, 1.0)
    )
    arguments: dict[str, Any] = {
        "scores": scores.requires_grad_(draw.choose("requires grad", False, True)),
        "relevant": laid_out(draw, "relevant", relevant),
        "k": draw.choose("k", None, 1, 2, 3, 50, 2**40),
        "no_relevant": draw.choose("no_relevant", "zero", "skip"),
        "divisor": draw.choose("divisor", "hits", "min", "relevant"),
        "ties": ties,
    }
    infinite = draw.choose("infinite scores", False, True)
    if infinite:
        scores = scores.detach().clone()
        scores[torch.from_numpy(draw.random.random(scores.shape) < 0.3)] = float("inf")
        scores[torch.from_numpy(draw.random.random(scores.shape) < 0.3)] = -float("inf")
        arguments["scores"] = scores
    results = []
    for backend in RANKINGS:
        with use_backend(backend):
            if backend == "native":
                nan = scores.detach().clone()
                nan[-1, -1] = float("nan")
                faults = {
                    **of_matrix("scores", scores.detach()),
                    "scores: NaN": lambda nan=nan: nan,
                    "relevant: bytes": lambda: relevant.byte(),
                    "relevant: a list": relevant.tolist,
                    "relevant/scores: another shape": lambda: relevant[:, :0],
                    "relevant/scores: on meta": lambda: relevant.to("meta"),
                    **of_count("k"),
                    **{
                        fault: bad
                        for name in ("no_relevant", "divisor", "ties")
                        for fault, bad in of_word(name).items()
                    },
                }
                if refuses(draw, functional.average_precision, arguments, faults):
                    return
            results.append(functional.average_precision(**arguments))
    exact = literal_average_precision(
        scores.detach(), relevant, arguments["k"], arguments["divisor"], ties == "average"
    )
    if arguments["no_relevant"] == "skip":
        exact[~relevant.any(dim=1).numpy()] = np.nan
    for found, backend in zip(results, RANKINGS, strict=True):
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-12, atol=1e-13, err_msg=backend)
    check_relations(draw, arguments, results[-1])


def check_relations(draw: Draw, given: dict[str, Any], found: Tensor) -> None:
    """What other scores say of the same rankings."""
    scores, relevant = given["scores"].detach(), given["relevant"]
    queries, items = scores.shape

    def again(scores: Tensor, relevant: Tensor = relevant, **other: Any) -> Tensor:
        return functional.average_precision(
            **{**given, **other, "scores": scores, "relevant": relevant}
        )

    order = torch.from_numpy(draw.random.permutation(queries))
    assert_same(again(scores[order], relevant[order]), found[order])
    if bool((scores * 2).isfinite().all()):
        assert_same(again(scores * 2), found)  # any strictly rising map
    if given["ties"] == "average" or all(len(row.unique()) == items for row in scores):
        order = torch.from_numpy(draw.random.permutation(items))
        assert_same(again(scores[:, order], relevant[:, order]), found)
    # With every item followed by a copy of itself, the one relevant item at rank r, the j-th of
    # these, becomes the relevant items 2j − 1 and 2j at the ranks 2r − 1 and 2r.
    if given["ties"] == "index" and relevant.any():
        twice = again(
            scores.repeat_interleave(2, dim=1), relevant.repeat_interleave(2, dim=1), k=None
        )
        for row, hits, value in zip(scores, relevant, twice, strict=True):
            ranks = (
                hits[torch.sort(row, descending=True, stable=True).indices].nonzero()[:, 0] + 1.0
            )
            if len(ranks):
                r, j = ranks.double(), torch.arange(1, len(ranks) + 1).double()
                mean = ((2 * j - 1) / (2 * r - 1) + j / r).mean() / 2
                assert_same(value, mean)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13, equal_nan=True)


def literal_average_precision(
    scores: Tensor, relevant: Tensor, k: int | None, divisor: str, average: bool
) -> np.ndarray:
    """From the definition, over all orders of equal scores if ``average``."""
    from drcl.reference.average_precision import ranking_measures, tie_orders

    if not average:
        return reference.average_precision(scores, relevant, k, divisor=divisor).numpy()
    means = []
    for row, hits in zip(scores, relevant.long(), strict=True):
        cutoff = len(row) if k is None else k
        orders = tie_orders(row, hits)
        found = [ranking_measures(order, cutoff, divisor)["average_precision"] for order in orders]
        means.append(np.mean(found))
    return np.array(means)
