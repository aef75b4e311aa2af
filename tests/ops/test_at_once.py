"""Small batches, of which the loss and its gradient are found in one compiled call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drcl import Prior, functional, use_backend
from drcl.dispatch import choose
from drcl.native import prior_similarity as native_similarity
from drcl.native import reversible_consistency as native_loss

B, D, C = 12, 20, 5

pytestmark = pytest.mark.skipif(
    choose("reversible_consistency", torch.device("cpu")) != "native", reason="nothing is compiled"
)


def targets_of(kind: str, classes: int = C) -> Tensor:
    ids = torch.randint(-1, classes, (B,))
    return ids if kind == "ids" else torch.rand(B, classes) * (torch.rand(B, classes) < 0.5)


def parts_of(x: Tensor, targets: Tensor, prior: Prior, mixed: bool) -> tuple[Tensor, ...]:
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    return tuple(functional.reversible_consistency_loss(
        x, targets, prior, q=0.3, temperature=0.7, alpha=0.4, lam=0.8 if mixed else 1.0,
        permutation=order if mixed else None,
    ))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["ids", "rows"])
def test_the_loss_at_once_is_the_one_in_stages_to_the_bit(kind, mixed, dtype, monkeypatch):
    x = torch.randn(B, D, dtype=dtype).requires_grad_()
    prior, targets = Prior.orthogonal(dim=D, classes=C), targets_of(kind)

    def found() -> list[Tensor]:
        parts = parts_of(x, targets, prior, mixed)
        return [*parts, *torch.autograd.grad(parts[0], x)]

    at_once = found()
    with torch.no_grad():
        torch.testing.assert_close(parts_of(x, targets, prior, mixed), at_once[:4], rtol=0, atol=0)
    monkeypatch.setattr(native_loss, "at_once", lambda *_, **__: None)
    torch.testing.assert_close(at_once, found(), rtol=0, atol=0)


def test_a_gradient_in_half_precision_is_scaled_before_it_is_rounded():
    weight, targets = torch.randn(D, C) * 1e-7, torch.arange(B) % C
    rows = torch.randn(B, D)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        x = rows.to(dtype).requires_grad_()
        losses = (
            functional.reversible_consistency_loss(x, targets, weight, alpha=0, beta=0).total,
            functional.prior_similarity(x, weight, targets, loss_only=True).loss,
        )
        return [torch.autograd.grad(loss * 2.0**20, x)[0].float() for loss in losses]

    rows = rows.half().float()
    torch.testing.assert_close(
        gradients(torch.float16), gradients(torch.float32), rtol=2e-3, atol=1e-7
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_each_part_has_its_own_gradient(mixed):
    prior, targets = Prior.orthogonal(dim=D, classes=C), targets_of("ids")
    x = torch.randn(B, D, dtype=torch.float64).requires_grad_()
    for place in range(4):
        found = torch.autograd.grad(parts_of(x, targets, prior, mixed)[place], x)
        with use_backend("reference"):
            expected = torch.autograd.grad(parts_of(x, targets, prior, mixed)[place], x)
        torch.testing.assert_close(found, expected)
    found = torch.autograd.grad(sum(parts_of(x, targets, prior, mixed)), x)
    with use_backend("reference"):
        expected = torch.autograd.grad(sum(parts_of(x, targets, prior, mixed)), x)
    torch.testing.assert_close(found, expected)


def test_a_second_derivative_is_refused():
    prior, targets = Prior.orthogonal(dim=D, classes=C), targets_of("ids")
    x, w = torch.randn(B, D).requires_grad_(), prior.weight.clone().requires_grad_()
    losses = (
        parts_of(x, targets, prior, False)[0],
        functional.prior_similarity(x, w, targets, loss_only=True).loss,
    )
    for loss in losses:
        (once,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(NotImplementedError, match="reference"):
            once.sum().backward()


def test_features_that_have_changed_since_are_not_looked_at_again():
    prior, targets = Prior.orthogonal(dim=D, classes=C), targets_of("ids")
    leaf = torch.randn(B, D).requires_grad_()
    x = leaf * 1
    loss = parts_of(x, targets, prior, False)[0]
    (expected,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    with torch.no_grad():
        x.zero_()
    assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], expected)
    x = leaf * 1
    part = parts_of(x, targets, prior, False)[2]
    with torch.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(part, leaf)


@pytest.mark.parametrize("classes", [1, 3, 8, 17])
@pytest.mark.parametrize("kind", ["ids", "rows"])
@pytest.mark.parametrize("needed", ["features", "weight", "both"])
def test_prior_similarity_at_once_is_the_formula(kind, classes, needed):
    targets = targets_of(kind, classes)
    x, w = torch.randn(B, D), torch.randn(classes, D).T
    leaves = {"features": [x], "weight": [w], "both": [x, w]}[needed]
    for leaf in leaves:
        leaf.requires_grad_()

    def found(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        out = functional.prior_similarity(x, w, targets, q=0.3, temperature=0.7, loss_only=True)
        return out.loss, out.score

    loss, score = found(x, w)
    gradients = torch.autograd.grad(loss * 2, leaves)
    with torch.no_grad():
        assert found(x, w) == (loss, score)
    with use_backend("reference"):
        wide = [one.detach().double().requires_grad_(one.requires_grad) for one in (x, w)]
        expected, expected_score = found(*wide)
        by = torch.autograd.grad(expected * 2, [one for one in wide if one.requires_grad])
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(score, expected_score.float(), rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients, by, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-6)


def test_a_large_prior_similarity_is_left_to_products():
    many = native_similarity.SMALL // D + 1
    x = torch.randn(1, D)
    ids, q = torch.zeros(1, dtype=torch.int64), torch.tensor(0.5)
    assert native_similarity.at_once(x, torch.randn(D, many), ids, q, 1.0, (True, True)) is None
    found = native_similarity.at_once(x, torch.randn(D, many - 1), ids, q, 1.0, (False, False))
    assert found is not None and found[3].numel() == found[4].numel() == 0
