"""The modules: thin over the functions, right in training and in evaluation mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from drcl import Prior, functional
from drcl.losses import FeatureMixup, GeneralizedCrossEntropy, ReversibleConsistencyLoss


@pytest.fixture
def batch():
    prior = Prior.orthogonal(dim=12, classes=4, norm=2.0)
    return nn.functional.normalize(torch.randn(10, 12)), torch.arange(10) % 5 - 1, prior


def test_equals_the_function(batch):
    x, y, prior = batch
    settings = {"alpha": 0.2, "beta": 0.3, "eta": 0.5, "temperature": 0.7}
    expected = functional.reversible_consistency_loss(x, y, prior, q=0.4, **settings)
    for given in (prior, prior.weight):
        loss = ReversibleConsistencyLoss(given, **settings)
        assert torch.equal(loss(x, y, q=0.4), expected.total)
        assert [float(p) for p in loss.parts(x, y, q=0.4)] == [float(p) for p in expected]


def test_defaults_are_the_papers(batch):
    x, y, prior = batch
    total, label, consistency, recasting = ReversibleConsistencyLoss(prior).parts(x, y)
    assert float(total) == pytest.approx(float(0.1 * consistency + 0.1 * recasting + label))


def test_the_six_line_drop_in(batch):
    x, y, prior = batch
    network = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 12))
    criterion = ReversibleConsistencyLoss(prior)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = criterion(nn.functional.normalize(network(x)), y, q=torch.tensor(0.5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert not list(criterion.parameters())  # the prior is frozen


def test_mixes_in_training_mode_only(batch):
    x, y, prior = batch
    loss = ReversibleConsistencyLoss(prior, lam=0.9)
    plain = functional.reversible_consistency_loss(x, y, prior).total
    assert not torch.equal(loss(x, y), plain)
    permutation = torch.randperm(len(x))
    mixed = functional.reversible_consistency_loss(x, y, prior, lam=0.9, permutation=permutation)
    assert torch.equal(loss.parts(x, y, permutation=permutation).total, mixed.total)
    assert torch.equal(loss.eval()(x, y), plain)


def test_moves_and_is_stored_with_the_module(batch):
    x, y, prior = batch
    loss = ReversibleConsistencyLoss(prior)
    other = ReversibleConsistencyLoss(Prior.orthogonal(dim=12, classes=4, seed=1))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(x, y), loss(x, y))
    assert copy.deepcopy(loss).double()(x.double(), y).dtype == torch.float64


def test_generalized_cross_entropy(batch):
    x, y, _ = batch
    loss = GeneralizedCrossEntropy()
    assert torch.equal(loss(x, y, q=0.3), functional.generalized_cross_entropy(x, y, q=0.3))
    assert torch.equal(loss(x, y), functional.generalized_cross_entropy(x, y, q=1.0))


def test_feature_mixup(batch):
    x, y, _ = batch
    augment = FeatureMixup(classes=4, lam=0.75)
    torch.manual_seed(3)
    mixed = augment(x, y)
    torch.manual_seed(3)
    expected = functional.mixup(x, y, classes=4, lam=0.75)
    assert all(torch.equal(a, b) for a, b in zip(mixed, expected, strict=True))
    features, rows = augment.eval()(x, y)
    assert torch.equal(features, x)
    assert torch.equal(rows[y >= 0], nn.functional.one_hot(y[y >= 0], 4).float())


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda w: ReversibleConsistencyLoss(w, temperature=0.0), "temperature"),
        (lambda w: ReversibleConsistencyLoss(w, lam=1.5), "lam"),
        (lambda w: ReversibleConsistencyLoss(w, lam=-0.1), "lam"),
        (lambda w: ReversibleConsistencyLoss(w, alpha=float("nan")), "alpha"),
        (lambda w: ReversibleConsistencyLoss(w, beta=-1.0), "beta"),
        (lambda w: ReversibleConsistencyLoss(w[0]), "weight"),
        (lambda w: FeatureMixup(classes=4, lam=1.5), "lam"),
        (lambda w: FeatureMixup(classes=0), "classes"),
    ],
)
def test_bad_settings_are_refused_at_once(batch, build, named):
    with pytest.raises(ValueError, match=named):
        build(batch[2].weight)
