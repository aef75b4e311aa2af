"""One function per op: contract, checks, choice of backend.

Every function takes torch tensors on any device. Targets are class ids or rows. Ids are ``(B,)`` or
``(B, 1)``, of any integer dtype, bool or whole floats, with −1 for an unlabelled row. Rows are
``(B, C)``: one-hot, multi-hot or mixed, with zeros for an unlabelled row; with one class, ``(B,
1)`` of floats or bool is rows, and of integers an error. Ids are columns 0..C−1, unless a
:class:`drcl.Prior` lists other integers as its classes: then they are those classes
(:meth:`drcl.Prior.columns_of`). Unlabelled rows do not count: a loss over a batch equals the loss
over its labelled rows. With feature mixing, a pair counts if both of its rows are labelled.

An argument of the wrong type, dtype, shape, device or range is a TypeError or ValueError that names
it and what was expected. On a GPU and in compiled code the losses do not check values, because that
would wait for the device; there, an id that is not a class makes the loss NaN. See
:mod:`drcl.labels`.

Derivatives: every backend supports reverse and forward mode, and ``grad``, ``vjp``, ``jvp``,
``jacrev``, ``jacfwd`` and ``vmap`` of ``torch.func`` over features, targets and q. Mixing and the
reference backend (``drcl.use_backend("reference")``) have second derivatives; elsewhere these are a
NotImplementedError, as is forward mode inside ``torch.compile``. ``torch.compile`` and
``torch.export`` accept batches of any size, and do not recompile for a new value of a float q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl import checks, ops, reference
from drcl.dispatch import choose, kernels_take
from drcl.eager import generalized_cross_entropy as eager
from drcl.labels import check_targets, is_labelled, target_rows
from drcl.ops.inputs import as_tensor, full_precision
from drcl.precision import with_float64
from drcl.prior import Prior
from drcl.ranking import DIVISORS, Columns, Relevance, Request
from drcl.reversible_consistency import ReversibleConsistency, reversible_consistency_loss

__all__ = [
    "mixup", "PriorSimilarity", "prior_similarity", "generalized_cross_entropy",
    "ReversibleConsistency", "reversible_consistency_loss", "average_precision",
]  # fmt: skip
__dir__ = __all__.copy


class PriorSimilarity(NamedTuple):
    """The result of :func:`prior_similarity`; ``loss`` and ``score`` are None without targets."""

    logits: Tensor
    probabilities: Tensor
    loss: Tensor | None
    score: Tensor | None


def mixup(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    lam: float = 0.9,
    permutation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Feature mixing: ``X ← λX + (1−λ)X[π]``, ``Y ← λY + (1−λ)Y[π]``.

    Args:
        features: (B, D) float; rows are mixed as given and not normalised afterwards.
        targets: (B,) int64 ids or (B, C) rows.
        classes: C, needed when the targets are ids.
        lam: λ in [0, 1]; the paper's γ = λ = 0.9.
        permutation: π, (B,) int64; drawn with ``generator`` when not given.

    Returns mixed features (B, D) and float target rows (B, C) in the features' dtype. A row that
    mixes in an unlabelled one becomes unlabelled (zero). Source: paper, feature augmentation.

    >>> ids, swap = torch.tensor([0, 1]), torch.tensor([1, 0])
    >>> x, y = mixup(torch.eye(2), ids, classes=2, permutation=swap)
    >>> y
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]])
    """
    checks.check_matrix("features", features)
    lam = checks.check_lam(lam)
    classes = None if classes is None else checks.check_count("classes", classes)
    rows = _target_rows(targets, features, classes)
    if permutation is None:
        # a generator, None too, ties a traced graph to one batch size
        drawn: dict[str, Any] = {} if generator is None else {"generator": generator}
        permutation = torch.randperm(features.shape[0], device=features.device, **drawn)
    checks.check_permutation(permutation, features)
    backend = choose("mixup", features.device, kernels=kernels_take("mixup", features))
    if backend == "reference":
        return reference.mixup(features, rows, permutation, lam)
    if lam == 1.0:
        return features, rows
    labelled = is_labelled(rows)
    both = (labelled & labelled[permutation]).to(rows.dtype)
    mixed = ops.mixup.mix_rows(features, permutation, lam, backend)
    return mixed, both[:, None] * ops.mixup.mix_rows(rows, permutation, lam, backend)


