"""Every measure and option that the libraries offer, and how each is had here.

``direct`` is one call; ``by arithmetic`` needs a function of the ranks or of the tables, which
``measures=`` and ``summary`` take; ``not expressible`` has a reason. What is direct carries a check
against the library itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drcl import metrics
from drcl.metrics import measures, trec

KINDS = ("direct", "by arithmetic", "not expressible")
DIRECT, ARITHMETIC, NOTHING = KINDS
KS = (1, 4, 40)  # the last is beyond every set
SINGLE, DOUBLE = 1e-6, 1e-12


class Row(NamedTuple):
    """A measure with one of its options ("" for none), how it is had here, by which call or why
    not; ``check`` yields our values beside theirs, for the problems that are mixed or for all."""

    measure: str
    option: str
    how: str
    note: str
    check: Callable[[Problem], Iterator[tuple[Any, Any]]] | None = None
    mixed: bool = False


@dataclass(frozen=True, eq=False)
class Problem:
    """Queries over ranked items whose scores all differ; gains 0 to 3.

    The first query finds nothing relevant, the second a single item, and, but where ``mixed``, the
    third nothing else. Not every item is judged, nor found, where runs are made of it.
    """

    size: int
    mixed: bool = False

    @cached_property
    def scores(self) -> Tensor:
        draw = np.random.default_rng(self.size)
        rows = [draw.permutation(self.size) + 1 for _ in range(7)]
        return torch.from_numpy(np.stack(rows)).double() / (self.size + 1)

    @cached_property
    def gains(self) -> Tensor:
        draw = torch.Generator().manual_seed(self.size)
        gains = torch.randint(4, (7, self.size), generator=draw)
        gains *= torch.rand(7, self.size, generator=draw) < 0.6
        gains[:3] = torch.tensor([0, 0, 1])[:, None]
        gains[1, self.size // 2] = 2
        if self.mixed:
            gains[gains.bool().all(dim=1), 0] = 0
        return gains

    def ours(self, **options: Any) -> metrics.RetrievalMetrics:
        """The scores are products with one-hot queries."""
        given = {"relevance": lambda rows: self.gains[rows], "metric": "dot", **options}
        return metrics.retrieval_metrics(torch.eye(7).double(), self.scores.T, **given)

    @cached_property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgements of all items but every fifth, and of two that no list has."""
        return {
            str(q): {f"d{j:02d}": g for j, g in enumerate(row) if j % 5 != 3}
            | ({"x": 1, "y": 0} if any(row) else {"y": 0})
            for q, row in enumerate(self.gains.tolist())
        }

    @cached_property
    def run(self) -> dict[str, dict[str, float]]:
        return {
            str(q): {f"d{j:02d}": score for j, score in enumerate(row)}
            for q, row in enumerate(self.scores.tolist())
        }

    def of_run(self, **options: Any) -> metrics.RetrievalMetrics:
        return trec.run_metrics(self.run, self.qrels, adaptive_k=False, **options)


ALL = (Problem(1), Problem(6), Problem(31))
MIXED = (Problem(6, mixed=True), Problem(31, mixed=True))


def problems(row: Row) -> tuple[Problem, ...]:
    return MIXED if row.mixed else ALL


def geometric(values: Tensor) -> Tensor:
    """trec_eval's: values count 0.00001 at least."""
    return values.clamp(min=1e-5).log().mean().exp()


