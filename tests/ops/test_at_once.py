"""Small batches, of which the loss and its gradient are found in one compiled call."""

from __future__ import annotations

import threading

import pytest
import torch
from reruns import bits_by_width
from torch import Tensor

from drcl import Prior, functional, use_backend
from drcl.dispatch import choose
from drcl.native import prior_similarity as native_similarity
from drcl.native import reversible_consistency as native_loss
from drcl.ops import derivatives
from drcl.ops import reversible_consistency as op

B, D, C = 12, 20, 5

pytestmark = pytest.mark.skipif(
    choose("reversible_consistency", torch.device("cpu")) != "native", reason="nothing is compiled"
)


def targets_of(kind: str, classes: int = C, count: int = B, share: float = 0.5) -> Tensor:
    if kind == "ids":
        return torch.randint(-1, classes, (count,))
    return torch.rand(count, classes) * (torch.rand(count, classes) < share)


def parts_of(x: Tensor, targets: Tensor, prior: Prior, mixed: bool) -> tuple[Tensor, ...]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    return tuple(functional.reversible_consistency_loss(
        x, targets, prior, q=0.3, temperature=0.7, alpha=0.4, lam=0.8 if mixed else 1.0,
        permutation=order if mixed else None,
    ))  # fmt: skip


# Loops with K < D and K = D, and the whole space: with the gradient in loops and not, and with
# label rows that are many and few.
FORMS = [
    ((B, D, C), False, 0.5),
    ((40, D, 30), False, 0.5),
    ((B, D, C), True, 0.5),
    ((40, D, 30), True, 0.05),
    ((70, D, 30), True, 0.5),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["ids", "rows"])
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_at_once_is_the_one_in_stages_to_the_bit(form, kind, mixed, dtype, monkeypatch):
    (count, width, classes), whole, share = form
    monkeypatch.setattr(op, "prefers_rows", lambda *_: True)
    monkeypatch.setattr(op, "prefers_whole", lambda *_, **__: whole)
    x = torch.randn(count, width, dtype=dtype).requires_grad_()
    prior = Prior(torch.randn(width, classes))
    targets = targets_of(kind, classes, count, share)

    def found() -> list[Tensor]:
        parts = parts_of(x, targets, prior, mixed)
        return [*parts, *torch.autograd.grad(parts[0], x)]

    at_once = found()
    with torch.no_grad():
        torch.testing.assert_close(parts_of(x, targets, prior, mixed), at_once[:4], rtol=0, atol=0)
    with use_backend("reference"):
        for one, exact in zip(at_once, found(), strict=True):
            assert (one - exact).norm() <= (3e-3 if dtype == torch.float16 else 1e-4) * exact.norm()
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
    (expected,) = torch.autograd.grad(loss, leaf)
    x = leaf * 1
    loss = parts_of(x, targets, prior, False)[0]
    with torch.no_grad():
        x.zero_()
    assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], expected)
    with pytest.raises(RuntimeError, match="inplace"):  # it has been given away
        torch.autograd.grad(loss, leaf)
    x = leaf * 1
    part = parts_of(x, targets, prior, False)[2]
    with torch.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(part, leaf)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_gradient_belongs_to_whoever_asked_for_it(scale):
    """It is not found in the place of another one, whatever has been done to that."""
    prior, targets = Prior.orthogonal(dim=D, classes=C), targets_of("ids")
    x, w = torch.randn(B, D).requires_grad_(), prior.weight.clone().requires_grad_()
    losses = (
        parts_of(x, targets, prior, False)[0],
        functional.prior_similarity(x, w, targets, loss_only=True).loss,
    )
    for loss, leaves in zip(losses, ([x], [x, w]), strict=True):
        first = torch.autograd.grad(scale * loss, leaves, retain_graph=True)
        known = [one.clone() for one in first]
        for one in first:
            one.fill_(torch.nan)
        for one, expected in zip(torch.autograd.grad(scale * loss, leaves), known, strict=True):
            assert (one - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("classes", [C, 1500])
def test_a_gradient_of_prior_similarity_has_the_same_bits_again(classes):
    x, w = torch.randn(B, D).requires_grad_(), torch.randn(D, classes).requires_grad_()
    targets = targets_of("rows", classes)
    loss = 3 * functional.prior_similarity(x, w, targets, temperature=0.7, loss_only=True).loss
    first, again = (torch.autograd.grad(loss, [x, w], retain_graph=True) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def losses_of(x, w, targets):
    """Both losses that are found with their gradients, and the first by its parts."""
    parts = parts_of(x, targets, Prior(w.detach()), False)
    similarity = functional.prior_similarity(x, w, targets, q=0.3, loss_only=True).loss
    return {"loss": parts[0], "parts": 0.1 * parts[2] + parts[1], "similarity": similarity}


@pytest.mark.parametrize("kind", ["loss", "parts", "similarity"])
def test_hooks_run_once_for_every_backward_pass(kind):
    leaf, w = torch.randn(B, D).requires_grad_(), torch.randn(D, C).requires_grad_()
    targets, calls = targets_of("ids"), []
    (expected,) = torch.autograd.grad(losses_of(leaf, w, targets)[kind], leaf)
    leaf.register_hook(lambda grad: calls.append(1) or 3 * grad)
    x = leaf * 1
    x.retain_grad()
    loss = losses_of(x, w, targets)[kind]
    for count in (1, 2):
        loss.backward(retain_graph=True)
        assert len(calls) == count
        for found, factor in ((x.grad, 1), (leaf.grad, 3)):
            error = found - factor * count * expected
            assert error.norm() <= 1e-5 * found.norm()


def test_inputs_that_depend_on_each_other_have_one_gradient():
    s, targets = torch.randn(C, C).requires_grad_(), torch.arange(C)

    def loss() -> Tensor:
        x = s + (s @ s.T) @ s
        return functional.prior_similarity(x, x.T @ s, targets, loss_only=True).loss

    (expected,) = torch.autograd.grad(loss(), s)
    twice = loss()
    for _ in range(2):
        (found,) = torch.autograd.grad(twice, s, retain_graph=True)
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("classes", [C, 1500])  # with many the gradient is found when asked for
@pytest.mark.parametrize("kind", ["loss", "similarity"])
def test_threads_that_differentiate_one_graph_have_a_gradient_each(kind, classes, monkeypatch):
    x, w = torch.randn(B, D).requires_grad_(), torch.randn(D, classes).requires_grad_()
    loss = losses_of(x, w, targets_of("ids", classes))[kind]
    found, look = [], derivatives._is_wrapped

    def differentiate() -> None:
        found.append(torch.autograd.grad(2 * loss, x, retain_graph=True)[0])

    def while_another_looks(first: Tensor) -> bool:
        monkeypatch.setattr(derivatives, "_is_wrapped", look)
        thread = threading.Thread(target=differentiate)
        thread.start()
        thread.join()
        return look(first)

    monkeypatch.setattr(derivatives, "_is_wrapped", while_another_looks)
    differentiate()
    other, own = found
    assert (other - own).norm() <= 1e-5 * own.norm() and other.data_ptr() != own.data_ptr()


@pytest.mark.parametrize("kind", ["loss", "similarity"])
def test_a_batch_of_gradients_is_the_gradient_scaled(kind):
    x, w = torch.randn(B, D).requires_grad_(), torch.randn(D, C).requires_grad_()
    loss = losses_of(x, w, targets_of("ids"))[kind]
    scales = torch.tensor([1.0, 2.0])

    def scaled(by: Tensor, **options: bool) -> Tensor:
        return torch.autograd.grad(loss, x, by, retain_graph=True, **options)[0]

    batched = (scaled(scales, is_grads_batched=True), torch.func.vmap(scaled)(scales))
    expected = scales[:, None, None] * scaled(torch.tensor(1.0))
    for found in batched:
        assert (found - expected).norm() <= 1e-6 * expected.norm()


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


# Of several parts, blocks and panels, none of which is whole.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 11, 20, 29])
@pytest.mark.parametrize("kind", ["ids", "rows"])
def test_a_large_batch_at_once_is_the_formula_on_any_number_of_threads(kind, classes, dtype):
    batch, width, q = 531, 309, torch.tensor(0.3, dtype=dtype)
    x, w = torch.randn(batch, width, dtype=dtype), torch.randn(width, classes, dtype=dtype) / 20
    targets = torch.randint(-1, classes, (batch,))
    if kind == "rows":
        targets = torch.rand(batch, classes, dtype=dtype)
        targets *= torch.rand(batch, classes) < 0.5
        targets[::7] = 0
    call = torch.ops.drcl.similarity_at_once
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = call(x, w, targets, q, 0.7, (True, True))
        torch.set_num_threads(2)
        two = call(x, w, targets, q, 0.7, (True, True))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    wide = [leaf.double().requires_grad_() for leaf in (x, w)]
    with use_backend("reference"):
        expected = functional.prior_similarity(
            *wide, targets, q=float(q), temperature=0.7, loss_only=True
        )
        by = torch.autograd.grad(expected.loss, wide)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    loss, score, _, *gradients = one
    exact = [expected.loss.detach(), expected.score, *by]
    for found, right in zip([loss, score, *gradients], exact, strict=True):
        error = (found.double() - right).abs().max()
        assert error <= tolerance * right.abs().max()


@pytest.mark.parametrize("classes", [5, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_instruction_set_finds_the_same_bits_of_a_large_batch(dtype, classes):
    draw = (
        "from drcl.native.cross_entropy import ops\n"
        f"kind = torch.{dtype}\n"
        "x = torch.randn(531, width, generator=g, dtype=kind)\n"
        f"w = torch.randn(width, {classes}, generator=g, dtype=kind) / 8\n"
        f"ids = torch.randint(-1, {classes}, (531,), generator=g)\n"
        "q = torch.tensor(0.3, dtype=kind)\n"
    )
    call = "ops.similarity_at_once.default(x, w, ids, q, 0.7, (True, True))"
    said = bits_by_width(draw, f"found = [one.reshape(-1) for one in {call}]")
    assert len(said) == 3, said


@pytest.mark.parametrize("batch, width, classes, taken", [
    (1, 20, native_similarity.SMALL // 20, True),
    (1, 20, native_similarity.SMALL // 20 + 1, False),
    (64, 512, native_similarity.CLASSES, True),
    (64, 513, native_similarity.CLASSES, False),
    (64, 64, native_similarity.CLASSES + 1, False),
])  # fmt: skip
def test_prior_similarity_with_many_classes_is_left_to_products(batch, width, classes, taken):
    x, w, q = torch.randn(batch, width), torch.randn(width, classes), torch.tensor(0.5)
    ids = torch.zeros(batch, dtype=torch.int64)
    found = native_similarity.at_once(x, w, ids, q, 1.0, (False, False))
    assert (found is not None) == taken
    if found is not None:
        assert found[3].numel() == found[4].numel() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_products_of_many_classes_have_the_gradients_of_the_formula(needed, dtype):
    classes = native_similarity.SMALL // (B * D) + 1
    x, w = torch.randn(B, D, dtype=dtype), torch.randn(D, classes, dtype=torch.float64)
    w = w if dtype == torch.float64 else w.float()
    x.requires_grad_(needed[0]), w.requires_grad_(needed[1])
    leaves, targets = [one for one in (x, w) if one.requires_grad], torch.randint(classes, (B,))

    def gradients() -> list[Tensor]:
        loss = functional.prior_similarity(
            x, w, targets, q=0.3, temperature=0.7, loss_only=True
        ).loss
        # the second time as if it were the first, after the gradient by the logits was scaled
        first = torch.autograd.grad(3 * loss, leaves, retain_graph=True)
        return [*first, *torch.autograd.grad(loss, leaves)]

    with torch.autocast("cpu", dtype=torch.bfloat16):  # which does not reach the products
        found = gradients()
    with use_backend("reference"):
        expected = gradients()
    rounded = {"rtol": 2e-3, "atol": 1e-4} if dtype == torch.float16 else {}
    torch.testing.assert_close(found, expected, **rounded)


def test_a_change_of_the_features_before_the_products_of_the_gradient_is_refused():
    classes = native_similarity.SMALL // (B * D) + 1
    x, w = torch.randn(B, D), torch.randn(D, classes).requires_grad_()
    loss = functional.prior_similarity(x, w, torch.zeros(B, dtype=torch.long), loss_only=True).loss
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recast": torch.empty(0, 5), "weight": torch.empty(5, 0)}, "weight: expected classes"),
        ({"basis": torch.empty(4, 0)}, "basis: expected"),
        ({"q": torch.ones(0)}, "q: expected a number"),
        ({"features": torch.empty(6, 4)}, "features: expected"),
        ({"permutation": torch.arange(5)}, "permutation: expected"),
    ],
)
def test_what_the_compiled_call_cannot_read_is_refused(changed, said):
    given = {
        "features": torch.randn(6, 5),
        "targets": torch.zeros(6, dtype=torch.int64),
        "permutation": torch.arange(6),
        "q": torch.tensor(1.0),
        "basis": torch.empty(5, 0),
        "recast": torch.randn(7, 5),
        "weight": torch.randn(5, 7),
    }
    call = torch.ops.drcl.reversible_at_once.default
    call(*given.values(), 1.0, 0.5, [1.0, 0.1, 0.1], True)
    with pytest.raises(RuntimeError, match=said):
        call(*(given | changed).values(), 1.0, 0.5, [1.0, 0.1, 0.1], True)
