"""What ir-measures offers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drcl.metrics import measures, user_models
from drcl.metrics.trec import run_metrics
from peer_api.of_pytrec_eval import OF_NOTHING
from peer_api.rows import ARITHMETIC, DIRECT, KS, NOTHING, Problem, Row, asked_for, named

# ir-measures: measure -> what a summary calls it, and what asks for it.
OF_IR_MEASURES = asked_for(
    """
    AP       mAP@
    Bpref    bpref          bpref
    P        precision@
    R        recall@
    RR       MRR@           reciprocal_rank
    Rprec    R-precision    r_precision
    SetF     F1@all         f1
    SetP     precision@all
    SetR     recall@all
    Success  hit@           hit
    nDCG     nDCG@
    NumQ     num_q          num_q
    NumRel   num_rel        num_rel
    NumRet   num_ret        num_ret
    SetAP    set_mAP@all    set_map
    """
)
# Of the user models of cwl_eval: measure -> the function, and options of its own.
OF_USER_MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "BPM": (user_models.bpm, {"T": 1.5}),
    "INSQ": (user_models.insq, {"T": 1.5}),
    "INST": (user_models.inst, {"T": 1.5}),
    "NERR8": (user_models.nerr8, {}),
    "NERR9": (user_models.nerr9, {}),
    "NERR10": (user_models.nerr10, {"p": 0.7}),
    "NERR11": (user_models.nerr11, {"T": 1.5}),
    "SDCG": (user_models.sdcg, {}),
}
SUBTOPICS = "diversity: it needs the subtopics of each item"
OF_SUBTOPICS = ("AP_IA", "ERR_IA", "NRBP", "P_IA", "StRecall", "alpha_DCG", "alpha_nDCG", "nERR_IA")
OF_SUBTOPICS += ("nNRBP",)
NO_PROVIDER = "no provider of it computes this"


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

    def looked(name: str, option: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        """With one option other than the default, and the greatest gain, which it asks for."""
        measure, settings = OF_USER_MODELS[name]
        own, scale = {"max_rel": 3}, {"max_gain": 3}
        if option in settings:
            own[option] = scale[{"T": "target"}.get(option, option)] = settings[option]
        elif option == "min_rel":
            own[option] = scale["min_gain"] = 1
        at = "cutoff" in getattr(peer, name).SUPPORTED_PARAMS
        for k in KS if at else (None,):
            found = problem.of_run(ks=(k,), measures=(partial(measure, **scale),))
            (table,) = found.measures.values()
            cutoff = {"cutoff": k} if at else {}
            yield table.flatten(), theirs(problem, getattr(peer, name)(**own, **cutoff))

    def accuracy(option: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        """It divides by zero where all it looks at is relevant, and leaves out where nothing is."""
        level = 2 if option == "rel" else 1
        for k in KS if option == "cutoff" else (None,):
            kept = {}
            for query, scores in problem.run.items():
                first = sorted(scores, key=lambda item: -scores[item])[:k]
                hits = sum(problem.qrels[query].get(item, 0) >= level for item in first)
                if 0 < hits < len(first):
                    kept[query] = scores
            measure = peer.Accuracy(rel=level, **({"cutoff": k} if k else {}))
            values = {m.query_id: m.value for m in peer.iter_calc([measure], problem.qrels, kept)}
            found = problem.of_run(ks=(k,), relevance_level=level, **named("auroc_at_k"))
            table = found.measures["auroc_at_k"][:, 0]
            for query in problem.run:
                yield table[int(query)], values.get(query, 0.0)

    def judged(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = run_metrics(problem.run, problem.qrels, relevance_level=0, ks=(*KS, None)).tables()
        for k in (*KS, None):
            measure = peer.Judged(**({"cutoff": k} if k else {}))
            yield found[f"precision@{k or 'all'}"], theirs(problem, measure)

    def persistent(option: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        p, level = (0.5, 1) if option == "p" else (0.8, 2)
        asked = {"measures": (partial(measures.rbp, p=p),), "relevance_level": level}
        found = problem.of_run(**asked).tables()[f"RBP(p={p})"]
        yield found, theirs(problem, peer.RBP(p=p, rel=level))

    def weighted(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = problem.of_run(measures=(partial(measures.f1, weight=2.0),)).tables()
        yield found["F1(weight=2.0)@all"], theirs(problem, peer.SetF(beta=2.0))

    def relevant_of_list(problem: Problem) -> Iterator[tuple[Any, Any]]:
        found = problem.of_run(relevance_level=2, **named("hits")).tables()["hits@all"]
        yield found, theirs(problem, peer.NumRet(rel=2))

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
            if option in options and (name, option) != ("NumRet", "rel"):
                own, extra, note = options[option]
                if name == "NumRel" and option:  # its providers compute no other level's
                    own, extra, note = {"rel": 1}, {}, "relevance_level=1"
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
        Row("SetF", "beta", DIRECT, "partial(measures.f1, weight=)", weighted),
        Row("NumRet", "rel", DIRECT, 'measures=("hits",), relevance_level=', relevant_of_list),
        Row("SetP", "relative", DIRECT, 'measures=("precision_min",)', relative_precision),
        Row("ERR", "", DIRECT, "partial(measures.err, max_gain=4)", err),
        Row("ERR", "cutoff", DIRECT, "ks=", err),
    ]
    for name, why in (
        dict.fromkeys(OF_SUBTOPICS, SUBTOPICS) | {"infAP": OF_NOTHING["infAP"]}
    ).items():
        rows.append(Row(name, "", NOTHING, why))
    rows.append(Row("Compat", "", NOTHING, "the overlap with an ideal ranking, not of relevance"))
    for name, (function, _) in OF_USER_MODELS.items():
        for option in ("", *getattr(peer, name).SUPPORTED_PARAMS):
            note = f"partial(user_models.{function.__name__}, max_gain=)"
            rows.append(Row(name, option, DIRECT, note, partial(looked, name, option)))
    for option in ("", *peer.Accuracy.SUPPORTED_PARAMS):
        note = 'measures=("auroc_at_k",)'
        rows.append(Row("Accuracy", option, DIRECT, note, partial(accuracy, option)))
    for option in ("p", "rel"):
        note = "partial(measures.rbp, p=), relevance_level="
        rows.append(Row("RBP", option, DIRECT, note, partial(persistent, option)))
    rows += [
        Row("Judged", o, DIRECT, "relevance_level=0: precision@k", judged) for o in ("", "cutoff")
    ]
    rows += [Row("RBP", option, ARITHMETIC, NO_PROVIDER) for option in ("", "cutoff")]
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
