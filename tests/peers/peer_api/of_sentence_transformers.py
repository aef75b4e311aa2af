"""What sentence-transformers offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from drcl import metrics
from peer_api.rows import ARITHMETIC, DIRECT, KS, NOTHING, Problem, Row, named


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

    def triplets(problem: Problem) -> Iterator[tuple[Any, Any]]:
        """The gallery of each anchor is its positive and its negative."""
        draw = torch.Generator().manual_seed(problem.size)
        sides = {side: torch.randn(30, 3, generator=draw).double() for side in "apn"}
        texts = [[f"{side}{i}" for i in range(30)] for side in "apn"]
        number = torch.arange(30)
        for metric in ("cosine", "dot", "euclidean"):
            evaluator = peer.TripletEvaluator(
                *texts, main_similarity_function=metric, write_csv=False
            )
            found = metrics.hit_at_k(
                sides["a"],
                torch.cat([sides["p"], sides["n"]]),
                relevance=torch.stack([number, number], dim=1),
                query_groups=number,
                gallery_groups=number.repeat(2),
                metric=metric,
                k=1,
            )
            share = evaluator(Lookup(**sides))[f"{metric}_accuracy"]  # in float32
            yield found, round(30 * float(share)) / 30

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
        Row("TripletEvaluator", "", DIRECT, "hit_at_k, gallery_groups=", triplets),
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
