"""Seven libraries, and how each computes the measures that it shares with ``drcl.metrics``.

An adapter takes a :class:`peer_sets.Case` and yields, for each measure and cut-off, either both
values (:class:`Check`) or why the library has none to compare (:class:`Left`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from typing import Any, NamedTuple

import torch
from peer_sets import SEEDS, Case, case
from torch import Tensor

from drcl.metrics import RetrievalMetrics

SINGLE, DOUBLE = 1e-6, 1e-12  # what a library computes in

ORDER = "tied scores: it leaves their order open"


class Check(NamedTuple):
    """A measure of every query, or its mean, found by both."""

    measure: str
    k: int | None
    ours: Tensor
    theirs: Tensor
    tolerance: float | None = None  # if not the library's


class Left(NamedTuple):
    """Measures that the library cannot be asked for, or does not define."""

    reason: str
    measures: int


Adapter = Callable[[Case], Iterator["Check | Left"]]


def hits(case: Case, k: int | None) -> Tensor:
    """Whether anything relevant is among the first k."""
    first = case.ours(k).first_rank
    return ((first > 0) & (first <= (case.items if k is None else k))).double()


def reciprocal_rank(ours: RetrievalMetrics, k: int | None) -> Tensor:
    """That of the first relevant item if it is among the first k, else 0."""
    found = ours.reciprocal_rank
    return found if k is None else found.masked_fill(ours.first_rank > k, 0.0)


def ndcg(case: Case, k: int | None, ties: str = "index") -> Tensor:
    found = case.ours(k, ties=ties).ndcg
    assert found is not None
    return found[:, 0]


def precision(case: Case, k: int | None, theirs: Tensor) -> Check:
    """Precision of a library that always divides by k."""
    return Check("precision", k, case.ours(k, adaptive_k=False).precision[:, 0], theirs)


def torchmetrics(case: Case) -> Iterator[Check | Left]:
    """Its functions, query by query; its classes are the means of these."""
    from torchmetrics.functional import retrieval as peer

    # It takes scores of 0 or less as relevant to nothing, so it is given the order as 1, 2, …
    scores = case.levels.float()
    # Its discounts are differences of their running sum in float32: they round like the sum, not
    # like a number below 1.
    discounts = (1 / torch.arange(2, case.items + 2).double().log2()).sum()
    rounding = max(SINGLE, torch.finfo(torch.float32).eps * float(discounts))

    for k in case.ks:

        def each(
            name: str, target: Tensor = case.relevant, top_k: int | None = k, **options: Any
        ) -> Tensor:
            function = getattr(peer, f"retrieval_{name}")
            rows = zip(scores, target, strict=True)
            return torch.stack([function(s, t, top_k=top_k, **options) for s, t in rows]).double()

        ties = "average" if case.tied else "index"
        theirs = each("normalized_dcg", case.gains)
        yield Check("nDCG", k, ndcg(case, k, ties), theirs, tolerance=rounding)
        if case.tied:
            yield Left(ORDER, 5)
            continue
        ours = case.ours(k)
        yield Check("AP", k, ours.average_precision[:, 0], each("average_precision"))
        yield Check("recall", k, ours.recall[:, 0], each("recall"))
        yield Check("hit", k, hits(case, k), each("hit_rate"))
        yield Check("RR", k, reciprocal_rank(ours, k), each("reciprocal_rank"))
        yield precision(case, k, each("precision"))
        if k is not None and k > case.items:
            yield Check("precision", k, ours.precision[:, 0], each("precision", adaptive_k=True))


def pytorch_metric_learning(case: Case) -> Iterator[Check | Left]:
    """Its calculator with its exact search, the mean over the queries with anything relevant."""
    from pytorch_metric_learning import distances
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    distance = {
        "cosine": distances.CosineSimilarity(),
        "dot": distances.DotProductSimilarity(normalize_embeddings=False),
        "euclidean": distances.LpDistance(normalize_embeddings=False),
    }[case.metric]
    measures = {"mean_average_precision": "AP", "mean_reciprocal_rank": "RR"}
    for k in case.ks:
        asked = measures | ({"precision_at_1": "precision"} if k == 1 else {})
        if "relevance" in case.relevance:
            yield Left("pairs: it takes labels", len(asked))
        elif case.tied:
            yield Left(ORDER, len(asked))
        elif k is not None and k > case.items:
            yield Left("k beyond the gallery: its exact search finds no more items", len(asked))
        else:
            labels = case.relevance["query_labels"], case.relevance["gallery_labels"]
            calculator = AccuracyCalculator(
                include=tuple(asked),
                k=k,
                device=torch.device("cpu"),
                knn_func=CustomKNN(distance),
                label_comparison_fn=share_a_label if labels[0].ndim == 2 else None,
            )
            found = calculator.get_accuracy(case.query, labels[0], case.gallery, labels[1])
            ours = case.ours(k, divisor="relevant", no_relevant="skip")
            values = {
                "AP": ours.average_precision[:, 0],
                "RR": reciprocal_rank(ours, k),
                "precision": ours.precision[:, 0],
            }
            for name, measure in asked.items():
                # NaN where no query has anything relevant, there as here
                yield Check(measure, k, values[measure].nanmean(), torch.tensor(found[name]))


def share_a_label(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=-1) > 0


def ranx(case: Case) -> Iterator[Check | Left]:
    """Its compiled measures, on lists that are already ranked."""
    import numpy as np
    from numba.typed import List
    from ranx import evaluate

    runs: Any = List()
    relevant: Any = List()
    for gains, levels, order in zip(case.gains, case.levels, case.order, strict=True):
        ideal = gains.argsort(descending=True, stable=True)[: int((gains > 0).sum())]
        relevant.append(np.stack([ideal.numpy(), gains[ideal].numpy()], axis=1).astype(float))
        runs.append(np.stack([order.numpy(), levels[order].numpy()], axis=1).astype(float))
    for k in case.ks:
        at = "" if k is None else f"@{k}"
        names = ("map", "recall", "precision", "hit_rate", "mrr", "ndcg")
        found = evaluate(relevant, runs, [f"{name}{at}" for name in names], return_mean=False)
        theirs = {name: torch.from_numpy(found[f"{name}{at}"]) for name in names}
        ours = case.ours(k, divisor="relevant")
        yield Check("AP", k, ours.average_precision[:, 0], theirs["map"])
        yield Check("recall", k, ours.recall[:, 0], theirs["recall"])
        yield Check("hit", k, hits(case, k), theirs["hit_rate"])
        yield Check("RR", k, reciprocal_rank(ours, k), theirs["mrr"])
        yield Check("nDCG", k, ndcg(case, k), theirs["ndcg"])
        yield precision(case, k, theirs["precision"])


def open_metric_learning(case: Case) -> Iterator[Check | Left]:
    """Its measures of ranked ids."""
    from oml.functional.metrics import calc_retrieval_metrics

    ks = [case.items if k is None else k for k in case.ks]
    found = calc_retrieval_metrics(
        retrieved_ids=list(case.order),
        gt_ids=[row.nonzero()[:, 0] for row in case.relevant],
        cmc_top_k=tuple(ks),
        precision_top_k=tuple(ks),
        map_top_k=tuple(ks),
        reduce=False,
        verbose=False,
    )
    for k, at in zip(case.ks, ks, strict=True):
        ours = case.ours(k)
        yield Check("AP", k, ours.average_precision[:, 0], found["map"][at].double())
        yield Check("hit", k, hits(case, k), found["cmc"][at].double())
        # 0/0 where nothing is relevant
        least = case.ours(k, no_relevant="skip", measures=("precision_min",)).measures
        yield Check("precision", k, least["precision_min"][:, 0], found["precision"][at].double())


def trec(case: Case, first: bool) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and run of trec_eval's kind.

    Of tied items the one whose name comes last in the alphabet is ranked first, by others the
    one whose name comes ``first``: named so that it is the one of the lowest index.
    """
    names = [f"{j if first else case.items - j:03d}" for j in range(case.items)]
    queries = [str(i) for i in range(len(case.query))]
    judged = {
        q: dict(zip(names, row, strict=True))
        for q, row in zip(queries, case.gains.tolist(), strict=True)
    }
    run = {
        q: dict(zip(names, row, strict=True))
        for q, row in zip(queries, case.levels.tolist(), strict=True)
    }
    return judged, run


