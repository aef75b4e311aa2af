"""What open-metric-learning offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from drcl import metrics
from peer_api.rows import DIRECT, NOTHING, Problem, Row


def open_metric_learning() -> list[Row]:
    from oml.functional import metrics as peer

    top = {"cmc": "hit", "precision": "precision_min", "map": "mAP"}

    def given(problem: Problem, **options: Any) -> Any:
        order = problem.scores.argsort(dim=1, descending=True)
        return peer.calc_retrieval_metrics(
            retrieved_ids=list(order),
            gt_ids=[row.nonzero()[:, 0] for row in problem.gains],
            verbose=False,
            **{f"{name}_top_k": (4, 40) for name in top},
            **options,
        )

    def ours(problem: Problem, rule: str = "zero") -> metrics.RetrievalMetrics:
        asked = {"measures": ("hit", "precision_min"), "no_relevant": rule}
        return problem.ours(ks=(4, 40), **asked)

    def each(name: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        """Its precision is 0/0 where nothing is relevant."""
        found = ours(problem, "skip" if name == "precision" else "zero").tables()
        values = given(problem, reduce=False)[name]
        for k in (4, 40):
            yield found[f"{top[name]}@{k}"], values[k]

    def reduced(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found, values = ours(problem).summary(), given(problem)
        for name in ("cmc", "map"):
            yield found[f"{top[name]}@4"], values[name][4]

    def categories(problem: Problem) -> Iterator[tuple[Any, Any]]:
        names = ["ash", "elm", "ash", "elm", "fir", "fir", "fir"]
        found = ours(problem).by_class(names)
        values = given(problem, query_categories=np.array(names))
        for name in found:
            for one in ("cmc", "map"):
                yield found[name][f"{top[one]}@4"], values[name][one][4]

    def from_tops(name: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        order = problem.scores.argsort(dim=1, descending=True)
        tops = list((problem.gains > 0).gather(1, order))
        counts = [int(row.sum()) for row in tops]
        found = ours(problem, "skip" if name == "precision" else "zero").tables()
        values = getattr(peer, f"calc_{name}")(tops, counts, (4, 40))
        for k, value in zip((4, 40), values, strict=True):
            yield found[f"{top[name]}@{k}"], value

    whole = "calc_retrieval_metrics"
    rows = [
        Row(whole, f"{name}_top_k", DIRECT, f"{ours_}@k", partial(each, name))
        for name, ours_ in top.items()
    ]
    rows += [
        Row(whole, "query_categories", DIRECT, "by_class(names)", categories),
        Row(whole, "reduce", DIRECT, "tables() or summary()", reduced),
    ]
    rows += [
        Row(f"calc_{name}", "", DIRECT, f"{ours_}@k", partial(from_tops, name))
        for name, ours_ in top.items()
    ]
    for name in ("calc_topological_metrics", "calc_pcf"):
        rows.append(Row(name, "", NOTHING, "of the spread of embeddings, not of a ranking"))
    for name in ("calc_fnmr_at_fmr", "calc_fnmr_at_fmr_by_distances"):
        rows.append(Row(name, "", NOTHING, "of thresholds of pairs, not of a ranking"))
    return rows


def open_metric_learning_api() -> set[tuple[str, str]]:
    from oml.functional import metrics as peer

    found = set()
    for name, one in vars(peer).items():
        if inspect.isfunction(one) and name.startswith("calc_") and one.__module__ == peer.__name__:
            options = list(inspect.signature(one).parameters)[2:-1]
            whole = name == "calc_retrieval_metrics"
            found |= {(name, o) for o in options} if whole else {(name, "")}
    return found
