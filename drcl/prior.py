"""The prior matrix W that all modalities share, with everything the loss needs precomputed."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


class Prior(nn.Module):
    """A prior W (D, C), its generalised inverse and its coordinates in its own column space.

    Args:
        weight: W, one column per class, (D, C), floating point.
        classes: the class label each column stands for; default ``0..C−1``.
        modality: the modality it was learned from, if it was.
        score: that modality's quality score, the mean true-class probability in [0, 1].

    Buffers (they move with ``.to``; computed in float64, kept in the weight's dtype):
        ``weight`` (D, C); ``inverse`` P = W⁺ (C, D); ``basis`` Q (D, K) with orthonormal columns
        that span the columns of W; ``recast_coordinates`` PQ (C, K), so that ``P = (PQ) Qᵀ``;
        ``weight_coordinates`` QᵀW (K, C), so that ``W = Q (QᵀW)``; K = min(C, D).

    Raises ValueError for a W that is not finite, zero everywhere, or so small that its inverse
    leaves the dtype's range (float32: below about 1e-38).

    A rank-deficient W is usable through the pseudo-inverse, with a warning that names the rank:
    two or more classes then share a direction and cannot be told apart.

    Source: paper, selective prior learning and label recasting.

    >>> prior = Prior.orthogonal(dim=64, classes=10, seed=0)
    >>> bool(torch.allclose(prior.inverse @ prior.weight, torch.eye(10), atol=1e-5))
    True
    """

    weight: Tensor
    inverse: Tensor
    basis: Tensor
    recast_coordinates: Tensor
    weight_coordinates: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        classes: tuple[int, ...] | None = None,
        modality: str | None = None,
        score: float | None = None,
    ) -> None:
        super().__init__()
        _check_weight(weight)
        self.classes = tuple(range(weight.shape[1])) if classes is None else tuple(classes)
        if len(self.classes) != weight.shape[1]:
            raise ValueError(
                f"classes: {len(self.classes)} given, but weight has {weight.shape[1]} columns"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: one column each, but some occur twice in {self.classes}")
        self.modality = modality
        self.score = score
        exact = weight.detach().double()
        singular = torch.linalg.svdvals(exact)
        # W is known to its own dtype's resolution only: what lies below is rounding, not direction.
        self.cutoff = _cutoff(weight)
        self.rank = int((singular > self.cutoff * singular[0]).sum())
        if self.rank < weight.shape[1] <= weight.shape[0]:
            warnings.warn(
                f"the prior has rank {self.rank} with {weight.shape[1]} classes: classes that "
                "share a direction cannot be told apart (the pseudo-inverse is used)",
                stacklevel=2,
            )
        inverse = torch.linalg.pinv(exact, rtol=self.cutoff)
        largest = float(inverse.abs().max())
        if largest > torch.finfo(weight.dtype).max:
            raise ValueError(
                f"weight: its singular values go down to {float(singular[self.rank - 1]):.1e}, too "
                f"small: the inverse, up to {largest:.1e}, overflows {weight.dtype}"
            )
        # QR of W: for a full-rank W its Q spans the columns of P^T too, and W's own QR stays
        # accurate where P is badly scaled.
        basis = torch.linalg.qr(exact).Q
        buffers = {
            "weight": exact,
            "inverse": inverse,
            "basis": basis,
            "recast_coordinates": inverse @ basis,
            "weight_coordinates": basis.T @ exact,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.to(weight.dtype).contiguous())

    @classmethod
    def orthogonal(cls, dim: int, classes: int, *, seed: int = 0, norm: float = 1.0) -> Prior:
        """The first C columns of a random orthogonal D×D matrix, scaled to column norm ``norm``."""
        if not 1 <= classes <= dim:
            raise ValueError(
                f"an orthogonal prior needs 1 <= classes <= dim, got classes={classes}, dim={dim}"
            )
        _check_norm(norm)
        generator = torch.Generator().manual_seed(seed)
        # Householder QR with the sign of R's diagonal fixed: the columns are Haar distributed.
        q, r = torch.linalg.qr(torch.randn(dim, classes, generator=generator, dtype=torch.float64))
        return cls((q * r.diagonal().sign() * norm).float())

    @property
    def dim(self) -> int:
        """Width D of the common space."""
        return self.weight.shape[0]

    def scaled(self, norm: float) -> Prior:
        """The same directions with the mean column norm set to ``norm``."""
        _check_norm(norm)
        factor = norm / float(self.column_norm)
        return Prior(
            self.weight * factor, classes=self.classes, modality=self.modality, score=self.score
        )

    @property
    def column_norm(self) -> Tensor:
        """Mean Euclidean norm of the class columns: how sharp ``softmax(XW)`` can be."""
        norms = torch.linalg.vector_norm(self.weight, dim=0, dtype=torch.float64)
        return norms.mean().to(self.weight.dtype)

    def metadata(self) -> dict[str, Any]:
        """What the prior was learned from, as plain JSON values."""
        return {"classes": list(self.classes), "modality": self.modality, "score": self.score}

    def extra_repr(self) -> str:
        return f"dim={self.dim}, classes={len(self.classes)}, modality={self.modality!r}"


def _cutoff(weight: Tensor) -> float:
    """The share of the largest singular value below which one counts as zero."""
    eps = torch.finfo(weight.dtype).eps
    if weight.dtype.itemsize > 2:
        return max(weight.shape) * eps
    # In half precision that share would pass one. Rounding moves no singular value by more than
    # eps/2 · ‖W‖_F, and ‖W‖_F is at most √rank of the largest.
    return float(min(weight.shape) ** 0.5 * eps)


def _check_norm(norm: float) -> None:
    if not 0.0 < norm < float("inf"):
        raise ValueError(f"norm: expected a positive number, got {norm}")


def _check_weight(weight: Tensor) -> None:
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight: expected a floating-point tensor (D, C), got {shape}")
    if 0 in weight.shape:
        raise ValueError(
            f"weight: needs at least one row and one column, got {tuple(weight.shape)}"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight: holds NaN or infinite values")
    if not bool((weight != 0).any()):
        raise ValueError("weight: is zero everywhere; a prior needs at least one direction")
