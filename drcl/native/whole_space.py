"""The loss's stages by rows in the whole space, csrc/cpu/whole_space.cpp.

Nothing is projected there: the stages are PyTorch's products, and compiled code that goes over the
rows once between them. Formulas and shapes are those of :mod:`drcl.eager.reversible_consistency`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.eager import reversible_consistency as eager
from drcl.eager.reversible_consistency import Batch, Rows, Saved, Settings, Space, is_by_rows
from drcl.native.cross_entropy import entropies_in_place
from drcl.native.products import label_product, product

__all__ = ["differences", "gradient", "rows"]

load_ops()
ops = torch.ops.drcl

# Rows up to which MV − ZU is loops too.
ROWS = 64


def rows(given: Batch, space: Space, settings: Settings, *, gradient: bool) -> Rows:
    """See :func:`drcl.eager.reversible_consistency.rows`."""
    features, targets, permutation, q = given
    basis, recast, weight = space
    ids, y, labelled = None, targets, None
    if targets.ndim == 1 and permutation is None:
        ids, recast = targets.contiguous(), recast.contiguous()
    else:
        y, labelled, recast = eager.recast_targets(given, recast, settings.lam, label_product)
        permutation = permutation if permutation is None else permutation.contiguous()
    scaled, coordinates, norms, sums = ops.whole_rows.default(
        features.to(basis.dtype).contiguous(),
        ids,
        recast,
        labelled,
        permutation,
        settings.temperature,
        settings.lam,
    )
    logits = scaled @ weight
    sums[0], _ = entropies_in_place(logits, y, q, mean=False, gradient=gradient)
    by_features = eager.label_gradient(
        logits, weight, settings.temperature, product, wanted=gradient
    )
    return Rows(basis.new_empty(len(scaled), 0), coordinates, by_features, norms, sums)


def differences(coordinates: Tensor, norms: Tensor) -> Tensor:
    """M and Z (2, B, B)."""
    u, delta, v = coordinates.chunk(3, dim=1)
    both: Tensor = ops.whole_differences.default((u + v) @ delta.T, norms)
    return both


def gradient(grads: Sequence[Tensor | None], saved: Saved, settings: Settings) -> Tensor:
    """The gradient (B, D) by the mixed features, in the prior's dtype."""
    coordinates, matrices = saved.coordinates, None
    if not is_by_rows(saved.gram_matrix):
        out = coordinates @ eager.along_factors(saved.inner).to(coordinates)
    elif len(coordinates) > ROWS:
        m, z = saved.gram_matrix
        out = eager.along_by_rows(m, z, coordinates)
    else:
        out, matrices = torch.empty_like(saved.label_gradient), saved.gram_matrix
    ops.whole_gradient.default(
        out, matrices, grads, coordinates, saved.label_gradient, saved.norms, saved.sums,
        settings.weights,
    )  # fmt: skip
    return out
