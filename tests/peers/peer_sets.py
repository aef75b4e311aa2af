"""Generated sets of queries and gallery items whose order no rounding can change.

Scores are whole numbers below 2²⁴, or differ by far more than float32 rounds: every library ranks
the items alike, in float32 and in float64, so the measures must agree to the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drcl.metrics import RetrievalMetrics, retrieval_metrics

SEEDS = range(64)  # every geometry with every form of relevance in both dtypes, twice
GEOMETRIES = ("dot", "tied", "cosine", "euclidean")
FORMS = ("classes", "multi-hot", "gains", "one")


@dataclass(frozen=True, eq=False)
class Case:
    """One set: embeddings, what is relevant in our form, and the same as tables (Q, N)."""

    query: Tensor
    gallery: Tensor
    metric: str
    relevance: dict[str, Tensor]  # as retrieval_metrics takes it
    gains: Tensor  # int64
    levels: Tensor  # the order of the scores as 1, 2, …, equal for equal scores
    tied: bool

    @property
    def items(self) -> int:
        return len(self.gallery)

    @property
    def relevant(self) -> Tensor:
        return self.gains > 0

    @property
    def graded(self) -> bool:
        return bool((self.gains > 1).any())

    @property
    def order(self) -> Tensor:
        """Items from the best to the worst, equal ones by index."""
        return self.levels.argsort(dim=1, descending=True, stable=True)

    @property
    def ks(self) -> tuple[int | None, ...]:
        """Below, at and above the size of the gallery, and none."""
        return (*sorted({1, max(1, self.items // 3), self.items}), self.items + 7, None)

    @lru_cache(maxsize=64)  # noqa: B019 - the libraries ask for the same; 64 are few
    def ours(
        self,
        k: int | None,
        divisor: str = "hits",
        ties: str = "index",
        no_relevant: str = "zero",
        adaptive_k: bool = True,
        measures: tuple[str, ...] = (),
    ) -> RetrievalMetrics:
        """What drcl finds at one cut-off."""
        options: dict[str, Any] = {"divisor": divisor, "ties": ties, "no_relevant": no_relevant}
        return retrieval_metrics(
            self.query,
            self.gallery,
            **self.relevance,
            ks=(k,),
            metric=self.metric,
            ndcg=True,
            adaptive_k=adaptive_k,
            measures=measures,
            **options,
        )


@lru_cache(maxsize=len(SEEDS))
def case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    geometry, form = GEOMETRIES[seed % 4], FORMS[seed // 4 % 4]
    dtype = (torch.float32, torch.float64)[seed // 16 % 2]
    queries = int(rng.choice([1, 2, rng.integers(3, 51)], p=[0.1, 0.1, 0.8]))
    # An array (Q, 2) or (Q, 3) of pairs could be a table of as many items: more items then.
    few = 1 if form in ("classes", "multi-hot") else 4
    items = int(rng.choice([few, few + 1, rng.integers(5, 201)], p=[0.1, 0.1, 0.8]))
    query, gallery, scores = _embeddings(geometry, queries, items, rng)
    relevance, gains = _relevance(form, queries, items, rng)
    levels = np.unique(scores, return_inverse=True)[1].reshape(scores.shape) + 1
    return Case(
        query=torch.from_numpy(query).to(dtype),
        gallery=torch.from_numpy(gallery).to(dtype),
        metric="dot" if geometry == "tied" else geometry,
        relevance={name: torch.from_numpy(value) for name, value in relevance.items()},
        gains=torch.from_numpy(gains),
        levels=torch.from_numpy(levels).double(),
        tied=any(len(np.unique(row)) < items for row in scores),
    )


def _embeddings(
    geometry: str, queries: int, items: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if geometry in ("dot", "tied"):
        most = 8 if geometry == "dot" else 1
        query = rng.integers(-most, most + 1, (queries, 5)).astype(float)
        gallery = rng.integers(-most, most + 1, (items, 5)).astype(float)
        if geometry == "dot":  # a last digit of its own for every item
            query[:, 4], gallery[:, 4] = 1 / 256, rng.permutation(items)
            query *= 256
        else:
            copies = rng.integers(items, size=items // 4)
            gallery[rng.permutation(items)[: items // 4]] = gallery[copies]
        return query, gallery, query @ gallery.T
    # Items at equal distances on a circle, queries a fifth of the way from one to the next.
    step = 2 * np.pi / items
    query_angle = (rng.integers(items, size=queries) + 0.2) * step
    angle = rng.permutation(items) * step
    query, gallery = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in (query_angle, angle))
    if geometry == "cosine":
        query, gallery = (x * rng.uniform(0.5, 2, (len(x), 1)) for x in (query, gallery))
    scores = np.cos(query_angle[:, None] - angle)
    return query, gallery, scores


def _relevance(
    form: str, queries: int, items: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    if form == "classes":
        classes = int(rng.integers(2, 7))
        found = rng.integers(classes, size=items)
        wanted = rng.integers(classes + 1, size=queries)  # the last has no item
        labels = {"query_labels": wanted, "gallery_labels": found}
        return labels, (wanted[:, None] == found).astype(np.int64)
    if form == "multi-hot":
        wanted, found = ((rng.random((n, 5)) < 0.3).astype(np.int64) for n in (queries, items))
        return {"query_labels": wanted, "gallery_labels": found}, wanted @ found.T
    gains = np.zeros((queries, items), dtype=np.int64)
    if form == "one":
        gains[np.arange(queries), rng.integers(items, size=queries)] = 1
        return {"relevance": np.argwhere(gains)}, gains
    for row in gains:
        row[rng.permutation(items)[: rng.integers(items // 3 + 1)]] = 1
    gains[0, 0] = 1  # one pair at least
    gains *= rng.integers(1, 4, gains.shape)
    pairs = np.argwhere(gains)
    return {"relevance": np.column_stack([pairs, gains[tuple(pairs.T)]])}, gains
