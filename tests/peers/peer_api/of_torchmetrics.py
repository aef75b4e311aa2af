"""What torchmetrics offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drcl.metrics import measures
from peer_api.rows import DIRECT, KS, Problem, Row, named

# torchmetrics: class -> what a summary calls it, and what asks for it.
OF_TORCHMETRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "RetrievalMAP": ("mAP@", {}),
    "RetrievalMRR": ("MRR@", named("reciprocal_rank")),
    "RetrievalPrecision": ("precision@", {"adaptive_k": False}),
    "RetrievalRecall": ("recall@", {}),
    "RetrievalHitRate": ("hit@", named("hit")),
    "RetrievalFallOut": ("fall-out@", named("fall_out")),
    "RetrievalNormalizedDCG": ("nDCG@", {"ndcg": True}),
    "RetrievalRPrecision": ("R-precision", named("r_precision")),
    "RetrievalAUROC": ("AUROC", named("auroc")),
}
FIXED = "RetrievalRecallAtFixedPrecision"
OF_IRRELEVANT = {
    "RetrievalFallOut": "partial(measures.fall_out, no_irrelevant=)",
    "RetrievalAUROC": 'measures=("auroc_at_k",), no_relevant=',
}
RULES = {"neg": "zero", "pos": "one", "skip": "skip"}
AVERAGES: dict[Any, Any] = {"mean": "mean", "median": Tensor.median, "min": Tensor.min}
AVERAGES |= {"max": Tensor.max, Tensor.std: Tensor.std}


def torchmetrics() -> list[Row]:
    from torchmetrics import retrieval as peer

    def theirs(name: str, problem: Problem, target: Tensor | None = None, **options: Any) -> Any:
        gains = problem.gains if target is None else target
        if name != "RetrievalNormalizedDCG" and target is None:
            gains = (gains > 0).long()
        places = torch.arange(7)[:, None].expand(gains.shape)
        metric = getattr(peer, name)(**options)
        metric.update(problem.scores.float().flatten(), gains.flatten(), indexes=places.flatten())
        return metric.compute()

    def compared(
        name: str, given: list[tuple[Any, ...]], problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        """For each (their options, our options, k, average)."""
        called, asked = OF_TORCHMETRICS[name]
        for own, extra, k, average in given:
            label = called + str(k or "all") if called.endswith("@") else called
            found = problem.ours(ks=(k,), **{**asked, **extra}).summary(average)
            yield found[label], theirs(name, problem, **own)

    def of_one_kind(name: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        for action, rule in RULES.items():
            asked: dict[str, Any] = {**named("auroc_at_k"), "no_relevant": rule}
            label = "AUROC@all"
            if name == "RetrievalFallOut":
                asked = {"measures": (partial(measures.fall_out, no_irrelevant=rule),)}
                label = f"fall-out(no_irrelevant={rule})@all"
            found = problem.ours(ks=(None,), **asked).summary()[label]
            yield found, theirs(name, problem, empty_target_action=action)

    def within(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = problem.ours(ks=KS, **named("auroc_at_k")).summary()
        for k in KS:
            yield found[f"AUROC@{k}"], theirs("RetrievalAUROC", problem, top_k=k)

    def up_to_a_rate(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = problem.ours(measures=(partial(measures.auroc, max_fpr=0.3),)).summary()
        yield found["AUROC(max_fpr=0.3)"], theirs("RetrievalAUROC", problem, max_fpr=0.3)

    def ignored(name: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        """What has a gain of 2 is not looked at."""
        called, asked = OF_TORCHMETRICS[name]
        gains = problem.gains if "DCG" in name else (problem.gains > 0).long()
        target = gains.masked_fill(problem.gains == 2, -1)
        if bool((target == -1).all(dim=1).any()):
            return  # a query without items is none there
        found = problem.ours(ks=(None,), excluded=lambda rows: problem.gains[rows] == 2, **asked)
        label = called + "all" if called.endswith("@") else called
        yield found.summary()[label], theirs(name, problem, target, ignore_index=-1)

    def without_ignored(name: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        left_out = lambda rows: problem.gains[rows] == 2  # noqa: E731
        target = (problem.gains > 0).long().masked_fill(problem.gains == 2, -1)
        if bool((target == -1).all(dim=1).any()):
            return
        found = problem.ours(ks=(1, 2), excluded=left_out, adaptive_k=False)
        options = {"max_k": 2, "ignore_index": -1}
        if name == FIXED:
            yield (
                found.recall_at_precision(0.35),
                theirs(name, problem, target, min_precision=0.35, **options),
            )
            return
        precision, recall, _ = theirs(name, problem, target, **options)
        means = found.summary()
        yield [means["precision@2"], means["recall@2"]], [precision[1], recall[1]]

    def curves(given: list[tuple[Any, ...]], problem: Problem) -> Iterator[tuple[Any, Any]]:
        for own, extra, average in given:
            most = own.get("max_k") or problem.size
            found = problem.ours(ks=range(1, most + 1), **{"adaptive_k": False, **extra})
            means = found.summary(average)
            precision, recall, _ = theirs("RetrievalPrecisionRecallCurve", problem, **own)
            for one, name in ((precision, "precision"), (recall, "recall")):
                yield [means[f"{name}@{k}"] for k in range(1, most + 1)], one

    def fixed(given: list[tuple[Any, ...]], problem: Problem) -> Iterator[tuple[Any, Any]]:
        for own, extra in given:
            ks = range(1, (own.get("max_k") or problem.size) + 1)
            found = problem.ours(ks=ks, **{"adaptive_k": False, **extra})
            own = {"min_precision": 0.35, **own}
            value = theirs(FIXED, problem, **own)
            yield found.recall_at_precision(own["min_precision"]), value

    rows = []
    for name in OF_TORCHMETRICS:
        check = partial(compared, name)
        mixed = name in ("RetrievalFallOut", "RetrievalAUROC")
        rows += [
            Row(name, "", DIRECT, "", partial(check, [({}, {}, None, "mean")]), mixed),
            Row(name, "ignore_index", DIRECT, "excluded=", partial(ignored, name), mixed),
            Row(
                *(name, "aggregation", DIRECT, "summary(average)"),
                partial(check, [({"aggregation": a}, {}, None, b) for a, b in AVERAGES.items()]),
                mixed,
            ),
        ]
        given = [
            ({"empty_target_action": a}, {"no_relevant": b}, None, "mean") for a, b in RULES.items()
        ]
        rule = Row(name, "empty_target_action", DIRECT, "no_relevant=", partial(check, given))
        if mixed:
            rule = rule._replace(note=OF_IRRELEVANT[name], check=partial(of_one_kind, name))
        rows.append(rule)
        if name not in ("RetrievalRPrecision", "RetrievalAUROC"):
            given = [({"top_k": k}, {}, k, "mean") for k in KS]
            rows.append(Row(name, "top_k", DIRECT, "ks=", partial(check, given), mixed))
    rows += [
        Row("RetrievalAUROC", "top_k", DIRECT, 'measures=("auroc_at_k",)', within),
        Row(
            "RetrievalAUROC",
            "max_fpr",
            DIRECT,
            "partial(measures.auroc, max_fpr=)",
            up_to_a_rate,
            True,
        ),
        Row(
            *("RetrievalPrecision", "adaptive_k", DIRECT, "adaptive_k="),
            partial(
                compared,
                "RetrievalPrecision",
                [
                    ({"adaptive_k": a, "top_k": 40}, {"adaptive_k": a}, 40, "mean")
                    for a in (True, False)
                ],
            ),
        ),
    ]
    name = "RetrievalPrecisionRecallCurve"
    for option, note, given in (
        ("", "ks=range(1, N + 1)", [({}, {}, "mean")]),
        ("max_k", "ks=range(1, k + 1)", [({"max_k": 4}, {}, "mean")]),
        (
            "adaptive_k",
            "adaptive_k=",
            [({"max_k": 40, "adaptive_k": True}, {"adaptive_k": True}, "mean")],
        ),
        (
            "empty_target_action",
            "no_relevant=",
            [({"empty_target_action": a}, {"no_relevant": b}, "mean") for a, b in RULES.items()],
        ),
        ("aggregation", "summary(average)", [({"aggregation": "median"}, {}, Tensor.median)]),
    ):
        rows.append(Row(name, option, DIRECT, note, partial(curves, given)))
    rules: list[tuple[Any, ...]] = [
        ({"empty_target_action": a}, {"no_relevant": b}) for a, b in RULES.items()
    ]
    for option, given in {
        "": [({}, {})],
        "min_precision": [({"min_precision": least}, {}) for least in (0.0, 0.2, 1.0)],
        "max_k": [({"max_k": 4}, {})],
        "adaptive_k": [({"max_k": 40, "adaptive_k": True}, {"adaptive_k": True})],
        "empty_target_action": rules,
    }.items():
        note = "recall_at_precision(least), of the curve's options"
        rows.append(Row(FIXED, option, DIRECT, note, partial(fixed, given)))
    for one in (name, FIXED):
        check = partial(without_ignored, one)
        rows.append(Row(one, "ignore_index", DIRECT, "excluded=", check))
    return rows


def torchmetrics_api() -> set[tuple[str, str]]:
    from torchmetrics import retrieval as peer

    return {
        (name, option)
        for name in peer.__all__
        for option in ("", *inspect.signature(getattr(peer, name).__init__).parameters)
        if option not in ("self", "kwargs")
    }
