"""What ir-measures offers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drcl.metrics import measures
from peer_api.of_pytrec_eval import OF_NOTHING
from peer_api.rows import ARITHMETIC, DIRECT, KS, NOTHING, Problem, Row, named

# ir-measures: measure -> what a summary calls it, and what asks for it.
OF_IR_MEASURES: dict[str, tuple[str, dict[str, Any]]] = {
    "AP": ("mAP@", {}),
    "Bpref": ("bpref", named("bpref")),
    "P": ("precision@", {}),
    "R": ("recall@", {}),
    "RR": ("MRR@", named("reciprocal_rank")),
    "Rprec": ("R-precision", named("r_precision")),
    "SetF": ("F1@all", named("f1")),
    "SetP": ("precision@all", {}),
    "SetR": ("recall@all", {}),
    "Success": ("hit@", named("hit")),
    "nDCG": ("nDCG@", {}),
}
SUBTOPICS = "diversity: it needs the subtopics of each item"
OF_SUBTOPICS = ("AP_IA", "ERR_IA", "NRBP", "P_IA", "StRecall", "alpha_DCG", "alpha_nDCG", "nERR_IA")
OF_SUBTOPICS += ("nNRBP",)
OF_RANKS = {
    **dict.fromkeys(
        ("BPM", "INSQ", "INST", "NERR8", "NERR9", "NERR10", "NERR11", "SDCG"),
        "a function of the ranks; its provider was not installed",
    ),
    "Accuracy": "a function of the ranks: AUROC within the list",
    "Judged": "precision@k of all that was judged",
    "NumQ": "the number of judged queries",
    "NumRel": "the sum of relevant",
    "NumRet": "the number of items, or the sum of hits@all",
    "SetAP": "precision@all times recall@all",
}


def ir_measures() -> list[Row]:
    import ir_measures as peer

    def theirs(problem: Problem, measure: Any) -> Tensor:
        found = {m.query_id: m.value for m in peer.iter_calc([measure], problem.qrels, problem.run)}
        return torch.tensor([found[q] for q in problem.qrels], dtype=torch.float64)

    def compared(
        name: str, own: dict[str, Any], extra: dict[str, Any], problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        label, asked = OF_IR_MEASURES[name]
        at = "cutoff" in own or name in ("P", "R", "Success")
        for k in KS if at else (None,):
            measure = getattr(peer, name)(**{**own, **({"cutoff": k} if at else {})})
            full = label + str(k or "all") if label.endswith("@") else label
            found = problem.of_run(ks=(k,), **asked, **extra).tables()[full]
            yield found, theirs(problem, measure)

    def exponential(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = problem.of_run(ks=(4,), **named("ndcg_exponential")).tables()
        value = theirs(problem, peer.nDCG(dcg="exp-log2", cutoff=4))
        yield found["nDCG_exponential@4"].round(decimals=5), value  # it prints five digits

    def err(problem: Problem) -> Iterator[tuple[Any, Any]]:
        measure = partial(measures.err, max_gain=4)
        found = problem.of_run(ks=(4,), measures=(measure,)).tables()["ERR(max_gain=4)@4"]
        yield found.round(decimals=5), theirs(problem, peer.ERR @ 4)

    def interpolated(extra: dict[str, Any], own: dict[str, Any], problem: Problem) -> Any:
        found = problem.of_run(recall_levels=11, **extra)
        value = theirs(problem, peer.IPrec(recall=0.4, **own))[found.relevant > 0]
        if found.interpolated is not None:
            yield found.interpolated.precision[4], value.mean()

    rows = []
    options = {
        "": ({}, {}, ""),
        "cutoff": ({"cutoff": 0}, {}, "ks="),
        "rel": ({"rel": 2}, {"relevance_level": 2}, "relevance_level="),
        "judged_only": ({"judged_only": True}, {"judged_only": True}, "judged_only="),
    }
    for name in OF_IR_MEASURES:
        for option in ("", *getattr(peer, name).SUPPORTED_PARAMS):
            if option in options:
                own, extra, note = options[option]
                rows.append(Row(name, option, DIRECT, note, partial(compared, name, own, extra)))
    for option, own in (
        ("", {}),
        ("recall", {}),
        ("rel", {"rel": 2}),
        ("judged_only", {"judged_only": True}),
    ):
        extra = {"rel": {"relevance_level": 2}, "judged_only": own}.get(option, {})
        note = "recall_levels=11; the mean over queries with anything relevant"
        rows.append(Row("IPrec", option, DIRECT, note, partial(interpolated, extra, own)))
    rows += [
        Row("nDCG", "dcg", DIRECT, 'measures=("ndcg_exponential",)', exponential),
        Row("nDCG", "gains", ARITHMETIC, "qrels with these gains"),
        Row("SetF", "beta", ARITHMETIC, "of precision@all and recall@all"),
        Row("SetP", "relative", DIRECT, 'measures=("precision_min",)', relative_precision),
        Row("ERR", "", DIRECT, "partial(measures.err, max_gain=4)", err),
        Row("ERR", "cutoff", DIRECT, "ks=", err),
    ]
    for name, why in (
        dict.fromkeys(OF_SUBTOPICS, SUBTOPICS) | {"infAP": OF_NOTHING["infAP"]}
    ).items():
        rows.append(Row(name, "", NOTHING, why))
    rows.append(Row("Compat", "", NOTHING, "the overlap with an ideal ranking, not of relevance"))
    for name, why in OF_RANKS.items():
        rows += [Row(name, o, ARITHMETIC, why) for o in ("", *getattr(peer, name).SUPPORTED_PARAMS)]
    for option in ("", *peer.RBP.SUPPORTED_PARAMS):
        rows.append(
            Row(
                "RBP",
                option,
                ARITHMETIC,
                "partial(measures.rbp, p=p), binary; its provider was not installed",
            )
        )
    return rows


def relative_precision(problem: Problem) -> Iterator[tuple[Any, Any]]:
    import ir_measures as peer

    measure = peer.SetP(relative=True)
    values = {m.query_id: m.value for m in peer.iter_calc([measure], problem.qrels, problem.run)}
    found = problem.of_run(**named("precision_min")).tables()["precision_min@all"]
    yield found, [values[q] for q in problem.qrels]


def ir_measures_api() -> set[tuple[str, str]]:
    from ir_measures import measures as peer

    once = {*OF_SUBTOPICS, "infAP", "Compat"}  # not expressible, whatever their options
    return {
        (name, option)
        for name, one in vars(peer).items()
        if isinstance(one, peer.Measure) and name == str(one)
        for option in ("", *(() if name in once else one.SUPPORTED_PARAMS))
    }
