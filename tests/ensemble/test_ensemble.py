"""Members as one batched network, their folds and their shares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drcl.ensemble import Ensemble, Members, Scaling
from drcl.ensemble.choice import choose_shares, held_out_logits
from drcl.ensemble.folds import held_out_rows
from drcl.ensemble.training import Recipe, Rows, loss_of, train_members
from drcl.losses import ReversibleConsistencyLoss
from drcl.prior import Prior


def blobs(count=60, classes=3, width=6, seed=0, spread=1.0):
    """Rows around one corner for each class, and their one-hot targets."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(count) % classes
    x = torch.eye(classes, width)[ids] * 2 + spread * torch.randn(count, width, generator=generator)
    return x, torch.eye(classes)[ids]


def rows_of(x, y, members=4):
    return Rows(x, y, held_out_rows(y, members, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("hidden, dim", [(0, 0), (7, 0), (7, 5)])
def test_members_compute_what_k_separate_networks_compute(hidden, dim):
    members = Members(4, 3, count=2, hidden=hidden, dim=dim)
    if dim:
        members.prior = Prior.orthogonal(dim, 3, seed=1).weight
    members.double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    for k in range(2):
        layers = []
        for weight, bias in zip(members.weights, members.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[2]).double()
            layer.weight.data, layer.bias.data = weight[k].T, bias[k, 0]
            layers += [layer, nn.ReLU()]
        z = nn.Sequential(*layers[:-1])(x)
        if dim:
            z = (z / z.norm(dim=1, keepdim=True)) @ members.prior
        torch.testing.assert_close(members(x)[k], z, rtol=1e-12, atol=1e-12)


def test_an_ensemble_is_the_weighted_mean_of_calibrated_posteriors():
    parts = [Members(4, 3, count=2), Members(4, 3, count=3, hidden=5)]
    scaling = Scaling.of(torch.randn(20, 4) ** 2, root=True)
    ensemble = Ensemble(parts, scaling).double().eval()
    ensemble.temperatures.copy_(torch.tensor([0.5, 2.0]))
    ensemble.shares.copy_(torch.tensor([0.25, 0.75]))
    features = torch.randn(6, 4, dtype=torch.float64)
    x = (features.sign() * features.abs().sqrt() - scaling.mean) / scaling.std
    expected = 0.25 * (parts[0](x) / 0.5).softmax(-1).mean(0)
    expected += 0.75 * (parts[1](x) / 2.0).softmax(-1).mean(0)
    found = ensemble(features)
    torch.testing.assert_close(found.softmax(dim=1), expected, rtol=1e-12, atol=1e-12)
    assert found.sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("root", [False, True])
def test_scaled_columns_have_mean_0_and_variance_1(root):
    x = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 0.0]) + 5
    z = Scaling.of(x, root)(x)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    expected = torch.tensor([1.0, 1.0, 0.0])  # a constant column stays constant
    torch.testing.assert_close(z.std(dim=0, correction=0), expected, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_its_share_and_the_mean():
    members = Members(256, 1000, count=2, input_dropout=0.25)
    with torch.no_grad():
        for parameter in members.parameters():
            parameter.zero_()
        members.weights[0][:, torch.arange(256), torch.arange(256)] = 1.0
    x = members.train()(torch.ones(500, 256))[..., :256]
    assert x.unique().tolist() == pytest.approx([0.0, 256 / 192])
    # 256,000 draws: the share's standard deviation is 0.0009.
    assert (x == 0).double().mean().item() == pytest.approx(0.25, abs=0.004)
    assert not torch.equal(x[0], x[1])
    assert (x == 0).double().mean(dim=(0, 1)).std() < 0.02
    assert torch.equal(members.eval()(torch.ones(1, 256))[..., :256], torch.ones(2, 1, 256))


def test_the_consistent_loss_is_cross_entropy_and_j_d_of_each_member():
    members = Members(4, 3, count=2, hidden=7, dim=5)
    members.prior = Prior.orthogonal(5, 3, seed=1).weight * 4.5
    x, y = torch.randn(2, 9, 4), torch.rand(2, 9, 3).softmax(dim=-1)
    criterion, expected = ReversibleConsistencyLoss(members.prior), torch.tensor(0.0)
    for z, own in zip(members.embed(x), y, strict=True):
        label = -(own * (z @ members.prior).log_softmax(dim=1)).sum(dim=1).mean()
        expected = expected + label + 2.0 * criterion.parts(z, own).consistency
    found = loss_of(members, Recipe("", dim=5, alpha=2.0))(x, y)
    torch.testing.assert_close(found, expected)
    parameters = list(members.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        rtol=1e-4,
        atol=1e-6,
    )


def test_an_ensemble_is_built_again_from_its_description():
    parts = [Members(4, 3, count=2), Members(4, 3, count=2, hidden=5, dim=6)]
    ensemble = Ensemble(parts, Scaling.of(torch.rand(9, 4), root=True)).eval()
    again = Ensemble.build(ensemble.describe())
    again.load_state_dict(ensemble.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(again.eval()(x), ensemble(x))


def test_an_ensemble_refuses_rows_of_another_width():
    with pytest.raises(ValueError, match=r"features: expected rows of width 4, got shape \(2, 5\)"):
        Ensemble([Members(4, 3, count=2)], Scaling(4))(torch.zeros(2, 5))


@pytest.mark.parametrize("several", [False, True])
def test_every_row_is_held_out_once_and_every_class_evenly(several):
    ids = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
    targets = torch.eye(3)[ids] if several else ids
    held_out = held_out_rows(targets, 5, torch.Generator().manual_seed(3))
    assert torch.equal(held_out.sum(dim=0), torch.ones(30, dtype=torch.int64))
    for label, size in ((0, 20), (1, 7), (2, 3)):
        counts = held_out[:, ids == label].sum(dim=1)
        assert counts.max() - counts.min() <= 1 and counts.sum() == size


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("hidden", hidden=16, dropout=0.2, input_dropout=0.1, epochs=40, lr=1e-2),
        Recipe("consistent", hidden=16, dim=8, alpha=2.0, mix=1.0, epochs=150, lr=1e-2),
    ],
    ids=lambda recipe: recipe.name,
)
def test_hidden_members_learn_what_they_do_not_see(recipe):
    x, y = blobs(count=90, spread=0.5)
    rows = rows_of(x, y)
    members = train_members(recipe, rows, seed=1)
    found = held_out_logits(members, x, rows.held_out).argmax(dim=1)
    assert (found == y.argmax(dim=1)).float().mean() > 0.95
    again = train_members(recipe, rows, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(members.parameters(), again.parameters(), strict=True)
    )


