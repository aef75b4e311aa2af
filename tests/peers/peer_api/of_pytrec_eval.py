"""What pytrec-eval-terrier offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from drcl.metrics import measures
from peer_api.rows import DIRECT, NOTHING, Problem, Row, asked_for, geometric

# trec_eval: measure -> what a summary calls it, what asks for it, and the average.
OF_TREC_EVAL = asked_for(
    """
    map                    mAP@all
    map_cut                mAP@{k}
    P                      precision@{k}
    recall                 recall@{k}
    ndcg                   nDCG@all
    ndcg_cut               nDCG@{k}
    Rprec                  R-precision        r_precision
    recip_rank             MRR
    bpref                  bpref              bpref
    success                hit@{k}            hit
    relative_P             precision_min@{k}  precision_min
    set_P                  precision@all
    set_recall             recall@all
    set_F                  F1@all             f1
    set_relative_P         precision_min@all  precision_min
    num_rel_ret            hits@all           hits
    num_q                  num_q              num_q
    num_rel                num_rel            num_rel
    num_ret                num_ret            num_ret
    num_nonrel_judged_ret  num_nonrel@all     num_nonrel
    set_map                set_mAP@all        set_map
    utility                utility@all        utility
    11pt_avg               11pt_avg           eleven_point
    binG                   binG               binary_g
    G                      G                  normalized_g
    ndcg_rel               ndcg_rel           ndcg_at_hits
    Rndcg                  Rndcg              ndcg_at_levels
    """
)
OF_TREC_EVAL["num_nonrel_judged_ret"][1]["judged_only"] = True
# Of gains: the level does nothing there, but for Rndcg where nothing has it.
NO_LEVEL = ("ndcg", "ndcg_cut", "ndcg_rel", "Rndcg", "G")
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
        # trec_eval's Rndcg is 0 where nothing has the level.
        level = own.get("relevance_level", 1) if name == "Rndcg" else 0
        some = [q for q, one in problem.qrels.items() if max(one.values()) >= level]
        rows = list(map(int, some))
        for k in (1, 4, 40) if "{k}" in label else (None,):
            full = f"{name}.{k}" if k else name
            tables = problem.of_run(ks=(k,), **{**asked, **extra}).tables()
            for values in theirs(problem, full, **own).values():
                yield tables[label.format(k=k)][rows], [values[row] for row in rows]

    def at_multiples(
        own: dict[str, Any], extra: dict[str, Any], problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        multiples = [step / 5 for step in range(1, 11)]
        each = tuple(partial(measures.r_precision, multiple=m) for m in multiples)
        tables = problem.of_run(measures=each, **extra).tables()
        values = theirs(problem, "Rprec_mult", **own)
        for multiple in multiples:
            found = tables[f"R-precision(multiple={multiple})"]
            yield found, values[f"Rprec_mult_{multiple:.2f}"]

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
        if name in NO_LEVEL:
            level = partial(compared, name, {"relevance_level": 2}, {})
        note = "qrels as they are" if name in NO_LEVEL else "relevance_level="
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
        note = "partial(measures.r_precision, multiple=)"
        rows.append(Row("Rprec_mult", option, DIRECT, note, partial(at_multiples, own, extra)))
    return rows + [Row(name, "", NOTHING, note) for name, note in OF_NOTHING.items()]


def pytrec_eval_api() -> set[tuple[str, str]]:
    import pytrec_eval as peer

    options = list(inspect.signature(peer.RelevanceEvaluator.__init__).parameters)[3:]
    texts = ("relstring", "runid", "infAP")
    return {
        (name, option)
        for name in peer.supported_measures
        for option in ("", *(() if name in texts else options))
    }
