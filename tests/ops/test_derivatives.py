"""Forward mode and the transforms of ``torch.func`` through every op."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from drcl import Prior, functional, use_backend

B, D, C = 6, 12, 4
IDS = torch.tensor([0, 1, 2, 3, -1, 1])
ORDER = torch.tensor([3, 0, 5, 1, 2, 4])


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def prior():
    return Prior(draw(D, C))


def loss_of(prior, batch=B, ids=IDS, q=0.5):
    """All four parts, with mixing; B×B matrices for B < D, D×D ones beyond."""
    permutation = ORDER if batch == B else torch.randperm(batch)

    def loss(x, ids=ids, q=q):
        parts = functional.reversible_consistency_loss(
            x, ids, prior, q=q, temperature=0.7, lam=0.9, permutation=permutation
        )
        return torch.stack(parts)

    return loss


def similarity_of(ids=IDS):
    def similarity(x, weight):
        out = functional.prior_similarity(x, weight, ids, q=0.3, temperature=0.7)
        return torch.cat([out.logits.flatten(), out.probabilities.flatten(), out.loss[None]])

    return similarity


def mixed(x):
    return functional.mixup(x, IDS, classes=C, permutation=ORDER)[0]


@pytest.mark.parametrize("batch", [B, 30])
def test_forward_mode_of_the_loss_is_the_gradient_times_the_tangent(prior, batch):
    ids = torch.arange(batch) % C
    x, v = draw(batch, D), draw(batch, D)
    loss = loss_of(prior, batch, ids)
    with use_backend("reference"):
        expected = (jacrev(loss)(x) * v).sum(dim=(1, 2))
    torch.testing.assert_close(jvp(loss, (x,), (v,))[1], expected)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(x, v))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_every_transform_gives_the_jacobian_of_the_loss(prior):
    loss, x = loss_of(prior), draw(B, D)
    with use_backend("reference"):
        expected = jacrev(loss)(x)
    torch.testing.assert_close(jacrev(loss)(x), expected)
    torch.testing.assert_close(jacfwd(loss)(x), expected)
    torch.testing.assert_close(grad(lambda x: loss(x)[0])(x), expected[0])
    torch.testing.assert_close(
        torch.func.vjp(loss, x)[1](torch.ones(4).double())[0], expected.sum(0)
    )
    assert torch.autograd.gradcheck(
        loss, x.requires_grad_(), check_forward_ad=True, check_batched_forward_grad=True,
        check_batched_grad=True,
    )  # fmt: skip


def test_vmap_over_features_ids_and_q_is_a_loop(prior):
    loss = loss_of(prior)
    xs, qs = draw(3, B, D), torch.tensor([0.0, 0.4, 1.0])
    ids = torch.stack([IDS, IDS.roll(1), IDS.roll(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where it has no rule and loops by itself
        for dims, arguments in (
            ((0, None, None), (xs, IDS, qs[1])),
            ((None, 0, None), (xs[0], ids, qs[1])),
            ((None, None, 0), (xs[0], IDS, qs)),
            ((0, 0, 0), (xs, ids, qs)),
        ):
            samples = [
                [a if d is None else a[i] for a, d in zip(arguments, dims, strict=True)]
                for i in range(3)
            ]
            expected = torch.stack([loss(*sample) for sample in samples])
            torch.testing.assert_close(vmap(loss, dims)(*arguments), expected)
            expected = torch.stack([jacrev(loss)(*sample) for sample in samples])
            torch.testing.assert_close(vmap(jacrev(loss), dims)(*arguments), expected)


def test_forward_mode_of_the_loss_of_prior_similarity_alone(prior):
    x, v = draw(B, D), draw(B, D)

    def losses(alone):
        def loss(x):
            return functional.prior_similarity(x, prior.weight, IDS, loss_only=alone).loss

        return jvp(loss, (x,), (v,))

    for found, expected in zip(losses(True), losses(False), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_transform_gives_the_jacobians_of_prior_similarity(prior):
    similarity, x, weight = similarity_of(), draw(B, D), prior.weight
    with use_backend("reference"):
        expected = jacrev(similarity, (0, 1))(x, weight)
    torch.testing.assert_close(jacrev(similarity, (0, 1))(x, weight), expected)
    torch.testing.assert_close(jacfwd(similarity, (0, 1))(x, weight), expected)
    xs = draw(3, B, D)
    each = torch.stack([similarity(x, weight) for x in xs])
    torch.testing.assert_close(vmap(similarity, (0, None))(xs, weight), each)
    assert torch.autograd.gradcheck(
        similarity, (x.requires_grad_(), weight.clone().requires_grad_()), check_forward_ad=True
    )


def test_every_transform_works_on_mixing_to_the_second_order():
    x, v = draw(B, D), draw(B, D)
    torch.testing.assert_close(jvp(mixed, (x,), (v,))[1], mixed(v))
    torch.testing.assert_close(jacfwd(mixed)(x), jacrev(mixed)(x))
    torch.testing.assert_close(vmap(mixed)(draw(2, B, D)).shape, torch.Size([2, B, D]))

    def energy(x):
        return mixed(x).square().sum()

    with use_backend("reference"):
        expected = hessian(energy)(x)
    torch.testing.assert_close(hessian(energy)(x), expected)


def test_cross_entropy_has_all_transforms():
    logits, v = draw(B, C), draw(B, C)

    def loss(x):
        return functional.generalized_cross_entropy(x, IDS, q=0.3)

    expected = (grad(loss)(logits) * v).sum()
    torch.testing.assert_close(jvp(loss, (logits,), (v,))[1], expected)
    torch.testing.assert_close(vmap(loss)(logits.expand(2, B, C)), loss(logits).expand(2))


@pytest.mark.parametrize("twice", [
    hessian,
    lambda f: lambda x: jvp(grad(f), (x,), (torch.ones_like(x),)),
    lambda f: grad(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1]),
    lambda f: jacrev(jacrev(f)),
    lambda f: jacfwd(jacfwd(f)),
])  # fmt: skip
def test_second_derivatives_are_refused_in_every_mode_and_given_by_the_reference(prior, twice):
    x = draw(B, D)
    functions = (
        lambda x: loss_of(prior)(x)[0],
        lambda x: functional.prior_similarity(x, prior, IDS, q=0.3).loss,
    )
    for function in functions:
        with pytest.raises(NotImplementedError, match="reference"):
            twice(function)(x)
        with use_backend("reference"):
            twice(function)(x)


def test_forward_mode_inside_compiled_code_is_refused(prior):
    compiled = torch.compile(
        lambda x: jvp(loss_of(prior), (x,), (x,))[1], fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="outside of"):
        compiled(draw(B, D))
