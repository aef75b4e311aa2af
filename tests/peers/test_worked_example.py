"""The worked example of the definitions page, by the libraries that each definition names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peer_api.of_sentence_transformers import Lookup
from peer_api.rows import DOUBLE, SINGLE
from peer_libraries import LIBRARIES

from drcl.metrics.definitions import DEFINITIONS

K = 3
SIZE, RELEVANT = 10, (1, 3, 4, 5)  # the ranks
ANGLES = torch.linspace(0, 1, SIZE).double()
GALLERY = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)  # ranked in this order, by cosine
QUERY = GALLERY[:1]
IS_RELEVANT = torch.tensor([rank in RELEVANT for rank in range(1, SIZE + 1)])
QRELS = {"1": {f"d{place}": int(IS_RELEVANT[place]) for place in range(SIZE)}}
RUN = {"1": {f"d{place}": float(SIZE - place) for place in range(SIZE)}}


def trec_eval(name: str) -> float:
    import pytrec_eval as peer

    name = f"{name.removesuffix('_k')}.{K}" if name.endswith("_k") else name
    ((value,),) = (
        one.values() for one in peer.RelevanceEvaluator(QRELS, {name}).evaluate(RUN).values()
    )
    return value


def ir_measures(name: str) -> float:
    import ir_measures as peer

    measure = eval(name, {**vars(peer), "k": K})
    return peer.calc_aggregate([measure], QRELS, RUN)[measure]


def ranx(name: str) -> float:
    from ranx import Qrels, Run, evaluate

    return evaluate(Qrels(QRELS), Run(RUN), name.split()[0].replace("@k", f"@{K}"))


def torchmetrics(name: str) -> float:
    from torchmetrics import retrieval as peer

    metric = eval(name, {**vars(peer), "k": K})
    metric = metric() if inspect.isclass(metric) else metric
    return metric(ANGLES.cos(), IS_RELEVANT, indexes=torch.zeros(SIZE, dtype=torch.int64))


def open_metric_learning(name: str) -> float:
    from oml.functional.metrics import calc_retrieval_metrics

    found = calc_retrieval_metrics(
        retrieved_ids=[torch.arange(SIZE)],
        gt_ids=[IS_RELEVANT.nonzero()[:, 0]],
        verbose=False,
        **{f"{one}_top_k": (K,) for one in ("cmc", "precision", "map")},
    )
    return found[name][K]


def pytorch_metric_learning(name: str) -> float:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    name, _, k = name.partition(" with ")
    calculator = AccuracyCalculator(
        include=(name, "precision_at_1"),
        k=K if k else None,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    return calculator.get_accuracy(QUERY, torch.ones(1), GALLERY, IS_RELEVANT.long())[name]


def sentence_transformers(name: str) -> float:
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer import evaluation

    options = ("mrr", "ndcg", "accuracy", "precision_recall", "map")
    evaluator = evaluation.InformationRetrievalEvaluator(
        queries={"q": "q0"},
        corpus={f"d{place}": f"d{place}" for place in range(SIZE)},
        relevant_docs={"q": {item for item, gain in QRELS["1"].items() if gain}},
        score_functions={"cosine": util.cos_sim},
        write_csv=False,
        **{f"{one}_at_k": [K] for one in options},
    )
    found = evaluator.compute_all_metrics(Lookup(q=QUERY, d=GALLERY), corpus_embeddings=GALLERY)
    return found["cosine"][name][K]


def scikit_learn(name: str) -> float:
    from sklearn import metrics

    truth, scores = IS_RELEVANT.numpy(), ANGLES.cos().numpy()
    if "dcg" in name:
        return getattr(metrics, name)(truth[None], scores[None], k=K)
    return getattr(metrics, name)(truth, scores)


BY: dict[str, Callable[[str], Any]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        *(ir_measures, ranx, torchmetrics, open_metric_learning, pytorch_metric_learning),
        *(sentence_transformers, scikit_learn),
    )
} | {"trec_eval": trec_eval}
MODULES = {"scikit-learn": "sklearn", "trec_eval": "pytrec_eval"}
NAMED = [
    (one, *entry.split(" ", 1))
    for one in DEFINITIONS
    for entry in one.used_by.split("; ")
    if entry.split(" ")[0] in BY
]


@pytest.mark.parametrize(
    "definition, library, name", NAMED, ids=lambda one: getattr(one, "called", one)
)
@pytest.mark.filterwarnings("ignore")
def test_its_library_computes_what_the_definition_says(
    definition: Any, library: str, name: str
) -> None:
    module = MODULES[library] if library in MODULES else LIBRARIES[library].module
    pytest.importorskip(module, reason=f"{library} is not installed; `make peers` does it")
    expected = eval(definition.worked, {"log2": np.log2})
    tolerance = SINGLE if library in ("torchmetrics", "open-metric-learning") else DOUBLE
    if "exp-log2" in name:
        tolerance = 5e-6  # gdeval prints five digits
    assert float(BY[library](name)) == pytest.approx(expected, abs=tolerance)


def test_no_entry_drops_out_by_its_spelling() -> None:
    assert {library for _, library, _ in NAMED} == set(BY)
    asked = {definition.called for definition, _, _ in NAMED}
    assert {one.called for one in DEFINITIONS} - asked == {
        "ERR@k",  # gdeval's is of another greatest gain
        "mAP@k over the first k hits",  # of code that is no package
        *("set mAP@k", "utility@k", "number of irrelevant items@k"),  # theirs: the whole list's
    }
