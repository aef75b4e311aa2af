"""Further measures of ranked lists, asked for by name: those of trec_eval, and AUROC@k.

A list has N items; n of them are among the first k, and h of these are relevant. Counts are per
query: ``summary(torch.Tensor.sum)`` adds them up, as trec_eval does. All measures but the counts
and ``utility`` are 0 where nothing is relevant, and are refused with ``ties="average"``: their mean
over the orders of equal scores is not known.

Relevant items at ranks 1, 3, 4 and 5 of ten, and k = 3:

>>> from drcl.metrics.trec import run_metrics
>>> run, qrels = {"q": [*"abcdefghij"]}, {"q": dict.fromkeys("acde", 1)}
>>> found = run_metrics(run, qrels, ks=(3,), measures=tuple(MEASURES))
>>> for name, value in found.measures.items():
...     print(f"{name:<15}{float(value):.4f}")
num_q          1.0000
num_rel        4.0000
num_ret        10.0000
num_nonrel     1.0000
utility        1.0000
set_map        0.3333
auroc_at_k     0.5000
eleven_point   0.8545
binary_g       0.7232
normalized_g   0.7232
ndcg_at_hits   0.8406
ndcg_at_levels 0.8292
"""

from __future__ import annotations

import torch
from torch import Tensor

from drcl.metrics.measures import Measure, at_counts, ratio
from drcl.metrics.ranks import Ranks, discounts_up_to

__all__ = [
    "MEASURES", "auroc_at_k", "binary_g", "eleven_point", "ndcg_at_hits", "ndcg_at_levels",
    "normalized_g", "num_nonrel", "num_q", "num_rel", "num_ret", "set_map", "utility",
]  # fmt: skip
__dir__ = __all__.copy


def num_q(found: Ranks) -> Tensor:
    """1, or 0 for an empty list: the number of queries that have a list.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(num_q(found))
    1.0
    """
    return (found.ranked > 0).double()


def num_rel(found: Ranks) -> Tensor:
    """How many items are relevant, in the list or not: R.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(num_rel(found))
    2.0
    """
    return found.relevant.double()


def num_ret(found: Ranks) -> Tensor:
    """How many items the list holds: N.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(num_ret(found))
    5.0
    """
    return found.ranked.double()


def num_nonrel(found: Ranks, k: Tensor) -> Tensor:
    """How many irrelevant items are among the first k: ``n − h``.

    With ``judged_only=True`` of :func:`drcl.metrics.trec.run_metrics`, trec_eval's
    num_nonrel_judged_ret.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> num_nonrel(found, torch.tensor([[1, 3, 5]])).tolist()
    [[0.0, 2.0, 3.0]]
    """
    return (_seen(found, k) - found.hits(k)).double()


def utility(
    found: Ranks,
    k: Tensor,
    *,
    relevant: float = 1.0,
    irrelevant: float = -1.0,
    missed: float = 0.0,
) -> Tensor:
    """The worth of the first k items: ``relevant·h + irrelevant·(n − h) + missed·(R − h)``.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(utility(found, torch.tensor([[3]]), missed=-0.5))  # 1 − 2 − 0.5
    -1.5
    """
    hits = found.hits(k).double()
    rest = _seen(found, k) - hits, found.relevant[:, None] - hits
    return relevant * hits + irrelevant * rest[0] + missed * rest[1]


def set_map(found: Ranks, k: Tensor) -> Tensor:
    """Precision times recall, of the first k as a set: ``h² / (n·R)``.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(set_map(found, torch.tensor([[2]])))  # 1² / (2·2)
    0.25
    """
    return ratio(found.hits(k) ** 2, _seen(found, k) * found.relevant[:, None])


def auroc_at_k(found: Ranks, k: Tensor) -> Tensor:
    """AUROC of the first k alone: the chance that a relevant one comes before an irrelevant one.

    ``1 − Σⱼ (ρⱼ − j) / (h·(n − h))`` over ρⱼ ≤ k; 0 where all of them are relevant, or none.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(auroc_at_k(found, torch.tensor([[4]])))  # of four pairs two are in order
    0.5
    """
    hits = found.hits(k)
    before = at_counts(found.irrelevant_before.cumsum(dim=1), hits)
    pairs = hits * (_seen(found, k) - hits)
    return torch.where(pairs > 0, 1 - ratio(before, pairs), 0.0)


def eleven_point(found: Ranks) -> Tensor:
    """The mean of interpolated precision at recall 0, 0.1, …, 1.

    A level is reached with ⌊level·R + 0.9⌋ hits in floating point, as in trec_eval; the mean of the
    curve that ``recall_levels=11`` gives differs where 0.7·3 is less than 2.1.

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> round(float(eleven_point(found)), 4)  # 1 at recall 0 to 0.5, then 2/4: (6 + 2.5) / 11
    0.7727
    """
    levels = torch.arange(11, dtype=torch.float64, device=found.ranks.device) / 10
    hits = (levels * found.relevant[:, None] + 0.9).long()
    best_from = found.precision.flip(1).cummax(dim=1).values.flip(1)
    return best_from.gather(1, (hits - 1).clamp(min=0)).mean(dim=1)


