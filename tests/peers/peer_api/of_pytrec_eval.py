"""What pytrec-eval-terrier offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from peer_api.rows import ARITHMETIC, DIRECT, NOTHING, Problem, Row, geometric, named

# trec_eval: measure -> what a summary calls it, what asks for it, and the average.
OF_TREC_EVAL: dict[str, tuple[str, dict[str, Any]]] = {
    "map": ("mAP@all", {}),
    "map_cut": ("mAP@{k}", {}),
    "P": ("precision@{k}", {}),
    "recall": ("recall@{k}", {}),
    "ndcg": ("nDCG@all", {}),
    "ndcg_cut": ("nDCG@{k}", {}),
    "Rprec": ("R-precision", named("r_precision")),
    "recip_rank": ("MRR", {}),
    "bpref": ("bpref", named("bpref")),
    "success": ("hit@{k}", named("hit")),
    "relative_P": ("precision_min@{k}", named("precision_min")),
    "set_P": ("precision@all", {}),
    "set_recall": ("recall@all", {}),
    "set_F": ("F1@all", named("f1")),
    "set_relative_P": ("precision_min@all", named("precision_min")),
    "num_rel_ret": ("hits@all", named("hits")),
}
OF_TABLES = {
    "11pt_avg": "the mean of eleven levels of each query's curve",
    "num_q": "the number of judged queries",
    "num_rel": "the sum of relevant",
    "num_ret": "the number of items in the lists",
    "num_nonrel_judged_ret": "num_ret with judged_only, less num_rel_ret",
    "set_map": "precision@all times recall@all",
    "utility": "relevant less irrelevant items in the list",
    "Rprec_mult": "a function of the ranks",
    "G": "a function of the ranks",
    "binG": "a function of the ranks",
    "ndcg_rel": "a function of the ranks",
    "Rndcg": "a function of the ranks",
}
OF_NOTHING = {
    "infAP": "an estimate from a sample of judgements",
    "relstring": "a text, not a number",
    "runid": "a text, not a number",
}


def pytrec_eval() -> list[Row]:
    import pytrec_eval as peer

    def theirs(problem: Problem, name: str, **options: Any) -> dict[str, list[float]]:
        found = peer.RelevanceEvaluator(problem.qrels, {name}, **options).evaluate(problem.run)
        return {key: [found[q][key] for q in problem.qrels] for key in found["0"]}

    def compared(
        name: str, own: dict[str, Any], extra: dict[str, Any], problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        label, asked = OF_TREC_EVAL[name]
        for k in (1, 4, 40) if "{k}" in label else (None,):
            full = f"{name}.{k}" if k else name
            tables = problem.of_run(ks=(k,), **asked, **extra).tables()
            for values in theirs(problem, full, **own).values():
                yield tables[label.format(k=k)], values

    def geometric_means(
        name: str, own: dict[str, Any], extra: dict[str, Any], problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        label, asked = OF_TREC_EVAL[name.removeprefix("gm_")]
        logarithms = theirs(problem, name, **own)[name]
        found = problem.of_run(**asked, **extra).summary(geometric)[label]
        yield found, peer.compute_aggregated_measure(name, logarithms)

    def interpolated(
        level: int, own: dict[str, Any], extra: dict[str, Any], problem: Problem
    ) -> Any:
        found = problem.of_run(recall_levels=11, **extra)
        some = found.relevant > 0
        values = theirs(problem, f"iprec_at_recall.{level / 10:.2f}", **own)
        if found.interpolated is not None:
            ((_, theirs_each),) = values.items()
            yield (
                found.interpolated.precision[level],
                torch.tensor(theirs_each, dtype=torch.float64)[some].mean(),
            )

    rows = []
    for name in OF_TREC_EVAL:
        rows.append(Row(name, "", DIRECT, "", partial(compared, name, {}, {})))
        level = partial(compared, name, {"relevance_level": 2}, {"relevance_level": 2})
        gained = "ndcg" in name
        if gained:  # it does nothing there
            level = partial(compared, name, {"relevance_level": 2}, {})
        note = "qrels as they are" if gained else "relevance_level="
        rows.append(Row(name, "relevance_level", DIRECT, note, level))
        judged = partial(compared, name, {"judged_docs_only_flag": True}, {"judged_only": True})
        rows.append(Row(name, "judged_docs_only_flag", DIRECT, "judged_only=", judged))
    for option, own, extra in (
        ("", {}, {}),
        ("relevance_level", {"relevance_level": 2}, {"relevance_level": 2}),
        ("judged_docs_only_flag", {"judged_docs_only_flag": True}, {"judged_only": True}),
    ):
        for name in ("gm_map", "gm_bpref"):
            means = partial(geometric_means, name, own, extra)
            rows.append(Row(name, option, DIRECT, "summary(average)", means))
        note = "recall_levels=11; the mean over queries with anything relevant"
        check = partial(interpolated, 4, own, extra)
        rows.append(Row("iprec_at_recall", option, DIRECT, note, check))
    for how, table in ((ARITHMETIC, OF_TABLES), (NOTHING, OF_NOTHING)):
        rows += [
            Row(name, option, how, note)
            for name, note in table.items()
            for option in ("", "relevance_level", "judged_docs_only_flag")
            if how == ARITHMETIC or not option
        ]
    return rows


def pytrec_eval_api() -> set[tuple[str, str]]:
    import pytrec_eval as peer

    options = list(inspect.signature(peer.RelevanceEvaluator.__init__).parameters)[3:]
    texts = ("relstring", "runid", "infAP")
    return {
        (name, option)
        for name in peer.supported_measures
        for option in ("", *(() if name in texts else options))
    }
