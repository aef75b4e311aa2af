"""A cross-modal set so small that a whole training takes a fraction of a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from drcl.ensemble import Members
from drcl.ensemble.kernel import KernelClassifier

WIDTHS = {"image": 8, "text": 5, "audio": 7}
SETTINGS: dict[str, Any] = {
    "dim": 16,
    "hidden": (24,),
    "epochs": 6,
    "prior_epochs": 5,
    "batch_size": 16,
    "lr": 5e-3,
    "prior_lr": 5e-3,
    "device": "cpu",
}


def samples(
    modality: str, count: int, classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre per class, and ids 0..C−1; the centres depend on the modality."""
    width = WIDTHS[modality]
    centres = np.random.default_rng(width).normal(size=(classes, width)) * 2
    rng = np.random.default_rng(seed + width)
    labels = rng.permutation(np.arange(count) % classes)
    return (centres[labels] + rng.normal(size=(count, width))).astype(np.float32), labels


def split(seed: int = 0, **counts: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Modality -> (features, labels); ``split(image=40, text=30)`` is unpaired."""
    counts = counts or {"image": 40, "text": 30}
    return {name: samples(name, count, seed=seed) for name, count in counts.items()}


def every_kind_of_part() -> list[Members | KernelClassifier]:
    """Parts of an ensemble for images: linear, hidden, hidden with a prior, and a kernel."""
    torch.manual_seed(0)
    against = Members(8, 4, count=3, hidden=16, dim=6)
    kernel = KernelClassifier(8, 4, landmarks=20, scale=0.5)
    assert against.prior is not None
    for values in (against.prior, kernel.landmarks, kernel.weight, kernel.bias):
        values.normal_()
    return [Members(8, 4, count=5), Members(8, 4, count=4, hidden=16), against, kernel]
