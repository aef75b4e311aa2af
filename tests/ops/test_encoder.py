"""The paper's encoder: its shape, its initialisation, and rows that must not become NaN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drcl import Encoder
from drcl.encoder import normalize


def test_architecture_of_the_paper():
    with torch.device("meta"):
        layers = list(Encoder(300).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in layers[::2]] == [
        (4096, 300),
        (4096, 4096),
        (2048, 4096),
    ]
    assert [layer.bias is not None for layer in layers[::2]] == [True, True, False]


def test_last_weight_is_uniform_in_the_input_width():
    weight = Encoder(25, dim=64, hidden=(400,)).layers[-1].weight.detach()
    assert 0.19 < float(weight.abs().max()) <= 0.2  # 1/√25, not 1/√400
    assert abs(float(weight.mean())) < 5e-3
    assert float(weight.std()) == pytest.approx(0.2 / 3**0.5, rel=2e-2)


@pytest.mark.parametrize("hidden", [(), (8,), (16, 8, 4)])
def test_rows_have_unit_length(hidden):
    out = Encoder(6, dim=10, hidden=hidden)(torch.randn(7, 6))
    torch.testing.assert_close(torch.linalg.vector_norm(out, dim=1), torch.ones(7))


def test_dead_rows_stay_zero_with_finite_gradients():
    encoder = Encoder(6, dim=10, hidden=(4,))
    with torch.no_grad():
        encoder.layers[0].bias.fill_(-1e3)
    x = torch.randn(5, 6, requires_grad=True)
    out = encoder(x)
    assert not out.any()
    out.sum().backward()
    grads = [x.grad, *(parameter.grad for parameter in encoder.parameters())]
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize(dtype):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]], dtype=dtype)
    out = normalize(rows)
    assert out.dtype == dtype
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0, 0], [-1, 0]], dtype=dtype))
    leaf = rows.double().requires_grad_()
    torch.autograd.gradcheck(lambda z: normalize(z[[0, 2]]), leaf)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normalize_keeps_tiny_and_huge_rows_on_the_sphere(scale):
    out = normalize(torch.tensor([[3.0, 4.0]]) * scale)
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("arguments", [{"in_features": 0}, {"dim": 0}, {"hidden": (4, 0)}], ids=str)
def test_widths_must_be_positive(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Encoder(**{"in_features": 4, "dim": 4, "hidden": (4,), **arguments})
