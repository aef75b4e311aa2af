"""Other ways to mAP: what code of the field does, and the libraries for it.

Each takes normalised embeddings with class ids and returns the mAP, as its users would get it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drcl.benchmarks.suite import registry

if TYPE_CHECKING:
    from drcl.benchmarks.workloads.ranking import Data

BLOCK = 256  # queries at once


def mean_hits(hits: Tensor) -> Tensor:
    """Average precision (q,) of hits (q, k) in ranking order, divided by the hits found."""
    found = hits.cumsum(dim=1)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (hits * found / ranks).sum(dim=1) / found[:, -1].clamp(min=1)


def torch_argsort(data: Data) -> float:
    """argsort, or topk, and cumsum over blocks of queries."""
    total = 0.0
    for rows in torch.arange(len(data.query), device=data.query.device).split(BLOCK):
        scores = data.query[rows] @ data.gallery.T
        if data.k is None:
            order = scores.argsort(dim=1, descending=True)
        else:
            order = scores.topk(data.k, dim=1).indices
        hits = data.gallery_labels[order] == data.query_labels[rows, None]
        total += float(mean_hits(hits).double().sum())
    return total / len(data.query)


def numpy_keys(data: Data) -> float:
    """np.sort of the score as an ordered integer with the relevance in its last bit."""
    gallery, labels = data.gallery.numpy(), data.gallery_labels.numpy()
    ranks = np.arange(1, len(gallery) + 1)
    total = 0.0
    for start in range(0, len(data.query), BLOCK):
        query = data.query[start : start + BLOCK].numpy()
        bits = (query @ gallery.T).view(np.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # rising with the score, as signed integers
        relevant = labels == data.query_labels[start : start + BLOCK].numpy()[:, None]
        keys = -(ordered & ~1) - 1 + relevant  # best first, relevant items last among ties
        keys.sort(axis=1)
        for row in keys:
            at = np.flatnonzero((row & 1) == 0)
            total += (np.arange(1, len(at) + 1) / ranks[at]).mean() if len(at) else 0.0
    return total / len(data.query)


def scikit_learn(data: Data) -> float:
    from sklearn.metrics import average_precision_score

    scores = (data.query @ data.gallery.T).numpy()
    relevant = (data.query_labels[:, None] == data.gallery_labels).numpy()
    pairs = zip(relevant, scores, strict=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No positive class found")  # once for every such query
        return float(np.mean([average_precision_score(*pair) for pair in pairs]))


def torchmetrics(data: Data) -> float:
    from torchmetrics.functional.retrieval import retrieval_average_precision

    total = 0.0
    for rows in torch.arange(len(data.query), device=data.query.device).split(BLOCK):
        scores = (data.query[rows] @ data.gallery.T + 1) / 2  # it drops what scores 0 or less
        for row, label in zip(scores, data.query_labels[rows], strict=True):
            relevant = data.gallery_labels == label
            total += float(retrieval_average_precision(row, relevant, top_k=data.k))
    return total / len(data.query)


def metric_learning(data: Data) -> float:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("mean_average_precision",),
        device=data.query.device,
        knn_func=CustomKNN(CosineSimilarity(), batch_size=BLOCK),
    )
    total = 0.0
    for rows in torch.arange(len(data.query)).split(1024):  # whole, it runs out of memory
        found = calculator.get_accuracy(
            data.query[rows], data.query_labels[rows], data.gallery, data.gallery_labels
        )
        total += found["mean_average_precision"] * len(rows)
    return total / len(data.query)


def ranx(data: Data) -> float:
    """Its kernels on arrays; its dictionaries of strings take far longer to fill."""
    from numba.typed import List
    from ranx import evaluate

    scores = data.query @ data.gallery.T
    values, order = scores.sort(dim=1, descending=True, stable=True)
    runs: Any = List()
    relevant: Any = List()
    for label, row, items in zip(data.query_labels, values, order, strict=True):
        hits = (data.gallery_labels == label).nonzero()[:, 0]
        relevant.append(torch.stack([hits, torch.ones_like(hits)], dim=1).double().numpy())
        runs.append(torch.stack([items.double(), row.double()], dim=1).numpy())
    return float(evaluate(relevant, runs, "map"))


def faiss(data: Data) -> float:
    """An exact inner-product index, and the precision of the hits it returns."""
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatIP(data.gallery.shape[1])
    index.add(data.gallery.numpy())
    order = torch.from_numpy(index.search(data.query.numpy(), data.k)[1])
    hits = data.gallery_labels[order] == data.query_labels[:, None]
    return float(mean_hits(hits).double().mean())


def loops(data: Data) -> float:
    """SciPy distances, an argsort and a Python loop over the ranks, as retrieval papers release."""
    from scipy.spatial.distance import cdist

    distances = cdist(data.query.numpy(), data.gallery.numpy(), "cosine")
    orders = distances.argsort()
    query_labels, gallery_labels = data.query_labels.numpy(), data.gallery_labels.numpy()
    values = []
    for i in range(len(orders)):
        order = orders[i]
        precision, found = 0.0, 0.0
        for j in range(data.k or len(order)):
            if query_labels[i] == gallery_labels[order[j]]:
                found += 1
                precision += found / (j + 1)
        values.append(precision / found if found > 0 else 0.0)
    return float(np.mean(values))


@dataclass(frozen=True)
class Peer:
    """How it is called, the most scores of query and item it is given, and where it has no part."""

    run: Callable[[Data], float]
    scores: int = 2**62
    module: str = "torch"
    package: str = ""
    whole: str = ""  # why it has no part in mAP@all
    cut: str = ""  # why it has no part in mAP@k
    gpu: bool = False

    def absent(self, k: int | None, device: torch.device) -> str:
        """Why it does not take part; empty if it does."""
        if device.type == "cuda" and not self.gpu:
            return "on a CPU only"
        return (self.whole if k is None else self.cut) or registry.missing(
            self.module, self.package
        )


PEERS = {
    "torch argsort": Peer(torch_argsort, 20_000_000, gpu=True),
    "NumPy packed keys": Peer(numpy_keys, 20_000_000, cut="sorts the whole gallery anyway"),
    "faiss": Peer(faiss, module="faiss", whole="finds the first k"),
    "scikit-learn": Peer(scikit_learn, 2_000_000, "sklearn", "scikit-learn", cut="has no cut-off"),
    "torchmetrics": Peer(torchmetrics, 2_000_000, "torchmetrics", gpu=True),
    "pytorch-metric-learning": Peer(
        metric_learning,
        2_000_000,
        "pytorch_metric_learning",
        "pytorch-metric-learning",
        cut="defines AP@k otherwise",
        gpu=True,
    ),
    "ranx": Peer(ranx, 2_000_000, "ranx", cut="defines AP@k otherwise"),
    "released loops": Peer(loops, 1_000_000, "scipy"),
}
