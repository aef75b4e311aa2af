"""mAP from embeddings: ours beside what retrieval code does elsewhere, on a CPU.

    python -m benchmarks.ranking [--sizes first nus ...] [--rounds 5] [--out results.json]

Every round runs all contenders one after the other, so that a busy machine slows all of them alike;
medians over the rounds are reported. One of the slow contenders whose estimated time is over
``--limit`` seconds is run on a subset of the queries and extrapolated, and marked so: their time is
linear in the queries.
Before anything is timed, the contenders' mAP on the same data is compared with ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drcl import backends, metrics


@dataclass(frozen=True)
class Size:
    """Q queries against N items of width D in C classes; k None is mAP@all."""

    queries: int
    items: int
    dim: int
    classes: int
    k: int | None = None


SIZES = {
    "first": Size(5_000, 20_000, 512, 50),
    "top": Size(5_000, 20_000, 512, 50, k=50),
    "nus": Size(23_661, 23_661, 2048, 10),
    "narrow": Size(20_000, 20_000, 64, 20),
    "large": Size(100_000, 100_000, 128, 50),
}


@dataclass(frozen=True)
class Data:
    """Normalised embeddings and class ids."""

    query: Tensor
    gallery: Tensor
    query_labels: Tensor
    gallery_labels: Tensor
    k: int | None

    def head(self, queries: int) -> Data:
        """The same with fewer queries."""
        return Data(
            self.query[:queries],
            self.gallery,
            self.query_labels[:queries],
            self.gallery_labels,
            self.k,
        )


def make(size: Size) -> Data:
    """Class centres in noise: relevant items score higher, without being easy to find."""
    torch.manual_seed(0)
    centres = torch.randn(size.classes, size.dim)

    def side(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(size.classes, (count,))
        rows = centres[labels] + 4 * torch.randn(count, size.dim)
        return torch.nn.functional.normalize(rows, dim=1), labels

    query, query_labels = side(size.queries)
    gallery, gallery_labels = side(size.items)
    return Data(query, gallery, query_labels, gallery_labels, size.k)


def gemm(data: Data) -> float:
    """The similarity products alone, in one call, their result allocated by it."""
    torch.mm(data.query, data.gallery.T)
    return float("nan")


_OUT: dict[tuple[int, int], Tensor] = {}


def gemm_in_place(data: Data) -> float:
    """The products alone, into memory that is ready: no evaluation can be faster."""
    shape = len(data.query), len(data.gallery)
    if shape not in _OUT:
        _OUT.clear()
        _OUT[shape] = torch.zeros(shape)
    torch.mm(data.query, data.gallery.T, out=_OUT[shape])
    return float("nan")


def ours(data: Data) -> float:
    return metrics.mean_average_precision(
        data.query, data.gallery, data.query_labels, data.gallery_labels, k=data.k
    )


def torch_argsort(data: Data) -> float:
    """argsort or topk and cumsum over blocks of queries."""
    total = 0.0
    ranks = torch.arange(1, len(data.gallery) + 1)
    for rows in torch.arange(len(data.query)).split(256):
        scores = data.query[rows] @ data.gallery.T
        if data.k is None:
            order = scores.argsort(dim=1, descending=True)
        else:
            order = scores.topk(data.k, dim=1).indices
        hits = data.gallery_labels[order] == data.query_labels[rows, None]
        found = hits.cumsum(dim=1)
        precision = hits * found / ranks[: hits.shape[1]]
        total += float((precision.sum(dim=1) / found[:, -1].clamp(min=1)).double().sum())
    return total / len(data.query)


def numpy_keys(data: Data) -> float:
    """np.sort of the score as an ordered integer with the relevance in its last bit."""
    gallery, labels = data.gallery.numpy(), data.gallery_labels.numpy()
    ranks = np.arange(1, len(gallery) + 1)
    total = 0.0
    for start in range(0, len(data.query), 256):
        query = data.query[start : start + 256].numpy()
        bits = (query @ gallery.T).view(np.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # rising with the score, as signed integers
        relevant = labels == data.query_labels[start : start + 256].numpy()[:, None]
        keys = -(ordered & ~1) - 1 + relevant  # best first, relevant items last among ties
        keys.sort(axis=1)
        for row in keys:
            at = np.flatnonzero((row & 1) == 0)
            total += (np.arange(1, len(at) + 1) / ranks[at]).mean() if len(at) else 0.0
    return total / len(data.query)


def torchmetrics_map(data: Data) -> float:
    from torchmetrics.functional.retrieval import retrieval_average_precision

    total = 0.0
    for rows in torch.arange(len(data.query)).split(256):
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
        k=data.k,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity(), batch_size=256),
    )
    total = 0.0
    for rows in torch.arange(len(data.query)).split(1024):  # whole, it runs out of memory
        found = calculator.get_accuracy(
            data.query[rows], data.query_labels[rows], data.gallery, data.gallery_labels
        )
        total += found["mean_average_precision"] * len(rows)
    return total / len(data.query)


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


CONTENDERS: dict[str, tuple[Callable[[Data], float], str | None]] = {
    "GEMM alone": (gemm, None),
    "GEMM into a buffer": (gemm_in_place, None),
    "drcl": (ours, None),
    "torch argsort": (torch_argsort, None),
    "NumPy packed keys": (numpy_keys, None),
    "torchmetrics": (torchmetrics_map, "torchmetrics"),
    "pytorch-metric-learning": (metric_learning, "pytorch_metric_learning"),
    "released loops": (loops, "scipy"),
}
SLOW = ("torch argsort", "torchmetrics", "pytorch-metric-learning", "released loops")


@dataclass(frozen=True)
class Result:
    """One contender at one size; seconds are for all queries, extrapolated from those it ran."""

    size: str
    contender: str
    seconds: float
    ratio: float  # its time over ours
    rounds: int
    queries: int
    extrapolated: bool
    map: float


def seconds(run: Callable[[Data], float], data: Data) -> float:
    start = time.perf_counter()
    run(data)
    return time.perf_counter() - start


def measure(name: str, size: Size, rounds: int, limit: float) -> list[Result]:
    """All contenders at one size, in turns."""
    data = make(size)
    names = [n for n, (_, need) in CONTENDERS.items() if need is None or find_spec(need)]
    if size.k is not None:  # other definitions of @k, or nothing gained from it
        names = [n for n in names if n not in ("NumPy packed keys", "pytorch-metric-learning")]
    if size.queries * size.items * 4 > 2**34:  # the whole product does not fit in memory
        names = [n for n in names if not n.startswith("GEMM")]
    values, counts = {}, {}
    sample = data.head(64)
    expected = ours(sample)
    for contender in names:
        run = CONTENDERS[contender][0]
        values[contender] = run(sample)
        if abs(values[contender] - expected) > 1e-4:
            raise SystemExit(
                f"{contender} finds {values[contender]}, we {expected}: not comparable"
            )
        each = seconds(run, sample) / 64
        fits = int(limit / each) if contender in SLOW else size.queries
        counts[contender] = max(64, min(size.queries, fits))
    times: dict[str, list[float]] = {contender: [] for contender in names}
    for _ in range(rounds):
        for contender in names:
            part = data.head(counts[contender])
            scale = size.queries / counts[contender]
            times[contender].append(seconds(CONTENDERS[contender][0], part) * scale)
    medians = {contender: statistics.median(found) for contender, found in times.items()}
    return [
        Result(
            name,
            contender,
            medians[contender],
            medians[contender] / medians["drcl"],
            rounds,
            counts[contender],
            counts[contender] < size.queries,
            values[contender],
        )
        for contender in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="mAP from embeddings, beside other evaluators")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds a contender may take")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for name in arguments.sizes:
        size = SIZES[name]
        print(f"{name}: {size}", flush=True)
        for result in measure(name, size, arguments.rounds, arguments.limit):
            results.append(result)
            note = f"  ({result.queries} queries, extrapolated)" if result.extrapolated else ""
            print(
                f"  {result.contender:<24}{result.seconds:9.2f} s {result.ratio:8.2f}x ours{note}",
                flush=True,
            )
    if arguments.out:
        document = {
            "benchmark": "ranking",
            "date": date.today().isoformat(),
            "device": platform.processor() or platform.machine(),
            "threads": arguments.threads,
            "environment": backends.build_info(),
            "results": [asdict(result) for result in results],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
