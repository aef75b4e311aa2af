"""What evaluation costs: all measures in one pass, codes by their distances, batches in a limit.

    python -m drcl.benchmarks.studies.evaluation            what is missing, four minutes in all
    python -m drcl.benchmarks.studies.evaluation --again    everything anew

Each part first checks that all contenders find the same, then times them in turns. A slow one gets
a share of the queries, and its time is scaled. Each part is written when it is done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl import metrics, reference
from drcl.benchmarks.suite import timing
from drcl.benchmarks.workloads.ranking import Size, make
from drcl.metrics.measures import MEASURES

CPU = torch.device("cpu")
CHECKED = 8  # queries that the literal forms rank too
NAME = "evaluation"
Row = dict[str, Any]


@dataclass(frozen=True)
class Codes:
    """Q codes against N codes, of so many bits in so many classes."""

    queries: int
    items: int
    bits: int
    classes: int


@dataclass(frozen=True)
class Batches:
    """Q queries, and N rows that come in batches, of which no more bytes are to be held."""

    queries: int
    items: int
    dim: int
    batch: int
    max_bytes: int


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, shares: Mapping[str, float]
) -> Row:
    """Median seconds of the whole, each of which had its share of the queries."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with timing.Others() as others:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(timing.seconds_of(calls[name], CPU) / shares.get(name, 1))
                print(f"  round {turn + 1}/{rounds}: {name} {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {"rounds": rounds, "seconds": medians, "shares": dict(shares), "others": others.share}


def one_pass(size: Size, rounds: int = 9) -> Row:
    """All measures beside mAP alone, which takes the same pass."""
    data = make(size)
    sides = data.query, data.gallery, data.query_labels, data.gallery_labels

    def alone() -> float:
        return metrics.mean_average_precision(*sides)

    def everything() -> metrics.RetrievalMetrics:
        return metrics.retrieval_metrics(
            *sides, ks=(1, 5, 10, None), measures=tuple(MEASURES), ndcg=True
        )

    found = everything()
    head = data.head(CHECKED)
    scores = head.query.double() @ head.gallery.double().T
    relevant = head.query_labels[:, None] == head.gallery_labels
    check("mAP", found.summary()["mAP@all"], alone(), 0.0)
    literal = reference.average_precision(scores, relevant, None)
    check("AP", found.average_precision[:CHECKED, -1], literal, 1e-5)
    pairs = zip(scores, relevant, strict=True)
    areas = torch.stack([area(row, hit) for row, hit in pairs])
    check("AUROC", found.measures["auroc"][:CHECKED], areas, 1e-6)
    # In a tuple: of a call that returns a number, the timing would take it for its seconds.
    calls = {"mAP alone": lambda: (alone(),), "all measures": everything}
    return asdict(size) | {"measures": len(found.tables())} | in_turns(calls, rounds, {})


def area(scores: Tensor, relevant: Tensor) -> Tensor:
    """Under the ROC curve, pair by pair."""
    others = scores[~relevant].sort().values
    return torch.searchsorted(others, scores[relevant]).double().mean() / len(others)


def hamming(size: Codes, rounds: int = 5, looped: int = 100, averaged: int = 1_000) -> Row:
    """From counts of distances, beside the loops of released code and a ranking of ±1 floats."""
    draw = np.random.default_rng(0)
    labels = [draw.integers(size.classes, size=n) for n in (size.queries, size.items)]
    # Centres of classes with a quarter of their bits turned: most distances tie.
    centres = draw.integers(2, size=(size.classes, size.bits))
    bits = [centres[y] ^ (draw.random((len(y), size.bits)) < 0.25) for y in labels]
    codes = [np.packbits(part, axis=1) for part in bits]
    signs = [2 * part.astype(np.float32) - 1 for part in bits]
    hot = [np.eye(size.classes, dtype=np.float32)[y] for y in labels]

    def ours() -> metrics.HammingMetrics:
        return metrics.hamming_metrics(*codes, *labels)

    def ties(queries: int) -> Tensor:
        return metrics.average_precision(
            *(signs[0][:queries], signs[1], labels[0][:queries], labels[1]),
            metric="dot",
            ties="average",
        )

    def loops(queries: int, kind: Any = None) -> npt.NDArray[np.float64]:
        return released_loops(signs[0][:queries], signs[1], hot[0][:queries], hot[1], kind)

    check("AP over ties", ours().average_precision[:CHECKED], ties(CHECKED), 1e-12)
    by_index = metrics.average_precision(
        codes[0][:CHECKED], codes[1], labels[0][:CHECKED], labels[1], metric="hamming"
    )
    check("AP of the loops", torch.from_numpy(loops(CHECKED, "stable")), by_index, 1e-12)
    looped, averaged = min(looped, size.queries), min(averaged, size.queries)
    calls = {
        "hamming_metrics": ours,
        "±1 floats, ties averaged": lambda: ties(averaged),
        "loops of released code": lambda: loops(looped),
    }
    shares = dict(zip(calls, (1.0, averaged / size.queries, looped / size.queries), strict=True))
    return asdict(size) | in_turns(calls, rounds, shares)


def released_loops(
    query: npt.NDArray[np.float32],
    gallery: npt.NDArray[np.float32],
    query_rows: npt.NDArray[np.float32],
    gallery_rows: npt.NDArray[np.float32],
    kind: Any = None,
) -> npt.NDArray[np.float64]:
    """AP as the code released with hashing papers finds it: signs, a product and a sort a query."""
    found = np.zeros(len(query))
    for row in range(len(query)):
        relevant = (np.dot(query_rows[row], gallery_rows.T) > 0).astype(np.float32)
        total = int(relevant.sum())
        if total == 0:
            continue
        distances = 0.5 * (gallery.shape[1] - np.dot(query[row], gallery.T))
        relevant = relevant[np.argsort(distances, kind=kind)]
        ranks = np.asarray(np.where(relevant == 1)) + 1.0
        found[row] = np.mean(np.linspace(1, total, total) / ranks)
    return found


def streaming(size: Batches) -> Row:
    """Memory of a metric that is fed batch by batch, in a process of its own."""
    command = [sys.executable, __file__, "--stream", json.dumps(asdict(size))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return asdict(size) | json.loads(done.stdout)


def stream(size: Batches) -> Row:
    """Peaks of the memory that no file holds, beyond what was there before, sampled."""
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(size.queries, size.dim, generator=draw)
    labels = torch.arange(size.items) % 100

    def rows(start: int) -> Tensor:
        batch = torch.Generator().manual_seed(start + 1)
        return torch.randn(min(size.batch, size.items - start), size.dim, generator=batch)

    options: Row = {"ks": (10, None), "max_bytes": size.max_bytes}
    small = rows(0)[:300]
    metrics.retrieval_metrics(small, small, labels[: len(small)], labels[: len(small)])  # libraries
    metric = metrics.RetrievalMetric(**options)
    metric.update(queries, labels[: size.queries], side="query")
    began = time.perf_counter()
    with Anonymous() as updates:
        for start in range(0, size.items, size.batch):
            batch = rows(start)
            metric.update(batch, labels[start : start + len(batch)], side="gallery")
    updated = time.perf_counter()
    with Anonymous(updates.before) as ranking:
        found = metric.compute()
    computed = time.perf_counter()
    gallery = torch.cat([rows(start) for start in range(0, size.items, size.batch)])
    expected = metrics.retrieval_metrics(
        queries, gallery, labels[: size.queries], labels, **options
    )
    assert isinstance(found, metrics.RetrievalMetrics)
    for name, column in expected.tables().items():
        check(name, found.tables()[name], column, 0.0)
    return {
        "update_bytes": updates.bytes,
        "compute_bytes": ranking.bytes,
        "update_seconds": updated - began,
        "compute_seconds": computed - updated,
    }


class Anonymous:
    """The peak of memory that no file holds in a ``with`` block, beyond what there was before."""

    bytes = 0

    def __init__(self, before: int | None = None) -> None:
        self.before = self._now() if before is None else before

    def __enter__(self) -> Anonymous:
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            last = self._ended.wait(0.002)
            self.bytes = max(self.bytes, self._now() - self.before)
            if last:
                return

    @staticmethod
    def _now() -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def check(what: str, found: Any, expected: Any, tolerance: float) -> None:
    """No time is told of what is wrong."""
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    worst = float((a - b).abs().max())
    if not worst <= tolerance:
        raise SystemExit(f"{what}: expected {tolerance} at most between two forms, got {worst}")


PARTS: dict[str, Callable[[], Row]] = {
    "one pass": lambda: one_pass(Size(5_000, 20_000, 512, 50)),
    "codes": lambda: hamming(Codes(20_000, 200_000, 64, 10)),
    "batches": lambda: streaming(Batches(200, 1_000_000, 128, 10_000, metrics.MAX_BYTES)),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--stream", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        print(json.dumps(stream(Batches(**json.loads(options.stream)))))
        return
    timing.measure_missing(NAME, PARTS, again=options.again)


if __name__ == "__main__":
    main(sys.argv[1:])
