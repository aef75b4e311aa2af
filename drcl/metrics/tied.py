"""Measures averaged over the orders of equal scores: the exact expectation of each.

A group of s items of one score, r of them relevant, follows a of the ranked items, of which h are
relevant. All orders of a group are as likely: a relevant item of it is at each of the ranks a + 1
to a + s with the same chance. So a sum over the relevant items, of whatever its rank says of each,
is a sum of means over these ranks, and how many irrelevant items of the group come before it is as
likely 0 as any number up to s − r. These sums are closed or as long as the group. Source: McSherry
and Najork, *Computing information retrieval performance measures efficiently in the presence of
tied scores* (2008), who give those of most measures; ``bpref``, ``rbp``, ``err`` and
``ap_first_hits`` follow in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.metrics import lists, measures
from drcl.metrics.harmonic import harmonic
from drcl.metrics.measures import Measure, area, first_r, ratio
from drcl.metrics.ranks import Ranks


@dataclass(frozen=True)
class TiedRanks(Ranks):
    """Of every relevant item the first and the last rank of its score: ``ranks`` and ``last``.

    Both are (Q, T) float64, rising, then ∞.
    """

    last: Tensor = field(kw_only=True)

    @cached_property
    def known(self) -> Tensor:
        """(Q, T) bool: what is no padding."""
        return self.ranks.isfinite()

    @cached_property
    def above(self) -> Tensor:
        """a of each item's group (Q, T), 0 in the padding."""
        return torch.where(self.known, self.ranks - 1, 0.0)

    @cached_property
    def size(self) -> Tensor:
        """s of each item's group (Q, T), 1 in the padding."""
        return torch.where(self.known, self.last - self.above, 1.0)

    @cached_property
    def found(self) -> Tensor:
        """h of each item's group (Q, T)."""
        return torch.searchsorted(self.ranks, self.ranks).double()

    @cached_property
    def members(self) -> Tensor:
        """r of each item's group (Q, T)."""
        return torch.searchsorted(self.ranks, self.ranks, right=True) - self.found

    def hits(self, k: Tensor) -> Tensor:
        """The expected number (Q, K) of relevant items among the first k (Q, K)."""
        return self._once("hits", k, lambda: self.at_each(k, lambda inside: inside / self.size))

    def at_each(self, k: Tensor, part: Measure) -> Tensor:
        """The sum (Q, K) over the relevant items of ``part`` of a cut-off.

        It is given how many places of the item's group are within the cut-off, (Q, T).
        """
        sums = []
        for cutoff in k.T:
            inside = torch.minimum((cutoff[:, None] - self.above).clamp(min=0), self.size)
            sums.append(torch.where(self.known, part(inside), 0.0).sum(dim=1))
        return torch.stack(sums, dim=1)


def hit(found: TiedRanks, k: Tensor) -> Tensor:
    """The chance of a relevant item among the first k."""
    return _first_hit(found, k)[0]


def reciprocal_rank(found: TiedRanks, k: Tensor) -> Tensor:
    return _first_hit(found, k)[1]


def utility(
    found: TiedRanks,
    k: Tensor,
    *,
    relevant: float = 1.0,
    irrelevant: float = -1.0,
    missed: float = 0.0,
) -> Tensor:
    hits = found.hits(k)
    worth = relevant * hits + missed * (found.relevant[:, None] - hits)
    return worth + irrelevant * lists.num_nonrel(found, k)


def ap_first_hits(found: TiedRanks, k: Tensor) -> Tensor:
    hits = torch.minimum(k, found.relevant[:, None])
    each = _precision_sums(found, found.size)
    ends, sums = found.found + found.members, []
    for count in hits.T:
        within = found.known & (ends <= count[:, None])
        sums.append(torch.where(within, each, 0.0).sum(dim=1))
        cut = found.known & (found.found < count[:, None]) & ~within
        for row in cut.any(dim=1).nonzero()[:, 0].tolist():
            at = row, int(cut[row].nonzero()[0])
            above, size, before = (int(x[at]) for x in (found.above, found.size, found.found))
            members, wanted = int(found.members[at]), int(count[row]) - before
            sums[-1][row] += _first_precisions(above, size, members, before, wanted)
    return ratio(torch.stack(sums, dim=1), hits)


def dcg(found: TiedRanks, k: Tensor) -> Tensor:
    return _dcg(found, k, found.gains)