def prior_similarity(
    features: Tensor,
    prior: Prior | Tensor,
    targets: Tensor | None = None,
    *,
    q: Tensor | float = 1.0,
    temperature: float = 1.0,
    loss_only: bool = False,
) -> PriorSimilarity:
    """Class logits ``XW/τ``, probabilities ``softmax(XW/τ)``, and with targets the prior-learning
    loss.

    Args:
        features: (B, D) float.
        prior: a :class:`drcl.Prior`, or W (D, C) itself, which then receives a gradient.
        targets: ids (B,) or rows (B, C), or None.
        q: exponent of the generalised cross-entropy in [0, 1], float or 0-d tensor.
        temperature: τ > 0, a normal number of W's dtype, for half precision of float32. XW and X/τ
            have to be finite there.
        loss_only: return only loss and score, with targets; logits and probabilities are then empty
            (0, C). On a CPU this saves much of the time where C is large.

    Returns logits and probabilities (B, C), ``loss`` = GCE, and ``score``, the mean probability of
    the true class over labelled rows (no gradient), in the prior's dtype. Logits beyond its range
    are infinite, and what follows from them may be NaN. W's gradient sums over all rows: one with
    NaN in its features makes it NaN even where it is unlabelled. Source: paper, selective prior
    learning.

    >>> out = prior_similarity(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 2]), q=1.0)
    >>> round(float(out.score), 4)
    0.5761
    """
    checks.check_matrix("features", features)
    weight = prior.weight if isinstance(prior, Prior) else prior
    checks.check_prior(weight, features)
    temperature = checks.check_temperature(temperature, weight.dtype)
    loss_only = checks.check_flag("loss_only", loss_only)
    checks.check_q(q)
    backend = choose(
        "prior_similarity",
        features.device,
        kernels=kernels_take("prior_similarity", features, weight),
        native=weight.dtype.itemsize > 2 and not torch.compiler.is_exporting(),
    )
    if targets is not None:
        numbering = prior if isinstance(prior, Prior) else None
        targets = check_targets(targets, features, weight.shape[1], numbering)
    if targets is None or backend == "reference":
        with full_precision(features):
            if targets is None:
                logits = features.to(weight.dtype) @ weight / temperature
                return PriorSimilarity(logits, logits.softmax(dim=1), None, None)
            found = _reference_prior_similarity(features, weight, targets, q, temperature)
            if not loss_only:
                return found
            return found._replace(logits=found.logits[:0], probabilities=found.probabilities[:0])
    found = ops.prior_similarity.similarity(
        features, weight, targets, as_tensor(q, features), temperature, loss_only, backend
    )
    loss, score, *rest = found
    logits, probabilities = (weight.new_empty(0, weight.shape[1]),) * 2 if loss_only else rest[:2]
    return PriorSimilarity(logits, probabilities, loss, score)


def _reference_prior_similarity(
    features: Tensor, weight: Tensor, targets: Tensor, q: Tensor | float, temperature: float
) -> PriorSimilarity:
    dtype = torch.promote_types(features.dtype, weight.dtype)
    features, weight = features.to(dtype), weight.to(dtype)
    logits, probabilities = reference.prior_similarity(features, weight, temperature)
    rows = target_rows(targets, weight.shape[1], dtype)
    loss = reference.generalized_cross_entropy(logits, rows, q)
    labelled = is_labelled(rows)
    score = (rows * probabilities.detach()).sum() / labelled.sum().clamp(min=1)
    return PriorSimilarity(logits, probabilities, loss, score)


def generalized_cross_entropy(
    logits: Tensor, targets: Tensor, *, q: Tensor | float = 1.0
) -> Tensor:
    """``mean_i (1 − s_i^q)/q``, ``s_i = Σ_c Y_ic softmax(logits)_ic``; cross-entropy at q = 0.

    Args:
        logits: (B, C) float.
        targets: ids (B,) or rows (B, C).
        q: in [0, 1], float or 0-d tensor. Value and gradient are finite and continuous to q = 0.

    Returns a scalar, the mean over labelled rows (0 if there are none), in float32 for logits in
    half precision. Logits may be −∞, which is p = 0: a row all of whose own classes are so costs
    1/q with a finite gradient (at q = 0 as much as the dtype can say). Source: Zhang and
    Sabuncu, Generalized Cross Entropy Loss, 2018, equation 6; used in the paper as J_L.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> float(generalized_cross_entropy(logits, torch.tensor([0]), q=1.0))
    0.5
    """
    checks.check_matrix("logits", logits, "(B, C)")
    checks.check_q(q)
    # The gap of two logits may be beyond half precision's range.
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = _target_rows(targets, wide, logits.shape[1])
    if choose("generalized_cross_entropy", logits.device) == "reference":
        loss = reference.generalized_cross_entropy(wide, rows, q)
    else:
        loss = eager.generalized_cross_entropy(wide, rows, as_tensor(q, logits))
    return loss


