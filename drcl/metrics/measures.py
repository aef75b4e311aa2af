"""Measures beyond those of the ranking's table: one function each, of the ranks of relevant items.

The j-th relevant item of a query is at rank ρⱼ, counted from 1; R of its N ranked items are
relevant. A measure is a function of :class:`drcl.metrics.Ranks` that returns (Q,), or, if it has a
parameter ``k``, of the cut-offs (Q, K) too, none above N unless ``adaptive_k=False``, and returns
(Q, K).
:func:`drcl.metrics.retrieval_metrics` takes them by name, and takes any function of this kind::

    from functools import partial
    from drcl.metrics import measures, retrieval_metrics

    retrieval_metrics(…, ks=(10,), measures=("hit", partial(measures.rbp, p=0.95), my_own))

All are 0 where nothing is relevant, but for ``fall_out``.

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
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from drcl.metrics.ranks import Ranks, discounts_up_to
from drcl.ranking import PER_CUTOFF

Measure: TypeAlias = Callable[..., Tensor]


def hit(found: Ranks, k: Tensor) -> Tensor:
    """1 if a relevant item is among the first k: ``ρ₁ ≤ k``.

    Its mean is the R@K of image–text tables, the success rate, and, over rising k, the cumulative
    match curve; hit@1 is the accuracy of the nearest item's class.
    """
    return (found.hits(k) > 0).double()


def hits(found: Ranks, k: Tensor) -> Tensor:
    """How many relevant items are among the first k."""
    return found.hits(k).double()


def reciprocal_rank(found: Ranks, k: Tensor) -> Tensor:
    """``1/ρ₁`` if ρ₁ ≤ k, else 0; its mean is MRR@k."""
    return torch.where(found.hits(k) > 0, 1 / found.ranks[:, :1], 0.0)


def f1(found: Ranks, k: Tensor) -> Tensor:
    """The harmonic mean of precision@k and recall@k: ``2·hits / (k + R)``."""
    return ratio(2 * found.hits(k), k + found.relevant[:, None])


def precision_min(found: Ranks, k: Tensor) -> Tensor:
    """Precision whose best is 1 whatever R is: ``hits / min(R, k)``."""
    return ratio(found.hits(k), torch.minimum(k, found.relevant[:, None]))


def fall_out(found: Ranks, k: Tensor) -> Tensor:
    """The share of the irrelevant items that are among the first k: ``(k − hits) / (N − R)``.

    0 where all items are relevant; k/N where none is.
    """
    ranked = found.ranked[:, None]
    return ratio(torch.minimum(k, ranked) - found.hits(k), ranked - found.relevant[:, None])


def ap_first_hits(found: Ranks, k: Tensor) -> Tensor:
    """Average precision over the first k *hits*: ``Σ_{j ≤ m} (j/ρⱼ) / m`` with m = min(k, R).

    Source: ``calc_map_k`` of the code released with deep cross-modal hashing (Jiang and Li, 2017)
    and its successors.
    """
    hits = torch.minimum(k, found.relevant[:, None])
    return ratio(found.precision_sums(hits), hits)


def dcg(found: Ranks, k: Tensor) -> Tensor:
    """Discounted cumulative gain: ``Σ gain / log₂(ρ + 1)`` over ranks ρ ≤ k.

    Source: Järvelin and Kekäläinen, *Cumulated gain-based evaluation of IR techniques* (2002).
    """
    return found.dcg(found.hits(k), found.graded)


def ndcg(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg` as a share of that of the best ranking, for gains of any real dtype."""
    return ratio(dcg(found, k), ideal_dcg(found, k, found.graded))


