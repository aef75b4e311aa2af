"""The prior: its inverse, its coordinates, and what it says about a W that is no good."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from drcl import Prior


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20, 5), (6, 6), (4, 9), (7, 1), (1, 1)])
def test_inverse_and_coordinates(shape, dtype, tolerance):
    weight = torch.randn(shape, dtype=dtype)
    prior = Prior(weight)
    exact = np.linalg.pinv(weight.double().numpy())
    close = tolerance(dtype)
    torch.testing.assert_close(prior.inverse, torch.from_numpy(exact).to(dtype), **close)
    k = min(shape)
    identity = torch.eye(k, dtype=dtype)
    torch.testing.assert_close(prior.basis.T @ prior.basis, identity, **close)
    torch.testing.assert_close(prior.basis @ prior.weight_coordinates, weight, **close)
    torch.testing.assert_close(prior.recast_coordinates @ prior.basis.T, prior.inverse, **close)
    assert prior.rank == k and prior.dim == shape[0] and torch.equal(prior.weight, weight)
    assert not list(prior.parameters())


def test_the_basis_keeps_its_columns_together():
    """The kernels read whole columns; a basis stored by rows would be copied in every step."""
    prior = Prior(torch.randn(6, 3))
    by_rows = {name: value.contiguous() for name, value in prior.state_dict().items()}
    loaded = Prior(torch.randn(6, 3))
    loaded.load_state_dict(by_rows)
    torch.testing.assert_close(loaded.basis, prior.basis, rtol=0, atol=0)
    copies = [prior, loaded, copy.deepcopy(prior), copy.deepcopy(prior).double()]
    for basis in [kept.basis for kept in copies] + [prior.basis.to(torch.float64)]:
        assert basis.shape == (6, 3) and basis.stride() == (1, 6)


def test_a_badly_scaled_weight_keeps_its_inverse():
    weight = torch.randn(30, 4) * torch.tensor([1e-2, 1.0, 1e2, 1.0])
    exact = np.linalg.pinv(weight.double().numpy())
    torch.testing.assert_close(Prior(weight).inverse, torch.from_numpy(exact).float())


def test_orthogonal():
    prior = Prior.orthogonal(dim=32, classes=8, seed=3, norm=2.5)
    torch.testing.assert_close(prior.weight.T @ prior.weight, 6.25 * torch.eye(8))
    torch.testing.assert_close(prior.inverse, prior.weight.T / 6.25)
    assert torch.equal(prior.weight, Prior.orthogonal(32, 8, seed=3, norm=2.5).weight)
    assert not torch.equal(prior.weight, Prior.orthogonal(32, 8, seed=4, norm=2.5).weight)
    before = torch.random.get_rng_state()
    Prior.orthogonal(8, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dim, classes", [(3, 4), (4, 0), (0, 0)])
def test_orthogonal_needs_room(dim, classes):
    with pytest.raises(ValueError, match="classes"):
        Prior.orthogonal(dim, classes)


def test_scaled():
    prior = Prior(torch.randn(9, 3), classes=(2, 5, 7), modality="text", score=0.5)
    scaled = prior.scaled(2.9)
    assert float(scaled.column_norm) == pytest.approx(2.9)
    torch.testing.assert_close(
        torch.nn.functional.normalize(scaled.weight), torch.nn.functional.normalize(prior.weight)
    )
    assert scaled.metadata() == prior.metadata()
    assert prior.metadata() == {"classes": [2, 5, 7], "modality": "text", "score": 0.5}


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_norms_must_be_positive(norm):
    with pytest.raises(ValueError, match="norm"):
        Prior.orthogonal(4, 2).scaled(norm)
    with pytest.raises(ValueError, match="norm"):
        Prior.orthogonal(4, 2, norm=norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_low_rank_warns_and_works(dtype, tolerance):
    weight = torch.randn(12, 3, dtype=dtype) @ torch.randn(3, 5, dtype=dtype)
    with pytest.warns(UserWarning, match="rank 3 with 5 classes"):
        prior = Prior(weight)
    exact = np.linalg.pinv(weight.double().numpy(), rcond=1e-5)
    close = {"rtol": 1e-3, "atol": 1e-5} if dtype == torch.float32 else tolerance(dtype)
    torch.testing.assert_close(prior.inverse, torch.from_numpy(exact).to(dtype), **close)
    torch.testing.assert_close(prior.recast_coordinates @ prior.basis.T, prior.inverse, **close)


def test_equal_columns_and_a_zero_column_warn():
    weight = torch.eye(6, 4)
    weight[:, 3] = weight[:, 2]
    with pytest.warns(UserWarning, match="rank 3") as told:
        Prior(weight)
    assert told[0].filename == __file__  # whose line it is, is the user's
    weight[:, 3] = 0
    with pytest.warns(UserWarning, match="rank 3"):
        assert torch.isfinite(Prior(weight).inverse).all()


def test_the_rank_is_that_of_the_weight_as_it_is_now():
    prior, other = Prior.orthogonal(6, 3), Prior(torch.eye(6, 3))
    other.weight[:, 2] = 0
    prior.load_state_dict(other.state_dict())
    assert prior.rank == 2


def test_more_classes_than_dimensions_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Prior(torch.randn(4, 9)).rank == 4


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(4),
        torch.randn(4, 3, 2),
        torch.ones(4, 3).long(),
        np.ones((4, 3)),
        torch.empty(0, 3),
        torch.empty(3, 0),
        torch.zeros(4, 3),
        torch.full((4, 3), float("nan")),
        torch.full((4, 3), float("inf")),
    ],
    ids=["1-d", "3-d", "integer", "numpy", "no rows", "no columns", "zero", "nan", "inf"],
)
def test_bad_weights(weight):
    with pytest.raises((ValueError, TypeError), match="weight"):
        Prior(weight)


def test_classes_must_fit_and_differ():
    with pytest.raises(ValueError, match="classes"):
        Prior(torch.randn(5, 3), classes=(0, 1))
    with pytest.raises(ValueError, match="classes"):
        Prior(torch.randn(5, 3), classes=(0, 1, 1))


def test_moves_with_to():
    prior = Prior(torch.randn(5, 3)).double()
    assert {buffer.dtype for buffer in prior.buffers()} == {torch.float64}
    assert "modality='text'" in repr(Prior(torch.randn(5, 3), modality="text"))
