"""``drcl::reversible_consistency``: the loss, its parts, and a closed-form gradient.

The op strings together the stages of a backend: ``rows`` → ``by_features``, or for few rows
``differences``, → ``combine``, and ``gradient`` for the way back. Ranks have to talk in one place
only, between the sums and what is made of them: adding up the sums makes every rank's loss and
gradient those of the global batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from drcl import dispatch
from drcl.eager.reversible_consistency import PARTS, SUMS, Batch, Saved, Settings, Space
from drcl.native.reversible_consistency import is_small, loops_over_rows
from drcl.ops import flops
from drcl.ops.derivatives import differentiable, differentiated_once
from drcl.ops.inputs import full_precision
from drcl.precision import widest

if TYPE_CHECKING:
    Outputs: TypeAlias = tuple[Tensor, ...]
else:  # the schema says how many: all that is saved but basis and permutation
    Outputs = tuple[(Tensor,) * (PARTS + len(Saved._fields) - 2)]

# Operations that take as long as the further stages by features. On one and two threads of an AMD
# EPYC this choice took .8 % longer than the faster one would have, as the mean of 520 batches with
# B from D to 5D, D from 32 to 512 and C from 4 to 512 (eager: .6 %, of 125).
STAGES = 8 * 10**6
MOST_ROWS = 10_000  # beyond D of them, as B×B matrices take 12 B² bytes
CALLS = 10**6  # operations of loops that take as long as calling products in their place


@torch.library.custom_op("drcl::reversible_consistency", mutates_args=())
def reversible_consistency(
    features: Tensor,
    targets: Tensor,
    permutation: Tensor | None,
    q: Tensor,
    space: Sequence[Tensor],
    settings: Sequence[float],
    group: str,
    by_rows: bool,
    backend: str,
) -> Outputs:
    """The loss and its parts, then what the gradient needs.

    ``space`` and ``settings`` are those of :mod:`drcl.eager.reversible_consistency`, and so are the
    shapes. ``group`` names the process group whose ranks hold the rows of one global batch, "" for
    none; ``by_rows`` takes the B×B matrices in place of the D×D one.
    """
    batch = Batch(features, targets, permutation, q)
    return _in_stages(batch, space, settings, group, by_rows, backend, gradient=True)


def _in_stages(
    batch: Batch,
    space: Sequence[Tensor],
    settings: Sequence[float],
    group: str,
    by_rows: bool,
    backend: str,
    *,
    gradient: bool,
) -> tuple[Any, ...]:
    compute, own, chosen = stages(backend), Space(*space), Settings(*settings)
    with full_precision(batch.features):
        rows = compute.rows(batch, own, chosen, gradient=gradient)
        if by_rows:
            new = own.basis.new_empty
            inner, cross = new(0, 0, dtype=widest(rows.sums.device)), new(0, 0)
            gram = compute.differences(rows.outside, rows.coordinates, rows.norms)
        else:
            inner, cross, gram = compute.by_features(rows.coordinates, rows.outside)
        if group:
            _add_up((rows.sums, inner, cross, gram), group)
        parts = compute.combine(rows.sums, inner, cross, gram, chosen, len(own.basis))
    return *parts, *rows, inner, cross, gram


def _small(
    features: Tensor, targets: Tensor, permutation: Tensor | None, q: Tensor,
    space: Sequence[Tensor], settings: Sequence[float], group: str, by_rows: bool, backend: str,
    *, gradient: bool,
) -> list[Tensor] | None:  # fmt: skip
    """What the compiled code finds of a small batch in one call; None where it does not."""
    if backend != "native" or group or not by_rows:
        return None
    batch = Batch(features, targets, permutation, q)
    found: list[Tensor] | None = stages(backend).at_once(
        batch, Space(*space), Settings(*settings), gradient=gradient
    )
    return found


def _value(*args: Any) -> Sequence[Tensor]:
    """The op where no gradient is wanted."""
    found = _small(*args, gradient=False)
    return _in_stages(Batch(*args[:4]), *args[4:], gradient=False) if found is None else found


def _at_once(ctx: Any, *args: Any) -> tuple[Tensor, ...] | None:
    found = _small(*args, gradient=True)
    if found is None:
        return None
    *parts, gradient = found
    ctx.gradients = [gradient]
    return tuple(parts)


@reversible_consistency.register_fake
def _(
    features: Tensor, targets: Any, permutation: Any, q: Any, space: Sequence[Tensor],
    settings: Any, group: Any, by_rows: bool, backend: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    batch, width, k = features.shape[0], len(space[0]), space[1].shape[1]
    outside = 0 if k == width else width
    new = space[0].new_empty
    return (
        *(new(()) for _ in range(PARTS)),
        new(batch, outside),
        new(batch, 3 * k),
        new(batch, k),
        new(2, batch),
        new(SUMS),
        new((0, 0) if by_rows else (3 * k, 3 * k), dtype=widest(features.device)),
        new((0, 0) if by_rows else (2 * k, outside)),
        new(2, batch, batch) if by_rows else new(1, outside, outside),
    )


@torch.library.custom_op("drcl::reversible_consistency_backward", mutates_args=())
def reversible_consistency_backward(
    grads: Sequence[Tensor | None],
    saved: Sequence[Tensor],
    permutation: Tensor | None,
    settings: Sequence[float],
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Gradient (B, D) in ``dtype``, given the gradients of the loss and its parts (None: zero)."""
    with full_precision(saved[0]):
        gradient: Tensor = stages(backend).gradient(
            grads, Saved._make([*saved, permutation]), Settings(*settings), dtype
        )
    return gradient