def named(measure: str) -> dict[str, Any]:
    return {"measures": (measure,)}


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

    def without_ignored(problem: Problem) -> Iterator[tuple[Any, Any]]:
        name, left_out = "RetrievalPrecisionRecallCurve", lambda rows: problem.gains[rows] == 2
        target = (problem.gains > 0).long().masked_fill(problem.gains == 2, -1)
        if bool((target == -1).all(dim=1).any()):
            return
        found = problem.ours(ks=(2,), excluded=left_out, adaptive_k=False).summary()
        precision, recall, _ = theirs(name, problem, target, max_k=2, ignore_index=-1)
        yield [found["precision@2"], found["recall@2"]], [precision[1], recall[1]]

    def curves(given: list[tuple[Any, ...]], problem: Problem) -> Iterator[tuple[Any, Any]]:
        for own, extra, average in given:
            most = own.get("max_k") or problem.size
            found = problem.ours(ks=range(1, most + 1), **{"adaptive_k": False, **extra})
            means = found.summary(average)
            precision, recall, _ = theirs("RetrievalPrecisionRecallCurve", problem, **own)
            for one, name in ((precision, "precision"), (recall, "recall")):
                yield [means[f"{name}@{k}"] for k in range(1, most + 1)], one

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
        if name == "RetrievalFallOut":
            why = "a query without irrelevant items has 0 here, and counts"
            rows.append(Row(name, "empty_target_action", ARITHMETIC, why))
        elif name == "RetrievalAUROC":
            why = "a query without irrelevant items is left out here"
            rows.append(Row(name, "empty_target_action", ARITHMETIC, why))
        else:
            given = [
                ({"empty_target_action": a}, {"no_relevant": b}, None, "mean")
                for a, b in RULES.items()
            ]
            rows.append(
                Row(name, "empty_target_action", DIRECT, "no_relevant=", partial(check, given))
            )
        if name not in ("RetrievalRPrecision", "RetrievalAUROC"):
            given = [({"top_k": k}, {}, k, "mean") for k in KS]
            rows.append(Row(name, "top_k", DIRECT, "ks=", partial(check, given), mixed))
    of_ranks = "a function of the ranks"
    rows += [
        Row("RetrievalAUROC", "top_k", ARITHMETIC, of_ranks),
        Row("RetrievalAUROC", "max_fpr", ARITHMETIC, of_ranks),
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
    rows.append(Row(name, "ignore_index", DIRECT, "excluded=", without_ignored))
    for option in (
        "",
        "min_precision",
        "max_k",
        "adaptive_k",
        "empty_target_action",
        "ignore_index",
    ):
        why = "the largest of a summary's recall@k whose precision@k is high enough"
        rows.append(Row("RetrievalRecallAtFixedPrecision", option, ARITHMETIC, why))
    return rows


def torchmetrics_api() -> set[tuple[str, str]]:
    from torchmetrics import retrieval as peer

    return {
        (name, option)
        for name in peer.__all__
        for option in ("", *inspect.signature(getattr(peer, name).__init__).parameters)
        if option not in ("self", "kwargs")
    }


# ranx: measure -> what a summary calls it, and what asks for it.
OF_RANX: dict[str, tuple[str, dict[str, Any]]] = {
    "hits": ("hits@", named("hits")),
    "hit_rate": ("hit@", named("hit")),
    "precision": ("precision@", {}),
    "recall": ("recall@", {}),
    "f1": ("F1@", named("f1")),
    "r-precision": ("R-precision", named("r_precision")),
    "mrr": ("MRR@", named("reciprocal_rank")),
    "map": ("mAP@", {}),
    "dcg": ("DCG@", named("dcg")),
    "dcg_burges": ("DCG_exponential@", named("dcg_exponential")),
    "ndcg": ("nDCG@", {}),
    "ndcg_burges": ("nDCG_exponential@", named("ndcg_exponential")),
    "bpref": ("bpref", named("bpref")),
    "rbp": ("RBP", named("rbp")),
}


def ranx() -> list[Row]:
    from ranx import Qrels, Run, evaluate

    def theirs(problem: Problem, name: str, queries: list[int], binary: bool) -> Any:
        qrels = {str(q): problem.qrels[str(q)] for q in queries}
        if binary:
            qrels = {q: {d: int(g > 0) for d, g in one.items()} for q, one in qrels.items()}
        run = {q: problem.run[q] for q in qrels}
        return evaluate(Qrels(qrels), Run(run), name, return_mean=False) if qrels else []

    def compared(
        name: str, ks: tuple[int | None, ...], level: int, problem: Problem
    ) -> Iterator[tuple[Any, Any]]:
        called, asked = OF_RANX[name]
        for k in ks:
            full = name + (".80" if name == "rbp" else "") + (f"@{k}" if k else "")
            full += f"-l{level}" if level > 1 else ""
            label = called + str(k or "all") if called.endswith("@") else called
            found = problem.of_run(ks=(k,), relevance_level=level, **asked).tables()[label]
            # One that has no relevant item, or no irrelevant one, makes its bpref 0 for all.
            queries = [
                q
                for q, one in enumerate(problem.qrels.values())
                if name != "bpref" or len({gain >= level for gain in one.values()}) == 2
            ]
            yield found[queries], theirs(problem, full, queries, binary=name == "rbp")

    rows = []
    for name, (called, _) in OF_RANX.items():
        rows.append(Row(name, "", DIRECT, "", partial(compared, name, (None,), 1)))
        if called.endswith("@"):
            rows.append(Row(name, "@k", DIRECT, "ks=", partial(compared, name, KS, 1)))
        if name == "rbp":
            rows.append(
                Row(name, "-l", ARITHMETIC, "it adds up gains: here relevance is yes or no")
            )
            continue
        level = partial(compared, name, (None,), 2)
        rows.append(Row(name, "-l", DIRECT, "relevance_level=", level))
    rows.append(
        Row("rbp", ".p", DIRECT, "partial(measures.rbp, p=p)", partial(compared, "rbp", (None,), 1))
    )
    return rows


def ranx_api() -> set[tuple[str, str]]:
    """Of its measures those that take k and a level by their signatures."""
    from ranx.metrics import metric_switch

    source = inspect.getsource(metric_switch)
    names = {line.split('"')[1] for line in source.splitlines() if "metric == " in line}
    found = set()
    for name in names:
        parameters = inspect.signature(metric_switch(name)).parameters
        found |= {(name, ""), (name, "-l")} if "rel_lvl" in parameters else {(name, "")}
        found |= (
            {(name, "@k")} if "k" in parameters and name not in ("bpref", "r-precision") else set()
        )
        found |= {(name, ".p")} if "p" in parameters else set()
    return found


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


class Classes:
    """Embeddings of classes, one of which no other row has."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(5)
        self.query, self.gallery = (torch.randn(n, 6, generator=draw) for n in (13, 40))
        self.query_labels, self.gallery_labels = torch.arange(13) % 5, torch.arange(40) % 4


def beside(x: Tensor, y: Tensor) -> Tensor:
    """Of classes beside one another, in a shape that pytorch-metric-learning takes."""
    return (x - y).abs() == 1


# pytorch-metric-learning: measure -> what a summary calls it, what asks for it, and it at a k.
OF_METRIC_LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "precision_at_1": ("hit@1", {"ks": (1,), **named("hit")}),
    "r_precision": ("R-precision", named("r_precision")),
    "mean_average_precision": ("mAP@all", {}),
    "mean_average_precision_at_r": ("mAP@R", named("ap_at_r")),
    "mean_reciprocal_rank": ("MRR", {}),
}


def pytorch_metric_learning() -> list[Row]:
    from pytorch_metric_learning import distances
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    sets = Classes()
    labels = sets.query_labels, sets.gallery_labels

    def theirs(name: str, distance: Any = None, itself: bool = False, **options: Any) -> Any:
        calculator = AccuracyCalculator(
            include=(name, "precision_at_1"),  # the reciprocal rank cannot be asked for alone
            device=torch.device("cpu"),
            knn_func=CustomKNN(distance or distances.CosineSimilarity()),
            **options,
        )
        sides = (sets.gallery, labels[1]) if itself else (sets.query, labels[0])
        rest = (sets.gallery, labels[1], True) if itself else (sets.gallery, labels[1])
        return calculator.get_accuracy(*sides, *rest)[name]

    def ours(itself: bool = False, **options: Any) -> metrics.RetrievalMetrics:
        given = {"no_relevant": "skip", **options}
        if itself:
            sides = sets.gallery, sets.gallery, labels[1], labels[1]
            return metrics.retrieval_metrics(*sides, exclude_self=True, **given)
        return metrics.retrieval_metrics(sets.query, sets.gallery, *labels, **given)

    def compared(name: str, option: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        label, asked = OF_METRIC_LEARNING[name]
        if option == "k":
            k = {"mean_average_precision": ("mAP@7", {"ks": (7,), "divisor": "relevant"})}
            k["mean_reciprocal_rank"] = ("MRR@7", {"ks": (7,), **named("reciprocal_rank")})
            label, asked = k.get(name, (label, asked))
            yield ours(**asked).summary()[label], theirs(name, k=7)
        elif option == "avg_of_avgs":
            found = ours(**asked).summary("class_mean", classes=labels[0])
            yield found[label], theirs(name, avg_of_avgs=True)
        elif option == "return_per_class":
            found = [one[label] for one in ours(**asked).by_class(labels[0]).values()]
            yield found, theirs(name, return_per_class=True)
        elif option == "ref_includes_query":
            yield ours(itself=True, **asked).summary()[label], theirs(name, itself=True)
        elif option == "label_comparison_fn":
            near = beside(labels[0][:, None], labels[1])
            given = {"no_relevant": "skip", "relevance": near, **asked}
            found = metrics.retrieval_metrics(sets.query, sets.gallery, **given).summary()[label]
            compare = theirs(name, label_comparison_fn=beside)
            yield found, compare
        elif option == "knn_func":
            for metric, distance in (
                ("dot", distances.DotProductSimilarity(normalize_embeddings=False)),
                ("euclidean", distances.LpDistance(normalize_embeddings=False)),
            ):
                yield ours(metric=metric, **asked).summary()[label], theirs(name, distance)
        else:
            yield ours(**asked).summary()[label], theirs(name)

    notes = {
        "": 'no_relevant="skip"',
        "k": "ks=",
        "avg_of_avgs": 'summary("class_mean", classes=)',
        "return_per_class": "by_class(labels)",
        "label_comparison_fn": "relevance=",
        "knn_func": "metric=",
        "ref_includes_query": "exclude_self=True",
    }
    rows = []
    for name in OF_METRIC_LEARNING:
        for option, note in notes.items():
            if option == "k" and name in ("r_precision", "mean_average_precision_at_r"):
                rows.append(
                    Row(name, option, ARITHMETIC, "a function of the ranks: its k cuts R too")
                )
            else:
                rows.append(Row(name, option, DIRECT, note, partial(compared, name, option)))
    for name in ("AMI", "NMI"):
        rows.append(Row(name, "", NOTHING, "of a clustering, not of a ranking"))
    return rows


def pytorch_metric_learning_api() -> set[tuple[str, str]]:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator as Peer

    given = [
        *inspect.signature(Peer.__init__).parameters,
        *inspect.signature(Peer.get_accuracy).parameters,
    ]
    sides = {"query", "query_labels", "reference", "reference_labels", "include", "exclude"}
    options = set(given) - sides - {"self", "device", "kmeans_func"}
    found = set()
    for name in dir(Peer):
        if name.startswith("calculate_"):
            measure = name.removeprefix("calculate_")
            clustering = measure in ("AMI", "NMI")
            found |= {(measure, option) for option in ("", *(() if clustering else options))}
    return found


class Lookup:
    """In the place of a model: the embedding of a text is that under its name."""

    def __init__(self, **rows: Tensor) -> None:
        self.rows = {f"{side}{i}": row for side, x in rows.items() for i, row in enumerate(x)}

        self.model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *found: None)

    def encode(self, texts: Any, **options: Any) -> Tensor:
        found = [self.rows[text] for text in texts]
        return torch.stack(found) if options.get("convert_to_tensor") else found

    encode_query = encode_document = encode


OF_INFORMATION_RETRIEVAL = {
    "mrr_at_k": ("mrr@k", "MRR", named("reciprocal_rank")),
    "ndcg_at_k": ("ndcg@k", "nDCG", {"ndcg": True}),
    "accuracy_at_k": ("accuracy@k", "hit", named("hit")),
    "precision_recall_at_k": ("precision@k", "precision", {"adaptive_k": False}),
    "map_at_k": ("map@k", "mAP", {"divisor": "min"}),
}
OTHER_EVALUATORS = {
    "NanoBEIREvaluator": (
        ARITHMETIC,
        "the mean over data sets of what the information retrieval is",
    ),
    "TripletEvaluator": (ARITHMETIC, "of two distances, without a gallery"),
    **dict.fromkeys(
        ("BinaryClassificationEvaluator", "ParaphraseMiningEvaluator"),
        (NOTHING, "of thresholds of pairs, not of a ranking"),
    ),
    "EmbeddingSimilarityEvaluator": (NOTHING, "of correlations with scores, not of relevance"),
    "LabelAccuracyEvaluator": (NOTHING, "of a classifier, not of a ranking"),
    **dict.fromkeys(
        ("MSEEvaluator", "MSEEvaluatorFromDataFrame"),
        (NOTHING, "of errors of embeddings, not of a ranking"),
    ),
}


def sentence_transformers() -> list[Row]:
    import sentence_transformers.sentence_transformer.evaluation as peer
    from sentence_transformers import util

    def retrieval(name: str, metric: str, problem: Problem) -> Iterator[tuple[Any, Any]]:
        theirs, ours, asked = OF_INFORMATION_RETRIEVAL[name]
        queries = [i for i, row in enumerate(problem.gains) if row.any()]
        x, y = torch.eye(7).double()[queries], problem.scores.T
        evaluator = peer.InformationRetrievalEvaluator(
            queries={str(i): f"q{i}" for i in queries},
            corpus={str(j): f"d{j}" for j in range(problem.size)},
            relevant_docs={
                str(i): set(map(str, problem.gains[i].nonzero()[:, 0].tolist())) for i in queries
            },
            score_functions={"score": util.dot_score if metric == "dot" else util.cos_sim},
            write_csv=False,
            **{name: list(KS)},
        )
        model = Lookup(q=torch.eye(7).double(), d=y)
        found = evaluator.compute_all_metrics(model, corpus_embeddings=y)["score"][theirs]
        means = metrics.retrieval_metrics(
            x,
            y,
            relevance=lambda rows: problem.gains[queries][rows] > 0,
            metric=metric,
            ks=KS,
            **asked,
        ).summary()
        yield [means[f"{ours}@{k}"] for k in KS], [float(found[k]) for k in KS]

    def reranking(option: str, batched: bool, problem: Problem) -> Iterator[tuple[Any, Any]]:
        """Each query has candidates of its own: the items of its group."""
        draw = torch.Generator().manual_seed(problem.size)
        x, y = (torch.randn(n, 5, generator=draw).double() for n in (6, 60))
        relevant = (torch.arange(60) % 10 < 3)[None].expand(6, 60)
        samples = [
            {
                "query": f"q{i}",
                "positive": [f"d{10 * i + j}" for j in range(3)],
                "negative": [f"d{10 * i + j}" for j in range(3, 10)],
            }
            for i in range(6)
        ]
        evaluator = peer.RerankingEvaluator(
            samples, at_k=4, write_csv=False, use_batched_encoding=batched
        )
        found = evaluator.compute_metrics(Lookup(q=x, d=y))
        means = metrics.retrieval_metrics(
            *(x, y),
            relevance=relevant.clone(),
            query_groups=torch.arange(6),
            gallery_groups=torch.arange(60) // 10,
            ks=(4, None),
            measures=("reciprocal_rank",),
            ndcg=True,
        ).summary()
        ours = [means["mAP@all"], means["MRR@4"], means["nDCG@4"]]
        yield ours, [found["map"], found["mrr"], found["ndcg"]]

    def translation(problem: Problem) -> Iterator[tuple[Any, Any]]:
        draw = torch.Generator().manual_seed(problem.size)
        x, y = (torch.randn(30, 3, generator=draw).double() for _ in range(2))
        y += x
        evaluator = peer.TranslationEvaluator(
            [f"x{i}" for i in range(30)], [f"y{i}" for i in range(30)], write_csv=False
        )
        found = evaluator(Lookup(x=x, y=y))
        pairs = torch.arange(30).repeat(2, 1).T
        for name, (one, other) in {"src2trg": (x, y), "trg2src": (y, x)}.items():
            value = metrics.hit_at_k(one, other, relevance=pairs, k=1)
            yield value, found[f"{name}_accuracy"]

    name = "InformationRetrievalEvaluator"
    rows = [
        Row(name, option, DIRECT, f"{ours}@k", partial(retrieval, option, "dot"))
        for option, (_, ours, _) in OF_INFORMATION_RETRIEVAL.items()
    ]
    rows += [
        Row(name, "score_functions", DIRECT, "metric=", partial(retrieval, "map_at_k", "cosine")),
        Row("RerankingEvaluator", "", DIRECT, "gallery_groups=", partial(reranking, "", True)),
        Row("RerankingEvaluator", "at_k", DIRECT, "ks=", partial(reranking, "at_k", False)),
        Row("TranslationEvaluator", "", DIRECT, "hit_at_k", translation),
    ]
    return rows + [Row(name, "", how, why) for name, (how, why) in OTHER_EVALUATORS.items()]


def sentence_transformers_api() -> set[tuple[str, str]]:
    """Its evaluators; of options those of a cut-off or a score."""
    import sentence_transformers.sentence_transformer.evaluation as peer

    found = set()
    for name in peer.__all__:
        one = getattr(peer, name)
        if name in (
            "BaseEvaluator",
            "SentenceEvaluator",
            "SequentialEvaluator",
            "SimilarityFunction",
        ):
            continue  # they are of others, or none
        options = {"", *inspect.signature(one.__init__).parameters}
        if name == "InformationRetrievalEvaluator":
            found |= {(name, o) for o in options if o.endswith("at_k") or o == "score_functions"}
        elif name == "RerankingEvaluator":
            found |= {(name, o) for o in options if o in ("", "at_k")}
        else:
            found.add((name, ""))
    return found


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


class Api(NamedTuple):
    """What a library offers, found in it, and how that is had here."""

    offered: Callable[[], set[tuple[str, str]]]
    rows: Callable[[], list[Row]]


APIS = {
    "torchmetrics": Api(torchmetrics_api, torchmetrics),
    "pytorch-metric-learning": Api(pytorch_metric_learning_api, pytorch_metric_learning),
    "ranx": Api(ranx_api, ranx),
    "open-metric-learning": Api(open_metric_learning_api, open_metric_learning),
    "ir-measures": Api(ir_measures_api, ir_measures),
    "pytrec-eval-terrier": Api(pytrec_eval_api, pytrec_eval),
    "sentence-transformers": Api(sentence_transformers_api, sentence_transformers),
}


def counts(name: str) -> dict[str, Any]:
    """How many measures with an option there are of each kind, and why not all are direct."""
    rows = APIS[name].rows()
    reasons = {
        kind: {
            f"`{measure}`: {note}": sum(
                (row.measure, row.how, row.note) == (measure, kind, note) for row in rows
            )
            for measure, note in dict.fromkeys((r.measure, r.note) for r in rows if r.how == kind)
        }
        for kind in (ARITHMETIC, NOTHING)
    }
    return {DIRECT: sum(row.how == DIRECT for row in rows), **reasons}