def binary_g(found: Ranks) -> Tensor:
    """``Σⱼ 1/log₂(2 + nⱼ) / R`` for nⱼ irrelevant items before the relevant item j: binG.

    Source of this and the next three: Buckley's experimental measures in trec_eval 9 (2008).

    >>> found = Ranks(torch.tensor([[1.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([5]))
    >>> float(binary_g(found))  # (1/log₂ 2 + 1/log₂ 4) / 2
    0.75
    """
    shares = 1 / (2 + found.irrelevant_before).log2()
    return ratio(torch.where(found.ranks.isfinite(), shares, 0.0).sum(dim=1), found.relevant)


def normalized_g(found: Ranks) -> Tensor:
    """``Σⱼ gⱼ/log₂(2 + Cⱼ − (g₁ + … + gⱼ)) / Σ g``: G.

    Cⱼ is what the best ranking would have gained up to rank ρⱼ, where every item counts 1 at least.

    >>> ranks, gains = torch.tensor([[1.0, 4.0]]).double(), torch.tensor([[2.0, 1.0]]).double()
    >>> found = Ranks(ranks, torch.tensor([2]), torch.tensor([5]), gains)
    >>> round(float(normalized_g(found)), 4)  # C = 2, 5: (2/log₂ 2 + 1/log₂ 4) / 3
    0.8333
    """
    gains = found.gains
    best = gains.sort(dim=1, descending=True).values.clamp(min=1).cumsum(dim=1)
    of_best = torch.minimum(found.ranks, found.relevant[:, None].double())
    cost = at_counts(best, of_best.long()) + (found.ranks - of_best).clamp(min=0)
    shares = gains / (2 + cost - gains.cumsum(dim=1)).log2()
    return ratio(shares.sum(dim=1), gains.sum(dim=1))


def ndcg_at_hits(found: Ranks) -> Tensor:
    """The mean of nDCG at the ranks of all relevant items: ndcg_rel.

    A relevant item that the list lacks counts with nDCG at its end.

    >>> found = Ranks(torch.tensor([[3.0]]).double(), torch.tensor([1]), torch.tensor([5]))
    >>> float(ndcg_at_hits(found))  # nDCG@3: 1/log₂ 4, where the best ranking has 1/log₂ 2
    0.5
    """
    dcg, ideal = _dcg_and_ideal(found)
    of_best = torch.minimum(found.ranks, found.relevant[:, None].double()).long()
    shares = torch.where(found.gains > 0, ratio(dcg, at_counts(ideal, of_best)), 0.0)
    return ratio(shares.sum(dim=1), found.relevant)


def ndcg_at_levels(found: Ranks) -> Tensor:
    """The mean of nDCG at the ranks after which the gains of the best ranking drop: Rndcg.

    The end of a list of more than R + 1 items is one of these ranks too.

    >>> found = Ranks(torch.tensor([[3.0]]).double(), torch.tensor([1]), torch.tensor([5]))
    >>> float(ndcg_at_levels(found))  # nDCG@1 and nDCG@5: (0 + 1/2) / 2
    0.25
    """
    dcg, ideal = _dcg_and_ideal(found)
    best = found.gains.sort(dim=1, descending=True).values
    falls = best > torch.nn.functional.pad(best[:, 1:], (0, 1))
    k = torch.arange(1, best.shape[1] + 1, device=best.device).expand_as(best).contiguous()
    shares = torch.where(falls, ratio(at_counts(dcg, found.hits(k)), ideal), 0.0)
    beyond = found.ranked > found.relevant + 1
    rest = torch.where(beyond, ratio(dcg[:, -1], ideal[:, -1]), 0.0)
    return ratio(shares.sum(dim=1) + rest, falls.sum(dim=1) + beyond)


# By name, and what a summary calls their means.
MEASURES: dict[str, tuple[Measure, str]] = {
    "num_q": (num_q, "num_q"),
    "num_rel": (num_rel, "num_rel"),
    "num_ret": (num_ret, "num_ret"),
    "num_nonrel": (num_nonrel, "num_nonrel"),
    "utility": (utility, "utility"),
    "set_map": (set_map, "set_mAP"),
    "auroc_at_k": (auroc_at_k, "AUROC"),
    "eleven_point": (eleven_point, "11pt_avg"),
    "binary_g": (binary_g, "binG"),
    "normalized_g": (normalized_g, "G"),
    "ndcg_at_hits": (ndcg_at_hits, "ndcg_rel"),
    "ndcg_at_levels": (ndcg_at_levels, "Rndcg"),
}


def _seen(found: Ranks, k: Tensor) -> Tensor:
    return torch.minimum(k, found.ranked[:, None])


def _dcg_and_ideal(found: Ranks) -> tuple[Tensor, Tensor]:
    """DCG of the first 1, 2, … relevant items (Q, T), and of as many of the best ranking."""
    best = found.gains.sort(dim=1, descending=True).values
    discounts = discounts_up_to(best.shape[1], best.device)
    return (found.gains * found.discounts).cumsum(dim=1), (best * discounts).cumsum(dim=1)
