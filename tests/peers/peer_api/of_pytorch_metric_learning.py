"""What pytorch-metric-learning offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drcl import metrics
from drcl.metrics import measures
from peer_api.rows import DIRECT, NOTHING, Problem, Row, named


class Classes:
    """Embeddings of classes, one of which no other row has."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(5)
        self.query, self.gallery = (torch.randn(n, 6, generator=draw) for n in (13, 40))
        self.query_labels, self.gallery_labels = torch.arange(13) % 5, torch.arange(40) % 4


def cut(measure: Any) -> dict[str, Any]:
    return {"measures": (partial(measure, at_most=7),)}


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
            k["r_precision"] = ("R-precision(at_most=7)", cut(measures.r_precision))
            k["mean_average_precision_at_r"] = ("mAP@R(at_most=7)", cut(measures.ap_at_r))
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
                note = "at_most= of the measure"
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
