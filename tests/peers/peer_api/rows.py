"""What a library offers, how it is had here, and what both are tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drcl import metrics
from drcl.metrics import trec

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


def named(*measures: str) -> dict[str, Any]:
    return {"measures": measures}


def asked_for(table: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """A line each: a measure of theirs -> what a summary calls it, and what asks for it."""
    lines = map(str.split, table.strip().splitlines())
    return {name: (called, named(*measures)) for name, called, *measures in lines}
