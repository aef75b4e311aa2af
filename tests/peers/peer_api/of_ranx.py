"""What ranx offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from drcl.metrics import measures
from peer_api.rows import DIRECT, KS, Problem, Row, asked_for

# ranx: measure -> what a summary calls it, and what asks for it.
OF_RANX = asked_for(
    """
    hits         hits@              hits
    hit_rate     hit@               hit
    precision    precision@
    recall       recall@
    f1           F1@                f1
    r-precision  R-precision        r_precision
    mrr          MRR@               reciprocal_rank
    map          mAP@
    dcg          DCG@               dcg
    dcg_burges   DCG_exponential@   dcg_exponential
    ndcg         nDCG@
    ndcg_burges  nDCG_exponential@  ndcg_exponential
    bpref        bpref              bpref
    rbp          RBP                rbp
    """
)


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

    def graded(problem: Problem) -> Iterator[tuple[Any, Any]]:
        """It adds up gains."""
        for level in (1, 2):
            asked: Any = {"measures": (partial(measures.rbp, graded=True),)}
            found = problem.of_run(relevance_level=level, **asked).tables()["RBP(graded=True)"]
            queries = list(range(len(problem.qrels)))
            yield found, theirs(problem, f"rbp.80-l{level}", queries, binary=False)

    rows = []
    for name, (called, _) in OF_RANX.items():
        rows.append(Row(name, "", DIRECT, "", partial(compared, name, (None,), 1)))
        if called.endswith("@"):
            rows.append(Row(name, "@k", DIRECT, "ks=", partial(compared, name, KS, 1)))
        level, note = partial(compared, name, (None,), 2), "relevance_level="
        if name == "rbp":
            level, note = graded, "partial(measures.rbp, graded=True), relevance_level="
        rows.append(Row(name, "-l", DIRECT, note, level))
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
