"""What the measures' own options change: literal loops, all orders of ties, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any
from unittest import mock

import literal_measures as literal
import pytest
import torch

from drcl import metrics
from drcl.metrics import lists, measures, user_models
from drcl.metrics.names import MEASURES
from drcl.metrics.tied import EXPECTED
from drcl.reference.average_precision import ranking, tie_orders

K = 3


def r_precision(gains: list[float], first: int) -> float:
    return literal.count(gains[:first]) / first if first else 0.0


def ap_at_r(gains: list[float], at_most: int) -> float:
    first, relevant = min(at_most, literal.count(gains)), literal.count(gains)
    ranks = [rank for rank, gain in enumerate(gains[:first], start=1) if gain > 0]
    return sum(j / rank for j, rank in enumerate(ranks, start=1)) / relevant if relevant else 0.0


def fall_out(gains: list[float], of_none: float) -> float:
    return literal.fall_out(gains, K) if any(gain <= 0 for gain in gains) else of_none


def partial_auroc(gains: list[float], most: float) -> float:
    """From the corners of the ROC curve."""
    relevant, irrelevant = literal.count(gains), len(gains) - literal.count(gains)
    if not relevant or not irrelevant:
        return math.nan if relevant else 0.0
    area = rate = height = 0.0
    for gain in gains:
        if gain > 0:
            height += 1 / relevant
        else:
            area += height * max(0.0, min(rate + 1 / irrelevant, most) - rate)
            rate += 1 / irrelevant
    return 0.5 + 0.5 * (area - most**2 / 2) / (most - most**2 / 2)


def rbp(gains: list[float]) -> float:
    return 0.2 * sum(0.8**place * gain for place, gain in enumerate(gains))


def f_2(gains: list[float]) -> float:
    precision = literal.count(gains[:K]) / K
    recall = literal.count(gains[:K]) / max(1, literal.count(gains))
    return 5 * precision * recall / (4 * precision + recall) if recall else 0.0


OF_RANKS: list[tuple[Any, Callable[[list[float]], float]]] = [
    (partial(measures.f1, weight=4), f_2),
    (
        partial(measures.r_precision, multiple=1.6),
        lambda gains: r_precision(gains, int(1.6 * literal.count(gains) + 0.9)),
    ),
    (
        partial(measures.r_precision, at_most=2),
        lambda gains: r_precision(gains, min(2, literal.count(gains))),
    ),
    (partial(measures.ap_at_r, at_most=2), partial(ap_at_r, at_most=2)),
    (partial(measures.fall_out, no_irrelevant="one"), partial(fall_out, of_none=1.0)),
    (partial(measures.fall_out, no_irrelevant="skip"), partial(fall_out, of_none=math.nan)),
    (partial(measures.auroc, max_fpr=0.3), partial(partial_auroc, most=0.3)),
    (partial(measures.rbp, graded=True), rbp),
    (
        partial(lists.utility, relevant=2, irrelevant=-0.5, missed=-1),
        lambda gains: (
            3 * literal.hits(gains, K) - 0.5 * literal.num_nonrel(gains, K) - literal.count(gains)
        ),
    ),
]
T, SCALE = 1.5, {"min_gain": 1, "max_gain": 5}


def patience(x: float) -> float:
    return ((x - 1) / x) ** 2


OF_USERS: list[tuple[Callable[..., Any], int, Callable[[int, float, float], float]]] = [
    (user_models.bpm, K, lambda i, gain, gained: gained < T),
    (user_models.sdcg, K, lambda i, gain, gained: math.log2(i + 1) / math.log2(i + 2)),
    (user_models.insq, 1000, lambda i, gain, gained: patience(i + 2 * T)),
    (user_models.inst, 1000, lambda i, gain, gained: patience(i + 2 * T - gained)),
    (user_models.nerr8, K, lambda i, gain, gained: 1 - gain),
    (user_models.nerr9, K, lambda i, gain, gained: i / (i + 1) * (1 - gain)),
    (user_models.nerr10, 1000, lambda i, gain, gained: 0.9 * (1 - gain)),
    (user_models.nerr11, 1000, lambda i, gain, gained: patience(i + 2 * T) * (1 - gain)),
]


def problem() -> dict[str, Any]:
    """Scores that tie; everything is relevant to the second query, nothing to the third."""
    scores, gains = torch.randint(3, (8, 6)).double(), torch.randint(0, 4, (8, 6)).double()
    gains[1], gains[2] = gains[1].clamp(min=1), 0
    sides = torch.eye(8).double(), scores.T
    return dict(zip(("query", "gallery"), sides, strict=True), relevance=gains, metric="dot")


@pytest.mark.parametrize("ties", ["index", "average"])
@pytest.mark.parametrize("measure, expected", OF_RANKS)
def test_options_of_ranks(measure: Any, expected: Callable[..., float], ties: str) -> None:
    """By index, of the one order; else the mean over all orders of equal scores."""
    given = problem()
    (table,) = metrics.retrieval_metrics(
        **given, ks=(K,), measures=(measure,), ties=ties
    ).measures.values()
    for query, (scores, gains) in enumerate(
        zip(given["gallery"].T, given["relevance"], strict=True)
    ):
        orders = [ranking(scores, gains)] if ties == "index" else list(tie_orders(scores, gains))
        wanted = sum(map(expected, orders)) / len(orders)
        assert float(table[query]) == pytest.approx(wanted, rel=1e-12, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize("measure, k, goes_on", OF_USERS)
def test_options_of_user_models(
    measure: Callable[..., Any], k: int, goes_on: Callable[[int, float, float], float]
) -> None:
    given, wanted = problem(), {"target": T} if "target" in signature(measure).parameters else {}
    own = partial(measure, **wanted, **SCALE)
    (table,) = metrics.retrieval_metrics(**given, ks=(K,), measures=(own,)).measures.values()
    for query, (scores, gains) in enumerate(
        zip(given["gallery"].T, given["relevance"], strict=True)
    ):
        value = literal.look(ranking(scores, gains), k, goes_on, 1, 5)
        assert float(table[query]) == pytest.approx(value, rel=1e-12, abs=1e-13)


def test_few_queries_at_a_time_change_no_bit() -> None:
    asked: Any = {"ks": (K, None), "measures": tuple(user_models.MEASURES)}
    given = problem()
    whole = metrics.retrieval_metrics(**given, **asked)
    with mock.patch.object(user_models, "_RANKS_AT_ONCE", 3):
        parts = metrics.retrieval_metrics(**given, **asked)
    for name, table in whole.measures.items():
        assert torch.equal(table, parts.measures[name]), name


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (partial(measures.f1, weight=0), "weight: expected a positive number, got 0"),
        (partial(measures.r_precision, multiple=0), "multiple: expected a positive number, got 0"),
        (partial(measures.ap_at_r, at_most=0), "at_most: expected an integer >= 1, got 0"),
        (partial(measures.fall_out, no_irrelevant="none"), "no_irrelevant: expected one of"),
        (partial(measures.auroc, max_fpr=0), "max_fpr: expected above 0 and at most 1, got 0"),
        (partial(user_models.bpm, target=0), "target: expected a positive number, got 0"),
        (partial(user_models.inst, target=0.4), "target: expected at least 0.5, got 0.4"),
        (partial(user_models.nerr8, max_gain=2), "max_gain: expected at least 3.0, got 2"),
        (
            partial(user_models.insq, min_gain=3, max_gain=3),
            "max_gain: expected above min_gain, 3, got 3",
        ),
        (partial(user_models.sdcg, min_gain=-1), "min_gain: expected 0 or more, got -1"),
        (partial(user_models.nerr10, p=1.0), "p: expected a number between 0 and 1, got 1.0"),
    ],
)
def test_what_cannot_be_is_refused(measure: Any, message: str) -> None:
    given = problem()
    given["relevance"][0, 0] = 3
    with pytest.raises(ValueError, match=message):
        metrics.retrieval_metrics(**given, ks=(K,), measures=(measure,))


def test_measures_whose_mean_over_orders_is_not_known_are_refused() -> None:
    for name in MEASURES.keys() - {one.__name__ for one in EXPECTED}:
        with pytest.raises(ValueError, match=rf'measures: .* ties="average".* got {name}$'):
            metrics.retrieval_metrics(**problem(), measures=(name,), ties="average")