def dcg_exponential(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg` with the gains 2ᵍ − 1; ValueError where a query's sum to 2¹⁰²⁴ or more.

    Source: Burges et al., *Learning to rank using gradient descent* (2005).
    """
    return found.dcg(found.hits(k), exponential_of(found))


def ndcg_exponential(found: Ranks, k: Tensor) -> Tensor:
    """:func:`dcg_exponential` as a share of that of the best ranking."""
    return ratio(dcg_exponential(found, k), ideal_dcg(found, k, exponential_of(found)))


def err(found: Ranks, k: Tensor, *, max_gain: float | None = None) -> Tensor:
    """Expected reciprocal rank at which a user stops: ``Σ_ρ s_ρ/ρ · Π_{i < ρ} (1 − s_i)``, ρ ≤ k.

    A user stops at an item of gain g with probability ``s = (2ᵍ − 1) / 2^max_gain``; None is the
    greatest gain among the query's relevant items. Source: Chapelle, Metzler, Zhang and Grinspan,
    *Expected reciprocal rank for graded relevance* (2009).
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
    return _first(sums, found.hits(k).clamp(max=sums.shape[1]))


def r_precision(found: Ranks) -> Tensor:
    """Precision among the first R, which is recall there as well: ``hits(R) / R``."""
    relevant = found.relevant[:, None]
    return ratio(found.hits(relevant), relevant)[:, 0]


def ap_at_r(found: Ranks) -> Tensor:
    """``Σ (j/ρⱼ) / R`` over the hits among the first R; its mean is mAP@R.

    Source: Musgrave, Belongie and Lim, *A metric learning reality check* (2020).
    """
    relevant = found.relevant[:, None]
    return ratio(found.precision_sums(found.hits(relevant)), relevant)[:, 0]


def auroc(found: Ranks) -> Tensor:
    """The chance that a relevant item is ranked before an irrelevant one: area under the ROC curve.

    ``1 − Σⱼ (ρⱼ − j) / (R·(N − R))``. Equal scores are ranked by index, not counted as a half. NaN
    where all items are relevant.
    """
    relevant, irrelevant = found.relevant, found.ranked - found.relevant
    before = found.irrelevant_before.sum(dim=1)
    area = 1 - before / (relevant * irrelevant)
    return torch.where(relevant > 0, area, 0.0)


def bpref(found: Ranks) -> Tensor:
    """``Σⱼ (1 − min(nⱼ, R) / min(R, N − R)) / R`` for nⱼ irrelevant items before relevant item j.

    All ranked items count as judged: leave out those that are not with ``excluded=``. Source:
    Buckley and Voorhees, *Retrieval evaluation with incomplete information* (2004), as in
    trec_eval.
    """
    relevant = found.relevant[:, None]
    bound = torch.minimum(relevant, found.ranked[:, None] - relevant)
    before = torch.minimum(found.irrelevant_before, relevant).sum(dim=1, keepdim=True)
    listed = found.hits(found.ranked[:, None])  # a run may lack relevant items
    return ratio(listed - ratio(before, bound), relevant)[:, 0]


def rbp(found: Ranks, *, p: float = 0.8) -> Tensor:
    """Rank-biased precision: ``(1 − p)·Σⱼ p^(ρⱼ − 1)`` for a user who goes on with probability p.

    Source: Moffat and Zobel, *Rank-biased precision for measurement of retrieval effectiveness*
    (2008).
    """
    check_persistence(p)
    ranks = found.ranks[:, : _terms(p)]
    return (1 - p) * (p ** (ranks - 1)).sum(dim=1)


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


def named(measures: Any) -> dict[str, Measure]:
    """Measures by name: ``measures=`` of :func:`drcl.metrics.retrieval_metrics`, checked."""
    if isinstance(measures, str) or not isinstance(measures, Sequence):
        raise TypeError(f"measures: expected a sequence of names or functions, got {measures!r}")
    found = {}
    for one in measures:
        if isinstance(one, str) and one in MEASURES:
            found[one] = MEASURES[one][0]
        elif callable(one):
            found[_name(one)] = one
        else:
            names = ", ".join(MEASURES)
            raise ValueError(
                f"measures: expected functions or names of {names}, got {one!r}{_hint(one)}"
            )
    return found


def _hint(one: Any) -> str:
    """Where what a summary calls a mean is taken for a measure's name: how to ask for it.

    Of other words, the names that are spelled nearly so.
    """
    plain, _, cutoff = str(one).rpartition("@") if "@" in str(one) else (str(one), "", "")
    for name, (measure, called) in MEASURES.items():
        if str(one).casefold() == called.casefold() != name:
            return f"; {called} is {name!r}"
        if at_cutoffs(measure) and cutoff and plain.casefold() in (name, called.casefold()):
            return f"; {one} is {name!r}, with its cut-off among ks"
    if plain.casefold() == PER_CUTOFF["ndcg"].casefold():
        return (
            f"; {one} is found with ndcg=True, of runs and by drcl score always, with its cut-off "
            "among ks"
        )
    if plain.casefold() in map(str.casefold, PER_CUTOFF.values()):
        return f"; {one} is found without being asked for, with its cut-off among ks"
    near = " or ".join(map(repr, get_close_matches(plain.casefold(), MEASURES, n=2)))
    return near and f"; did you mean {near}?"


def at_cutoffs(measure: Measure) -> bool:
    """Whether it is a measure at a cut-off: one with a parameter k."""
    return "k" in inspect.signature(measure).parameters


def label(name: str) -> str:
    """What a summary calls the mean."""
    return MEASURES[name][1] if name in MEASURES else name


def _name(measure: Measure) -> str:
    if isinstance(measure, partial):
        settings = ", ".join(f"{key}={value}" for key, value in measure.keywords.items())
        return f"{label(_name(measure.func))}({settings})"
    return getattr(measure, "__name__", type(measure).__name__)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Their quotient in float64, 0 where the whole is 0."""
    return torch.where(whole > 0, part.double() / whole, 0.0)


def _first(sums: Tensor, count: Tensor) -> Tensor:
    """The sums (Q, T) of the first 1, 2, …, at ``count`` (Q, K), which may be 0."""
    return torch.where(count > 0, sums.gather(1, (count - 1).clamp(min=0)), 0.0)


def _terms(ratio: float) -> int:
    """So many terms of a series that falls at least by this ratio at each say it to 2⁻⁶⁰."""
    if ratio >= 1:
        return 2**31
    return max(1, math.ceil((math.log1p(-ratio) - 60 * math.log(2)) / math.log(ratio)))


def ideal_dcg(found: Ranks, k: Tensor, gains: Tensor | None) -> Tensor:
    """The DCG of the best ranking: of these gains (Q, T), None where all are 1."""
    best = discounts_up_to(found.ranks.shape[1], found.ranks.device)[None]
    if gains is not None:
        best = gains.sort(dim=1, descending=True).values * best
    sums = best.cumsum(dim=1).expand(len(k), -1)
    return _first(sums, torch.minimum(k, found.relevant[:, None]))


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
