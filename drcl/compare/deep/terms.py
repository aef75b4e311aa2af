"""Terms that several methods have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from drcl.labels import is_labelled


def total(terms: list[Tensor]) -> Tensor:
    """The sum of scalars."""
    return torch.stack(terms).sum()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """``mean_i |a_i − b_i|``, Euclidean; 0 where there are no rows."""
    return torch.linalg.vector_norm(a - b, dim=1).sum() / max(1, len(a))


def label_distance(predicted: Tensor, y: Tensor) -> Tensor:
    """:func:`distance` of the labelled rows of ``predicted`` from their label rows."""
    known = is_labelled(y)
    return distance(predicted[known], y[known])


def pair_likelihood(a: Tensor, b: Tensor, ya: Tensor, yb: Tensor, scale: float) -> Tensor:
    """``mean_ij log(1 + exp Γ_ij) − S_ij Γ_ij`` with ``Γ = scale · cos(a_i, b_j)``.

    S is 1 where two rows share a class: the negative log-likelihood of S under the logistic
    function of Γ. Of labelled rows; 0 where there are none.
    """
    known_a, known_b = is_labelled(ya), is_labelled(yb)
    unit_a = functional.normalize(a[known_a], dim=1)
    unit_b = functional.normalize(b[known_b], dim=1)
    gamma = scale * unit_a @ unit_b.T
    shared = shares_class(ya[known_a], yb[known_b]).to(gamma.dtype)
    return (functional.softplus(gamma) - shared * gamma).sum() / max(1, gamma.numel())


def shares_class(ya: Tensor, yb: Tensor) -> Tensor:
    """Which rows (N, C) and (M, C) have a class in common: (N, M) bool."""
    return ya @ yb.T > 0


def cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """``−mean_i Σ_c ȳ_ic log softmax(scores_i)_c`` of labelled rows, ȳ being y with mass 1."""
    known = is_labelled(y)
    shares = y[known] / y[known].sum(dim=1, keepdim=True)
    return -(shares * scores[known].log_softmax(dim=1)).sum() / max(1, len(shares))


def orthogonal(dim: int, classes: int) -> Tensor:
    """Random orthonormal columns (dim, classes); ``dim`` is at least ``classes``."""
    return nn.init.orthogonal_(torch.empty(dim, classes))