def test_a_members_held_out_rows_do_not_reach_it():
    x, y = blobs()
    rows = rows_of(x, y)
    recipe = Recipe("hidden", hidden=8, epochs=3)
    before = train_members(recipe, rows, seed=0)
    damaged = Rows(torch.where(rows.held_out[0][:, None], 1e3, x), y, rows.held_out)
    after = train_members(recipe, damaged, seed=0)
    assert torch.equal(before.weights[0][0], after.weights[0][0])
    assert not torch.equal(before.weights[0][1], after.weights[0][1])


def test_training_draws_nothing_from_the_callers_generator():
    x, y = blobs()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_members(Recipe("hidden", hidden=8, dropout=0.5, mix=1.0, epochs=2), rows_of(x, y), 0)
    assert torch.equal(torch.rand(3), expected)


def test_little_time_means_fewer_epochs_but_one():
    x, y = blobs()
    ticks = []
    recipe = Recipe("hidden", hidden=8, epochs=1000)
    train_members(recipe, rows_of(x, y), 0, seconds=0.0, tick=lambda: ticks.append(1))
    assert len(ticks) == 1


def test_held_out_logits_are_those_of_the_member_without_the_row():
    x, y = blobs(count=1100)
    rows = rows_of(x, y, members=3)
    members = Members(6, 3, count=3).eval()
    found = held_out_logits(members, x, rows.held_out)
    every = members(x)
    for row in (0, 1023, 1024, 1099):
        k = int(rows.held_out[:, row].int().argmax())
        torch.testing.assert_close(found[row], every[k, row])


def test_shares_sum_to_one_and_beat_every_single_candidate():
    generator = torch.Generator().manual_seed(0)
    targets = torch.eye(3)[torch.arange(90) % 3]
    candidates = [
        (2 * targets + torch.randn(90, 3, generator=generator)).softmax(dim=1) for _ in range(4)
    ]
    shares = choose_shares(candidates, targets)
    assert sum(shares) == pytest.approx(1.0)

    def likelihood(posteriors):
        return float((targets * posteriors.log()).sum(dim=1).mean())

    mean = sum(share * one for share, one in zip(shares, candidates, strict=True))
    assert likelihood(mean) > max(likelihood(one) for one in candidates)