@reversible_consistency_backward.register_fake
def _(
    grads: Any, saved: Sequence[Tensor], permutation: Any, settings: Any, dtype: torch.dtype, _: Any
) -> Tensor:
    outside, *_, basis = saved
    return outside.new_empty(outside.shape[0], basis.shape[0], dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, _, permutation, _, (basis, *_), ctx.settings, ctx.group, _, ctx.backend = inputs
    saved = (*output[PARTS:], basis, permutation)
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)
    ctx.dtype = features.dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
    of_parts = grads[:PARTS]
    return None if all(grad is None for grad in of_parts) else _gradient(ctx, of_parts)


def _jvp(ctx: Any, tangent: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
    *saved, basis, _ = ctx.saved_tensors
    if tangent is None:
        return (None,) * (PARTS + len(saved))
    one = basis.new_ones(())
    tangents = []
    for part in range(PARTS):
        gradient = _gradient(ctx, tuple(one if i == part else None for i in range(PARTS)))
        tangents.append((gradient * tangent).sum(dtype=basis.dtype))
    if ctx.group:  # the gradient is that by this rank's rows
        _add_up(tuple(tangents), ctx.group)
    # The others' tangents are asked for by the gradient alone, which refuses them.
    return *tangents, *map(torch.zeros_like, saved)


def _gradient(ctx: Any, of_parts: tuple[Tensor | None, ...]) -> Tensor:
    *saved, permutation = ctx.saved_tensors
    gradient: Tensor = gradient_of_loss(
        list(of_parts), saved, permutation, ctx.settings, ctx.dtype, ctx.backend
    )
    return gradient


gradient_of_loss = differentiated_once(reversible_consistency_backward, "reversible_consistency")
# One more than the parts: to differentiate twice is refused where what is saved has a gradient.
loss = differentiable(
    reversible_consistency,
    setup=_setup,
    backward=_backward,
    jvp=_jvp,
    value=_value,
    at_once=_at_once,
    shown=PARTS + 1,
)


def stages(backend: str) -> ModuleType | SimpleNamespace:
    """The stages of a backend: what :mod:`drcl.eager.reversible_consistency` says of them holds."""
    return _kernels() if backend == "triton" else dispatch.stages("reversible_consistency", backend)


@functools.cache
def _kernels() -> SimpleNamespace:
    from drcl.kernels.reversible_consistency.class_sums import by_features
    from drcl.kernels.reversible_consistency.combine import combine
    from drcl.kernels.reversible_consistency.gradient import gradient
    from drcl.kernels.reversible_consistency.rows import rows
    from drcl.kernels.reversible_consistency.symmetric import differences

    functions = (rows, by_features, differences, combine, gradient)
    return SimpleNamespace(**{function.__name__: function for function in functions})


def prefers_rows(batch: int, width: int, classes: int, group: str, backend: str) -> bool:
    """Whether B×B matrices are taken: by operations, unless ranks must add them up.

    An exported program serves batches of every size, so it takes the matrices that fit them all.
    """
    if group or torch.compiler.is_exporting():
        return False
    if batch < width:
        return True
    if serves_any(batch) or batch > MOST_ROWS:
        return False
    if backend not in ("native", "eager"):
        return classes >= width and 2 * batch < 5 * width
    counted = functools.partial(operations, batch, width, classes, (batch,))
    by_rows, by_features = (
        min(sum(counted(by_rows=rows, whole=whole)) for whole in (False, True))
        for rows in (True, False)
    )
    return by_rows < by_features + STAGES


def prefers_whole(
    batch: int, width: int, classes: int, targets: Sequence[int], *, by_rows: bool, backend: str
) -> bool:
    """Whether the loss is computed in the whole space, not in the prior's: by its operations.

    There nothing is projected, but coordinates are D and not K numbers. The compiled loops and the
    kernels for a GPU are for the prior's space. ``targets`` is their shape, (B,) for ids that are
    not mixed.
    """
    if backend not in ("native", "eager"):
        return False
    if classes >= width or not by_rows or serves_any(batch):
        return classes >= width
    looped = backend == "native" and loops_over_rows(batch, width, classes, classes)
    counted = functools.partial(operations, batch, width, classes, targets, by_rows=True)
    here = sum(counted(whole=False))
    if looped and here <= CALLS:  # to count takes as long as a small stage
        return False
    there = sum(counted(whole=True))
    if looped and is_small(batch, width):
        return here - there > CALLS
    if looped:  # with fewer rows most of the operations are those of F, which are products here too
        return there < here and 2 * batch > width
    # Compiled code goes over the rows less often there.
    return there < here * (1.2 if backend == "native" else 1.0)


def serves_any(batch: int) -> bool:
    """Whether a program is traced for batches of every size: each choice by it is one more."""
    if torch.compiler.is_exporting():
        return True
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return not has_static_value(batch)


def operations(
    batch: int, width: int, classes: int, targets: Sequence[int], *, by_rows: bool, whole: bool
) -> tuple[int, int]:
    """Of the products of value and gradient, in the whole space or in the prior's."""
    k = width if whole else min(width, classes)
    basis, outside = 0 if whole else k, 0 if k == width else width
    value = flops.of_value(batch, width, classes, k, basis, len(targets) != 1, by_rows)
    return value, flops.of_gradient(batch, outside, k, width * basis, by_rows)


def explain(batch: int, width: int, classes: int, backend: str) -> dict[str, str]:
    """The forms chosen for a batch with class ids, and what they cost, for ``drcl info``.

    >>> explain(256, 2048, 10, "eager")["matrices"]
    'rows by rows, 256×256'
    """
    by_rows = prefers_rows(batch, width, classes, "", backend)
    whole = prefers_whole(batch, width, classes, (batch,), by_rows=by_rows, backend=backend)
    k = width if whole else min(width, classes)
    side = batch if by_rows else width if k < width else 3 * k
    value, gradient = operations(batch, width, classes, (batch,), by_rows=by_rows, whole=whole)
    looped = backend == "native" and not whole and loops_over_rows(batch, width, classes, k)
    return {
        "backend": backend,
        "matrices": f"{'rows by rows' if by_rows else 'features by features'}, {side}×{side}",
        "space": "the whole" if k == width else f"the prior's, {k} of {width} dimensions",
        "rows": "compiled loops" if looped else "kernels" if backend == "triton" else "products",
        "products": f"{value / 1e9:.3g} GFLOP for the value, {gradient / 1e9:.3g} for the gradient",
    }


def _add_up(tensors: tuple[Tensor, ...], group: str) -> None:
    collectives = torch.ops._c10d_functional
    for tensor in tensors:
        tensor.copy_(collectives.wait_tensor(collectives.all_reduce(tensor, "sum", group)))
