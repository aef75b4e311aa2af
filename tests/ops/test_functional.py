"""The public functions on every CPU backend: values, gradients, properties, bad input."""

from __future__ import annotations

import numpy as np
import numpy_oracle as oracle
import pytest
import torch
import torch.nn.functional as nnf
from forced import forced
from torch.autograd import gradcheck

from drcl import Config, Prior, functional

all_batches = pytest.mark.parametrize("batch", oracle.BATCHES.values(), ids=oracle.BATCHES)

# The other ops have no native form here.
native_too = pytest.mark.parametrize("backend", ["reference", "eager", "native"], indirect=True)


@pytest.fixture(params=["reference", "eager"], autouse=True)
def backend(request):
    with forced(request.param):
        yield request.param


def needs_half_precision(backend):
    if backend == "reference":
        pytest.skip("the reference keeps the dtype it is given, and half precision has no SVD")


def tensors(*arrays, dtype=torch.float64):
    return tuple(torch.tensor(array, dtype=dtype) for array in arrays)


def make(name="multi-hot", dtype=torch.float64):
    return tensors(*oracle.random_batch(*oracle.BATCHES[name]), dtype=dtype)


def gradient(loss, features):
    leaf = features.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


# --- generalised cross-entropy


@all_batches
@pytest.mark.parametrize("q", [0.0, 0.01, 0.3, 1.0])
def test_gce_equals_the_formula(batch, q, tolerance):
    x, y, w = oracle.random_batch(*batch)
    expected = oracle.generalized_cross_entropy(x @ w, y, q)
    ours = functional.generalized_cross_entropy(*tensors(x @ w, y), q=q)
    assert float(ours) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    similar = functional.prior_similarity(*tensors(x, w, y), q=torch.tensor(q).double())
    assert float(similar.loss) == pytest.approx(expected, rel=1e-6)  # q as float32 holds 7 digits