def pytrec_eval(case: Case) -> Iterator[Check | Left]:
    """trec_eval itself, called from Python."""
    import pytrec_eval as peer

    judged, run = trec(case, first=False)

    def each(name: str) -> Tensor:
        found = peer.RelevanceEvaluator(judged, {name}).evaluate(run)
        return torch.tensor([found[q][name] for q in run], dtype=torch.float64)

    for k in case.ks:
        ours = case.ours(k, divisor="relevant")
        at = "" if k is None else f"_cut_{k}"
        yield Check("AP", k, ours.average_precision[:, 0], each(f"map{at}"))
        yield Check("nDCG", k, ndcg(case, k), each(f"ndcg{at}"))
        if k is None:
            yield Check("RR", k, reciprocal_rank(ours, k), each("recip_rank"))
            continue
        yield Left("reciprocal rank within k: its own is of the whole ranking", 1)
        yield Check("recall", k, ours.recall[:, 0], each(f"recall_{k}"))
        yield Check("hit", k, hits(case, k), each(f"success_{k}"))
        yield precision(case, k, each(f"P_{k}"))


def ir_measures(case: Case) -> Iterator[Check | Left]:
    """The evaluator that it chooses for each measure: trec_eval or MS MARCO's."""
    import ir_measures as peer

    judged, run = trec(case, first=False)
    # MS MARCO's ranks tied items in the order of their names, trec_eval in the opposite one.
    marco_judged, marco_run = trec(case, first=True)

    def each(measure: Any, marco: bool = False) -> Tensor:
        tables = (marco_judged, marco_run) if marco else (judged, run)
        found = {m.query_id: m.value for m in peer.iter_calc([measure], *tables)}
        return torch.tensor([found[q] for q in run], dtype=torch.float64)

    for k in case.ks:
        ours = case.ours(k, divisor="relevant")
        at = (lambda measure: measure) if k is None else (lambda measure, k=k: measure @ k)
        yield Check("AP", k, ours.average_precision[:, 0], each(at(peer.AP)))
        yield Check("nDCG", k, ndcg(case, k), each(at(peer.nDCG)))
        yield Check("RR", k, reciprocal_rank(ours, k), each(at(peer.RR), marco=k is not None))
        if k is None:
            continue
        yield Check("recall", k, ours.recall[:, 0], each(peer.R @ k))
        yield Check("hit", k, hits(case, k), each(peer.Success @ k))
        yield precision(case, k, each(peer.P @ k))


