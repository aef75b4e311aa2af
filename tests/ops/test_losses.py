"""The modules: thin over the functions, right in training and in evaluation mode."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gloo import on_ranks, process_group
from torch import nn

from drcl import Prior, functional, use_backend
from drcl.backends import probe_backends
from drcl.losses import FeatureMixup, GeneralizedCrossEntropy, ReversibleConsistencyLoss
from drcl.ops import reversible_consistency as op

NATIVE = next(b for b in probe_backends() if b.name == "native")
BACKENDS = [
    "eager",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}"),
    ),
]


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


# --- numbers as people have them


def test_numbers_of_numpy_are_numbers(batch):
    x, y, prior = batch
    swap = torch.arange(10).flip(0)
    settings = {"alpha": 0.25, "beta": 2, "eta": 0.5, "temperature": 0.75, "lam": 0.5}
    kinds = (np.float32, np.int64, np.float16, np.float64, np.float32)
    numpy = {name: kind(value) for (name, value), kind in zip(settings.items(), kinds, strict=True)}
    wanted = functional.reversible_consistency_loss(
        x, y, prior, q=0.5, permutation=swap, **settings
    )
    found = functional.reversible_consistency_loss(
        x, y, prior, q=np.float32(0.5), permutation=swap, **numpy
    )
    assert torch.equal(found.total, wanted.total)
    module = ReversibleConsistencyLoss(prior, **numpy)
    assert torch.equal(module.parts(x, y, q=np.float32(0.5), permutation=swap).total, wanted.total)
    for name in settings:
        assert type(getattr(module, name)) in (int, float), name
    mixed, rows = functional.mixup(
        x, y.clamp(min=0), classes=np.int64(4), lam=np.float32(0.5), permutation=swap
    )
    plain = functional.mixup(x, y.clamp(min=0), classes=4, lam=0.5, permutation=swap)
    assert torch.equal(mixed, plain[0]) and torch.equal(rows, plain[1])
    assert FeatureMixup(np.int64(4), np.float32(0.5)).lam == 0.5
    similar = functional.prior_similarity(x, prior, y, q=np.float64(0.5), temperature=np.float32(2))
    assert torch.equal(
        similar.loss, functional.prior_similarity(x, prior, y, q=0.5, temperature=2).loss
    )
    weight = Prior.orthogonal(
        np.int64(12), np.int32(4), seed=np.uint8(3), norm=np.float32(2)
    ).weight
    assert torch.equal(weight, Prior.orthogonal(12, 4, seed=3, norm=2.0).weight)
    assert float(prior.scaled(np.float32(3)).column_norm) == pytest.approx(3.0)


def summed(step, times):
    q = step * 0
    for _ in range(times):
        q = q + step
    return q


SUMS = {
    "float": summed(0.01, 100),
    "float, small steps": summed(1e-6, 10**6),
    "float32": summed(torch.tensor(0.001), 1000),
    "float64": summed(torch.tensor(0.01, dtype=torch.float64), 100),
    "numpy": np.float64(summed(0.01, 100)),
    "float32 above 1": torch.tensor(1.0).nextafter(torch.tensor(2.0)),
}


@pytest.mark.parametrize("q", SUMS.values(), ids=SUMS)
def test_a_q_that_was_summed_up_to_one_is_one(batch, q):
    x, y, prior = batch
    assert q != 1 and abs(q - 1) < 1e-4
    for loss in (
        lambda q: functional.reversible_consistency_loss(x, y, prior, q=q).total,
        lambda q: functional.prior_similarity(x, prior, y, q=q).loss,
        lambda q: functional.generalized_cross_entropy(x @ prior.weight, y, q=q),
        lambda q: ReversibleConsistencyLoss(prior)(x, y, q=q),
        lambda q: GeneralizedCrossEntropy()(x @ prior.weight, y, q=q),
    ):
        torch.testing.assert_close(loss(q), loss(1.0), rtol=1e-4, atol=0)
        for wrong in (1.001, torch.tensor(1.001), -1e-9):
            with pytest.raises(ValueError, match=r"q: expected a number in \[0, 1\]"):
                loss(wrong)


@pytest.mark.parametrize("targets", ["ids", "rows"])
@pytest.mark.parametrize("lam", [1.0, 0.9])
def test_a_rank_without_rows_contributes_nothing(batch, tmp_path, targets, lam):
    _, _, prior = batch
    x = torch.empty(0, 12, requires_grad=True)
    y = torch.empty(0, dtype=torch.int64) if targets == "ids" else torch.empty(0, 4)
    with process_group(0, 1, tmp_path):
        criterion = ReversibleConsistencyLoss(
            prior, lam=lam, process_group=torch.distributed.group.WORLD
        )
        parts = criterion.parts(x, y, q=0.5)
        parts.total.backward()
        assert [float(part.detach()) for part in parts] == [0.0] * 4 and x.grad.shape == (0, 12)
        with pytest.raises(ValueError, match="features: expected rows and columns"):
            criterion(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="features: expected rows and columns"):
        ReversibleConsistencyLoss(prior)(x, y)


def on_rank(rank, folder, prior, x, y):
    with process_group(rank, 3, folder):
        rows = (slice(0, 4), slice(4, 4), slice(4, 10))[rank]
        own = x[rows].clone().requires_grad_()
        criterion = ReversibleConsistencyLoss(prior, process_group=torch.distributed.group.WORLD)
        total = criterion(own, y[rows], q=0.5)
        total.backward()
        torch.save([total.detach(), own.grad], f"{folder}/{rank}.pt")


def test_the_others_have_the_whole_loss_beside_a_rank_without_rows(batch, tmp_path):
    x, y, prior = batch
    on_ranks(on_rank, 3, str(tmp_path), prior, x, y)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    x.requires_grad_()
    whole = ReversibleConsistencyLoss(prior)(x, y, q=0.5)
    whole.backward()
    for total, _ in found:
        torch.testing.assert_close(total, whole.detach(), rtol=1e-6, atol=0)
    gradient = torch.cat([gradient for _, gradient in found])
    torch.testing.assert_close(gradient, x.grad, rtol=1e-5, atol=1e-7)


MANY_CLASSES = [
    (90, 80, 70),  # more rows than dimensions, and yet by rows
    (200, 300, 70),  # by rows in products
    (400, 80, 70),  # by features in products
]
# By rows, few and many, and not, with K < D, K = D = C and K = D < C.
SIZES = [
    (20, 24, 15),
    (10, 24, 24),
    (70, 24, 24),
    (10, 24, 30),
    (70, 24, 30),
    (140, 60, 70),
    *MANY_CLASSES,
]
KINDS = ["ids", "rows", "soft", "mixed", "mixed rows", "unlabelled", "aligned", "zeros"]


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_form_has_the_loss_and_gradient_of_the_formula(
    monkeypatch, backend, size, kind, whole, by_rows
):
    """In float64, where nothing but the last digits may differ."""
    b, d, c = size
    if backend == "native":  # without loops, so that its products are tested at small sizes
        monkeypatch.setattr(op.stages(backend), "loops", lambda *_: False)
        monkeypatch.setattr(op.stages(backend), "SMALL_WHOLE", 0)
    prior = Prior(torch.randn(d, c, dtype=torch.float64))
    targets = torch.arange(b) % c
    permutation, lam = (torch.randperm(b), 0.8) if "mixed" in kind else (None, 1.0)
    x = torch.randn(b, d, dtype=torch.float64)
    if kind == "aligned":  # converged but for a little
        x = prior.inverse[targets] + 1e-6 * x
    if "rows" in kind:
        targets = nn.functional.one_hot(targets, c) + nn.functional.one_hot(targets.flip(0), c)
        targets = targets.clamp(max=1).double()
    if kind == "soft":
        targets = torch.rand(b, c, dtype=torch.float64)
    if kind in ("mixed rows", "soft"):
        targets[::4] = 0.0
    if kind == "unlabelled":
        targets[::3] = -1
        x[::3] = torch.nan
    if kind == "zeros":
        x[::3] = 0.0
    monkeypatch.setattr(op, "prefers_whole", lambda *_, **__: whole)
    monkeypatch.setattr(op, "prefers_rows", lambda *_: by_rows)
    found = []
    for compared in ("reference", backend):
        features = x.clone().requires_grad_()
        with use_backend(compared):
            loss = functional.reversible_consistency_loss(
                features,
                targets,
                prior,
                q=0.4,
                temperature=0.7,
                lam=lam,
                permutation=permutation,
            )
        (gradient,) = torch.autograd.grad(loss.total, features)
        found.append((torch.stack(tuple(loss)), gradient))
    (exact, exact_gradient), (values, gradient) = found
    assert torch.allclose(values, exact, rtol=1e-8, atol=1e-13)
    assert (gradient - exact_gradient).norm() <= 1e-8 * exact_gradient.norm() + 1e-13


# Loops and products, by rows and not, in the whole space, and with many more classes than features.
VALUE_SIZES = [
    (20, 24, 5),
    (40, 24, 5),
    (20, 300, 5),
    (10, 24, 300),
    (20, 300, 280),
    (10, 400, 70),
    *MANY_CLASSES,
]


@pytest.mark.parametrize("kind", ["ids", "unlabelled", "rows", "mixed"])
@pytest.mark.parametrize("size", VALUE_SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_gradient_the_value_has_the_same_bits(backend, size, kind):
    b, d, c = size
    prior, x = Prior(torch.randn(d, c)), torch.randn(b, d)
    ids = torch.arange(b) % c
    if kind == "unlabelled":
        ids[::3] = -1
    targets = nn.functional.one_hot(ids, c).float() if kind == "rows" else ids
    if kind == "rows":
        targets[:, 0] = 1.0
    mixing = {"permutation": ids.argsort(), "lam": 0.9} if kind == "mixed" else {}
    with use_backend(backend):
        known = functional.reversible_consistency_loss(
            x.clone().requires_grad_(), targets, prior, q=0.4, **mixing
        )
        found = functional.reversible_consistency_loss(x, targets, prior, q=0.4, **mixing)
    assert [float(part) for part in found] == [float(part) for part in known]


def test_without_a_gradient_none_is_prepared(monkeypatch):
    asked = []
    eager = op.stages("eager")

    def rows(*args, gradient):
        found = eager.rows(*args, gradient=gradient)
        asked.append((gradient, len(found.label_gradient)))
        return found

    monkeypatch.setattr(op, "stages", lambda _: SimpleNamespace(**{**vars(eager), "rows": rows}))
    prior, x, y = Prior.orthogonal(dim=12, classes=4), torch.randn(6, 12), torch.arange(6) % 4
    with use_backend("eager"):
        functional.reversible_consistency_loss(x, y, prior)
        functional.reversible_consistency_loss(x.requires_grad_(), y, prior)
        with torch.no_grad():
            functional.reversible_consistency_loss(x, y, prior)
        torch.func.jvp(
            lambda x: functional.reversible_consistency_loss(x, y, prior).total,
            (x.detach(),),
            (torch.ones_like(x),),
        )
    assert asked == [(False, 0), (True, 6), (False, 0), (True, 6)]
