"""What every method is: a function of a data set and a seed that returns something that embeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from drcl.data.dataset import CrossModalDataset, Split
from drcl.labels import known_ids
from drcl.metrics import retrieval_report

Embed: TypeAlias = Callable[[str, np.ndarray], np.ndarray]


class Fitted(NamedTuple):
    """A trained method.

    Attributes:
        embed: (modality, features (N, d)) -> rows (N, k) to be ranked by their inner product.
        chosen: one line, what was chosen on the validation split.
    """

    embed: Embed
    chosen: str


Fit: TypeAlias = Callable[[CrossModalDataset, int], Fitted]
"""(data, seed) -> trained method, from ``data.train`` and ``data.validation`` alone."""


class Unsuited(ValueError):
    """What a method lacks in the data it was given, in a few words for its line of a table."""


class Method(NamedTuple):
    """A method, what it is called in a table, and whether it learns from pairs: row i of one
    modality belonging to row i of another."""

    title: str
    fit: Fit
    needs_pairs: bool = False


def measure(embed: Embed, split: Split, ks: tuple[int, ...] = ()) -> dict[str, dict[str, float]]:
    """mAP over every ordered pair of a split's modalities, by inner product."""
    rows = {
        name: (embed(name, part.features), known_ids(part.labels)) for name, part in split.items()
    }
    return retrieval_report(rows, ks=ks, metric="dot")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length, whose inner product is the cosine; zero rows stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)


def best(candidates: Iterable[tuple[str, Embed]], data: CrossModalDataset) -> Fitted:
    """Of embeddings and the same with unit rows, the best on the validation split."""
    found: tuple[float, str, Embed] | None = None
    for name, embed in candidates:
        for ranking in ("inner product", "cosine"):
            embed_as = embed if ranking == "inner product" else _cosine(embed)
            value = measure(embed_as, data.validation)["mAP@all"]["mean"]
            if found is None or value > found[0]:
                found = value, f"{name}, {ranking}", embed_as
    assert found is not None
    return Fitted(found[2], found[1])


def _cosine(embed: Embed) -> Embed:
    return lambda modality, features: unit(embed(modality, features))


def is_paired(data: CrossModalDataset) -> bool:
    """Whether the training rows of all modalities have the same labels, one by one.

    Asked of a set as it was loaded: labels that were made wrong, or rows that were left out, no
    longer say.
    """
    first, *others = data.train.values()
    return all(np.array_equal(part.labels, first.labels) for part in others)
