"""The method's formulas in float64 NumPy, written from the paper alone and sharing no code with the
package: what the package's own reference is held to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Loss(NamedTuple):
    total: float
    label: float
    consistency: float
    recasting: float


def mixup(x: Array, y: Array, permutation: Array, lam: float) -> tuple[Array, Array]:
    mixed_x, mixed_y = np.empty_like(x), np.empty_like(y)
    for i, j in enumerate(permutation):
        mixed_x[i] = lam * x[i] + (1 - lam) * x[j]
        known = lam == 1 or (y[i].any() and y[j].any())
        mixed_y[i] = lam * y[i] + (1 - lam) * y[j] if known else 0
    return mixed_x, mixed_y


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def generalized_cross_entropy(logits: Array, y: Array, q: float) -> float:
    y_labelled, p = y[y.sum(axis=1) > 0], softmax(logits[y.sum(axis=1) > 0])
    s = (y_labelled * p).sum(axis=1)
    return float(np.mean(-np.log(s) if q == 0 else (1 - s**q) / q)) if len(s) else 0.0


def cosines(a: Array, b: Array) -> Array:
    def unit(rows: Array) -> Array:
        norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
        return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)

    return unit(a) @ unit(b).T


def similarity_consistency(r: Array, x: Array) -> float:
    rr, xx, rx = 2 * cosines(r, r), 2 * cosines(x, x), 2 * cosines(r, x)
    return float(np.mean((rr - xx) ** 2) + np.mean((rx - rx.T) ** 2))


def recasting_error(r: Array, x: Array) -> float:
    return float(np.mean((r - x) ** 2))


def reversible_consistency(
    x: Array,
    y: Array,
    w: Array,
    *,
    q: float = 1.0,
    alpha: float = 0.1,
    beta: float = 0.1,
    eta: float = 1.0,
    temperature: float = 1.0,
) -> Loss:
    labelled = y.sum(axis=1) > 0
    if not labelled.any():
        return Loss(0.0, 0.0, 0.0, 0.0)
    x, y = x[labelled], y[labelled]
    r = y @ np.linalg.pinv(w)
    label = generalized_cross_entropy(x @ w / temperature, y, q)
    consistency, recasting = similarity_consistency(r, x), recasting_error(r, x)
    total = alpha * consistency + beta * recasting + eta * label
    return Loss(total, label, consistency, recasting)


def average_precision(scores: Array, relevant: Array, k: int | None = None) -> float:
    """Of one query; Python's sort is stable, so ties stay in gallery order."""
    ranking = sorted(range(len(scores)), key=lambda item: -scores[item])[:k]
    precisions = [
        sum(bool(relevant[i]) for i in ranking[: rank + 1]) / (rank + 1)
        for rank, item in enumerate(ranking)
        if relevant[item]
    ]
    return sum(precisions) / len(precisions) if precisions else 0.0


def target_rows(
    rng: np.random.Generator, batch: int, classes: int, kind: str, lam: float = 0.9
) -> Array:
    """Target rows (B, C) of the kind named; of "mixed" ones ``lam`` is a row's own share."""
    y = np.eye(classes)[rng.integers(classes, size=batch)]
    if kind == "multi-hot":
        y = np.maximum(y, rng.random((batch, classes)) < 0.4)
    elif kind == "mixed":
        y = lam * y + (1 - lam) * y[rng.permutation(batch)]
    elif kind == "unlabelled":
        y[rng.permutation(batch)[: batch // 2]] = 0
    elif kind != "one-hot":
        raise ValueError(kind)
    return y


def random_batch(
    batch: int, dim: int, classes: int, kind: str, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Unit features (B, D), target rows (B, C) of the kind named, and a prior (D, C)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    w = rng.normal(size=(dim, classes))
    return x, target_rows(rng, batch, classes, kind), w


# Batch, width, classes, kind of targets: each the smallest that exercises what its name says.
BATCHES = {
    "one-hot": (12, 10, 4, "one-hot"),
    "multi-hot": (12, 10, 4, "multi-hot"),
    "mixed": (12, 10, 4, "mixed"),
    "unlabelled rows": (12, 10, 4, "unlabelled"),
    "one row": (1, 7, 3, "one-hot"),
    "one class": (5, 7, 1, "one-hot"),
    "more classes than dimensions": (9, 4, 7, "multi-hot"),
    "as many classes as dimensions": (9, 5, 5, "mixed"),
    "fewer rows than dimensions": (3, 40, 4, "multi-hot"),
}
