"""The kernels under every legal combination of PyTorch's settings for float32 products."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from kernel_testing import DEVICE, INTERPRETED
from precision_states import GENERIC, KINDS, OLDER, State, fingerprint, settings, states
from torch import Tensor

from drcl import Prior, functional, use_backend
from drcl.kernels import product
from drcl.kernels.product import matmul_precision

# Relative, in norm, of a gradient whose large products have 24, 11 or 8 bits.
ALLOWED = {"ieee": 1e-5, "bf16x3": 1e-4, "tf32": 2e-3, "bf16": 2e-2}


def loss_and_gradient(b: int, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    d, c = 12, 3
    torch.manual_seed(1)
    weight, x = torch.randn(d, c), torch.randn(b, d)
    prior = Prior(weight).to(DEVICE)
    x = x.to(DEVICE, dtype).requires_grad_()
    ids = torch.arange(b, device=DEVICE) % c
    with use_backend(backend):
        loss = functional.reversible_consistency_loss(x, ids, prior, q=0.3).total
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(KINDS, id="of-each-kind"),
        *(
            pytest.param(states(*top), id="-".join(top), marks=pytest.mark.long)
            for top in itertools.product(OLDER, GENERIC)
        ),
    ],
)
def test_the_loss_and_its_gradient(chosen: list[State]) -> None:
    sizes = 5, 14  # B below D and above it: two kinds of kernels
    exact = {b: loss_and_gradient(b, torch.float64, "reference") for b in sizes}
    for state, b in zip(chosen, itertools.cycle(sizes), strict=False):
        with settings(state):
            before, precision = fingerprint(), matmul_precision()
            if INTERPRETED and precision == "bf16":
                continue  # Triton's interpreter multiplies the bit patterns of bf16 operands
            found = loss_and_gradient(b, torch.float32, "triton")
            assert fingerprint() == before, state
        for ours, oracle in zip(found, exact[b], strict=True):
            error = (ours.double() - oracle).norm() / oracle.norm()
            assert error <= ALLOWED[precision], (state, precision, float(error))


def test_each_precision_is_that_of_some_state() -> None:
    found = set()
    for state in KINDS:
        with settings(state):
            found.add(matmul_precision())
    assert found == {"ieee", "tf32", "bf16"}


@pytest.mark.skipif(not INTERPRETED, reason="how AMD multiplies is imitated by the interpreter")
@pytest.mark.parametrize(
    "generation, chosen, precision",
    [
        *((9, "highest", "ieee"), (9, "high", "bf16x3")),
        pytest.param(9, "medium", "bf16", marks=pytest.mark.long),
        pytest.param(11, "high", "ieee", marks=pytest.mark.long),
    ],
)
def test_the_loss_as_amd_gets_it(
    monkeypatch: pytest.MonkeyPatch, generation: int, chosen: str, precision: str
) -> None:
    """TF32 is refused, as by Triton's compiler for AMD, and float32 is multiplied as such."""
    from triton.runtime import interpreter

    options = dataclasses.replace(
        interpreter.interpreter_builder.options,
        default_dot_input_precision="ieee",
        allowed_dot_input_precisions=("ieee",),
    )
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    monkeypatch.setattr(product, "gpu", lambda tensor: product.Gpu("amd", generation))
    sizes = 5, 14
    exact = {b: loss_and_gradient(b, torch.float64, "reference") for b in sizes}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(chosen)
    try:
        assert product.product_precision(exact[5][0]) == precision
        found = {b: loss_and_gradient(b, torch.float32, "triton") for b in sizes}
    finally:
        torch.set_float32_matmul_precision(before)
    for b in sizes:
        for ours, oracle in zip(found[b], exact[b], strict=True):
            error = (ours.double() - oracle).norm() / oracle.norm()
            assert error <= ALLOWED[precision], (b, float(error))


@pytest.mark.skipif(not INTERPRETED, reason="how AMD multiplies is imitated by the interpreter")
def test_what_amd_refuses_is_refused_by_its_imitation(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's way, under the same options."""
    from triton.runtime import interpreter

    options = dataclasses.replace(
        interpreter.interpreter_builder.options, allowed_dot_input_precisions=("ieee",)
    )
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    monkeypatch.setattr(product, "gpu", lambda tensor: product.Gpu("nvidia", 8))
    monkeypatch.setattr(product, "matmul_precision", lambda: "tf32")
    with pytest.raises(Exception, match="input_precision"):
        loss_and_gradient(5, torch.float32, "triton")
