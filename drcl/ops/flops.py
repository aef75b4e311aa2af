"""What PyTorch's ``FlopCounterMode`` counts for the ops: 2 for each multiplication and addition of
a matrix product, as in its own formulas, and half of it where one triangle is computed.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch


def loss(
    features: Any, targets: Any, permutation: Any, q: Any, space: Any, settings: Any, group: str,
    by_rows: bool, backend: str, **kwargs: Any,
) -> int:  # fmt: skip
    """Of the value."""
    (batch, width), ((_, basis), (classes, k), _) = features, space
    recast = len(targets) != 1 or permutation is not None
    return of_value(batch, width, classes, k, basis, recast, by_rows)


def loss_backward(grads: Any, saved: Any, *args: Any, **kwargs: Any) -> int:
    """Of the gradient."""
    (batch, outside), coordinates, *_, gram, basis = saved
    by_rows = len(gram) == 3 and gram[0] == 2
    return of_gradient(batch, outside, coordinates[1] // 3, math.prod(basis), by_rows)


def of_value(
    batch: int, width: int, classes: int, k: int, basis: int, recast: bool, by_rows: bool
) -> int:
    """Label rows recast, three projections of every row, logits and their gradient, and the sums.

    An id without mixing is recast without a product. In the whole space K = D, and the basis has no
    columns.
    """
    outside = width if k < width else 0
    projections = 0 if basis == 0 else 8 if outside else 2
    rows = projections * batch * width * k + (6 if recast else 4) * batch * classes * k
    if by_rows:
        return rows + batch * batch * (outside + 4 * k if outside else 2 * k)
    return rows + batch * (outside * outside + 4 * k * outside + 18 * k * k)


def of_gradient(batch: int, outside: int, k: int, back: int, by_rows: bool) -> int:
    """The product of F with M or FᵀF, the terms of rank K, and the way back along Q (D·K)."""
    if by_rows:
        return 2 * batch * (batch * outside + 2 * batch * k + back)
    return 2 * batch * (outside * outside + 5 * outside * k + 3 * k * k + (0 if outside else back))


def similarity(features: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """``XW``."""
    return 2 * features[0] * features[1] * weight[1]


def similarity_backward(
    grads: Any, saved: Any, temperature: float, needs: Any, *args: Any, **kwargs: Any
) -> int:
    """``G Wᵀ`` and ``Xᵀ G``, where they are asked for."""
    return sum(needs) * similarity(*saved[:2])


def none(*args: Any, **kwargs: Any) -> int:
    """Mixing has no product."""
    return 0


@functools.cache
def register() -> None:
    """Enter the formulas in PyTorch's table, and in that of a counter that is at work already.

    Its module takes a second to import, so it is not imported with this package: an op enters them
    when somebody else has.
    """
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    ops = torch.ops.drcl
    formulas: dict[Any, Any] = {
        ops.reversible_consistency: loss,
        ops.reversible_consistency_backward: loss_backward,
        ops.prior_similarity: similarity,
        ops.prior_similarity_backward: similarity_backward,
        ops.mixup: none,
        ops.mixup_backward: none,
    }
    for op, formula in formulas.items():
        register_flop_formula(op)(formula)
    for mode in _get_current_dispatch_mode_stack():  # a counter copies the table when it is made
        counter: Any = getattr(mode, "counter", None)
        if hasattr(counter, "flop_registry"):
            counter.flop_registry.update({op: flop_registry[op] for op in formulas})
