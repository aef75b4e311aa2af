"""The Triton kernels of ``drcl::mixup`` against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_testing import DEVICE, on_gpu_only, poisoned  # noqa: F401
from torch.library import opcheck

from drcl import functional, use_backend
from drcl.kernels import mixup as kernels
from drcl.ops.mixup import mixup

# one row; rows that share a program; a last program with one row; a width of several blocks, ragged
SHAPES = [(1, 1), (7, 10), (131, 40), (5, 1300)]


@pytest.mark.parametrize("shape", [*SHAPES, pytest.param((100_001, 300), marks=on_gpu_only)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mix_and_its_transpose(shape, dtype):
    rows = torch.randn(shape, device=DEVICE).to(dtype)
    order = torch.randperm(len(rows), device=DEVICE)
    x = rows.double()
    transposed = 0.9 * x
    transposed.index_add_(0, order, 0.1 * x)
    close = {"rtol": torch.finfo(dtype).eps, "atol": 4 * torch.finfo(torch.float32).eps}
    ours = kernels.mix(rows, order, 0.9)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), 0.9 * x + 0.1 * x[order], **close)
    torch.testing.assert_close(kernels.unmix(rows, order, 0.9).double(), transposed, **close)


def test_strides_are_respected():
    wide, order = torch.randn(9, 40, device=DEVICE), torch.randperm(9, device=DEVICE)
    for rows in (wide[:, 3:20], wide[:, ::2], wide.T[:9, :9]):
        plain = kernels.mix(rows.contiguous(), order, 0.7)
        torch.testing.assert_close(kernels.mix(rows, order, 0.7), plain, rtol=0, atol=0)
    order = torch.randperm(18, device=DEVICE).argsort()[::2].argsort()
    torch.testing.assert_close(
        kernels.unmix(wide, order, 0.7), kernels.unmix(wide, order.contiguous(), 0.7)
    )


def test_through_the_public_function():
    features = torch.randn(6, 20, device=DEVICE, requires_grad=True)
    targets = torch.tensor([0, 1, 2, -1, 1, 0], device=DEVICE)
    order = torch.tensor([1, 2, 0, 5, 3, 4], device=DEVICE)
    results = {}
    for backend in ("triton", "reference"):
        with use_backend(backend):
            mixed, rows = functional.mixup(features, targets, classes=3, permutation=order)
        gradient = torch.autograd.grad(mixed.square().sum(), features)[0]
        results[backend] = (mixed, rows, gradient)
    for ours, oracle in zip(results["triton"], results["reference"], strict=True):
        torch.testing.assert_close(ours, oracle)


def test_registered_with_the_kernels():
    rows = torch.randn(6, 4, device=DEVICE, requires_grad=True)
    opcheck(mixup, (rows, torch.randperm(6, device=DEVICE), 0.9, "triton"))