class Embeddings:
    """In the place of a model: the embeddings of the queries are those given."""

    def __init__(self, query: Tensor) -> None:
        self.query = query

    def encode_query(self, sentences: Any, **options: Any) -> Tensor:
        return self.query


def sentence_transformers(case: Case) -> Iterator[Check | Left]:
    """Its evaluator, from embeddings to the mean over queries."""
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    score = {
        "cosine": util.cos_sim,
        "dot": util.dot_score,
        "euclidean": util.euclidean_sim,
    }[case.metric]
    # A query with nothing relevant is a division by zero there.
    asked = [i for i, row in enumerate(case.relevant) if row.any()]
    ks = [case.items if k is None else k for k in case.ks]
    if not asked:
        yield Left("no query with anything relevant", 6 * len(ks))
        return
    once = sorted(set(ks))  # one that comes twice is counted twice
    evaluator = InformationRetrievalEvaluator(
        queries={str(i): "" for i in asked},
        corpus={f"{j:03d}": "" for j in range(case.items)},
        relevant_docs={
            str(i): {f"{j:03d}" for j in case.relevant[i].nonzero()[:, 0].tolist()} for i in asked
        },
        mrr_at_k=once,
        ndcg_at_k=once,
        accuracy_at_k=once,
        precision_recall_at_k=once,
        map_at_k=once,
        score_functions={"score": score},
        write_csv=False,
    )
    found = evaluator.compute_all_metrics(
        Embeddings(case.query[asked]), corpus_embeddings=case.gallery
    )["score"]
    for k, at in zip(case.ks, ks, strict=True):
        ours = case.ours(k, divisor="min")
        theirs = {
            name: torch.tensor(float(values[at]), dtype=torch.float64)
            for name, values in found.items()
        }
        yield Check("AP", k, ours.average_precision[asked, 0].mean(), theirs["map@k"])
        yield Check("recall", k, ours.recall[asked, 0].mean(), theirs["recall@k"])
        yield Check("hit", k, hits(case, k)[asked].mean(), theirs["accuracy@k"])
        yield Check("RR", k, reciprocal_rank(ours, k)[asked].mean(), theirs["mrr@k"])
        if case.graded:
            yield Left("nDCG of gains above 1: an item is relevant or not", 1)
        else:
            yield Check("nDCG", k, ndcg(case, k)[asked].mean(), theirs["ndcg@k"])
        check = precision(case, k, theirs["precision@k"])
        yield check._replace(ours=check.ours[asked].mean())


