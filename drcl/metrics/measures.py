"""Measures beyond those of the ranking's table: one function each, of the ranks of relevant items.

The j-th relevant item of a query is at rank ρⱼ, counted from 1; R of its N ranked items are
relevant. A measure is a function of :class:`drcl.metrics.Ranks` that returns (Q,), or, if it has a
parameter ``k``, of the cut-offs (Q, K) too, none above N unless ``adaptive_k=False``, and returns
(Q, K).
:func:`drcl.metrics.retrieval_metrics` takes them by name, and takes any function of this kind:

>>> from functools import partial
>>> from drcl.metrics import measures, retrieval_metrics
>>> def last_rank(found):
...     return found.ranks[:, -1]
>>> x, labels = torch.eye(2), torch.tensor([0, 1])
>>> wanted = ("hit", partial(measures.rbp, p=0.5), last_rank)
>>> means = retrieval_metrics(x, x, labels, labels, ks=(1,), measures=wanted).summary()
>>> means["hit@1"], means["RBP(p=0.5)"], means["last_rank"]
(1.0, 0.5, 1.0)

All are 0 where nothing is relevant, but for ``fall_out``. Further ones, asked for in the same way,
are in :mod:`drcl.metrics.lists` and :mod:`drcl.metrics.user_models`.

Relevant items at ranks 1, 3, 4 and 5 of ten, and k = 3:

>>> ranks = torch.tensor([[1.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
>>> found, k = Ranks(ranks, torch.tensor([4]), torch.tensor([10])), torch.tensor([[3]])
>>> for name, (measure, _) in MEASURES.items():
...     value = measure(found, k) if at_cutoffs(measure) else measure(found)
...     print(f"{name:<17}{float(value):.4f}")
hit              1.0000
hits             2.0000
reciprocal_rank  1.0000
f1               0.5714
precision_min    0.6667
fall_out         0.1667
ap_first_hits    0.8056
dcg              1.5000
dcg_exponential  1.5000
ndcg_exponential 0.7039
err              0.5833
r_precision      0.7500
ap_at_r          0.6042
auroc            0.8750
bpref            0.8125
rbp              0.5123
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from drcl.checks import check_count, check_option
from drcl.metrics.ranks import Ranks, discounts_up_to

__all__ = [
    "MEASURES", "Measure", "ap_at_r", "ap_first_hits", "auroc", "bpref", "dcg", "dcg_exponential",
    "err", "f1", "fall_out", "hit", "hits", "ndcg", "ndcg_exponential", "precision_min",
    "r_precision", "rbp", "reciprocal_rank",
]  # fmt: skip
__dir__ = __all__.copy

Measure: TypeAlias = Callable[..., Tensor]


def hit(found: Ranks, k: Tensor) -> Tensor:
    """1 if a relevant item is among the first k: ``ρ₁ ≤ k``.

    Its mean is the R@K of image–text tables, the success rate, and, over rising k, the cumulative
    match curve; hit@1 is the accuracy of the nearest item's class.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> hit(found, torch.tensor([[1, 2]])).tolist()
    [[0.0, 1.0]]
    """
    return (found.hits(k) > 0).double()


def hits(found: Ranks, k: Tensor) -> Tensor:
    """How many relevant items are among the first k.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> hits(found, torch.tensor([[1, 3, 4]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    return found.hits(k).double()


def reciprocal_rank(found: Ranks, k: Tensor) -> Tensor:
    """``1/ρ₁`` if ρ₁ ≤ k, else 0; its mean is MRR@k.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> reciprocal_rank(found, torch.tensor([[1, 4]])).tolist()
    [[0.0, 0.5]]
    """
    return torch.where(found.hits(k) > 0, 1 / found.ranks[:, :1], 0.0)


def f1(found: Ranks, k: Tensor, *, weight: float = 1.0) -> Tensor:
    """The harmonic mean of precision@k and recall@k: ``2·hits / (k + R)``.

    Recall has ``weight`` times the weight of precision, the β² of F_β: ``(1 + weight)·hits / (k +
    weight·R)``.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(f1(found, torch.tensor([[3]])))  # 2·1 / (3 + 2)
    0.4
    """
    if not weight > 0:
        raise ValueError(f"weight: expected a positive number, got {weight!r}")
    hits, relevant = found.hits(k).double(), found.relevant[:, None].double()
    return ratio((1 + weight) * hits, k + weight * relevant)


def precision_min(found: Ranks, k: Tensor) -> Tensor:
    """Precision whose best is 1 whatever R is: ``hits / min(R, k)``.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> precision_min(found, torch.tensor([[1, 3, 4]])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    return ratio(found.hits(k), torch.minimum(k, found.relevant[:, None]))


def fall_out(found: Ranks, k: Tensor, *, no_irrelevant: str = "zero") -> Tensor:
    """The share of the irrelevant items that are among the first k: ``(k − hits) / (N − R)``.

    k/N where nothing is relevant; where everything is, it counts 0 (``"zero"``), 1 (``"one"``), or
    not (``"skip"``).

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> fall_out(found, torch.tensor([[1, 3]])).tolist()
    [[0.5, 1.0]]
    """
    check_option("no_irrelevant", no_irrelevant, tuple(_NO_IRRELEVANT))
    ranked = found.ranked[:, None]
    among, irrelevant = torch.minimum(k, ranked) - found.hits(k), ranked - found.relevant[:, None]
    share = ratio(among, irrelevant)
    return torch.where(irrelevant > 0, share, _NO_IRRELEVANT[no_irrelevant])


def ap_first_hits(found: Ranks, k: Tensor) -> Tensor:
    """Average precision over the first k *hits*: ``Σ_{j ≤ m} (j/ρⱼ) / m`` with m = min(k, R).

    Source: ``calc_map_k`` of the code released with deep cross-modal hashing (Jiang and Li, 2017)
    and its successors.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(ap_first_hits(found, torch.tensor([[2]])))  # (1/2 + 2/4) / 2
    0.5
    """
    hits = torch.minimum(k, found.relevant[:, None])
    return ratio(found.precision_sums(hits), hits)


def dcg(found: Ranks, k: Tensor) -> Tensor:
    """Discounted cumulative gain: ``Σ gain / log₂(ρ + 1)`` over ranks ρ ≤ k.

    Source: Järvelin and Kekäläinen, *Cumulated gain-based evaluation of IR techniques* (2002).

    >>> found = Ranks(torch.tensor([[1.0, 3.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(dcg(found, torch.tensor([[4]])))  # 1/log₂ 2 + 1/log₂ 4
    1.5
    """
    return found.dcg(found.hits(k), found.graded)


def ndcg(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg` as a share of that of the best ranking, for gains of any real dtype.

    >>> found = Ranks(torch.tensor([[3.0]]).double(), torch.tensor([1]), torch.tensor([4]))
    >>> float(ndcg(found, torch.tensor([[4]])))  # 1/log₂ 4, where the best ranking has 1/log₂ 2
    0.5
    """
    return ratio(dcg(found, k), ideal_dcg(found, k, found.graded))


def dcg_exponential(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg` with the gains 2ᵍ − 1; ValueError where a query's sum to 2¹⁰²⁴ or more.

    Source: Burges et al., *Learning to rank using gradient descent* (2005).

    >>> ranks, gains = torch.tensor([[3.0]]).double(), torch.tensor([[2.0]]).double()
    >>> found = Ranks(ranks, torch.tensor([1]), torch.tensor([4]), gains)
    >>> float(dcg_exponential(found, torch.tensor([[4]])))  # (2² − 1) / log₂ 4
    1.5
    """
    return found.dcg(found.hits(k), exponential_of(found))


def ndcg_exponential(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg_exponential` as a share of that of the best ranking.

    >>> ranks, gains = torch.tensor([[3.0]]).double(), torch.tensor([[2.0]]).double()
    >>> found = Ranks(ranks, torch.tensor([1]), torch.tensor([4]), gains)
    >>> float(ndcg_exponential(found, torch.tensor([[4]])))  # 3/log₂ 4, of at most 3/log₂ 2
    0.5
    """
    return ratio(dcg_exponential(found, k), ideal_dcg(found, k, exponential_of(found)))


def err(found: Ranks, k: Tensor, *, max_gain: float | None = None) -> Tensor:
    """Expected reciprocal rank at which a user stops: ``Σ_ρ s_ρ/ρ · Π_{i < ρ} (1 − s_i)``, ρ ≤ k.

    A user stops at an item of gain g with probability ``s = (2ᵍ − 1) / 2^max_gain``; None is the
    greatest gain among the query's relevant items. Source: Chapelle, Metzler, Zhang and Grinspan,
    *Expected reciprocal rank for graded relevance* (2009).

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(err(found, torch.tensor([[4]])))  # s = 1/2 at both: 1/2 · 1/2 + 1/2 · 1/2 · 1/4
    0.3125
    """
    ranks, gains = found.ranks, found.graded
    if gains is None:
        gains = ranks.new_ones(1, ranks.shape[1])
        # Few users go on past many items with this chance to stop.
        width = _terms(1 - float(stop_chances(gains[:, :1], max_gain)))
        ranks, gains = ranks[:, :width], gains[:, :width]
    stops = stop_chances(gains, max_gain)
    goes_on = torch.nn.functional.pad((1 - stops).cumprod(dim=1)[:, :-1], (1, 0), value=1.0)
    sums = (stops * goes_on / ranks).cumsum(dim=1)
    return at_counts(sums, found.hits(k).clamp(max=sums.shape[1]))


def r_precision(found: Ranks, *, multiple: float = 1.0, at_most: int | None = None) -> Tensor:
    """Precision among the first R, which is recall there as well: ``hits(R) / R``.

    With a ``multiple`` among the first ⌊multiple·R + 0.9⌋, as trec_eval's Rprec_mult; or among the
    first ``at_most`` where R is more, as pytorch-metric-learning's with k.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(r_precision(found))  # one of the first two
    0.5
    """
    first = first_r(found, multiple, at_most)
    return ratio(found.hits(first), first)[:, 0]


def ap_at_r(found: Ranks, *, at_most: int | None = None) -> Tensor:
    """``Σ (j/ρⱼ) / R`` over the hits among the first R; its mean is mAP@R.

    Of the first ``at_most`` alone where R is more. Source: Musgrave, Belongie and Lim, *A metric
    learning reality check* (2020).

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(ap_at_r(found))  # (1/2) / 2
    0.25
    """
    sums = found.precision_sums(found.hits(first_r(found, at_most=at_most)))
    return ratio(sums, found.relevant[:, None])[:, 0]


def auroc(found: Ranks, *, max_fpr: float = 1.0) -> Tensor:
    """The chance that a relevant item is ranked before an irrelevant one: area under the ROC curve.

    ``1 − Σⱼ (ρⱼ − j) / (R·(N − R))``. Equal scores are ranked by index, not counted as a half. NaN
    where all items are relevant. The area A up to a false-positive rate ``max_fpr`` = f is put on
    a scale from 0.5, by chance, to 1: ``½ + ½·(A − f²/2) / (f − f²/2)``. Source of that: McClish,
    *Analyzing a portion of the ROC curve* (1989).

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(auroc(found))  # of the four pairs only rank 2 before rank 3 is in order
    0.25
    """
    before = found.irrelevant_before
    if max_fpr < 1:
        most = max_fpr * (found.ranked - found.relevant).double()
        before = torch.minimum(before, most[:, None])
    return area(found, before.sum(dim=1), max_fpr)


def bpref(found: Ranks) -> Tensor:
    """``Σⱼ (1 − min(nⱼ, R) / min(R, N − R)) / R`` for nⱼ irrelevant items before relevant item j.

    All ranked items count as judged: leave out those that are not with ``excluded=``. Source:
    Buckley and Voorhees, *Retrieval evaluation with incomplete information* (2004), as in
    trec_eval.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(bpref(found))  # ((1 − 1/2) + (1 − 2/2)) / 2
    0.25
    """
    relevant = found.relevant[:, None]
    bound = torch.minimum(relevant, found.ranked[:, None] - relevant)
    before = torch.minimum(found.irrelevant_before, relevant).sum(dim=1, keepdim=True)
    listed = found.hits(found.ranked[:, None])  # a run may lack relevant items
    return ratio(listed - ratio(before, bound), relevant)[:, 0]


def rbp(found: Ranks, *, p: float = 0.8, graded: bool = False) -> Tensor:
    """Rank-biased precision: ``(1 − p)·Σⱼ p^(ρⱼ − 1)`` for a user who goes on with probability p.

    ``graded`` counts each item by its gain, as ranx does: above 1 where gains are. Source: Moffat
    and Zobel, *Rank-biased precision for measurement of retrieval effectiveness* (2008).

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(rbp(found, p=0.5))  # 1/2 · (1/2 + 1/8)
    0.3125
    """
    check_persistence(p)
    ranks = found.ranks[:, : _terms(p)]
    weights = p ** (ranks - 1)
    if graded:
        weights = weights * found.gains[:, : ranks.shape[1]]
    return (1 - p) * weights.sum(dim=1)


_NO_IRRELEVANT = {"zero": 0.0, "one": 1.0, "skip": math.nan}
# By name, and what a summary calls their means.
MEASURES: dict[str, tuple[Measure, str]] = {
    "hit": (hit, "hit"),
    "hits": (hits, "hits"),
    "reciprocal_rank": (reciprocal_rank, "MRR"),
    "f1": (f1, "F1"),
    "precision_min": (precision_min, "precision_min"),
    "fall_out": (fall_out, "fall-out"),
    "ap_first_hits": (ap_first_hits, "mAP_first_hits"),
    "dcg": (dcg, "DCG"),
    "dcg_exponential": (dcg_exponential, "DCG_exponential"),
    "ndcg_exponential": (ndcg_exponential, "nDCG_exponential"),
    "err": (err, "ERR"),
    "r_precision": (r_precision, "R-precision"),
    "ap_at_r": (ap_at_r, "mAP@R"),
    "auroc": (auroc, "AUROC"),
    "bpref": (bpref, "bpref"),
    "rbp": (rbp, "RBP"),
}


def at_cutoffs(measure: Measure) -> bool:
    """Whether it is a measure at a cut-off: one with a parameter k."""
    return "k" in inspect.signature(measure).parameters


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Their quotient in float64, 0 where the whole is 0."""
    return torch.where(whole > 0, part.double() / whole, 0.0)


def first_r(found: Ranks, multiple: float = 1.0, at_most: int | None = None) -> Tensor:
    """How many items (Q, 1) are looked at: R, or a multiple of it, or at most ``at_most``."""
    if not multiple > 0:
        raise ValueError(f"multiple: expected a positive number, got {multiple!r}")
    first = found.relevant[:, None]
    if multiple != 1:
        first = (multiple * first.double() + 0.9).long()
    return first if at_most is None else first.clamp(max=check_count("at_most", at_most))


def area(found: Ranks, before: Tensor, max_fpr: float) -> Tensor:
    """The area of :func:`auroc` from ``before`` (Q,): ``Σⱼ (ρⱼ − j)``.

    None of its terms is above ``max_fpr·(N − R)``.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr: expected above 0 and at most 1, got {max_fpr!r}")
    found_area = max_fpr - before / (found.relevant * (found.ranked - found.relevant))
    if max_fpr < 1:
        chance = max_fpr**2 / 2
        found_area = (1 + (found_area - chance) / (max_fpr - chance)) / 2
    return torch.where(found.relevant > 0, found_area, 0.0)


def at_counts(sums: Tensor, count: Tensor) -> Tensor:
    """The sums (Q, T) of the first 1, 2, …, at ``count`` (Q, K), which may be 0."""
    return torch.where(count > 0, sums.gather(1, (count - 1).clamp(min=0)), 0.0)


def _terms(ratio: float) -> int:
    """How many terms give a series to 2⁻⁶⁰ whose terms shrink by at least this ratio."""
    if ratio >= 1:
        return 2**31
    return max(1, math.ceil((math.log1p(-ratio) - 60 * math.log(2)) / math.log(ratio)))


def ideal_dcg(found: Ranks, k: Tensor, gains: Tensor | None) -> Tensor:
    """The DCG of the best ranking: of these gains (Q, T), None where all are 1."""
    best = discounts_up_to(found.ranks.shape[1], found.ranks.device)[None]
    if gains is not None:
        best = gains.sort(dim=1, descending=True).values * best
    sums = best.cumsum(dim=1).expand(len(k), -1)
    return at_counts(sums, torch.minimum(k, found.relevant[:, None]))


def exponential(gains: Tensor) -> Tensor:
    """2ᵍ − 1, which of a gain of 1 is 1.

    Raises ValueError where they sum to 2¹⁰²⁴ or more for a query, which no double holds.
    """
    found = gains.exp2() - 1
    if not bool(found.sum(dim=1).isfinite().all()):
        raise ValueError(
            "relevance: expected gains whose 2ᵍ sum to less than 2¹⁰²⁴ for exponential gains, got "
            f"gains up to {float(gains.max()):.10g}"
        )
    return found


def exponential_of(found: Ranks) -> Tensor | None:
    """:func:`exponential` gains; None where all gains are 1."""
    return None if found.graded is None else exponential(found.graded)


def stop_chances(gains: Tensor, max_gain: float | None) -> Tensor:
    """The chance (Q, T) that a user of :func:`err` stops at each of the relevant items."""
    most = gains.amax(dim=1, keepdim=True) if max_gain is None else gains.new_tensor(max_gain)
    if bool((gains > most).any()):
        raise ValueError(f"max_gain: expected at least {float(gains.max())}, got {max_gain}")
    return (gains - most).exp2() - (-most).exp2()  # (2ᵍ − 1) / 2^most, also where 2ᵍ is infinite


def check_persistence(p: float) -> None:
    """Raise a ValueError unless p of :func:`rbp` is between 0 and 1."""
    if not 0 < p < 1:
        raise ValueError(f"p: expected a number between 0 and 1, got {p!r}")
