"""Peak memory of an evaluation beside its inputs and results, as the operating system counts it.

python -m drcl.benchmarks.studies.ranking_memory               all cases, ten minutes on two cores
python -m drcl.benchmarks.studies.ranking_memory long million  some of them

Every case runs in a fresh process, and its peak resident memory must lie under the budget. The peak
is that of a block of queries: where all queries would take long, fewer are run, and said so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drcl.benchmarks.suite.timing import PeakMemory, write_results
from drcl.benchmarks.workloads.ranking import Size, make
from drcl.metrics import retrieval_metrics

MIB = 2**20
BUDGETS = (256, 64)  # MiB; the first is the default


@dataclass(frozen=True)
class Case:
    """A size, of which each backend runs some queries."""

    size: Size
    native_queries: int
    eager_queries: int
    labels: int = 0  # of which an item has about five; 0: it has a class
    on_disk: bool = False
    dtype: torch.dtype = torch.float32
    ks: tuple[int | None, ...] = (None,)
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "first": Case(Size(5_000, 20_000, 512, 50), 5_000, 2_000),
    "top": Case(Size(5_000, 20_000, 512, 50), 5_000, 2_000, ks=(50,)),
    "nus": Case(Size(23_661, 23_661, 2048, 10), 4_000, 1_000),
    "narrow": Case(Size(20_000, 20_000, 64, 20), 20_000, 2_000),
    "long": Case(Size(2_000, 100_000, 128, 50), 2_000, 200),
    "million": Case(Size(256, 1_000_000, 64, 100), 256, 16, on_disk=True),
    "many queries": Case(Size(1_000_000, 1_000, 16, 50), 1_000_000, 100_000),
    "multi-label": Case(Size(5_000, 20_000, 512, 50), 2_000, 200, labels=200),
    "half precision": Case(Size(5_000, 20_000, 512, 50), 5_000, 500, dtype=torch.float16),
    "every measure": Case(
        Size(5_000, 20_000, 512, 50),
        2_000,
        500,
        ks=(None, 1, 10, 100),
        options={"ndcg": True, "levels": 101},
    ),
    "averaged ties": Case(Size(5_000, 20_000, 512, 50), 2_000, 20, options={"ties": "average"}),
}


def inputs(case: Case, queries: int, folder: Path) -> list[Any]:
    """Query, gallery and their labels, the gallery maybe on disk."""
    data = make(case.size).head(queries)
    query, gallery = data.query.to(case.dtype, copy=True), data.gallery.to(case.dtype)
    labels = [data.query_labels.clone(), data.gallery_labels]
    if case.labels:
        generator = torch.Generator().manual_seed(0)
        hot = (torch.rand(len(y), case.labels, generator=generator) for y in labels)
        labels = [values < 5 / case.labels for values in hot]
    if not case.on_disk:
        return [query, gallery, *labels]
    np.save(folder / "gallery.npy", gallery.numpy())
    return [query, np.load(folder / "gallery.npy", mmap_mode="r", allow_pickle=False), *labels]


def peak(name: str, queries: int, budget: int) -> None:
    """Print the peak bytes of a case beside the table of results and the bits of its labels."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        arrays = inputs(case, queries, Path(folder))
        options = {"ks": case.ks, **case.options}
        # What a first call sets up stays out of the count; nor can the case live on what was freed.
        retrieval_metrics(*(array[:300] for array in arrays), max_bytes=MIB, **options)
        ctypes.CDLL(None).malloc_trim(0)
        arrays[1].sum()  # the pages of a gallery on disk are inputs: they are resident before
        with PeakMemory() as used:
            retrieval_metrics(*arrays, max_bytes=budget * MIB, **options).summary()
    results = 8 * (3 + 4 * len(case.ks)) * queries
    print(used.bytes - results - case.labels * case.size.items // 8)


def measure(name: str, backend: str, budget: int) -> dict[str, Any]:
    case = CASES[name]
    queries = case.native_queries if backend == "native" else case.eager_queries
    command = [sys.executable, __file__, "peak", name, str(queries), str(budget)]
    env = os.environ | {"DRCL_BACKEND": backend}
    done = subprocess.run(command, check=True, capture_output=True, env=env, text=True)
    row = {"case": name, "backend": backend, "Q": queries, "N": case.size.items}
    row |= {"D": case.size.dim, "labels": case.labels, "budget_MiB": budget}
    return {**row, "peak_MiB": round(int(done.stdout) / MIB, 1)}


def main(names: list[str]) -> None:
    rows = []
    for name in names or CASES:
        for backend in ("native", "eager"):
            for budget in BUDGETS:
                rows.append(measure(name, backend, budget))
                row = rows[-1]
                over = "" if row["peak_MiB"] < budget else "  OVER"
                print({key: value for key, value in row.items() if value}, over, flush=True)
    if not names:
        print(write_results("ranking_memory", rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(sys.argv[1:])