class Library(NamedTuple):
    adapter: Adapter
    distribution: str
    module: str
    tolerance: float

    @property
    def version(self) -> str:
        return metadata.version(self.distribution)


LIBRARIES = {
    library.distribution: library
    for library in (
        Library(torchmetrics, "torchmetrics", "torchmetrics", SINGLE),
        Library(
            pytorch_metric_learning, "pytorch-metric-learning", "pytorch_metric_learning", SINGLE
        ),
        Library(ranx, "ranx", "ranx", DOUBLE),
        Library(open_metric_learning, "open-metric-learning", "oml.functional.metrics", SINGLE),
        Library(ir_measures, "ir-measures", "ir_measures", DOUBLE),
        Library(pytrec_eval, "pytrec-eval-terrier", "pytrec_eval", DOUBLE),
        Library(sentence_transformers, "sentence-transformers", "sentence_transformers", DOUBLE),
    )
}


@dataclass
class Tally:
    """How many measures were compared, and how."""

    equal: int = 0
    left: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.equal += other.equal
        self.left += other.left


@cache
def compare(name: str, seed: int) -> Tally:
    """One library on one set. Raises AssertionError where a value differs."""
    library, tally = LIBRARIES[name], Tally()
    for found in library.adapter(case(seed)):
        if isinstance(found, Left):
            tally.left[found.reason] += found.measures
            continue
        torch.testing.assert_close(
            found.theirs.double(),
            found.ours.double(),
            rtol=0,
            atol=found.tolerance or library.tolerance,
            equal_nan=True,
            msg=lambda text, found=found: f"{name}, {found.measure}@{found.k}: {text}",
        )
        tally.equal += 1
    return tally


def row(name: str) -> dict[str, Any]:
    """The counts of one library over all sets, as docs/tools/peers.json has them."""
    import_module(LIBRARIES[name].module)
    total = Tally()
    for seed in SEEDS:
        total.add(compare(name, seed))
    return {
        "version": LIBRARIES[name].version,
        "equal": total.equal,
        "not expressible": dict(sorted(total.left.items())),
    }
