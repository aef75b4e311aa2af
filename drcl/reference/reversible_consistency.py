"""Reversible semantic consistency: recasting, J_D, J_MSE and the full loss."""

import torch
from torch import Tensor

from drcl.reference.generalized_cross_entropy import generalized_cross_entropy
from drcl.reference.prior_similarity import prior_similarity

__all__ = [
    "cosine_similarity", "recast", "recasting_error", "reversible_consistency",
    "similarity_consistency",
]  # fmt: skip
__dir__ = __all__.copy


def recast(targets: Tensor, prior: Tensor, rtol: float | None = None) -> Tensor:
    """Labels in feature space, ``R = Y W⁺`` (B, D), through the prior's Moore–Penrose inverse.

    Shapes: targets (B, C), prior (D, C). ``rtol`` is the share of the largest singular value below
    which one counts as zero. Source: paper, label recasting.

    >>> recast(torch.tensor([[1.0, 0.0]]), 2.0 * torch.eye(2))
    tensor([[0.5000, 0.0000]])
    """
    return targets @ torch.linalg.pinv(prior, rtol=rtol)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """``θ(A, B) = 2 cos(rows of A, rows of B)``; the cosine with a zero row is 0.

    Shapes: (A, D) and (B, D); the result is (A, B). Source: paper, reversible semantic consistency.

    >>> cosine_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    tensor([[1.6000, 0.0000]])
    """
    return 2.0 * _unit_rows(a) @ _unit_rows(b).T


def _unit_rows(x: Tensor) -> Tensor:
    # the squares of float32 entries may leave its range
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64).to(x.dtype)
    return x / torch.where(norm > 0, norm, torch.ones_like(norm))


def similarity_consistency(recasting: Tensor, features: Tensor) -> Tensor:
    """``J_D = mean((θ(R,R) − θ(X,X))²) + mean((θ(R,X) − θ(R,X)ᵀ)²)``, both means over B².

    Shapes: recasting R and features X (B, D). Source: paper, reversible semantic consistency.

    >>> similarity_consistency(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(4.)
    """
    theta_rr = cosine_similarity(recasting, recasting)
    theta_xx = cosine_similarity(features, features)
    theta_rx = cosine_similarity(recasting, features)
    return (theta_rr - theta_xx).square().mean() + (theta_rx - theta_rx.T).square().mean()


def recasting_error(recasting: Tensor, features: Tensor) -> Tensor:
    """``J_MSE = mean((R − X)²)`` over all B·D entries.

    Shapes: recasting R and features X (B, D). Source: paper, reversible semantic consistency.

    >>> recasting_error(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    tensor(2.5000)
    """
    return (recasting - features).square().mean()


def reversible_consistency(
    features: Tensor,
    targets: Tensor,
    prior: Tensor,
    *,
    q: Tensor | float = 1.0,
    alpha: float = 0.1,
    beta: float = 0.1,
    eta: float = 1.0,
    temperature: float = 1.0,
    rtol: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``α·J_D + β·J_MSE + η·J_L`` and its parts: (total, J_L, J_D, J_MSE).

    Shapes: features (B, D), targets (B, C), prior (D, C). Unlabelled rows are taken out first. The
    recasting is a constant: no gradient flows into the prior through it. Source: paper, reversible
    semantic consistency.

    >>> [float(part) for part in reversible_consistency(torch.eye(2), torch.eye(2), torch.eye(2))]
    [0.2689..., 0.2689..., 0.0, 0.0]
    """
    labelled = targets.sum(dim=1) != 0
    if not bool(labelled.any()):
        zero = features.sum() * 0.0
        return zero, zero, zero, zero
    x, y = features[labelled], targets[labelled]
    with torch.no_grad():
        r = recast(y, prior, rtol)
    logits, _ = prior_similarity(x, prior.detach(), temperature)
    label = generalized_cross_entropy(logits, y, q)
    consistency = similarity_consistency(r, x)
    recasting = recasting_error(r, x)
    return alpha * consistency + beta * recasting + eta * label, label, consistency, recasting
