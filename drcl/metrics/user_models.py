"""Measures of what a user gains who may stop at any rank: cwl_eval's, asked for by name.

A user who looks at the item of rank i goes on to the next with probability Cᵢ. The share of all
looks that rank i gets is ``wᵢ = Π_{j<i} Cⱼ / Σᵢ Π_{j<i} Cⱼ``, and a measure is the gain that a look
is expected to find: ``Σᵢ wᵢ·gᵢ`` (the framework *C/W/L*: Moffat, Bailey, Scholer and Thomas,
*Incorporating user expectations and behavior into the measurement of search effectiveness*, 2017;
Azzopardi, Thomas and Moffat, *cwl_eval*, 2019). Here are the measures with a C of their own; of
these, precision@k has Cᵢ = 1 for i < k, and rank-biased precision Cᵢ = p.

Gains are put on a scale from 0 to 1: gᵢ is ``(gain − min_gain) / (max_gain − min_gain)``, 0 for
less than ``min_gain``; a ``max_gain`` of None is the greatest gain among the query's relevant
items. ``target`` is the gain T that a user wants, on that scale. All are 0 where nothing is
relevant. Their means over the orders of equal scores are not known: ``ties="average"`` refuses
them.

Relevant items at ranks 1, 3, 4 and 5 of ten, of gain 1 where 2 is the greatest, and k = 3:

>>> from drcl.metrics.measures import at_cutoffs
>>> ranks = torch.tensor([[1.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
>>> found, k = Ranks(ranks, torch.tensor([4]), torch.tensor([10])), torch.tensor([[3]])
>>> for name, (measure, _) in MEASURES.items():
...     given = (found, k) if at_cutoffs(measure) else (found,)
...     print(f"{name:<7}{float(measure(*given, max_gain=2)):.4f}")
bpm    0.3333
sdcg   0.3520
insq   0.2953
inst   0.3496
nerr8  0.3750
nerr9  0.4118
nerr10 0.3354
nerr11 0.4096
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drcl.metrics.measures import Measure, at_counts, check_persistence, ratio
from drcl.metrics.ranks import Ranks

__all__ = [
    "MEASURES", "bpm", "insq", "inst", "nerr10", "nerr11", "nerr8", "nerr9", "sdcg",
]  # fmt: skip
__dir__ = __all__.copy

# C from the rank i (1, D), the gain there (q, D), and all that has been gained with it (q, D).
GoesOn = Callable[[Tensor, Tensor, Tensor], Tensor]
_DEPTH = 1000  # of measures without a cut-off, as in cwl_eval
_RANKS_AT_ONCE = 2**20


def bpm(found: Ranks, k: Tensor, *, target: float = 1.0, **scale: Any) -> Tensor:
    """The Bejeweled Player Model: a user stops at rank k, or where T has been gained.

    ``Cᵢ = 1`` where ``g₁ + … + gᵢ < T`` and i < k, else 0. Source: Zhang et al., *Evaluating web
    search with a Bejeweled Player Model* (2017), of whose models it is the static one.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(bpm(found, torch.tensor([[4]])))  # stops at rank 2: 1 of 2 looks finds a gain of 1
    0.5
    """
    check_target(target)
    return _expected_gain(found, k, lambda i, gain, total: (total < target).double(), **scale)


def sdcg(found: Ranks, k: Tensor, **scale: Any) -> Tensor:
    """DCG as a share of that of k items of the greatest gain, whatever there is to be found.

    ``Cᵢ = log₂(i + 1) / log₂(i + 2)`` for i < k. Source: cwl_eval, from Järvelin and Kekäläinen,
    *Cumulated gain-based evaluation of IR techniques* (2002).

    >>> ranks = torch.tensor([[1.0, 2.0, 3.0]]).double()
    >>> found = Ranks(ranks, torch.tensor([3]), torch.tensor([4]))
    >>> float(sdcg(found, torch.tensor([[3]]), max_gain=2))  # three items of half the greatest gain
    0.5
    """
    return _expected_gain(found, k, lambda i, gain, total: (i + 1).log2() / (i + 2).log2(), **scale)


def insq(found: Ranks, *, target: float = 1.0, **scale: Any) -> Tensor:
    """INSQ: ``Cᵢ = ((i + 2T − 1) / (i + 2T))²`` over the first 1,000 ranks.

    Source: Moffat, Scholer and Thomas, *Models and metrics: IR evaluation as a user process*
    (2012).

    >>> found = Ranks(torch.tensor([[1.0]]).double(), torch.tensor([1]), torch.tensor([4]))
    >>> round(float(insq(found)), 3)  # 1 / (1 + 4/9 + 4/16 + …), near 1 / (4·(π²/6 − 1))
    0.388
    """
    check_target(target)
    return _expected_gain(found, None, lambda i, gain, total: _patience(i + 2 * target), **scale)


def inst(found: Ranks, *, target: float = 1.0, **scale: Any) -> Tensor:
    """INST: ``Cᵢ = ((i + T + Tᵢ − 1) / (i + T + Tᵢ))²``, ``Tᵢ = T − (g₁ + … + gᵢ)``.

    Over the first 1,000 ranks; T is at least 0.5. Source: Moffat, Bailey, Scholer and Thomas,
    *INST: an adaptive metric for information retrieval evaluation* (2015).

    >>> found = Ranks(torch.tensor([[1.0]]).double(), torch.tensor([1]), torch.tensor([4]))
    >>> round(float(inst(found)), 3)  # 1 / (1 + 1/4 + 1/9 + …), near 6/π²
    0.608
    """
    check_target(target, 0.5)
    return _expected_gain(
        found, None, lambda i, gain, total: _patience(i + 2 * target - total), **scale
    )


def nerr8(found: Ranks, k: Tensor, **scale: Any) -> Tensor:
    """Nearly ERR, cut at k: ``Cᵢ = 1 − gᵢ`` for i < k.

    Source of the four: Azzopardi, Mackenzie and Moffat, *ERR is not C/W/L: exploring the
    relationship between expected reciprocal rank and other metrics* (2021), equations 8 to 11.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> float(nerr8(found, torch.tensor([[4]]), max_gain=2))  # (½ + ½·½) / (1 + 1 + ½ + ½)
    0.25
    """
    return _expected_gain(found, k, lambda i, gain, total: 1 - gain, **scale)


def nerr9(found: Ranks, k: Tensor, **scale: Any) -> Tensor:
    """Nearly ERR, cut at k and discounted by rank: ``Cᵢ = i/(i + 1)·(1 − gᵢ)`` for i < k.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> round(float(nerr9(found, torch.tensor([[4]]))), 4)  # C₁ = 1/2, C₂ = 0: ½ / (1 + ½)
    0.3333
    """
    return _expected_gain(found, k, lambda i, gain, total: i / (i + 1) * (1 - gain), **scale)


def nerr10(found: Ranks, *, p: float = 0.9, **scale: Any) -> Tensor:
    """Nearly ERR with the patience of rank-biased precision: ``Cᵢ = p·(1 − gᵢ)``.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> round(float(nerr10(found, p=0.5)), 4)  # C₁ = 1/2, C₂ = 0: ½ / (1 + ½)
    0.3333
    """
    check_persistence(p)
    return _expected_gain(found, None, lambda i, gain, total: p * (1 - gain), **scale)


def nerr11(found: Ranks, *, target: float = 1.0, **scale: Any) -> Tensor:
    """Nearly ERR with the patience of INSQ: ``Cᵢ = ((i + 2T − 1) / (i + 2T))²·(1 − gᵢ)``.

    >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
    >>> round(float(nerr11(found)), 4)  # C₁ = 4/9, C₂ = 0: 4/9 / (1 + 4/9) = 4/13
    0.3077
    """
    check_target(target)
    return _expected_gain(
        found, None, lambda i, gain, total: _patience(i + 2 * target) * (1 - gain), **scale
    )


# By name, and what a summary calls their means.
MEASURES: dict[str, tuple[Measure, str]] = {
    one.__name__: (one, one.__name__.upper())
    for one in (bpm, sdcg, insq, inst, nerr8, nerr9, nerr10, nerr11)
}


def check_target(target: float, least: float = 0.0) -> None:
    """Refuse a target that is not positive, or for which C would be no probability."""
    if not target > 0 or target < least:
        expected = f"at least {least}" if least else "a positive number"
        raise ValueError(f"target: expected {expected}, got {target!r}")


def _patience(x: Tensor) -> Tensor:
    return ((x - 1) / x).square()


def _expected_gain(
    found: Ranks,
    k: Tensor | None,
    goes_on: GoesOn,
    *,
    min_gain: float = 0.0,
    max_gain: float | None = None,
) -> Tensor:
    """``Σ wᵢ·gᵢ`` over the first k (Q, K), as (Q, K); of None over all ranks, as (Q,)."""
    if min_gain < 0:
        raise ValueError(f"min_gain: expected 0 or more, got {min_gain!r}")
    gains = scaled(found.gains, min_gain, max_gain)
    last = gains.new_full((len(gains), 1), _DEPTH).long() if k is None else k
    depth = max(1, int(last.max()) if last.numel() else 1)
    parts = [
        _part(ranks, part, ends, depth, goes_on)
        for ranks, part, ends in zip(
            *(x.split(max(1, _RANKS_AT_ONCE // depth)) for x in (found.ranks, gains, last)),
            strict=True,
        )
    ]
    values = torch.cat(parts) if parts else gains.new_zeros(last.shape)
    return values[:, 0] if k is None else values


def _part(ranks: Tensor, gains: Tensor, last: Tensor, depth: int, goes_on: GoesOn) -> Tensor:
    """The same for some of the queries, with gains spread out over the ranks up to ``depth``."""
    spread = gains.new_zeros(len(gains), depth + 1)
    spread.scatter_(1, ranks.clamp(max=depth + 1).long() - 1, gains)
    spread = spread[:, :depth]
    i = torch.arange(1, depth + 1, dtype=gains.dtype, device=gains.device)[None]
    stays = goes_on(i, spread, spread.cumsum(dim=1)).expand_as(spread)[:, :-1]
    looks = torch.nn.functional.pad(stays.cumprod(dim=1), (1, 0), value=1.0)
    gained, looked = ((x * looks).cumsum(dim=1) for x in (spread, torch.ones_like(spread)))
    return at_counts(gained, last) / at_counts(looked, last.clamp(min=1))


def scaled(gains: Tensor, min_gain: float, max_gain: float | None) -> Tensor:
    """Gains (Q, T) on a scale from 0 to 1."""
    most = gains.amax(dim=1, keepdim=True) if max_gain is None else gains.new_tensor([[max_gain]])
    if bool((gains > most).any()):
        raise ValueError(f"max_gain: expected at least {float(gains.max())}, got {max_gain}")
    if max_gain is not None and max_gain <= min_gain:
        raise ValueError(f"max_gain: expected above min_gain, {min_gain}, got {max_gain}")
    return ratio((gains - min_gain).clamp(min=0), most - min_gain)
