"""Further measures of one ranking from their definitions: loops over the ranks, in float64.

A ranking is the list of its items' gains, best rank first; an item is relevant if its gain is
positive. All are 0 where nothing is relevant, but for the fall-out, counts and utility.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Ranking = list[float]


def hit(gains: Ranking, k: int) -> float:
    return float(any(gain > 0 for gain in gains[:k]))


def hits(gains: Ranking, k: int) -> float:
    return float(count(gains[:k]))


def reciprocal_rank(gains: Ranking, k: int) -> float:
    for rank, gain in enumerate(gains[:k], start=1):
        if gain > 0:
            return 1 / rank
    return 0.0


def f1(gains: Ranking, k: int) -> float:
    hits, relevant = count(gains[:k]), count(gains)
    if hits == 0:
        return 0.0
    precision, recall = hits / min(k, len(gains)), hits / relevant
    return 2 * precision * recall / (precision + recall)


def precision_min(gains: Ranking, k: int) -> float:
    return count(gains[:k]) / min(count(gains), k) if count(gains) else 0.0


def fall_out(gains: Ranking, k: int) -> float:
    irrelevant = [gain <= 0 for gain in gains]
    return sum(irrelevant[:k]) / sum(irrelevant) if any(irrelevant) else 0.0


def ap_first_hits(gains: Ranking, k: int) -> float:
    precisions, hits = [], 0
    for rank, gain in enumerate(gains, start=1):
        if gain > 0 and hits < k:
            hits += 1
            precisions.append(hits / rank)
    return sum(precisions) / len(precisions) if precisions else 0.0


def dcg(gains: Ranking, k: int) -> float:
    return sum(max(g, 0.0) / math.log2(rank + 1) for rank, g in enumerate(gains[:k], start=1))


def dcg_exponential(gains: Ranking, k: int) -> float:
    return dcg([2 ** max(gain, 0.0) - 1 for gain in gains], k)


def ndcg_exponential(gains: Ranking, k: int) -> float:
    best = dcg_exponential(sorted(gains, reverse=True), k)
    return dcg_exponential(gains, k) / best if best else 0.0


def ndcg(gains: Ranking, k: int) -> float:
    best = dcg(sorted(gains, reverse=True), k)
    return dcg(gains, k) / best if best else 0.0


def err(gains: Ranking, k: int, max_gain: float | None = None) -> float:
    most = max(gains, default=0.0) if max_gain is None else max_gain
    total, goes_on = 0.0, 1.0
    for rank, gain in enumerate(gains[:k], start=1):
        stops = (2 ** max(gain, 0.0) - 1) / 2**most
        total += goes_on * stops / rank
        goes_on *= 1 - stops
    return total


def r_precision(gains: Ranking) -> float:
    return count(gains[: count(gains)]) / count(gains) if count(gains) else 0.0


def ap_at_r(gains: Ranking) -> float:
    relevant, hits, total = count(gains), 0, 0.0
    for rank, gain in enumerate(gains[:relevant], start=1):
        if gain > 0:
            hits += 1
            total += hits / rank
    return total / relevant if relevant else 0.0


def auroc(gains: Ranking) -> float:
    relevant = [rank for rank, gain in enumerate(gains) if gain > 0]
    irrelevant = [rank for rank, gain in enumerate(gains) if gain <= 0]
    if not relevant:
        return 0.0
    if not irrelevant:
        return math.nan
    return sum(r < i for r in relevant for i in irrelevant) / len(relevant) / len(irrelevant)


def bpref(gains: Ranking) -> float:
    relevant, before, total = count(gains), 0, 0.0
    bound = min(relevant, len(gains) - relevant)
    for gain in gains:
        if gain > 0:
            total += 1 - min(before, relevant) / bound if before else 1.0
        else:
            before += 1
    return total / relevant if relevant else 0.0


def rbp(gains: Ranking, p: float = 0.8) -> float:
    return (1 - p) * sum(p ** (rank - 1) for rank, g in enumerate(gains, start=1) if g > 0)


def num_q(gains: Ranking) -> float:
    return float(len(gains) > 0)


def num_rel(gains: Ranking) -> float:
    return float(count(gains))


def num_ret(gains: Ranking) -> float:
    return float(len(gains))


def num_nonrel(gains: Ranking, k: int) -> float:
    return float(len(gains[:k]) - count(gains[:k]))


def utility(gains: Ranking, k: int) -> float:
    return hits(gains, k) - num_nonrel(gains, k)


def set_map(gains: Ranking, k: int) -> float:
    found = count(gains[:k])
    return found / len(gains[:k]) * found / count(gains) if found else 0.0


def auroc_at_k(gains: Ranking, k: int) -> float:
    value = auroc(gains[:k])
    return 0.0 if math.isnan(value) else value


def eleven_point(gains: Ranking) -> float:
    relevant, found, best = count(gains), 0, [0.0] * 11
    for rank, gain in enumerate(gains, start=1):
        found += gain > 0
        for level in range(11 if relevant else 0):
            if found >= math.floor(level / 10 * relevant + 0.9):
                best[level] = max(best[level], found / rank)
    return sum(best) / 11


def binary_g(gains: Ranking) -> float:
    places = [place for place, gain in enumerate(gains) if gain > 0]
    shares = [1 / math.log2(2 + place - hit) for hit, place in enumerate(places)]
    return sum(shares) / len(places) if places else 0.0


def normalized_g(gains: Ranking) -> float:
    best = sorted((gain for gain in gains if gain > 0), reverse=True)
    cost = gained = total = 0.0
    for place, gain in enumerate(gains):
        cost += max(best[place], 1.0) if place < len(best) else 1.0
        gained += max(gain, 0.0)
        total += gain / math.log2(2 + cost - gained) if gain > 0 else 0.0
    return total / sum(best) if best else 0.0


def ndcg_at_hits(gains: Ranking) -> float:
    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    return sum(ndcg(gains, rank) for rank in ranks) / len(ranks) if ranks else 0.0


def ndcg_at_levels(gains: Ranking) -> float:
    levels = sorted({gain for gain in gains if gain > 0})
    ranks = [sum(gain >= level for gain in gains) for level in levels]
    if len(gains) > count(gains) + 1:
        ranks.append(len(gains))
    return sum(ndcg(gains, rank) for rank in ranks) / len(ranks) if levels else 0.0


def bpm(gains: Ranking, k: int) -> float:
    return look(gains, min(k, len(gains)), lambda rank, gain, gained: gained < 1)


def sdcg(gains: Ranking, k: int) -> float:
    return look(
        gains,
        min(k, len(gains)),
        lambda rank, gain, gained: math.log2(rank + 1) / math.log2(rank + 2),
    )


def insq(gains: Ranking) -> float:
    return look(gains, 1000, lambda rank, gain, gained: ((rank + 1) / (rank + 2)) ** 2)


def inst(gains: Ranking) -> float:
    def goes_on(rank: int, gain: float, gained: float) -> float:
        missing = 1 - gained
        return ((rank + 1 + missing - 1) / (rank + 1 + missing)) ** 2

    return look(gains, 1000, goes_on)


def nerr8(gains: Ranking, k: int) -> float:
    return look(gains, min(k, len(gains)), lambda rank, gain, gained: 1 - gain)


def nerr9(gains: Ranking, k: int) -> float:
    return look(
        gains, min(k, len(gains)), lambda rank, gain, gained: rank / (rank + 1) * (1 - gain)
    )


def nerr10(gains: Ranking) -> float:
    return look(gains, 1000, lambda rank, gain, gained: 0.9 * (1 - gain))


def nerr11(gains: Ranking) -> float:
    return look(gains, 1000, lambda rank, gain, gained: ((rank + 1) / (rank + 2)) ** 2 * (1 - gain))


def look(
    gains: Ranking,
    k: int,
    goes_on: Callable[[int, float, float], float],
    least: float = 0.0,
    most: float | None = None,
) -> float:
    """The mean gain of a look, where a user goes on from each rank with this chance."""
    top = max([0.0, *gains]) if most is None else most
    chance, looks, gained, total = 1.0, 0.0, 0.0, 0.0
    for rank in range(1, k + 1):
        gain = max(gains[rank - 1] - least, 0.0) if rank <= len(gains) else 0.0
        gain = gain / (top - least) if gain else 0.0
        looks, total, gained = looks + chance, total + chance * gain, gained + gain
        chance *= goes_on(rank, gain, gained)
    return total / looks if looks else 0.0


def count(gains: Ranking) -> int:
    return sum(gain > 0 for gain in gains)


AT_CUTOFFS: dict[str, Callable[[Ranking, int], float]] = {
    one.__name__: one
    for one in (hit, hits, reciprocal_rank, f1, precision_min, fall_out, ap_first_hits, dcg)
} | {
    one.__name__: one
    for one in (
        *(dcg_exponential, ndcg_exponential, ndcg, err, num_nonrel, utility, set_map, auroc_at_k),
        *(bpm, sdcg, nerr8, nerr9),
    )
}
OF_THE_WHOLE: dict[str, Callable[[Ranking], float]] = {
    one.__name__: one
    for one in (
        *(r_precision, ap_at_r, auroc, bpref, rbp, num_q, num_rel, num_ret, eleven_point),
        *(binary_g, normalized_g, ndcg_at_hits, ndcg_at_levels, insq, inst, nerr10, nerr11),
    )
}


def of(name: str, gains: Ranking, ks: Sequence[int | None]) -> list[float]:
    """A measure by its name: a value for each cut-off, or the one there is."""
    if name in OF_THE_WHOLE:
        return [OF_THE_WHOLE[name](gains)]
    return [AT_CUTOFFS[name](gains, len(gains) if k is None else k) for k in ks]