def average_precision(
    scores: Tensor,
    relevant: Tensor,
    *,
    k: int | None = None,
    no_relevant: str = "zero",
    divisor: str = "hits",
    ties: str = "index",
) -> Tensor:
    """Average precision of each row of a score matrix, ties ranked by gallery index.

    ``AP@k = Σ_j precision(rank of hit j) / divisor`` over the hits among the first k (None: all).

    Args:
        scores: (Q, N) float, higher is nearer; NaN is an error.
        relevant: (Q, N) bool.
        k: cut-off >= 1; one above N means N.
        no_relevant: for a query without relevant items: ``"zero"`` gives 0, ``"skip"`` NaN.
        divisor: ``"hits"`` in the first k, ``"min"`` of k and R, or ``"relevant"``: all R.
        ties: by gallery ``"index"``, or the ``"average"`` over all orders of equal scores.

    Returns (Q,) float64, on the CPU where the scores' device has no float64. Raises ValueError for
    shapes or devices that differ, NaN, and options that are not known; TypeError for relevance that
    is not bool. Source: the field's definition, see the paper's evaluation: the sum is divided by
    the hits found in the first k.

    >>> average_precision(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]]))
    tensor([0.8333], dtype=torch.float64)
    """
    checks.check_matrix("scores", scores, "(Q, N)")
    checks.check_tensor("relevant", relevant)
    if scores.shape != relevant.shape:
        raise ValueError(
            "scores and relevant: expected one shape (Q, N), got "
            f"{tuple(scores.shape)} and {tuple(relevant.shape)}"
        )
    checks.check_device("relevant", relevant, "scores", scores)
    checks.check_has_values("scores", scores)
    if relevant.dtype != torch.bool:
        raise TypeError(f"relevant: expected dtype bool, got {relevant.dtype}")
    k = checks.check_cutoff(k)
    checks.check_option("no_relevant", no_relevant, ("zero", "skip"))
    checks.check_option("divisor", divisor, DIVISORS)
    checks.check_option("ties", ties, ("index", "average"))
    if not torch.compiler.is_compiling() and bool(scores.isnan().any()):
        raise ValueError(f"scores: row {int(scores.isnan().any(dim=1).nonzero()[0])} holds NaN")
    there = with_float64(scores.device)
    scores, relevant, n = scores.detach().to(there), relevant.to(there), scores.shape[1]
    cutoff = n if k is None else min(k, n)
    request = Request((cutoff,), cutoff, divisor, average_ties=ties == "average")
    table = ops.average_precision.average_precision(
        scores.contiguous() if scores.dtype == torch.float64 else scores.float().contiguous(),
        _matrix_relevance(relevant),
        request,
        backend=choose("average_precision", scores.device),
    )
    columns = Columns.split(table, request)
    value = columns.average_precision[:, 0]
    if no_relevant == "skip":
        value = value.masked_fill(columns.relevant == 0, float("nan"))
    return value


def _matrix_relevance(relevant: Tensor) -> Relevance:
    """A list of relevant items for every row; bits where a trace needs shapes that are known."""
    queries, n = relevant.shape
    q = torch.arange(queries + 1, device=relevant.device)
    if torch.compiler.is_compiling():
        words = (n + 63) // 64
        padded = torch.nn.functional.pad(relevant, (0, words * 64 - n))
        places = torch.arange(64, device=relevant.device)
        bits = (padded.view(queries, words, 64).long() << places).sum(dim=2)
        return Relevance(n, q, q[:-1], bits=bits)
    offsets = torch.zeros_like(q)
    offsets[1:] = relevant.sum(dim=1).cumsum(0)
    items = relevant.nonzero()[:, 1].int()
    max_relevant = int(offsets.diff().max())
    return Relevance(max_relevant, q, q[:-1], offsets, items)


def _target_rows(targets: Tensor, features: Tensor, classes: int | None) -> Tensor:
    """Checked targets as rows (B, C) in the features' dtype."""
    targets = check_targets(targets, features, classes)
    return target_rows(targets, classes or targets.shape[1], features.dtype)
