"""Kernel ridge regression: scikit-learn's solution, and every row left out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge

from drcl.ensemble import kernel
from drcl.ensemble.calibration import fit_matrix
from drcl.ensemble.kernel import PENALTIES, KernelClassifier, gaussian, kernel_fits

SCALE = 0.5


def blobs(count: int = 40, classes: int = 3, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(count) % classes
    rows = torch.eye(classes, width)[ids] + torch.randn(count, width, generator=generator)
    return rows, torch.eye(classes)[ids]


def fits(rows, targets, landmarks=kernel.LANDMARKS):
    every, generator = torch.arange(len(rows)), torch.Generator().manual_seed(0)
    return list(kernel_fits(rows, targets, SCALE, every, generator, landmarks))


def by_scikit(rows, targets, penalty, queries):
    model = KernelRidge(alpha=penalty, kernel="rbf", gamma=SCALE / rows.shape[1])
    model.fit(rows.double().numpy(), targets.double().numpy() - 1 / targets.shape[1])
    return model.predict(queries.double().numpy()) + 1 / targets.shape[1]


def test_the_kernel_is_scikit_learns():
    x, z = torch.randn(5, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    expected = RBF(length_scale=(7 / (2 * 0.3)) ** 0.5)(x.numpy(), z.numpy())
    np.testing.assert_allclose(gaussian(x, z, 0.3), expected, rtol=1e-12)


@pytest.mark.parametrize("index", range(len(PENALTIES)))
def test_scores_and_those_of_rows_left_out_are_scikit_learns(index):
    rows, targets = blobs()
    fit = fits(rows, targets)[index]
    assert fit.penalty == PENALTIES[index]
    queries = torch.randn(9, 6, dtype=torch.float64)
    found = gaussian(queries, fit.landmarks, SCALE) @ fit.weight + 1 / 3
    np.testing.assert_allclose(found, by_scikit(rows, targets, fit.penalty, queries), atol=1e-8)
    for row in (0, 17, 39):
        left = torch.arange(40) != row
        expected = by_scikit(rows[left], targets[left], fit.penalty, rows[~left])[0]
        np.testing.assert_allclose(fit.held_out[row], expected, atol=1e-8)


def test_rows_beyond_the_landmarks_are_learned_from():
    """The minimum of the same sum over the span of fewer landmarks, by its normal equations."""
    rows, targets = blobs()

    def expected(some, landmarks, penalty):
        k, own = gaussian(some[0], landmarks, SCALE), gaussian(landmarks, landmarks, SCALE)
        return torch.linalg.solve(k.T @ k + penalty * own, k.T @ (some[1] - 1 / 3))

    for fit in fits(rows, targets, 12)[2:]:
        assert fit.landmarks.shape == (12, 6)
        whole = rows.double(), targets.double()
        weight = expected(whole, fit.landmarks, fit.penalty)
        torch.testing.assert_close(fit.weight, weight, rtol=1e-5, atol=1e-6)
        for row in (0, 17, 39):
            left = torch.arange(40) != row
            part = whole[0][left], whole[1][left]
            weight = expected(part, fit.landmarks, fit.penalty)
            scores = gaussian(whole[0][[row]], fit.landmarks, SCALE) @ weight + 1 / 3
            torch.testing.assert_close(fit.held_out[[row]], scores, rtol=1e-5, atol=1e-6)


def test_memory_bounds_the_landmarks_of_many_rows(monkeypatch):
    monkeypatch.setattr(kernel, "ELEMENTS", 200)
    assert fits(*blobs(), 12)[0].landmarks.shape == (5, 6)


def test_equal_rows_and_constant_features_are_taken():
    rows, targets = blobs()
    for same in (rows.repeat(3, 1), torch.zeros_like(rows).repeat(3, 1)):
        for fit in fits(same, targets.repeat(3, 1)):
            assert fit.held_out.isfinite().all() and fit.weight.isfinite().all()


def test_the_module_gives_the_calibrated_scores():
    rows, targets = blobs()
    fit = fits(rows, targets)[4]
    calibration = fit_matrix(
        fit.held_out, targets, torch.arange(40) % 5 == torch.arange(5)[:, None]
    )
    queries = torch.randn(9, 6)
    scores = gaussian(queries.double(), fit.landmarks, SCALE) @ fit.weight + 1 / 3
    expected = (scores @ calibration.weight + calibration.bias).float()[None]
    found = KernelClassifier.of(fit, calibration)(queries)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
