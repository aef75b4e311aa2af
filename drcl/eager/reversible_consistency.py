r"""The reversible consistency loss without any B×B matrix, stage by stage.

With unit rows x̂ of the (mixed) features and unit rows r̂ = u Qᵀ of the recast labels, everything the
loss compares lives in the prior's column space, spanned by Q (D×K), but for what is left of x̂ outside
it. Per row:

    Δ = (r̂ − x̂) Q        coordinates of the difference          (B×K)
    F = (x̂ − r̂) + Δ Qᵀ   what is left outside, orthogonal to Q  (B×D)
    V = U − Δ             coordinates of x̂

The difference is formed before anything is projected or squared: at convergence Δ and F are tiny, and
sums of squares of U and V would cancel. With H = [U, Δ] the loss needs only the sums ``HᵀH`` (2K×2K),
``HᵀF`` (2K×D) and ``FᵀF`` (D×D; ``FFᵀ`` when B < D), and so does its gradient:

    ‖R̂R̂ᵀ − X̂X̂ᵀ‖² = ½[⟨ΔᵀΔ, ΣᵀΣ⟩ + tr((ΔᵀΣ)²)] − 2⟨ΔᵀF, ΣᵀF⟩ + ‖FᵀF‖²,   Σ = U + V
    ‖R̂X̂ᵀ − X̂R̂ᵀ‖² = 2[⟨UᵀU, ΔᵀΔ⟩ − tr((UᵀΔ)²)]

The stages are what another backend replaces: :func:`rows`, :func:`class_sums`, :func:`gram`,
:func:`combine`, :func:`gradient`. When K = D
the class space is the whole space and F is kept as a (B, 0) tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drcl.eager.gce import gce_rows
from drcl.eager.mixup import mix, unmix
from drcl.eager.targets import target_rows

# Wide enough for full GEMM speed, narrow enough that the triangle costs little more than half.
PANEL = 256


class Rows(NamedTuple):
    """What the row stage leaves behind. Unlabelled rows are zero everywhere but in ``norms``."""

    outside: Tensor  # F (B, D), or (B, 0) when K = D
    coordinates: Tensor  # H = [U, Δ] (B, 2K)
    label_gradient: Tensor  # d(Σ GCE)/d(X Q) (B, K)
    norms: Tensor  # (2, B): |x| and |r|
    sums: Tensor  # (3,): Σ GCE, Σ |r − x|², number of labelled rows


def rows(
    features: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    basis: Tensor,
    recast_coordinates: Tensor,
    weight_coordinates: Tensor,
    lam: float,
    temperature: float,
) -> Rows:
    """Mix, normalise, project, and finish the parts of the loss that are sums over rows.

    Shapes: features (B, D) in any floating-point dtype, targets (B,) ids or (B, C) rows, basis (D, K),
    recast_coordinates (C, K), weight_coordinates (K, C). All is computed in the basis' dtype.
    """
    x, y = features.to(basis.dtype), target_rows(targets, len(recast_coordinates), basis.dtype)
    labelled = y.sum(dim=1) > 0
    if permutation is not None:
        labelled = labelled & labelled[permutation]
        x, y = mix(x, permutation, lam), mix(y, permutation, lam)
    mask = labelled.to(x.dtype)[:, None]
    n = torch.linalg.vector_norm(x, dim=1)
    y = y * mask
    recast = y @ recast_coordinates
    r = torch.linalg.vector_norm(recast, dim=1)
    u = recast / safe(r)[:, None]
    outside = x * (mask / safe(n)[:, None])
    del x  # at a large batch this is the difference between two and three copies of the features
    if basis.shape[1] == basis.shape[0]:
        delta = u - outside @ basis
        outside = u.new_zeros(len(u), 0)
    else:
        outside = outside.addmm_(u, basis.T, alpha=-1)
        delta = -(outside @ basis)
        outside.addmm_(delta, basis.T)
    squares = (r - n)[:, None] * u + n[:, None] * delta
    squared_error = squares.square().sum() + (n.square() * row_dot(outside, outside)).sum()
    logits = (n[:, None] * (u - delta)) @ weight_coordinates / temperature
    losses, logit_gradient, _, _ = gce_rows(logits, y, q)
    return Rows(
        outside,
        torch.cat([u, delta], dim=1),
        logit_gradient @ (weight_coordinates.T / temperature),
        torch.stack([n, r]),
        torch.stack([losses.sum(), squared_error, mask.sum()]),
    )


def class_sums(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """``HᵀH`` (2K, 2K) and ``HᵀF`` (2K, D)."""
    return coordinates.T @ coordinates, coordinates.T @ outside


def gram(outside: Tensor, by_rows: bool) -> Tensor:
    """``FFᵀ`` (B, B) if ``by_rows``, else ``FᵀF`` (D, D): one triangle computed, the other mirrored."""
    factor = outside if by_rows else outside.T
    size = len(factor)
    product = outside.new_empty(size, size)
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        torch.mm(factor[start:stop], factor[start:].T, out=product[start:stop, start:])
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product


def combine(
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram_matrix: Tensor,
    alpha: float,
    beta: float,
    eta: float,
    width: int,
) -> Tensor:
    """Total, J_L, J_D and J_MSE (4,) from the sums alone."""
    count = sums[2].clamp(min=1)
    label, squared = sums[0] / count, sums[1] / (count * width)
    similarity = (similarity_terms(inner, cross, gram_matrix) * 4.0).to(count) / count.square()
    total = eta * label + alpha * similarity + beta * squared
    return torch.stack([total, label, similarity, squared])


def gradient(
    grad: Tensor,
    outside: Tensor,
    coordinates: Tensor,
    label_gradient: Tensor,
    norms: Tensor,
    sums: Tensor,
    inner: Tensor,
    cross: Tensor,
    gram_matrix: Tensor,
    basis: Tensor,
    permutation: Tensor | None,
    alpha: float,
    beta: float,
    eta: float,
    lam: float,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given the gradient (4,) of total, J_L, J_D and J_MSE."""
    width, k = basis.shape
    n, r = norms
    inverse = 1.0 / safe(n)
    u, delta = coordinates[:, :k], coordinates[:, k:]
    v = u - delta
    uu, ud, dd = inner[:k, :k], inner[:k, k:], inner[k:, k:]
    delta_f = cross[k:]
    v_f = cross[:k] - delta_f
    count = sums[2].clamp(min=1)
    scale = (alpha * grad[0] + grad[2]) * (-16.0 / count.square())
    # d/dV and d/dF of the two similarity terms; F's part is orthogonal to Q by itself.
    v_v = uu - ud - ud.T + dd
    along = scale * (delta @ (v_v + uu) - u @ dd - outside @ v_f.T)
    by_rows = gram_matrix.shape[0] != outside.shape[1]
    out = gram_matrix @ outside if by_rows else outside @ gram_matrix
    low_rank = scale * (
        row_dot(u, outside @ delta_f.T) + row_dot(delta, outside @ v_f.T) - row_dot(out, outside)
    )
    # The normalisation takes away the part along x̂ = (v, f).
    rho = row_dot(v, along) + low_rank
    squared = (beta * grad[0] + grad[3]) * (2.0 / (count * width))
    inside = (
        (along - rho[:, None] * v) * inverse[:, None]
        + ((eta * grad[0] + grad[1]) / count) * label_gradient
        + squared * (n[:, None] * v - r[:, None] * u)
    )
    if outside.shape[1] == 0:
        out = inside @ basis.T
    else:
        out.mul_((-scale * inverse)[:, None])
        out.addcmul_(outside, (squared * n - rho * inverse)[:, None])
        left = torch.cat([(scale * inverse)[:, None] * coordinates, inside], dim=1)
        out.addmm_(left, torch.cat([delta_f, v_f, basis.T]))
    return (out if permutation is None else unmix(out, permutation, lam)).to(dtype)