def ndcg(found: TiedRanks, k: Tensor) -> Tensor:
    return ratio(dcg(found, k), measures.ideal_dcg(found, k, found.graded))


def dcg_exponential(found: TiedRanks, k: Tensor) -> Tensor:
    return _dcg(found, k, measures.exponential(found.gains))


def ndcg_exponential(found: TiedRanks, k: Tensor) -> Tensor:
    ideal = measures.ideal_dcg(found, k, measures.exponential_of(found))
    return ratio(dcg_exponential(found, k), ideal)


def err(found: TiedRanks, k: Tensor, *, max_gain: float | None = None) -> Tensor:
    stops = measures.stop_chances(found.gains, max_gain).cpu().numpy()
    above, size = found.above.cpu().numpy(), found.size.cpu().numpy()
    rows = [
        _stops(_groups(above[row, :count], size[row, :count], stops[row]), cutoffs)
        for row, (count, cutoffs) in enumerate(
            zip(found.relevant.tolist(), k.cpu().numpy(), strict=True)
        )
    ]
    return torch.from_numpy(np.stack(rows)).to(k.device)


def ap_at_r(found: TiedRanks, *, at_most: int | None = None) -> Tensor:
    first = first_r(found, at_most=at_most)
    sums = found.at_each(first, partial(_precision_sums, found))
    return ratio(sums, found.relevant[:, None])[:, 0]


def auroc(found: TiedRanks, *, max_fpr: float = 1.0) -> Tensor:
    """An irrelevant item of the same score counts as a half."""
    most = max_fpr * (found.ranked - found.relevant).double()
    return area(found, _expected_before(found, most), max_fpr)


def bpref(found: TiedRanks) -> Tensor:
    relevant = found.relevant[:, None].double()
    bound = torch.minimum(relevant, found.ranked[:, None] - relevant)
    before = _expected_before(found, relevant[:, 0])[:, None]
    return ratio(relevant - ratio(before, bound), relevant)[:, 0]


def rbp(found: TiedRanks, *, p: float = 0.8, graded: bool = False) -> Tensor:
    measures.check_persistence(p)
    within = (1 - p**found.size) / found.size  # (1 − p) times the mean of p⁰ to pˢ⁻¹
    weights = torch.where(found.known, p**found.above * within, 0.0)
    return (weights * found.gains if graded else weights).sum(dim=1)


# These follow from the number of hits alone, in which they are linear.
_OF_HITS: tuple[Measure, ...] = (
    *(lists.num_q, lists.num_rel, lists.num_ret, lists.num_nonrel, measures.hits, measures.f1),
    *(measures.precision_min, measures.fall_out, measures.r_precision),
)
EXPECTED: dict[Measure, Measure] = {
    **dict(zip(_OF_HITS, _OF_HITS, strict=True)),
    lists.utility: utility,
} | {
    getattr(measures, one.__name__): one
    for one in (
        *(hit, reciprocal_rank, ap_first_hits, dcg, dcg_exponential, ndcg, ndcg_exponential),
        *(err, ap_at_r, auroc, bpref, rbp),
    )
}


def expectation(name: str, measure: Measure) -> Measure:
    """The measure of :class:`TiedRanks` that is the expectation of one of ranks."""
    if isinstance(measure, partial):
        return partial(expectation(name, measure.func), *measure.args, **measure.keywords)
    if measure not in EXPECTED:
        raise ValueError(
            'measures: expected such with ties="average" whose mean over the orders of equal '
            f"scores is known, as those of drcl.metrics.measures, got {name}"
        )
    return EXPECTED[measure]


def _first_hit(found: TiedRanks, k: Tensor) -> tuple[Tensor, Tensor]:
    """Chance and expected reciprocal rank (Q, K) of a first hit at rank k or before."""
    some = found.relevant > 0
    above, size = found.above[:, :1], found.size[:, :1]
    relevant = torch.where(some[:, None], found.members[:, :1], 0.0)
    inside = torch.where(some[:, None], (k - above).clamp(min=0), 0.0)
    chance, reciprocal = torch.zeros_like(inside), torch.zeros_like(inside)
    here, left = relevant / size, torch.ones_like(size)  # at this place; at this one or later
    for place in range(1, int(torch.minimum(inside, size - relevant + 1).max()) + 1):
        now = torch.where(inside >= place, here, 0.0)
        chance += now
        reciprocal += now / (above + place)
        left = left - here
        if float(left.max()) < 2.0**-60:
            break
        rest = size - relevant - place + 1  # the places before hold so many irrelevant items less
        here = here * rest.clamp(min=0) / (size - place).clamp(min=1)
    return chance, reciprocal


