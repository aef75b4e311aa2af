"""The loss's stages by rows in compiled code, csrc/cpu/reversible_consistency.cpp.

Formulas, shapes and reasons are those of :mod:`drcl.eager.reversible_consistency`. The large
products are PyTorch's here too, but for those of one triangle, and so is a whole stage where the
products of its loops would be large ones (:func:`loops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drcl import kept_memory
from drcl.backends import load_ops
from drcl.eager import reversible_consistency as eager
from drcl.eager.reversible_consistency import (
    Batch,
    ReversibleConsistency,
    Rows,
    Saved,
    Settings,
    Space,
    is_by_rows,
    is_whole,
)
from drcl.native.cross_entropy import compiled_q, entropies_in_place, laid_out
from drcl.native.products import (
    column_products,
    label_product,
    multiplies_panels,
    product,
    upper_products,
)

__all__ = ["at_once", "by_features", "combine", "differences", "gradient", "rows"]

load_ops()
ops = torch.ops.drcl  # `.default` below: to look for the overload takes longer than a small stage

# B·B·D up to which the products with F are loops here too: FFᵀ, of which one triangle is formed,
# and MF. A call of PyTorch's product costs as much as the whole of a small one.
SMALL = 2**22
# B·D·(B + C) in the whole space up to which the gradient is found with the loss.
SMALL_WHOLE = 2**26
# Panels of FFᵀ where PyTorch multiplies: narrow ones leave out more of the lower triangle, wide
# ones are faster.
PANEL, WIDE_PANEL, WIDE_FROM = 128, 256, 512
# Columns of the prior's space up to which the loops are always the faster; with more of them, up to
# those that they have room for, where the batch is small and rows have so few multiplications.
COLUMNS, MOST_COLUMNS, MULTIPLICATIONS = 64, 256, 2**25


def is_small(batch: int, width: int) -> bool:
    """Whether no product with F is PyTorch's."""
    return batch * batch * width <= SMALL


def loops(batch: int, width: int, columns: int) -> bool:
    """Whether a stage by rows is loops, in a prior's space of K < D columns."""
    few = columns <= COLUMNS or (columns <= MOST_COLUMNS and is_small(batch, width))
    return few and columns < width


def loops_over_rows(batch: int, width: int, classes: int, columns: int) -> bool:
    """Whether :func:`rows` is loops."""
    few = columns <= COLUMNS or batch * columns * (width + classes) <= MULTIPLICATIONS
    return few and loops(batch, width, columns)