def similarity_terms(inner: Tensor, cross: Tensor, gram_matrix: Tensor) -> Tensor:
    """``‖R̂R̂ᵀ − X̂X̂ᵀ‖² + ‖R̂X̂ᵀ − X̂R̂ᵀ‖²`` from the sums alone; float64 where it may cancel."""
    k = len(inner) // 2
    inner, cross = inner.double(), cross.double()
    uu, ud, dd = inner[:k, :k], inner[:k, k:], inner[k:, k:]
    sigma_sigma = 4 * uu - 2 * ud - 2 * ud.T + dd
    delta_sigma = 2 * ud.T - dd
    features = 0.5 * ((dd * sigma_sigma).sum() + (delta_sigma * delta_sigma.T).sum())
    delta_f, sigma_f = cross[k:], 2 * cross[:k] - cross[k:]
    outside = torch.linalg.vector_norm(gram_matrix, dtype=torch.float64).square()
    symmetric = features - 2 * (delta_f * sigma_f).sum() + outside
    return symmetric + 2 * ((uu * dd).sum() - (ud * ud.T).sum())


def safe(norm: Tensor) -> Tensor:
    """A norm to divide by: 1 for a zero row, which then stays zero."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise inner products (B,), without a (B, D) temporary."""
    return torch.linalg.vecdot(a, b)