def _expected_before(found: TiedRanks, most: Tensor) -> Tensor:
    """The irrelevant items before each relevant one, ``most`` (Q,) at most, summed up (Q,)."""
    before, among = found.above - found.found, found.size - found.members
    bound = most[:, None]
    # the numbers before it are before, before + 1, …, before + among: so many are below the bound
    below = (bound - before).ceil().clamp(min=0).minimum(among + 1)
    least = below * before + below * (below - 1) / 2 + (among + 1 - below) * bound
    return torch.where(found.known, least / (among + 1), 0.0).sum(dim=1)


def _precision_sums(found: TiedRanks, places: Tensor) -> Tensor:
    """An item's share (Q, T) in the expected sum of precisions over so many places of its group.

    Place i holds a relevant item with probability r/s, and then (r − 1)/(s − 1) of the i − 1 places
    before it do.
    """
    inverse = harmonic(found.above, places)
    others = (found.members - 1) / (found.size - 1).clamp(min=1)
    later = places - (found.above + 1) * inverse  # Σ (i − 1) / (a + i)
    return ((found.found + 1) * inverse + others * later) / found.size


def _first_precisions(above: int, size: int, relevant: int, before: int, hits: int) -> float:
    """The expected sum of precisions at the first ``hits`` relevant items of a group.

    Goes through the places: ``chance[x]`` is that of x relevant items before the place, x < hits.
    """
    x = np.arange(hits)
    chance, total = np.zeros(hits), 0.0
    chance[0] = 1.0
    for place in range(size):
        here = chance * ((relevant - x) / (size - place)).clip(0, 1)
        total += float((here * (before + x + 1)).sum()) / (above + place + 1)
        chance -= here
        chance[1:] += here[:-1]
    return total


def _dcg(found: TiedRanks, k: Tensor, gains: Tensor) -> Tensor:
    discounts = found.discount_table
    # In two parts, of which sums of the first are exact: small differences of large sums are, too.
    coarse = (discounts * 2.0**26).round() / 2.0**26
    sums = [torch.nn.functional.pad(one.cumsum(0), (1, 0)) for one in (coarse, discounts - coarse)]
    above = found.above.long()

    def part(inside: Tensor) -> Tensor:
        end = above + inside.long()
        total = sums[0][end] - sums[0][above] + (sums[1][end] - sums[1][above])
        return gains * total / found.size

    return found.at_each(k, part)


class _Group(NamedTuple):
    above: int
    size: int
    stops: npt.NDArray[np.float64]  # of its relevant items


def _groups(
    above: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    stops: npt.NDArray[np.float64],
) -> Iterator[_Group]:
    start = 0
    for value, group in itertools.groupby(above.tolist()):
        end = start + len(list(group))
        yield _Group(int(value), int(size[start]), stops[start:end])
        start = end


def _stops(groups: Iterator[_Group], ks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Σ (chance to stop at a rank) / rank over the ranks up to each k."""
    total, goes_on = np.zeros(len(ks)), 1.0
    for above, size, stops in groups:
        if above >= ks.max(initial=0) or goes_on < 2.0**-60 * total.max():
            break
        # Among n items in random order: the chances to pass the first i, and to stop at the i-th.
        # They follow from those of one item less by where among the others the new one is.
        passes, stop = np.ones(size - len(stops) + 1), np.zeros(size - len(stops))
        for chance in stops:
            n = len(stop) + 1
            earlier = np.arange(n + 1) / n  # of the chances that the new item is among the first i
            here = chance * passes / n
            moved = np.append(0.0, stop) * earlier[:-1] * (1 - chance)
            stop = moved + here + np.append(stop, 0.0) * (1 - earlier[1:])
            kept = np.append(passes, 0.0) * (1 - earlier)
            passes = kept + np.append(0.0, passes) * earlier * (1 - chance)
        shares = goes_on * stop / (above + np.arange(1, size + 1))
        ends = np.clip(ks - above, 0, size)
        total += np.append(0.0, shares.cumsum())[ends]
        goes_on *= passes[-1]
    return total