def test_gce_at_q_0_is_cross_entropy_and_at_q_1_is_one_minus_p(tolerance):
    logits, ids = torch.randn(9, 5).double() * 5, torch.arange(9) % 5
    at_0 = functional.generalized_cross_entropy(logits, ids, q=0.0)
    torch.testing.assert_close(at_0, nnf.cross_entropy(logits, ids), **tolerance(logits.dtype))
    true_class = logits.softmax(dim=1)[torch.arange(9), ids]
    at_1 = functional.generalized_cross_entropy(logits, ids, q=1.0)
    torch.testing.assert_close(at_1, (1 - true_class).mean(), **tolerance(logits.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("q", [1e-300, 1e-46, 1e-30, 1e-12, 1e-8, 1e-5])
def test_gce_is_continuous_at_q_0(q, dtype):
    logits = torch.randn(9, 5).to(dtype) * 5
    ids = torch.arange(9) % 5

    def loss(at):
        return lambda z: functional.generalized_cross_entropy(z, ids, q=at)

    close = {"rtol": 1e-3 if q == 1e-5 else 1e-5, "atol": 1e-5}
    torch.testing.assert_close(loss(q)(logits), loss(0.0)(logits), **close)
    torch.testing.assert_close(gradient(loss(q), logits), gradient(loss(0.0), logits), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("q", [0.0, 1e-30, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("gap", [90.0, 1e4, 1e30])
def test_gce_is_finite_at_vanishing_probability(q, gap, dtype):
    logits = torch.tensor([[0.0, gap, 0.0], [gap, 0.0, -gap]], dtype=dtype)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=dtype)
    for loss in (
        lambda z: functional.generalized_cross_entropy(z, targets, q=q),
        lambda z: functional.prior_similarity(z, torch.eye(3, dtype=dtype), targets, q=q).loss,
    ):
        assert torch.isfinite(loss(logits)), loss(logits)
        assert torch.isfinite(gradient(loss, logits)).all()


def test_gce_without_any_label_is_zero_with_a_zero_gradient():
    logits = torch.randn(3, 4)

    def loss(z):
        return functional.generalized_cross_entropy(z, torch.tensor([-1, -1, -1]))

    assert float(loss(logits)) == 0.0 and not gradient(loss, logits).any()


# --- prior similarity


@all_batches
def test_prior_similarity(batch, tolerance):
    x, y, w = oracle.random_batch(*batch)
    out = functional.prior_similarity(*tensors(x, w, y), q=0.5, temperature=0.7)
    p = oracle.softmax(x @ w / 0.7)
    labelled = y.sum(axis=1) > 0
    expected = (
        x @ w / 0.7,
        p,
        oracle.generalized_cross_entropy(x @ w / 0.7, y, 0.5),
        (y * p).sum(axis=1)[labelled].mean(),
    )
    for mine, value in zip(out, tensors(*expected), strict=True):
        torch.testing.assert_close(mine, value, **tolerance(torch.float64))
    assert not out.score.requires_grad


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["multi-hot", "unlabelled rows", "one class"])
def test_prior_similarity_gradients_by_features_and_prior(name, q):
    x, y, w = make(name)
    x.requires_grad_(), w.requires_grad_()
    assert gradcheck(
        lambda a, b: functional.prior_similarity(a, b, y, q=q).loss, (x, w), fast_mode=True
    )
    assert gradcheck(
        lambda a, b: functional.prior_similarity(a, b, y, q=q)[:2], (x, w), fast_mode=True
    )


# More rows than 2D: in the backward pass W is multiplied, and not the batch's gradient.
@pytest.mark.parametrize("batch", [5, 40])
@pytest.mark.parametrize("factor", [1.0, -3.0])
def test_the_loss_of_prior_similarity_alone_is_the_same(batch, factor):
    x, w = torch.randn(batch, 8, requires_grad=True), torch.randn(8, 3, requires_grad=True)
    ids = torch.arange(batch) % 3
    outs, gradients = [], []
    for alone in (False, True):
        out = functional.prior_similarity(x, w, ids, q=0.5, temperature=0.7, loss_only=alone)
        outs.append((out.loss, out.score))
        gradients.append(torch.autograd.grad(factor * out.loss, (x, w)))
    assert out.logits.shape == out.probabilities.shape == (0, 3)
    for found, expected in zip((*outs[1], *gradients[1]), (*outs[0], *gradients[0]), strict=True):
        assert torch.equal(found, expected)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, w)]
    with forced("reference"):
        loss = functional.prior_similarity(*exact, ids, q=0.5, temperature=0.7).loss
    for found, expected in zip(
        gradients[0], torch.autograd.grad(factor * loss, exact), strict=True
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


def test_prior_similarity_in_half_precision_is_scaled_before_its_products():
    """A gradient scaler's factor times a half-precision W is more than that holds."""
    x, w = torch.randn(40, 8).half(), torch.full((8, 3), 2.0).half().requires_grad_()
    loss = functional.prior_similarity(x, w, torch.arange(40) % 3).loss
    assert torch.autograd.grad(loss.float() * 4e4, w)[0].isfinite().all()


# --- the loss


@native_too
@all_batches
@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
def test_loss_equals_the_formula_term_by_term(batch, q, tolerance):
    x, y, w = oracle.random_batch(*batch)
    permutation = np.random.default_rng(1).permutation(len(x))
    settings = {"q": q, "alpha": 0.3, "beta": 0.7, "eta": 1.3, "temperature": 0.6}
    mixed = oracle.mixup(x, y, permutation, 0.9)
    expected = oracle.reversible_consistency(*mixed, w, **settings)
    for prior in (Prior(torch.from_numpy(w)), torch.from_numpy(w)):
        ours = functional.reversible_consistency_loss(
            *tensors(x, y), prior, **settings, lam=0.9, permutation=torch.from_numpy(permutation)
        )
        for mine, value in zip(ours, tensors(*expected), strict=True):
            torch.testing.assert_close(mine.double(), value, **tolerance(torch.float64))


@native_too
@pytest.mark.parametrize(
    ("batch", "q"),
    [
        # one q for each batch, in turn; all of them in the long form
        pytest.param(batch, q, id=f"{name}-{q}", marks=[] if i % 3 == j else pytest.mark.long)
        for i, (name, batch) in enumerate(oracle.BATCHES.items())
        for j, q in enumerate((0.0, 0.3, 1.0))
    ],
)
def test_loss_gradient(batch, q):
    x, y, w = tensors(*oracle.random_batch(*batch))
    prior, permutation = Prior(w), torch.randperm(len(x))

    def parts(features):
        return tuple(
            functional.reversible_consistency_loss(
                features, y, prior, q=q, alpha=0.3, beta=0.7, lam=0.9, permutation=permutation
            )
        )

    assert gradcheck(parts, x.requires_grad_(), fast_mode=True)


@native_too
def test_loss_from_ids_equals_the_loss_from_rows():
    x, _, w = make()
    ids = torch.arange(len(x)) % 5 - 1
    rows = nnf.one_hot(ids.clamp(min=0), 4).double() * (ids >= 0)[:, None]
    for targets in (rows, rows.float(), rows.to(torch.uint8)):
        from_ids = functional.reversible_consistency_loss(x, ids, w)
        from_rows = functional.reversible_consistency_loss(x, targets, w)
        assert [float(part) for part in from_ids] == [float(part) for part in from_rows]


@native_too
@pytest.mark.parametrize("name", ["multi-hot", "fewer rows than dimensions", "unlabelled rows"])
def test_permuting_the_batch_changes_nothing(name, tolerance):
    x, y, w = make(name)
    order = torch.randperm(len(x))

    def loss(rows):
        return lambda z: functional.reversible_consistency_loss(z, y[rows], w, q=0.3).total

    same = torch.arange(len(x))
    close = tolerance(torch.float64)
    torch.testing.assert_close(loss(order)(x[order]), loss(same)(x), **close)
    torch.testing.assert_close(
        gradient(loss(order), x[order]), gradient(loss(same), x)[order], **close
    )


@native_too
def test_lam_1_is_no_augmentation():
    x, y, w = make()
    permutation = torch.randperm(len(x))
    mixed, rows = functional.mixup(x, y, lam=1.0, permutation=permutation)
    assert torch.equal(mixed, x) and torch.equal(rows, y)
    plain = functional.reversible_consistency_loss(x, y, w)
    unmixed = functional.reversible_consistency_loss(x, y, w, lam=1.0, permutation=permutation)
    assert [float(part) for part in plain] == [float(part) for part in unmixed]


@native_too
def test_recast_labels_as_features_leave_no_consistency_loss():
    _, y, w = make("mixed")
    r = y @ torch.from_numpy(np.linalg.pinv(w.numpy()))
    loss = functional.reversible_consistency_loss(r, y, w)
    assert float(loss.consistency) < 1e-25 and float(loss.recasting) < 1e-25
    # Only directions enter J_D, so a rescaled R leaves J_D at zero but not J_MSE.
    loss = functional.reversible_consistency_loss(3 * r, y, w)
    assert float(loss.consistency) < 1e-25 and float(loss.recasting) > 1e-3


@native_too
def test_unlabelled_rows_equal_absent_rows(tolerance):
    x, y, w = make("unlabelled rows")
    known = y.sum(dim=1) > 0

    def loss(targets):
        return lambda z: functional.reversible_consistency_loss(z, targets, w, q=0.3).total

    close = tolerance(torch.float64)
    torch.testing.assert_close(loss(y)(x), loss(y[known])(x[known]), **close)
    whole = gradient(loss(y), x)
    torch.testing.assert_close(whole[known], gradient(loss(y[known]), x[known]), **close)
    assert not whole[~known].any()


@native_too
def test_a_batch_without_labels_costs_nothing():
    x, y, w = make()

    def loss(z):
        return functional.reversible_consistency_loss(z, torch.zeros_like(y), w).total

    assert float(loss(x)) == 0.0 and not gradient(loss, x).any()


@native_too
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_row_has_cosine_0_and_a_finite_gradient(dtype):
    x, y, w = make(dtype=dtype)
    x[3] = 0
    loss = functional.reversible_consistency_loss(x, y, w)
    expected = oracle.reversible_consistency(*(part.double().numpy() for part in (x, y, w)))
    rel = 1e-5 if dtype == torch.float32 else 1e-12
    assert [float(part) for part in loss] == pytest.approx(list(expected), rel=rel)
    grad = gradient(lambda z: functional.reversible_consistency_loss(z, y, w).total, x)
    assert torch.isfinite(grad).all()


@native_too
def test_grad_output_and_strides(tolerance):
    x, y, w = make()
    wide = torch.randn(len(x), 3 * x.shape[1]).double()
    wide[:, ::3] = x
    strided = wide[:, ::3]
    assert not strided.is_contiguous()

    def loss(z, targets=y, prior=w):
        return functional.reversible_consistency_loss(z, targets, prior, q=0.3).total

    expected = gradient(loss, x)
    close = tolerance(torch.float64)
    torch.testing.assert_close(gradient(lambda z: -2.5 * loss(z), x), -2.5 * expected, **close)
    turned = y.T.contiguous().T, w.T.contiguous().T
    torch.testing.assert_close(gradient(lambda z: loss(z, *turned), strided), expected, **close)


@native_too
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_features(dtype, tolerance, backend):
    if dtype != torch.float32:
        needs_half_precision(backend)
    x, y, w = make(dtype=torch.float32)
    prior, x = Prior(w), x.to(dtype)
    expected = oracle.reversible_consistency(*(part.double().numpy() for part in (x, y, w)))
    loss = functional.reversible_consistency_loss(x, y.to(dtype), prior)
    ours = torch.stack([part.double() for part in loss])
    torch.testing.assert_close(ours, torch.tensor(expected).double(), **tolerance(dtype))
    grad = gradient(lambda z: functional.reversible_consistency_loss(z, y, prior).total, x)
    assert grad.dtype == dtype and torch.isfinite(grad).all()


@native_too
def test_autocast(backend):
    needs_half_precision(backend)
    x, y, w = make(dtype=torch.float32)
    layer = torch.nn.Linear(x.shape[1], x.shape[1])
    plain = functional.reversible_consistency_loss(nnf.normalize(layer(x)), y, Prior(w)).total
    with torch.autocast("cpu", torch.bfloat16):
        cast = functional.reversible_consistency_loss(nnf.normalize(layer(x)), y, Prior(w)).total
    cast.backward()
    assert float(cast.detach()) == pytest.approx(float(plain.detach()), rel=5e-2)
    assert torch.isfinite(layer.weight.grad).all()


@native_too
def test_autocast_does_not_reach_into_the_functions(backend):
    """It made bfloat16 of the literal formulas, and of logits without targets on any backend."""
    x, y, w = make(dtype=torch.float32)

    def everything():
        parts = functional.reversible_consistency_loss(x, y, Prior(w))
        scored = functional.prior_similarity(x, w, y)
        return [*parts, *scored, functional.prior_similarity(x, w).logits]

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        cast = everything()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@native_too
def test_float64_features_meet_a_float32_prior():
    x, y, w = make()
    exact = functional.reversible_consistency_loss(x, y, w.float().double())
    ours = functional.reversible_consistency_loss(x, y, Prior(w.float()))
    assert float(ours.total) == pytest.approx(float(exact.total), rel=1e-5)
    assert functional.prior_similarity(x, w.float(), y).loss.isfinite()


@native_too
def test_close_to_convergence_float32_is_right_to_a_percent():
    _, y, w = make("one-hot")
    r = y @ torch.from_numpy(np.linalg.pinv(w.numpy()))
    x = (nnf.normalize(r) + 1e-5 * torch.randn(r.shape).double()).float()
    expected = oracle.reversible_consistency(
        x.double().numpy(), y.numpy(), w.float().double().numpy()
    )
    assert 1e-11 < expected.consistency < 1e-8
    ours = functional.reversible_consistency_loss(x, y, w.float())
    assert float(ours.consistency) == pytest.approx(expected.consistency, rel=1e-2)


def test_a_prior_of_low_rank_gives_one_loss_on_every_backend():
    x, y, _ = make("one-hot", dtype=torch.float32)
    w = torch.randn(x.shape[1], 2) @ torch.randn(2, y.shape[1])
    with pytest.warns(UserWarning, match="rank 2"):
        prior = Prior(w)
    r = y.double().numpy() @ np.linalg.pinv(w.double().numpy(), rcond=1e-5)
    expected = oracle.similarity_consistency(r, x.double().numpy())
    for features in (x, x.double()):
        loss = functional.reversible_consistency_loss(features, y, prior)
        assert float(loss.consistency) == pytest.approx(expected, rel=1e-4)


@native_too
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", ["least", "largest"])
def test_temperatures_to_the_ends_of_the_dtype(dtype, of):
    """The loss is that of the logits, which are moderate, and so is the gradient times τ.

    Divided by the largest τ, the gradient by the logits has lost its digits.
    """
    info = torch.finfo(dtype)
    tau = info.tiny * 1.01 if of == "least" else info.max * 0.99
    y = torch.tensor([0, 2, 1, -1])
    logits = torch.tensor(
        [[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [3.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=dtype
    )
    if of == "largest":  # XW is to be in the range
        logits = logits / 8
    w = torch.eye(3, dtype=dtype) * (1 if of == "least" else tau**0.5)
    scale = tau if of == "least" else tau**0.5
    x = (logits * scale).requires_grad_()
    expected = functional.generalized_cross_entropy(logits.double(), y, q=0.5)
    loss = functional.prior_similarity(x, w, y, q=0.5, temperature=tau, loss_only=True).loss
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    if of == "largest":
        return
    exact = logits.double().requires_grad_()
    functional.generalized_cross_entropy(exact, y, q=0.5).backward()
    (loss * 2.0**-10).backward()
    assert exact.grad is not None and x.grad is not None
    found = x.grad.double() * scale * 2**10
    torch.testing.assert_close(found, exact.grad, rtol=1e-4, atol=1e-6)


@native_too
def test_temperatures_that_a_dtype_does_not_hold_are_refused():
    x, y, w = torch.eye(3), torch.tensor([0, 1, -1]), torch.eye(3)
    for dtype, taus in (
        (torch.float32, (1e-39, 2e-45, 1e39)),
        (torch.bfloat16, (1e-39, 1e39)),
        (torch.float64, (1e-309,)),
    ):
        for tau in taus:
            with pytest.raises(ValueError, match="temperature: expected a "):
                functional.prior_similarity(x.to(dtype), w.to(dtype), y, temperature=tau)
            with pytest.raises(ValueError, match="temperature: expected a "):
                functional.reversible_consistency_loss(x.to(dtype), y, w, temperature=tau)
    # in half precision logits are computed in float32
    found = functional.prior_similarity(x.half() / 2**14, w.half(), y, temperature=2.0**-20)
    assert found.loss.isfinite()
    with pytest.raises(ValueError, match="temperature"):
        Config(temperature=1e-39)


# --- bad input


X, Y, W = torch.zeros(4, 8), torch.tensor([0, 1, 2, -1]), torch.randn(8, 3)


@pytest.mark.parametrize(
    "features, targets, prior, options, named",
    [
        (X[0], Y, W, {}, "features"),
        (X.long(), Y, W, {}, "features"),
        (X[:0], Y[:0], W, {}, "features"),
        (X[:, :5], Y, W, {}, "features"),
        (X, Y[:3], W, {}, "targets"),
        (X, Y + 0.5, W, {}, "targets"),
        (X, Y + 0j, W, {}, "targets"),
        (X, torch.tensor(1), W, {}, "targets"),
        (X, Y + 1, W, {}, None),
        (X, Y + 2, W, {}, "targets"),
        (X, Y - 1, W, {}, "targets"),
        (X, torch.ones(4, 5), W, {}, "targets"),
        (X, torch.ones(4, 3, 1), W, {}, "targets"),
        (X, Y, W[:, 0], {}, "prior|weight"),
        (X, Y, W.long(), {}, "prior|weight"),
        (X, Y, W * float("nan"), {}, "prior|weight"),
        (X, Y, W, {"q": -0.1}, "q"),
        (X, Y, W, {"q": 1.1}, "q"),
        (X, Y, W, {"q": float("nan")}, "q"),
        (X, Y, W, {"q": torch.tensor([0.1, 0.2])}, "q"),
        (X, Y, W, {"temperature": 0.0}, "temperature"),
        (X, Y, W, {"temperature": float("nan")}, "temperature"),
        (X, Y, W, {"lam": 1.1}, "lam"),
        (X, Y, W, {"lam": 0.9}, "permutation"),
        (X, Y, W, {"lam": 0.9, "permutation": torch.arange(3)}, "permutation"),
        (X, Y, W, {"lam": 0.9, "permutation": torch.arange(4).int()}, "permutation"),
        (X, Y, W, {"lam": 0.9, "permutation": torch.tensor([0, 1, 2, 9])}, "permutation"),
    ],
)
def test_bad_arguments_of_the_loss_are_named(features, targets, prior, options, named):
    if named is None:  # the neighbour of a refused case is fine
        functional.reversible_consistency_loss(features, targets.clamp(max=2), prior, **options)
        return
    with pytest.raises((ValueError, TypeError), match=rf"\b({named})\b"):
        functional.reversible_consistency_loss(features, targets, prior, **options)


@pytest.mark.parametrize("bad_value", [float("nan"), -1.0, float("inf")])
def test_target_rows_must_be_finite_and_not_negative(bad_value):
    rows = torch.eye(3)
    rows[1, 1] = bad_value
    with pytest.raises(ValueError, match="targets"):
        functional.generalized_cross_entropy(torch.zeros(3, 3), rows)
    with pytest.raises(ValueError, match="targets"):
        functional.reversible_consistency_loss(torch.randn(3, 8), rows, W)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: functional.mixup(X, Y), "classes"),
        (lambda: functional.mixup(X, Y, classes=3, lam=-0.1), "lam"),
        (lambda: functional.mixup(X, Y, classes=3, permutation=torch.arange(5)), "permutation"),
        (lambda: functional.mixup(X[0], Y, classes=3), "features"),
        (lambda: functional.prior_similarity(X, W, Y, q=2.0), "q"),
        (lambda: functional.prior_similarity(X, W, temperature=-1.0), "temperature"),
        (lambda: functional.prior_similarity(X, W[:5]), "prior"),
        (lambda: functional.generalized_cross_entropy(X, Y, q=-1.0), "q"),
        (lambda: functional.generalized_cross_entropy(X[0], Y), "logits"),
        (lambda: functional.average_precision(X, X), "relevant"),
        (lambda: functional.average_precision(X, X[:3] > 0), "relevant"),
        (lambda: functional.average_precision(X * float("nan"), X > 0), "scores"),
        (lambda: functional.average_precision(X, X > 0, k=0), "k"),
        (lambda: functional.average_precision(X, X > 0, k=2.0), "k"),
        (lambda: functional.average_precision(X, X > 0, no_relevant="one"), "no_relevant"),
    ],
)
def test_bad_arguments_of_the_other_functions_are_named(call, named):
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        call()


# --- mixup and average precision


@all_batches
def test_mixup_equals_the_formula(batch, tolerance):
    x, y, _ = oracle.random_batch(*batch)
    permutation = np.random.default_rng(1).permutation(len(x))
    expected = tensors(*oracle.mixup(x, y, permutation, 0.9))
    ours = functional.mixup(*tensors(x, y), permutation=torch.from_numpy(permutation))
    for mine, value in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, value, **tolerance(torch.float64))
    features = torch.from_numpy(x).requires_grad_()
    permutation = torch.from_numpy(permutation)
    assert gradcheck(
        lambda z: functional.mixup(z, torch.from_numpy(y), permutation=permutation)[0], features
    )


def test_mixup_draws_from_the_generator():
    x, y, _ = make()
    draws = [
        functional.mixup(x, y, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("k", [None, 1, 4, 9, 50, np.int64(4)])
@pytest.mark.parametrize("values", [3, 10**9], ids=["ties", "no ties"])
def test_average_precision_equals_the_definition(k, values):
    rng = np.random.default_rng(0)
    scores = rng.integers(values, size=(40, 9)).astype(float)
    relevant = rng.random((40, 9)) < 0.3
    ours = functional.average_precision(torch.from_numpy(scores), torch.from_numpy(relevant), k=k)
    expected = [
        oracle.average_precision(*row, None if k is None else int(k))
        for row in zip(scores, relevant, strict=True)
    ]
    assert ours.tolist() == pytest.approx(expected, rel=1e-12)
