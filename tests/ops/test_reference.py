"""The reference against formulas written a second time, in NumPy, and against autograd's check."""

from __future__ import annotations

import numpy as np
import numpy_oracle as oracle
import pytest
import torch
from torch.autograd import gradcheck

from drcl import reference

QS = (0.0, 1e-6, 0.3, 1.0)
all_batches = pytest.mark.parametrize("batch", oracle.BATCHES.values(), ids=oracle.BATCHES)


def close(ours, expected):
    torch.testing.assert_close(
        ours, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13
    )


def tensors(*arrays):
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


@all_batches
@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_mixup(batch, lam):
    x, y, _ = oracle.random_batch(*batch)
    permutation = np.random.default_rng(1).permutation(len(x))
    ours = reference.mixup(*tensors(x, y, permutation), lam)
    for mine, expected in zip(ours, oracle.mixup(x, y, permutation, lam), strict=True):
        close(mine, expected)


@all_batches
def test_prior_similarity(batch):
    x, _, w = oracle.random_batch(*batch)
    logits, probabilities = reference.prior_similarity(*tensors(x, w), 0.5)
    close(logits, x @ w / 0.5)
    close(probabilities, oracle.softmax(x @ w / 0.5))


@all_batches
@pytest.mark.parametrize("q", [0.0, 0.01, 0.3, 1.0])
def test_generalized_cross_entropy(batch, q):
    x, y, w = oracle.random_batch(*batch)
    close(
        reference.generalized_cross_entropy(*tensors(x @ w, y), q),
        oracle.generalized_cross_entropy(x @ w, y, q),
    )


@all_batches
def test_every_term_of_the_loss(batch):
    x, y, w = oracle.random_batch(*batch)
    tx, ty, tw = tensors(x, y, w)
    r = y @ np.linalg.pinv(w)
    close(reference.recast(ty, tw), r)
    close(reference.cosine_similarity(tx, tw.T), 2 * oracle.cosines(x, w.T))
    close(
        reference.similarity_consistency(*tensors(r, x)),
        oracle.similarity_consistency(r, x),
    )
    close(reference.recasting_error(*tensors(r, x)), oracle.recasting_error(r, x))
    for q in (0.0, 0.3, 1.0):
        settings = {"q": q, "alpha": 0.3, "beta": 0.7, "eta": 1.3, "temperature": 0.6}
        ours = reference.reversible_consistency(tx, ty, tw, **settings)
        for mine, expected in zip(
            ours, oracle.reversible_consistency(x, y, w, **settings), strict=True
        ):
            close(mine, expected)


@all_batches
@pytest.mark.parametrize("q", QS)
def test_gradients(batch, q):
    x, y, w = oracle.random_batch(*batch)
    logits, x, y, w = tensors(x @ w, x, y, w)
    permutation = torch.randperm(len(x))

    def loss(features):
        mixed, targets = reference.mixup(features, y, permutation, 0.9)
        return reference.reversible_consistency(mixed, targets, w, q=q, alpha=0.3, beta=0.7)

    assert gradcheck(loss, x.requires_grad_(), fast_mode=True)
    assert gradcheck(
        lambda z: reference.generalized_cross_entropy(z, y, q),
        logits.requires_grad_(),
        fast_mode=True,
    )


def test_the_recasting_is_a_constant():
    x, y, w = tensors(*oracle.random_batch(6, 8, 3, "one-hot"))
    x.requires_grad_(), w.requires_grad_()
    reference.reversible_consistency(x, y, w)[0].backward()
    assert x.grad is not None and w.grad is None


@pytest.mark.parametrize("k", [None, 1, 3, 7, 100])
def test_average_precision(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(4, size=(30, 9)).astype(float)  # few values: many ties
    relevant = rng.random((30, 9)) < 0.3
    relevant[0] = False
    ours = reference.average_precision(*tensors(scores, relevant), k)
    close(ours, [oracle.average_precision(*row, k) for row in zip(scores, relevant, strict=True)])
    skipped = reference.average_precision(*tensors(scores, relevant), k, "skip")
    assert torch.equal(skipped.isnan(), ~torch.from_numpy(relevant).any(dim=1))