def label_loss(
    logits: Tensor, targets: Tensor, q: Tensor, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """See :func:`drcl.eager.reversible_consistency.label_loss`."""
    loss, _ = entropies_in_place(logits, targets, q, mean=False, gradient=gradient)
    return loss, logits


def rows(given: Batch, space: Space, settings: Settings, *, gradient: bool = True) -> Rows:
    """Mix, normalise, project, and finish the parts of the loss that are sums over rows."""
    width, k = space.basis.shape
    whole = is_whole(space.basis)
    if not (whole or loops_over_rows(len(given[0]), width, len(space.recast), k)):
        return eager.rows(
            given, space, settings, label_loss, product, label_product, gradient=gradient
        )
    outside = kept_memory.new(space.basis, len(given.features), 0 if whole else width)
    found = ops.reversible_rows.default(*_laid_out(given, space, settings), gradient, outside)
    return Rows(outside, *found)


def at_once(
    given: Batch, space: Space, settings: Settings, *, gradient: bool
) -> list[Tensor] | None:
    """The loss, its parts and, where wanted, its gradient (B, D), if the batch is small.

    The gradient is not narrowed to the features' dtype: it may still be scaled.
    """
    batch, (width, k), classes = len(given.features), space.basis.shape, len(space.recast)
    if is_whole(space.basis):
        small = batch * width * (batch + classes) <= SMALL_WHOLE
    else:
        small = is_small(batch, width) and loops_over_rows(batch, width, classes, k)
    if not small:
        return None
    found: list[Tensor] = ops.reversible_at_once.default(
        *_laid_out(given, space, settings), settings.weights, gradient
    )
    return found


def _laid_out(given: Batch, space: Space, settings: Settings) -> tuple[Any, ...]:
    """What the compiled loops over rows take."""
    features, targets, permutation, q = given
    return (
        features.to(space.basis.dtype).contiguous(),
        laid_out(targets, space.basis),
        permutation if permutation is None else permutation.contiguous(),
        compiled_q(q),
        space.basis,
        space.recast.contiguous(),
        space.weight.contiguous(),
        settings.temperature,
        settings.lam,
    )


def by_panels(matrix: Tensor) -> bool:
    """Whether products with it are computed by panels."""
    return matrix.dtype == torch.float32 and multiplies_panels()


def by_features(coordinates: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``HᵀH`` (3K, 3K), ``[Δ, V]ᵀF`` (2K, D) and ``FᵀF`` (1, D, D)."""
    width, k = outside.shape[1], coordinates.shape[1] // 3
    if not (by_panels(outside) and eager.is_narrow(k, width)):
        return eager.by_features(coordinates, outside)
    inner: Tensor = ops.reversible_inner.default(coordinates)
    cross, gram = outside.new_empty(2 * k, width), kept_memory.new(outside, 1, width, width)
    column_products(outside, gram[0], coordinates[:, k:], cross)
    return inner, cross, gram


def squares(outside: Tensor, out: Tensor) -> None:
    """``FFᵀ``, at and above the diagonal."""
    if by_panels(outside):
        upper_products(outside, out)
    else:
        eager.upper_products(outside, out, PANEL if len(out) < WIDE_FROM else WIDE_PANEL)


def differences(outside: Tensor, coordinates: Tensor, norms: Tensor) -> Tensor:
    """M and Z (2, B, B), symmetric and antisymmetric."""
    batch, width = outside.shape
    k = coordinates.shape[1] // 3
    if width == 0:
        halves: Tensor = ops.whole_differences.default(coordinates, norms)
        return halves
    if not loops(batch, width, k):
        return eager.differences(outside, coordinates, norms, squares)
    own = is_small(batch, width)
    both = kept_memory.new(outside, 2, batch, batch)
    if not own:
        squares(outside, both[0])
    ops.reversible_differences.default(both, outside, coordinates, norms, own)
    return both


def combine(
    sums: Tensor, inner: Tensor, cross: Tensor, gram_matrix: Tensor, settings: Settings, width: int
) -> ReversibleConsistency:
    """The loss and its parts from the sums alone."""
    parts = ops.reversible_combine.default(sums, inner, cross, gram_matrix, settings.weights, width)
    return ReversibleConsistency._make(parts)


def gradient(
    grads: Sequence[Tensor | None], saved: Saved, settings: Settings, dtype: torch.dtype
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given those of the loss and its parts (None: zero)."""
    *tensors, basis, permutation = saved
    outside, gram_matrix = saved.outside, saved.gram_matrix
    (width, k), batch = basis.shape, len(outside)
    by_rows = is_by_rows(gram_matrix)
    if is_whole(basis):
        out = kept_memory.new(basis, batch, width)
        if not by_rows:
            torch.mm(saved.coordinates, eager.along_factors(saved.inner).to(out), out=out)
        ops.whole_gradient.default(
            out, gram_matrix if by_rows else None, grads, saved.coordinates, saved.label_gradient,
            saved.norms, saved.sums, settings.weights,
        )  # fmt: skip
        return _unmixed(out, permutation, settings).to(dtype)
    if not (loops(batch, width, k) if by_rows else k <= COLUMNS and k < width):
        return eager.gradient(grads, saved, settings, dtype)
    out = kept_memory.new(basis, batch, width)
    own = by_rows and is_small(batch, width)
    if not own:
        factors = (gram_matrix[0], outside) if by_rows else (outside, gram_matrix[0])
        torch.mm(*factors, out=out)
    ops.reversible_gradient.default(out, grads, *tensors, basis, settings.weights, own)
    return _unmixed(out, permutation, settings).to(dtype)


def _unmixed(gradient: Tensor, permutation: Tensor | None, settings: Settings) -> Tensor:
    """See :func:`drcl.eager.mixup.unmix`."""
    if permutation is None:
        return gradient
    unmixed = kept_memory.new(gradient, *gradient.shape)
    ops.reversible_unmix.default(gradient, permutation.contiguous(), settings.lam, unmixed)
    return unmixed
