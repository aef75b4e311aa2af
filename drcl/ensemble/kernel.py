"""Kernel ridge regression to the labels, in closed form: its settings are chosen in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drcl.checks import check_count, check_positive
from drcl.ensemble.calibration import MatrixCalibration, fit_temperature, log_likelihood

# From the middle outwards, for whoever has no time for all.
SCALES = (0.5, 0.25, 1.0, 0.125, 2.0, 0.0625)
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Decomposing their kernel takes one core a second for 1,500 rows, and time with their cube.
LANDMARKS = 3000
ELEMENTS = 2**26  # of the products of all rows with all landmarks: half a gigabyte


class KernelClassifier(nn.Module):
    """``logits = k(x, landmarks) A + a``, with ``k(x, z) = exp(−s‖x − z‖²/d)``.

    Args:
        in_features: width d of the input rows.
        classes: C.
        landmarks: M, rows of the training set.
        scale: s.

    Input (B, d); output (1, B, C), the logits of an ensemble of one. It computes in float64, as the
    terms of the sum over landmarks are hundreds of times the sum where the penalty is small.

    >>> KernelClassifier(8, 3, landmarks=20, scale=0.5)(torch.randn(5, 8)).shape
    torch.Size([1, 5, 3])
    """

    def __init__(self, in_features: int, classes: int, *, landmarks: int, scale: float) -> None:
        super().__init__()
        self.in_features = check_count("in_features", in_features)
        self.classes, self.scale = check_count("classes", classes), check_positive("scale", scale)
        shape = check_count("landmarks", landmarks), in_features
        self.register_buffer("landmarks", torch.zeros(shape, dtype=torch.float32))
        self.register_buffer("weight", torch.zeros(landmarks, classes, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(classes, dtype=torch.float64))
        self.landmarks: Tensor
        self.weight: Tensor
        self.bias: Tensor

    @classmethod
    def of(cls, fit: KernelFit, calibration: MatrixCalibration) -> KernelClassifier:
        """The regression's scores, calibrated."""
        (count, width), classes = fit.landmarks.shape, fit.weight.shape[1]
        found = cls(width, classes, landmarks=count, scale=fit.scale)
        bias = calibration.weight.sum(dim=0) / classes + calibration.bias
        found.landmarks, found.bias = fit.landmarks.float(), bias
        found.weight = fit.weight @ calibration.weight
        return found

    def forward(self, features: Tensor) -> Tensor:
        kernel = gaussian(features.double(), self.landmarks.double(), self.scale)
        return (kernel @ self.weight + self.bias).to(features.dtype)[None]

    def shape(self) -> dict[str, int | float]:
        """The arguments that make it again, but those that all parts of an ensemble share."""
        return {"landmarks": len(self.landmarks), "scale": self.scale}


def gaussian(x: Tensor, z: Tensor, scale: float) -> Tensor:
    """(B, M): ``exp(−s‖x_i − z_j‖²/d)``, by one product.

    >>> gaussian(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), 2.0).log()
    tensor([[-25.]])
    """
    squares = x.square().sum(dim=1)[:, None] + z.square().sum(dim=1) - 2 * (x @ z.T)
    return (squares.clamp(min=0) * (-scale / x.shape[1])).exp()


@dataclass(frozen=True)
class KernelFit:
    """Ridge regression that was solved: scores are ``k(x, landmarks) weight + 1/C``.

    Attributes:
        scale, penalty: s and λ.
        landmarks: (M, d).
        weight: (M, C).
        held_out: (N, C), every row's scores by the regression on all other rows.
        log_likelihood: of ``softmax(held_out/τ)`` at its best τ, over the rows that are judged.
    """

    scale: float
    penalty: float
    landmarks: Tensor
    weight: Tensor
    held_out: Tensor
    log_likelihood: float


def kernel_fits(
    rows: Tensor,
    targets: Tensor,
    scale: float,
    judged: Tensor,
    generator: torch.Generator,
    landmarks: int = LANDMARKS,
) -> Iterator[KernelFit]:
    """One regression for each of :data:`PENALTIES`: ``min_A ‖K A − Y + 1/C‖² + λ tr(AᵀKA)``.

    One decomposition serves all of them, and every row's prediction by the regression without it:
    ``y − (y − ŷ)/(1 − h)``, where h is its leverage. Of more rows than ``landmarks``, A weighs as
    many, drawn at random (Nyström), or fewer where memory asks for it. How likely labels are, the
    rows ``judged`` (indices) say. Float64.

    Sources: Saunders et al., *Ridge Regression Learning Algorithm in Dual Variables* (ICML 1998);
    Williams and Seeger, *Using the Nyström Method to Speed Up Kernel Machines* (NeurIPS 2000);
    Allen, *The Relationship between Variable Selection and Data Augmentation* (1974), PRESS.
    """
    rows, targets = rows.double(), targets.double()
    count, offset = len(rows), 1 / targets.shape[1]
    centred = targets - offset
    few = count if count <= landmarks else max(1, min(landmarks, ELEMENTS // count))
    weighed = rows
    if few < count:
        weighed = rows[torch.randperm(count, generator=generator)[:few].to(rows.device)]
    values, basis = torch.linalg.eigh(gaussian(weighed, weighed, scale))
    roots = values.clamp(min=1e-12 * few).sqrt()
    back = basis / roots  # from weights of orthogonal features to weights of landmarks
    if few < count:
        features = gaussian(rows, weighed, scale) @ back
        values, basis = torch.linalg.eigh(features.T @ features)
        features, back = features @ basis, back @ basis
    else:
        features, values = basis * roots, roots.square()
    products = features.T @ centred
    for penalty in PENALTIES:
        inverse = 1 / (values + penalty)
        weight = products * inverse[:, None]
        residual = centred - features @ weight
        leverage = (features.square() * inverse).sum(dim=1, keepdim=True)
        held_out = targets - residual / (1 - leverage)
        scores, own = held_out[judged], targets[judged]
        posteriors = (scores / fit_temperature(scores, own)).softmax(dim=1)
        value = float(log_likelihood(posteriors, own))
        yield KernelFit(scale, penalty, weighed, back @ weight, held_out, value)
