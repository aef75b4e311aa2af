"""Temperatures and matrices against SciPy's optimizers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from drcl.ensemble import calibration
from drcl.ensemble.calibration import fit_matrix, fit_temperature, log_likelihood


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(scale):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    ids = torch.multinomial((logits * 1.5).softmax(dim=1), 1, generator=generator)[:, 0]
    targets = torch.eye(4, dtype=torch.float64)[ids]

    shares = (400 * targets + 0.25) / 401  # one row more, of any class

    def loss(log_tau):
        return -float((shares * (scale * logits / math.exp(log_tau)).log_softmax(1)).sum())

    expected = math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    assert fit_temperature(scale * logits, targets) == pytest.approx(expected, rel=0.02)


def test_rows_told_apart_without_a_fault_stay_unsure():
    ids = torch.arange(50) % 2
    margins = 5 + 20 * torch.rand(50, generator=torch.Generator().manual_seed(0))
    logits = torch.stack([margins, -margins], dim=1) * (1 - 2 * ids[:, None])
    posteriors = (logits / fit_temperature(logits, torch.eye(2)[ids])).softmax(dim=1)
    right = posteriors[torch.arange(50), ids]
    assert 0.5 < right.min() < 0.99 < right.max() < 1  # the least sure row says so


def confused(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores in which class 0 looks like class 1, targets, and five folds."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (count,), generator=generator)
    seen = torch.where(ids == 0, 1, ids)
    scores = torch.eye(3)[seen] + 0.7 * torch.randn(count, 3, generator=generator)
    return scores, torch.eye(3)[ids], torch.arange(count) % 5 == torch.arange(5)[:, None]


def test_the_matrix_is_the_minimum_that_scipy_finds(monkeypatch):
    monkeypatch.setattr(calibration, "STRENGTHS", (4.0,))
    scores, targets, folds = confused(150)
    found = fit_matrix(scores, targets, folds)
    tau = fit_temperature(scores, targets)
    x = scores.double().numpy() / tau
    y = (150 * targets.double().numpy() + 1 / 3) / 151

    def expected(rows):
        def loss(flat):
            change = flat.reshape(4, 3)
            z = x[rows] + x[rows] @ change[:3] + change[3]
            z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
            return (-(y[rows] * z).sum() + 2.0 * (change**2).sum()) / len(rows)

        return minimize(loss, np.zeros(12), method="BFGS", options={"gtol": 1e-8}).x.reshape(4, 3)

    whole = expected(np.arange(150))
    np.testing.assert_allclose(found.weight, (np.eye(3) + whole[:3]) / tau, atol=2e-4 / tau)
    np.testing.assert_allclose(found.bias, whole[3], atol=2e-4)
    for fold in folds.numpy():
        change = expected(np.flatnonzero(~fold))
        z = x[fold] + x[fold] @ change[:3] + change[3]
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.posteriors[fold], p, atol=1e-4)


def test_the_folds_choose_a_weak_ridge_where_classes_are_confused_and_a_strong_one_where_not():
    scores, targets, folds = confused(1000)
    tau = fit_temperature(scores, targets)
    before = float(log_likelihood((scores / tau).softmax(dim=1), targets))
    found = fit_matrix(scores, targets, folds)
    assert float(log_likelihood(found.posteriors, targets)) > before + 0.1
    clean = 4 * targets + torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
    found = fit_matrix(clean, targets, folds)
    tau = fit_temperature(clean, targets)
    torch.testing.assert_close(found.weight * tau, torch.eye(3).double(), rtol=0, atol=0.2)


def test_many_classes_have_a_temperature_alone(monkeypatch):
    monkeypatch.setattr(calibration, "MOST_CLASSES", 2)
    scores, targets, folds = confused(60)
    found, tau = fit_matrix(scores, targets, folds), fit_temperature(scores, targets)
    assert torch.equal(found.weight, torch.eye(3, dtype=torch.float64) / tau)
    assert not found.bias.any()


def test_it_is_fitted_in_inference_mode_too():
    with torch.inference_mode():
        scores, targets, folds = confused(60)
        fit_matrix(scores.double(), targets.double(), folds)
