r"""The reversible consistency loss in memory linear in the batch, stage by stage.

With unit rows x̂ of the (mixed) features and unit rows r̂ = u Qᵀ of the recast labels, everything the
loss compares lives in the prior's column space, spanned by Q (D×K), but for what is left of x̂
outside it. Per row:

    V = x̂ Q               coordinates of x̂                      (B×K)
    Δ = (r̂ − x̂) Q        coordinates of the difference, U − V   (B×K)
    F = (x̂ − r̂) + Δ Qᵀ   what is left outside, orthogonal to Q  (B×D)

The difference is formed before anything is projected or squared: at convergence Δ and F are tiny,
and differences of squares of U and V would cancel. V is formed by itself, as it is tiny at
random. The loss then needs only the sums ``HᵀH`` of H = [U, Δ, V], ``[Δ, V]ᵀF`` and ``FᵀF``,
and so does its gradient:

    ‖R̂R̂ᵀ − X̂X̂ᵀ‖² = tr((ΔᵀU)²) + 2⟨ΔᵀΔ, UᵀV⟩ + tr((VᵀΔ)²) − 2⟨ΔᵀF, (Δ+2V)ᵀF⟩ + ‖FᵀF‖²
    ‖R̂X̂ᵀ − X̂R̂ᵀ‖² = 2[⟨AᵀA, UᵀU⟩ − tr((AᵀU)²)],  A = −Δ or V, whichever is smaller

For B < D the B×B matrices ``M = R̂R̂ᵀ − X̂X̂ᵀ = UΔᵀ + ΔVᵀ − FFᵀ`` and ``Z = X̂R̂ᵀ − R̂X̂ᵀ = AUᵀ − UAᵀ``
are the smaller ones, cost less, and are more exact: entries cancel one by one, and the diagonals
are known to be zero.

The stages are what another backend replaces: :func:`rows`; :func:`by_features`, which is
:func:`class_sums` and :func:`gram`, or :func:`differences`; :func:`combine`; :func:`gradient`.
When K = D the class space is the whole space and F is a (B, 0) tensor. With the identity for Q all
this holds in the whole space too, for any K: nothing is then projected, and products with
coordinates are longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from drcl import kept_memory
from drcl.eager.generalized_cross_entropy import gce_ids, gce_rows
from drcl.eager.mixup import mix, unmix
from drcl.eager.products import project
from drcl.labels import in_range, is_labelled, target_rows
from drcl.precision import widest

# Wide enough for full GEMM speed, narrow enough that the triangle costs little more than half. Of
# two panels it costs three quarters: halved, they took .9 to .95 of the time on an AMD EPYC.
PANEL = 256
# The share of the last-level cache that a block of rows may take.
BLOCK_BYTES = 4 * 2**20
# How many numbers the row stage adds up over all rows.
SUMS = 3


LabelLoss: TypeAlias = Callable[..., tuple[Tensor, Tensor]]  # as label_loss
Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # as torch.mm
Upper: TypeAlias = Callable[[Tensor, Tensor], None]  # as upper_products


class Batch(NamedTuple):
    """What a loss is of."""

    features: Tensor  # X (B, D) in any floating-point dtype
    targets: Tensor  # (B,) ids or (B, C) rows
    permutation: Tensor | None  # π (B,) of the mixing
    q: Tensor  # 0-d


class Space(NamedTuple):
    """The prior's column space, and the prior in it; all is computed in its dtype."""

    basis: Tensor  # Q (D, K), or (D, 0) for the whole space: K = D, and Q is the identity
    recast: Tensor  # PQ (C, K)
    weight: Tensor  # QᵀW (K, C)


class Settings(NamedTuple):
    """The weights of the parts, the temperature, and the mixing's λ."""

    alpha: float
    beta: float
    eta: float
    temperature: float
    lam: float

    @property
    def weights(self) -> tuple[float, ...]:
        """Those of the parts, in the order of :class:`ReversibleConsistency`."""
        return self.eta, self.alpha, self.beta


class ReversibleConsistency(NamedTuple):
    """The loss and its parts, each a scalar: ``total = α·consistency + β·recasting + η·label``."""

    total: Tensor
    label: Tensor
    consistency: Tensor
    recasting: Tensor


PARTS = len(ReversibleConsistency._fields)


