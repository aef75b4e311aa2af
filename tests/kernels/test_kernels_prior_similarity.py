"""The Triton kernels of ``drcl::prior_similarity`` against the literal formulas in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_testing import DEVICE, assert_as_exact, on_gpu_only, poisoned  # noqa: F401
from torch.library import opcheck

from drcl import functional, use_backend
from drcl.kernels import prior_similarity as kernels
from drcl.ops.prior_similarity import prior_similarity

# one of everything; ragged; more classes than dimensions; several blocks of D; several programs
SHAPES = [(1, 1, 1), (2, 10, 2), (7, 10, 40), (20, 300, 10), (131, 64, 10)]
ON_GPU = [pytest.param(s, marks=on_gpu_only) for s in ((4096, 2048, 10), (1000, 300, 1000))]


def make(b, d, c, kind="ids"):
    features, weight = torch.randn(b, d), torch.randn(d, c) / d**0.5
    if kind == "ids":
        targets = torch.randint(0, c, (b,))
        targets[b // 2 :: 4] = -1
    else:
        targets = torch.rand(b, c) * (torch.rand(b, c) < 0.5)
        targets[b // 2 :: 4] = 0
    return features, weight, targets


def run(backend, features, weight, targets, dtype, q, weights=(1.0, 0.0, 0.0)):
    """Loss, score, logits, probabilities and the gradients of a weighted sum of them."""
    features, weight = (t.to(DEVICE, dtype).detach().requires_grad_() for t in (features, weight))
    targets = targets.to(DEVICE)
    targets = targets.to(dtype) if targets.ndim == 2 else targets
    with use_backend(backend):
        out = functional.prior_similarity(features, weight, targets, q=q, temperature=0.7)
    total = weights[0] * out.loss
    if weights[1]:
        total = total + weights[1] * out.logits.sin().sum()
    if weights[2]:
        total = total + weights[2] * out.probabilities.square().sum()
    gradients = torch.autograd.grad(total, (features, weight))
    values = (out.loss, out.score, out.logits, out.probabilities)
    return [t.detach().cpu() for t in (*values, *gradients)]


def assert_exact(*problem, q=0.3, weights=(1.0, 0.0, 0.0)):
    oracle = run("reference", *problem, torch.float64, q, weights)
    literal = run("reference", *problem, torch.float32, q, weights)
    ours = run("triton", *problem, torch.float32, q, weights)
    for one, plain, exact in zip(ours, literal, oracle, strict=True):
        assert_as_exact(one, plain, exact)


@pytest.mark.parametrize("shape", [*SHAPES, *ON_GPU])
@pytest.mark.parametrize("kind", ["ids", "rows"])
def test_values_and_gradients(shape, kind):
    assert_exact(*make(*shape, kind))


@pytest.mark.parametrize("kind", ["ids", "rows"])
@pytest.mark.parametrize("classes", [16, 37])
def test_rows_longer_than_a_block_are_walked(monkeypatch, kind, classes):
    monkeypatch.setattr(kernels, "FUSED_CLASSES", 8)
    narrow = {"BLOCK_B": 8, "BLOCK_C": 16, "num_warps": 4}
    monkeypatch.setattr("drcl.kernels.generalized_cross_entropy.GCE_ROWS", narrow)
    monkeypatch.setattr(kernels, "LOGIT_GRADIENT", narrow)
    assert_exact(*make(11, 10, classes, kind), weights=(1.0, 0.3, 2.0))


@pytest.mark.parametrize("most", [128, 8], ids=["on chip", "walked"])
@pytest.mark.parametrize("size", [2.0**-140, 2.0**120])
def test_label_rows_of_any_size(monkeypatch, size, most):
    """Their share is a quotient by their sum, whose inverse may not exist."""
    monkeypatch.setattr(kernels, "FUSED_CLASSES", most)
    features, weight, targets = make(9, 20, 12, "rows")
    assert_exact(features, weight, targets * size)


@pytest.mark.parametrize("q", [0.0, 1e-4, 0.3, 1.0])
def test_every_q(q):
    assert_exact(*make(9, 20, 5), q=q)


@pytest.mark.parametrize(
    "weights", [(-2.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.5, 2.0)]
)
def test_gradients_of_every_output(weights):
    assert_exact(*make(9, 20, 5), weights=weights)


@pytest.mark.parametrize("q", [0.0, 0.01, 1.0])
def test_wide_gaps_between_logits_stay_finite(q):
    features, weight, targets = make(6, 8, 4)
    assert_exact(300 * features, weight, targets, q=q)


def test_unlabelled_batch_has_no_loss_and_no_gradient():
    features, weight, _ = make(5, 8, 3)
    loss, score, _, p, *gradients = run(
        "triton", features, weight, torch.full((5,), -1), torch.float32, 0.3
    )
    assert loss == 0 and score == 0
    assert all(not gradient.any() for gradient in gradients)
    torch.testing.assert_close(p.sum(1), torch.ones(5))


@pytest.mark.parametrize("bad", [3, -2])
def test_an_id_that_is_no_class_makes_the_loss_nan(bad):
    features, weight, _ = (t.to(DEVICE) for t in make(5, 8, 3))
    targets = torch.tensor([0, 1, bad, 2, 0], device=DEVICE)
    q = torch.tensor(0.3, device=DEVICE)
    assert kernels.prior_similarity(features, weight, targets, q, 1.0)[2].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_features_are_widened(dtype):
    features, weight, targets = make(9, 20, 5)
    features, weight, targets = features.to(DEVICE, dtype), weight.to(DEVICE), targets.to(DEVICE)
    q = torch.tensor(0.3, device=DEVICE)
    ours = kernels.prior_similarity(features, weight, targets, q, 1.0)
    wide = kernels.prior_similarity(features.float(), weight, targets, q, 1.0)
    for one, other in zip(ours, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_strides_are_respected():
    features, weight, targets = (t.to(DEVICE) for t in make(9, 20, 5, "rows"))
    q = torch.tensor(0.3, device=DEVICE)
    plain = kernels.prior_similarity(features, weight, targets, q, 1.0)
    padded = torch.cat([features, features], 1)[:, :20]
    strided = kernels.prior_similarity(
        padded, weight.T.contiguous().T, targets.repeat_interleave(2, 1)[:, ::2], q, 1.0
    )
    for one, other in zip(strided, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_registered_with_the_kernels():
    features, weight, targets = (t.to(DEVICE) for t in make(7, 12, 4))
    features.requires_grad_()
    weight.requires_grad_()
    q = torch.tensor(0.5, device=DEVICE)
    opcheck(prior_similarity, (features, weight, targets, q, 0.7, False, "triton"))
