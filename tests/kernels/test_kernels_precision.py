"""The kernels under every legal combination of PyTorch's settings for float32 products."""

from __future__ import annotations

import itertools

import pytest
import torch
from kernel_testing import DEVICE, INTERPRETED
from precision_states import GENERIC, KINDS, OLDER, State, fingerprint, settings, states
from torch import Tensor

from drcl import Prior, functional, use_backend
from drcl.kernels.product import matmul_precision

# Relative, in norm, of a gradient whose large products have 24, 11 or 8 bits.
ALLOWED = {"ieee": 1e-5, "tf32": 2e-3, "bf16": 2e-2}


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