class Rows(NamedTuple):
    """What the row stage leaves behind. Unlabelled rows are zero everywhere."""

    outside: Tensor  # F (B, D), or (B, 0) when K = D
    coordinates: Tensor  # H = [U, Δ, V] (B, 3K)
    label_gradient: Tensor  # d(Σ GCE)/d(X Q) (B, K); (0, K) where it is not wanted
    norms: Tensor  # (2, B): |x| and |r|
    sums: Tensor  # (SUMS,): Σ GCE, Σ |r − x|², number of labelled rows


class Saved(NamedTuple):
    """What the gradient needs: :class:`Rows`, the sums over pairs, and two of the arguments."""

    outside: Tensor
    coordinates: Tensor
    label_gradient: Tensor
    norms: Tensor
    sums: Tensor
    inner: Tensor  # HᵀH (3K, 3K) in float64; empty for B < D, as the next
    cross: Tensor  # [Δ, V]ᵀF (2K, D)
    gram_matrix: Tensor  # FᵀF (1, D, D), or M and Z (2, B, B) for B < D
    basis: Tensor
    permutation: Tensor | None


def label_loss(
    logits: Tensor, targets: Tensor, q: Tensor, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Σ GCE of all rows and its gradient by the logits; targets are ids (B,) or rows (B, C).

    Another form may overwrite the logits, and leave the gradient out where it is not wanted.
    """
    losses, by_logits, _, _ = (gce_ids if targets.ndim == 1 else gce_rows)(logits, targets, q)
    return losses.sum(), by_logits


def rows(
    given: Batch,
    space: Space,
    settings: Settings,
    label_loss: LabelLoss = label_loss,
    product: Product = torch.mm,
    label_product: Product = torch.mm,
    *,
    gradient: bool = True,
) -> Rows:
    """Mix, normalise, project, and finish the parts of the loss that are sums over rows.

    Without ``gradient`` the label gradient may be left out: nothing but the loss is wanted.
    ``product`` takes the gradient by the logits to it, and ``label_product`` recasts label rows.
    """
    features, _, permutation, q = given
    basis, recast_coordinates, weight_coordinates = space
    y, labelled, recast = recast_targets(given, recast_coordinates, settings.lam, label_product)
    r = lengths(recast)
    u = recast / safe(r)[:, None]
    outside = kept_memory.new(basis, len(features), len(basis))
    # A block goes through all its steps before it leaves the cache.
    done = [
        _rows_block(
            features, permutation, block, settings.lam, ~labelled[block], u[block], basis,
            outside[block],
        )
        for block in row_blocks(outside)
    ]  # fmt: skip
    n, v, delta, squared_f = done[0] if len(done) == 1 else map(torch.cat, zip(*done, strict=True))
    if u.shape[1] == len(basis):
        outside = basis.new_empty(len(features), 0)
    # Unit rows at the distance |x̂ − r̂|² = |Δ|² + |F|² have u·Δ = half of it: near convergence this
    # is far more exact than the projection, whose rounding is relative to 1 and not to Δ.
    half = 0.5 * (row_dot(delta, delta) + squared_f) - row_dot(u, delta)
    delta.addcmul_(u, (half * ((n > 0) & (r > 0)))[:, None])
    squares = (r - n)[:, None] * u + n[:, None] * delta
    squared_error = squares.square().sum() + (n * (n * squared_f)).sum()  # n² may be infinite
    logits = (n[:, None] * v) @ weight_coordinates / settings.temperature
    loss, by_logits = label_loss(logits, y, q, gradient=gradient)
    return Rows(
        outside,
        torch.cat([u, delta, v], dim=1),
        label_gradient(
            by_logits, weight_coordinates, settings.temperature, product, wanted=gradient
        ),
        torch.stack([n, r]),
        torch.stack([loss, squared_error, labelled.to(basis.dtype).sum()]),
    )


def recast_targets(
    given: Batch, recast_coordinates: Tensor, lam: float, label_product: Product = torch.mm
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B,) or mixed label rows (B, C), whether rows are labelled (B,), and R = YP (B, K)."""
    _, targets, permutation, _ = given
    classes, dtype = len(recast_coordinates), recast_coordinates.dtype
    if targets.ndim == 1 and permutation is None:  # of an id the product is a row
        labelled = is_labelled(targets)
        columns, outside = in_range(targets, classes)
        mass = labelled.to(dtype).masked_fill(outside, float("nan"))
        return targets, labelled, recast_coordinates.index_select(0, columns) * mass[:, None]
    y = target_rows(targets, classes, dtype)
    labelled = is_labelled(y)
    if permutation is not None:
        labelled = labelled & labelled[permutation]
        y = mix(y, permutation, lam)
    y = y * labelled.to(y.dtype)[:, None]
    return y, labelled, label_product(y, recast_coordinates)


def label_gradient(
    by_logits: Tensor,
    weight_coordinates: Tensor,
    temperature: float,
    product: Product,
    *,
    wanted: bool,
) -> Tensor:
    """d(Σ GCE)/d(X Q) (B, K) from that by the logits; (0, K) where it is not wanted."""
    k = len(weight_coordinates)
    if not wanted:
        return by_logits.new_empty(0, k)
    if len(by_logits) < k:  # of the two factors the smaller one is divided
        return product(by_logits / temperature, weight_coordinates.T)
    return by_logits @ (weight_coordinates.T / temperature)


def _rows_block(
    features: Tensor,
    permutation: Tensor | None,
    block: slice,
    lam: float,
    absent: Tensor,
    u: Tensor,
    basis: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norms, V, Δ and |F|² of a block of rows (zero where ``absent``); F goes to ``out``."""
    x = features[block].to(out.dtype)
    if permutation is not None:
        x = features[permutation[block]].to(out.dtype).lerp_(x, lam)
    # Filled and not multiplied with 0: an unlabelled row may hold anything, NaN too.
    n = lengths(x).masked_fill_(absent, 0.0)
    # A division, not a product with 1/n: at D = 1 the unit rows are then exactly ±1.
    torch.div(x, safe(n)[:, None], out=out).masked_fill_(absent[:, None], 0.0)
    v = out if is_whole(basis) else project(out, basis)
    if u.shape[1] == len(basis):
        return n, v, u - v, torch.zeros_like(n)
    out.addmm_(u, basis.T, alpha=-1)
    delta = -project(out, basis)
    out.addmm_(delta, basis.T)
    return n, v, delta, torch.linalg.vector_norm(out, dim=1).square()


def row_blocks(rows: Tensor) -> list[slice]:
    """Blocks of rows that stay in a CPU's cache; on a GPU one block of all rows."""
    size = len(rows)
    if rows.device.type == "cpu":
        size = max(64, BLOCK_BYTES // (rows.shape[1] * rows.itemsize))
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def by_features(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums over rows where D×D matrices are taken: those of the class space, and FᵀF."""
    return *class_sums(coordinates, outside), gram(outside)


def class_sums(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """``HᵀH`` (3K, 3K) in float64, where the device has it, and ``[Δ, V]ᵀF`` (2K, D)."""
    k, wide = coordinates.shape[1] // 3, widest(coordinates.device)
    exact = coordinates.to(wide) if is_narrow(k, outside.shape[1]) else coordinates
    return (exact.T @ exact).to(wide), coordinates[:, k:].T @ outside


def is_narrow(k: int, width: int) -> bool:
    """Whether HᵀH is summed in float64.

    The loss is a difference of products of it, so rounding in it is what limits the loss. In
    float64 it costs nothing beside FᵀF, as long as K is small against D.
    """
    return k <= max(32, width // 12)


def gram(outside: Tensor) -> Tensor:
    """``FᵀF`` (1, D, D): one triangle computed, the other mirrored."""
    width = outside.shape[1]
    wide = PANEL if width > 2 * PANEL else PANEL // 2
    product = kept_memory.new(outside, 1, width, width)
    for start in range(0, width, wide):
        stop = start + wide
        panel = product[0, start:stop, start:]
        torch.mm(outside[:, start:stop].T, outside[:, start:], out=panel)
        product[0, stop:, start:stop] = panel[:, wide:].T
    return product


def upper_products(rows: Tensor, out: Tensor, panel: int = PANEL) -> None:
    """Products of rows with each other, at and above the diagonal of ``out`` (B, B)."""
    for start in range(0, len(rows), panel):
        stop = start + panel
        torch.mm(rows[start:stop], rows[start:].T, out=out[start:stop, start:])


def differences(
    outside: Tensor, coordinates: Tensor, norms: Tensor, upper: Upper = upper_products
) -> Tensor:
    """M and Z (2, B, B), symmetric and antisymmetric: one triangle computed, the other mirrored.

    With nothing outside they are the two halves of one product, ``(U + V)Δᵀ``: V has the length of
    U there, so that Z has none of a tiny V's digits to lose. ``upper`` multiplies the rows of F.
    """
    u, delta, v = coordinates.chunk(3, dim=1)
    if outside.shape[1] == 0:
        product = (u + v) @ delta.T
        both = torch.stack([product + product.T, product - product.T]).mul_(0.5)
        return _with_diagonals(both, norms)
    left, right = coordinates[:, : 2 * u.shape[1]], coordinates[:, u.shape[1] :]
    smaller = torch.where(delta.square().sum() < v.square().sum(), -delta, v)
    batch = len(outside)
    both = kept_memory.new(outside, 2, batch, batch)
    upper(outside, both[0])
    for start in range(0, batch, PANEL):
        stop = start + PANEL
        m, z = both[:, start:stop, start:]
        torch.addmm(m, left[start:stop], right[start:].T, beta=-1, out=m)
        torch.mm(smaller[start:stop], u[start:].T, out=z)
        torch.addmm(z, u[start:stop], smaller[start:].T, alpha=-1, out=z)
        square = m[:, :PANEL]
        square.copy_(square.triu() + square.triu(1).T)
        both[0, stop:, start:stop] = m[:, PANEL:].T
        torch.neg(z[:, PANEL:].T, out=both[1, stop:, start:stop])
    return _with_diagonals(both, norms)


def _with_diagonals(both: Tensor, norms: Tensor) -> Tensor:
    """M and Z with the diagonals that are known: rows have length one, or zero."""
    n, r = (norms > 0).to(both.dtype)
    both[0].diagonal().copy_(r - n)
    both[1].diagonal().zero_()
    return both


def combine(
    sums: Tensor, inner: Tensor, cross: Tensor, gram_matrix: Tensor, settings: Settings, width: int
) -> ReversibleConsistency:
    """The loss and its parts from the sums alone."""
    count = sums[2].clamp(min=1)
    label, squared = sums[0] / count, sums[1] / (count * width)
    similarity = (similarity_terms(inner, cross, gram_matrix) * 4.0).to(count) / count.square()
    alpha, beta, eta, *_ = settings
    total = eta * label + alpha * similarity + beta * squared
    return ReversibleConsistency(total, label, similarity, squared)


def gradient(
    grads: Sequence[Tensor | None], saved: Saved, settings: Settings, dtype: torch.dtype
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given those of the loss and its parts (None: zero)."""
    outside, coordinates, label_gradient, norms, sums, inner, cross, gram_matrix, *_ = saved
    basis, permutation = saved.basis, saved.permutation
    alpha, beta, eta, _, lam = settings
    width, k = len(basis), label_gradient.shape[1]
    total, label, similarity, mse = (sums.new_zeros(()) if g is None else g for g in grads)
    n, r = norms
    count = sums[2].clamp(min=1)
    inverse = 1.0 / safe(n)
    scale = (alpha * total + similarity) * (-16.0 / count.square())
    squared = (beta * total + mse) * (2.0 / (count * width))
    direct = (eta * total + label) / count
    factors_along = None if is_by_rows(gram_matrix) else along_factors(inner).to(basis)
    out = kept_memory.new(basis, len(outside), width)
    for block in row_blocks(out):
        u, delta, v = coordinates[block].chunk(3, dim=1)
        f, own = outside[block], out[block]
        across = own if f.shape[1] else f.new_empty(f.shape)
        # The gradient by x̂ is (along Qᵀ + across)·scale; `across` is orthogonal to Q by itself.
        if factors_along is None:
            m, z = gram_matrix[:, block]
            torch.mm(m, outside, out=across)
            along = along_by_rows(m, z, coordinates)
            projection = row_dot(v, along) + row_dot(across, f)
            terms, factors = [], []
        else:
            torch.mm(f, gram_matrix[0], out=across).neg_()
            crossed = project(f, cross.T)  # F(ΔᵀF)ᵀ and F(VᵀF)ᵀ
            along = coordinates[block] @ factors_along - crossed[:, k:]
            left = coordinates[block, : 2 * k]
            projection = row_dot(v, along) + row_dot(left, crossed) + row_dot(across, f)
            terms, factors = [(scale * inverse[block])[:, None] * left], [cross]
        # The normalisation takes away the part along x̂ = (v, F); J_MSE and J_L act on x directly.
        # In place, as a pass over so much memory takes as long as some products.
        rescale = (scale * inverse[block])[:, None]
        inside = along.addcmul_(v, projection[:, None], value=-1).mul_(rescale)
        inside.addcmul_(label_gradient[block], direct)
        inside.addcmul_(u, squared * (n - r)[block, None])
        inside.addcmul_(delta, squared * n[block, None], value=-1)
        if f.shape[1] == 0:
            if is_whole(basis):
                own.copy_(inside)
            else:
                torch.mm(inside, basis.T, out=own)
            continue
        own.mul_(rescale).addcmul_(f, squared * n[block, None] - rescale * projection[:, None])
        own.addmm_(torch.cat([*terms, inside], dim=1), torch.cat([*factors, basis.T]))
    return (out if permutation is None else unmix(out, permutation, lam)).to(dtype)


def along_by_rows(m: Tensor, z: Tensor, coordinates: Tensor) -> Tensor:
    """``MV − ZU``, the gradient along Q by x̂, of the rows whose M and Z (B', B) are given."""
    k = coordinates.shape[1] // 3
    return torch.mm(m, coordinates[:, 2 * k :]).addmm_(z, coordinates[:, :k], alpha=-1)


def along_factors(inner: Tensor) -> Tensor:
    """What takes H to the same (3K, K), from HᵀH alone: but for what crosses F."""
    uu, du, dd, vu, vd, vv = blocks(inner)
    converging = dd.trace() < vv.trace()
    by_u = torch.where(converging, -du, vu) + vd.T
    nothing = torch.zeros_like(uu)
    by_delta, by_v = (
        vv + torch.where(converging, uu, nothing),
        torch.where(converging, nothing, -uu),
    )
    return torch.cat([by_u, by_delta, by_v])


def similarity_terms(inner: Tensor, cross: Tensor, gram_matrix: Tensor) -> Tensor:
    """``‖R̂R̂ᵀ − X̂X̂ᵀ‖² + ‖R̂X̂ᵀ − X̂R̂ᵀ‖²`` from the sums alone, in float64 as it may cancel."""
    wide = widest(gram_matrix.device)
    squares = torch.linalg.vector_norm(gram_matrix, dim=2).to(wide).square().sum()
    if is_by_rows(gram_matrix):
        return squares
    uu, du, dd, vu, vd, vv = blocks(inner)
    inside = (du * du.T).sum() + 2 * (dd * vu).sum() + (vd * vd.T).sum()
    delta_f, v_f = cross.to(wide).chunk(2)
    crossed = (delta_f * (delta_f + 2 * v_f)).sum()
    converging = dd.trace() < vv.trace()
    aa, au = torch.where(converging, dd, vv), torch.where(converging, -du, vu)
    return inside - 2 * crossed + squares + 2 * ((aa * uu).sum() - (au * au.T).sum())


def blocks(inner: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """UᵀU, ΔᵀU, ΔᵀΔ, VᵀU, VᵀΔ and VᵀV out of HᵀH."""
    (uu, _, _), (du, dd, _), (vu, vd, vv) = (row.chunk(3, dim=1) for row in inner.chunk(3))
    return uu, du, dd, vu, vd, vv


def is_by_rows(gram_matrix: Tensor) -> bool:
    """Whether the matrices are those of :func:`differences` (2, B, B), not of :func:`gram`."""
    return len(gram_matrix) == 2


def lengths(rows: Tensor) -> Tensor:
    """Euclidean lengths of rows; summed in float64, as squares may leave the range of float32.

    Without float64 the rows are brought into that range first.
    """
    if widest(rows.device) != torch.float64:
        largest = safe(torch.linalg.vector_norm(rows, torch.inf, dim=1))
        return torch.linalg.vector_norm(rows / largest[:, None], dim=1) * largest
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).to(rows.dtype)


def safe(norm: Tensor) -> Tensor:
    """A norm to divide by: 1 for a zero row, which then stays zero."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise inner products (B,); a few rows at a time, so that the products stay in cache."""
    parts = [(x * y).sum(dim=1) for x, y in zip(a.split(PANEL), b.split(PANEL), strict=True)]
    return torch.cat(parts)


def is_whole(basis: Tensor) -> bool:
    """Whether coordinates are those of the whole space, the entries of the rows themselves."""
    return basis.shape[1] == 0
