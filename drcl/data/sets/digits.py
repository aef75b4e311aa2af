"""A small real set that needs no file: scikit-learn's handwritten digits as three modalities.

The 1797 pictures are dealt out among the modalities, so no digit is in two of them: the set is
unpaired, with another number of samples and another width in each. That is DRCL's own setting.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from drcl.checks import check_count
from drcl.data.dataset import CrossModalDataset, Labelled
from drcl.data.splits import stratified_holdout

__all__ = ["digits"]
__dir__ = __all__.copy

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15
ORIENTATIONS = 8


def digits(seed: int = 0) -> CrossModalDataset:
    """Build the set; the same seed gives the same set everywhere.

    ============  =====  =====================================================================
    modality      width  what it sees of an 8×8 picture with values 0..1
    ============  =====  =====================================================================
    ``pixels``    64     the grey values
    ``spectrum``  40     ``log(1 + |DFT|)``, the 8×5 half that a real picture has: no position
    ``strokes``   48     grey sums of rows and columns (16), and in each quarter of the picture
                         a histogram of gradient orientations (4 × 8)
    ============  =====  =====================================================================

    Of every class, 40 % go to pixels, 33 % to spectrum, 27 % to strokes, and within each, a
    quarter is test and 15 % validation.

    Args:
        seed: of the dealing.

    Returns:
        A dataset with pictures of the test rows of every modality.

    Raises:
        ImportError: scikit-learn is not installed.

    >>> {name: samples.features.shape[1] for name, samples in digits().train.items()}
    {'pixels': 64, 'spectrum': 40, 'strokes': 48}
    """
    check_count("seed", seed, least=0)
    try:
        bunch = importlib.import_module("sklearn.datasets").load_digits()
    except ModuleNotFoundError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: "
            "install drcl with its data extra"
        ) from error
    images = bunch.images.astype(np.float64) / 16
    labels = bunch.target.astype(np.int64)

    rest, pixels = stratified_holdout(labels, 0.40, seed)
    spectrum, strokes = _holdout(rest, labels, 0.27 / 0.60, seed)
    rows = {"pixels": pixels, "spectrum": spectrum, "strokes": strokes}

    splits: dict[str, Any] = {"train": {}, "validation": {}, "test": {}}
    pictures = {}
    for modality, view in _VIEWS.items():
        remaining, test = _holdout(rows[modality], labels, TEST_SHARE, seed)
        train, validation = _holdout(remaining, labels, VALIDATION_SHARE / (1 - TEST_SHARE), seed)
        for split, chosen in (("train", train), ("validation", validation), ("test", test)):
            features = view(images[chosen]).astype(np.float32)
            splits[split][modality] = Labelled(features, labels[chosen])
        pictures[modality] = images[test].astype(np.float32)
    return CrossModalDataset("digits", tuple(map(str, range(10))), **splits, pictures=pictures)


def _holdout(
    rows: np.ndarray, labels: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    kept, held = stratified_holdout(labels[rows], share, seed)
    return rows[kept], rows[held]


def _strokes(images: np.ndarray) -> np.ndarray:
    down, right = np.gradient(images, axis=(1, 2))
    strength = np.hypot(down, right)
    # Orientation modulo 180°: a stroke has the same direction on both of its edges.
    bins = (np.arctan2(down, right) % np.pi / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    by_bin = strength[..., None] * (bins[..., None] == np.arange(ORIENTATIONS))
    quarters = by_bin.reshape(-1, 2, 4, 2, 4, ORIENTATIONS).sum(axis=(2, 4))
    projections = np.concatenate([images.sum(axis=2), images.sum(axis=1)], axis=1)
    return np.concatenate([projections, quarters.reshape(len(images), -1)], axis=1)


_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixels": lambda images: images.reshape(len(images), -1),
    "spectrum": lambda images: np.log1p(np.abs(np.fft.rfft2(images))).reshape(len(images), -1),
    "strokes": _strokes,
}
