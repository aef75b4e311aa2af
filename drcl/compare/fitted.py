"""What every method is: a function of a data set and a seed that returns something that embeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from drcl.data.dataset import CrossModalDataset, Split
from drcl.labels import known_ids
from drcl.metrics import retrieval_report

__all__ = ["Embed", "Fit", "Fitted", "Method", "Unsuited", "best", "is_paired", "measure", "unit"]
__dir__ = __all__.copy

Embed: TypeAlias = Callable[[str, np.ndarray], np.ndarray]


class Fitted(NamedTuple):
    """A trained method.

    Attributes:
        embed: (modality, features (N, d)) -> rows (N, k) to be ranked by their inner product.
        chosen: one line, what was chosen on the validation split.

    >>> halves = Fitted(lambda modality, features: features / 2, chosen="nothing to choose")
    >>> halves.embed("image", np.ones((1, 2))).tolist()
    [[0.5, 0.5]]
    """

    embed: Embed
    chosen: str


Fit: TypeAlias = Callable[[CrossModalDataset, int], Fitted]
"""(data, seed) -> trained method, from ``data.train`` and ``data.validation`` alone."""


class Unsuited(ValueError):
    """The data lack what a method needs; the message says so in a few words, for a table."""


class Method(NamedTuple):
    """A method, what it is called in a table, and whether it learns from pairs: row i of one
    modality belonging to row i of another.

    >>> raw = Method("raw features", lambda data, seed: Fitted(lambda modality, rows: rows, ""))
    >>> raw.title, raw.needs_pairs
    ('raw features', False)
    """

    title: str
    fit: Fit
    needs_pairs: bool = False


def measure(embed: Embed, split: Split, ks: tuple[int, ...] = ()) -> dict[str, dict[str, float]]:
    """mAP over every ordered pair of a split's modalities, by inner product.

    >>> from drcl.data import Labelled
    >>> rows = Labelled(np.eye(2, dtype=np.float32), np.arange(2))
    >>> split = {"image": rows, "text": rows}
    >>> measure(lambda modality, features: features, split)["mAP@all"]["mean"]
    1.0
    """
    rows = {
        name: (embed(name, part.features), known_ids(part.labels)) for name, part in split.items()
    }
    return retrieval_report(rows, ks=ks, metric="dot")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length, whose inner product is the cosine; zero rows stay.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)


def best(candidates: Iterable[tuple[str, Embed]], data: CrossModalDataset) -> Fitted:
    """Of embeddings and the same with unit rows, the best on the validation split.

    >>> from drcl.data import Labelled
    >>> rows = Labelled(np.eye(2, dtype=np.float32), np.arange(2))
    >>> split = {"image": rows, "text": rows}
    >>> data = CrossModalDataset("pets", ("cat", "dog"), split, split, split)
    >>> raw, zero = (lambda modality, rows: rows), (lambda modality, rows: 0 * rows)
    >>> best([("zero", zero), ("raw", raw)], data).chosen
    'raw, inner product'
    """
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

    To be asked of a set as it was loaded: once labels are made wrong or rows are left out, the
    labels no longer tell.

    >>> from drcl.data import load
    >>> is_paired(load("synthetic", scale=0.1))
    False
    """
    first, *others = data.train.values()
    return all(np.array_equal(part.labels, first.labels) for part in others)
