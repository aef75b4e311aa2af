"""Targets: :mod:`drcl.reference`, the oracle of the others, against NumPy."""

from __future__ import annotations

import numpy as np
import numpy_oracle as oracle
import torch
from arrays import target_rows, values
from fuzzing import Draw, target, within
from torch import Tensor

from drcl import reference

EXACT = 1e-11


def rows(draw: Draw, label: str, count: int, width: int) -> tuple[np.ndarray, Tensor]:
    x = values(draw, label, count, width, "normal", "unit rows", "small integers", "some zero rows")
    return x, torch.from_numpy(x)


@target("drcl.reference.mixup")
def mixup(draw: Draw) -> None:
    x, ours = rows(draw, "X", draw.integer("B", 1, 8), draw.integer("D", 1, 8))
    y = target_rows(draw, len(x), draw.integer("C", 1, 5))
    order, lam = draw.random.permutation(len(x)), draw.choose("lam", 0.9, 1.0, 0.5, 0.0)
    found = reference.mixup(ours, torch.from_numpy(y), torch.from_numpy(order), lam)
    for value, exact in zip(found, oracle.mixup(x, y, order, lam), strict=True):
        within(value, exact, EXACT, "mixed")


@target("drcl.reference.prior_similarity")
def prior_similarity(draw: Draw) -> None:
    width = draw.integer("D", 1, 8)
    x, ours = rows(draw, "X", draw.integer("B", 1, 8), width)
    w, prior = rows(draw, "W", width, draw.integer("C", 1, 5))
    temperature = draw.choose("temperature", 1.0, 0.3, 20.0)
    logits, p = reference.prior_similarity(ours, prior, temperature)
    within(logits, x @ w / temperature, EXACT * 10, "logits")
    within(p, oracle.softmax(x @ w / temperature), EXACT * 10, "p")


@target("drcl.reference.generalized_cross_entropy")
def generalized_cross_entropy(draw: Draw) -> None:
    x, logits = rows(draw, "logits", draw.integer("B", 1, 8), draw.integer("C", 1, 5))
    y = target_rows(draw, *x.shape)
    q = draw.choose("q", 1.0, 0.0, 0.01, 0.5)
    found = reference.generalized_cross_entropy(logits, torch.from_numpy(y), q)
    # NumPy's power cancels where q is small.
    within(found, oracle.generalized_cross_entropy(x, y, q), EXACT / max(q, 0.01), "loss")


@target("drcl.reference.recast")
def recast(draw: Draw) -> None:
    width, classes = draw.integer("D", 1, 8), draw.integer("C", 1, 5)
    w, prior = rows(draw, "W", width, classes)
    y = target_rows(draw, draw.integer("B", 1, 6), classes)
    cutoff = 1e-10
    exact = y @ np.linalg.pinv(w, rcond=cutoff)
    found = reference.recast(torch.from_numpy(y), prior, cutoff)
    within(found, exact, EXACT * (1 + np.abs(np.linalg.pinv(w, rcond=cutoff)).max() ** 2), "R")


@target("drcl.reference.cosine_similarity")
def cosine_similarity(draw: Draw) -> None:
    width = draw.integer("D", 1, 8)
    a, ours = rows(draw, "A", draw.integer("n", 1, 6), width)
    b, other = rows(draw, "B", draw.integer("m", 1, 6), width)
    found = reference.cosine_similarity(ours, other)
    within(found, 2 * oracle.cosines(a, b), EXACT, "θ")
    within(found, reference.cosine_similarity(other, ours).T, EXACT, "θᵀ")


def recast_pair(draw: Draw) -> tuple[tuple[np.ndarray, Tensor], tuple[np.ndarray, Tensor]]:
    count, width = draw.integer("B", 1, 8), draw.integer("D", 1, 8)
    return rows(draw, "R", count, width), rows(draw, "X", count, width)


@target("drcl.reference.similarity_consistency")
def similarity_consistency(draw: Draw) -> None:
    (r, recasting), (x, features) = recast_pair(draw)
    found = reference.similarity_consistency(recasting, features)
    within(found, oracle.similarity_consistency(r, x), EXACT, "J_D")
    # Only directions count, and R against itself costs nothing.
    within(reference.similarity_consistency(recasting * 3, features), found, EXACT, "scaled")
    within(reference.similarity_consistency(recasting, recasting), 0.0, EXACT, "R against R")


@target("drcl.reference.recasting_error")
def recasting_error(draw: Draw) -> None:
    (r, recasting), (x, features) = recast_pair(draw)
    found = reference.recasting_error(recasting, features)
    within(found, oracle.recasting_error(r, x), EXACT, "J_MSE")


@target("drcl.reference.reversible_consistency")
def reversible_consistency(draw: Draw) -> None:
    width, classes = draw.integer("D", 2, 8), draw.integer("C", 1, 4)
    x, features = rows(draw, "X", draw.integer("B", 1, 8), width)
    # Orthogonal columns of different length: the inverse is well conditioned.
    basis = np.linalg.qr(draw.random.normal(size=(width, width)))[0]
    w = basis[:, : min(classes, width)] * draw.random.uniform(0.5, 3, size=min(classes, width))
    y = target_rows(draw, len(x), w.shape[1])
    options = {
        "q": draw.choose("q", 1.0, 0.0, 0.3),
        "alpha": draw.choose("alpha", 0.1, 0.0, 2.0),
        "beta": draw.choose("beta", 0.1, 0.0),
        "eta": draw.choose("eta", 1.0, 0.0),
        "temperature": draw.choose("temperature", 1.0, 0.5),
    }
    tensors = features, torch.from_numpy(y), torch.from_numpy(w)
    found = reference.reversible_consistency(*tensors, **options)
    exact = oracle.reversible_consistency(x, y, w, **options)
    for name, value, part in zip(exact._fields, found, exact, strict=True):
        within(value, part, 1e-9, name)
    order = torch.from_numpy(draw.random.permutation(len(x)))
    shuffled = tensors[0][order], tensors[1][order], tensors[2]
    again = reference.reversible_consistency(*shuffled, **options)
    within(torch.stack(again), torch.stack(found), 1e-9, "permuted")


@target("drcl.reference.average_precision")
def average_precision(draw: Draw) -> None:
    queries, items = draw.integer("Q", 1, 4), draw.integer("N", 1, 9)
    s, scores = rows(draw, "scores", queries, items)
    hits = draw.random.random((queries, items)) < draw.choose("relevant", 0.3, 0.0, 1.0)
    k = draw.choose("k", None, 1, 3, 50)
    found = reference.average_precision(scores, torch.from_numpy(hits), k)
    exact = [oracle.average_precision(*row, k) for row in zip(s, hits, strict=True)]
    within(found, exact, EXACT, "AP")
