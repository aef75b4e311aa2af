"""Derivatives of an op: reverse and forward mode, and every transform of ``torch.func``.

``torch.library`` knows a custom op's reverse mode. It passes tangents by without an error, so that
forward-mode derivatives come out as zero, and refuses ``torch.func``. The op is therefore called
through a ``torch.autograd.Function`` that has all the rules; in compiled code, by itself.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad

from drcl.ops import flops

__all__ = ["differentiable", "differentiated_once", "under_transform"]
__dir__ = __all__.copy

Rule = Callable[..., Any]
_PLAIN = {Tensor, torch.nn.Parameter}


def under_transform() -> bool:
    """Whether a transform of ``torch.func`` or a level of ``forward_ad`` is at work here."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiable(
    op: CustomOpDef,
    *,
    setup: Rule,
    backward: Rule,
    jvp: Rule,
    value: Rule | None = None,
    at_once: Rule | None = None,
    gradients_of: int = 1,
    shown: int | None = None,
) -> Rule:
    """Give ``op`` its derivatives, and return the function to call in its place.

    Args:
        op: the op, without autograd.
        setup: ``setup(ctx, inputs, output)``; what it saves serves both modes.
        backward: ``backward(ctx, *gradients)``: the gradient by the first input, or a tuple of
            those by the first few; the others have none.
        jvp: ``jvp(ctx, *tangents)``: tangents of the outputs.
        value: the op's function where no derivative is wanted, if that is cheaper.
        at_once: ``at_once(ctx, *inputs)``: the outputs that are looked at, or None where that does
            not pay. ``ctx.gradients`` are then those of the first, a scalar, by the first few
            inputs (None: not needed), in a dtype that autograd narrows to theirs: of a small
            problem they are found in less time than autograd takes to call for them. Of a large one
            they are a function that is called once, with the gradient by the first output.
        gradients_of: how many inputs have a gradient, all of them tensors; 0 where there is none
            to be had.
        shown: how many of its outputs the op's callers look at: others may be left out, but for one
            on which second derivatives depend where what is saved has them.
    """

    def set_up(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.none = [[None] * len(value) if _is_tensors(value) else None for value in inputs]
        setup(ctx, inputs, output)

    def gradients(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        found = backward(ctx, *grads)
        found = found if isinstance(found, tuple) else (found,)
        return *found, *ctx.none[len(found) :]

    # autograd looks for tensors among the arguments, not inside them
    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*flat: Any) -> Any:
            return op(*_unflatten(flat))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            set_up(ctx, _unflatten(inputs), output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return *_flatten(gradients(ctx, *grads)), None

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *flat: Any) -> tuple[Any, Any]:
            def sample(i: int) -> list[Any]:  # of a tuple of numbers the dim is a tuple, of None
                pairs = zip(flat, in_dims, strict=True)
                return [v.select(dim, i) if isinstance(dim, int) else v for v, dim in pairs]

            found = _one_by_one(complete, info.batch_size, sample)
            return found, 0 if isinstance(found, Tensor) else (0,) * len(found)

    Transformed.jvp = staticmethod(jvp)  # type: ignore[method-assign]

    class Direct(torch.autograd.Function):
        """The same where nothing else than autograd looks on, without what transforms need: of the
        arguments, which come last and as they are, autograd is shown those that have a gradient."""

        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            args, tensors = given[-1]
            ctx.args = None
            output = None if at_once is None else at_once(ctx, *args)
            if output is not None:
                ctx.set_materialize_grads(False)
                ctx.save_for_backward(*tensors)
                ctx.args = args
                return output
            output = op._init_fn(*args)
            setup(ctx, args, output)
            return output if shown is None else output[:shown]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            if ctx.args is None:
                found = backward(ctx, *grads)
                return (*found, None) if isinstance(found, tuple) else (found, None)
            first, *others = grads
            # Of other outputs, or a second derivative, which is refused there.
            if torch.is_grad_enabled() or any(grad is not None for grad in others):
                return *_anew(ctx, grads), None
            if first is None:
                return (None,) * (gradients_of + 1)
            # Whoever has them may change them, so they are there once. Of threads that come at the
            # same time one takes them: to take an item out of a dict is one step.
            found = vars(ctx).pop("gradients", None) or _again(ctx)
            later = callable(found)
            if type(first) is not Tensor or _is_wrapped(first):  # a batch of numbers, or none
                scaled = None if later else [None if one is None else one * first for one in found]
                ctx.gradients = found
                return *(scaled or _anew(ctx, grads)), None
            if later:
                _ = ctx.saved_tensors  # which refuses what has changed since
                found = found(first)
            elif first.item() != 1.0:
                found = [None if one is None else one.mul_(first) for one in found]
            return *found, None

    def _again(ctx: Any) -> Any:
        """The gradients that ``at_once`` has found, once more and to the bit."""
        assert at_once is not None
        _ = ctx.saved_tensors  # which refuses what has changed since
        own = SimpleNamespace(
            needs_input_grad=ctx.needs_input_grad, mark_non_differentiable=lambda *_: None
        )
        at_once(own, *ctx.args)
        return own.gradients

    def _anew(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """The gradients by way of the op."""
        flat, _ = _flatten(ctx.args), ctx.saved_tensors  # which refuses what has changed since
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            # Beyond these are the caller's graph, in which one may depend on another, and hooks.
            flat[:gradients_of] = [one.view_as(one) for one in flat[:gradients_of]]
            outputs = Transformed.apply(*flat, _lengths(ctx.args))
            given = [(o, g) for o, g in zip(outputs, grads, strict=False) if g is not None]
            wanted = [i for i in range(gradients_of) if ctx.needs_input_grad[i]]
            found = torch.autograd.grad(
                [o for o, _ in given],
                [flat[i] for i in wanted],
                [g for _, g in given],
                create_graph=create,
                allow_unused=True,
            )
        gradients = dict(zip(wanted, found, strict=True))
        return tuple(gradients.get(i) for i in range(gradients_of))

    def each(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        nested = zip(in_dims, args, strict=True)
        dims = [[d] * len(v) if _is_tensors(v) and d is None else d for d, v in nested]
        return Transformed.vmap(info, (*_flatten(dims), None), *_flatten(args), _lengths(args))

    def call(*args: Any) -> Any:
        return called(args, value or op._init_fn)

    def complete(*args: Any) -> Any:
        """A sample, of which a transform around it may want everything."""
        return called(args, op._init_fn)

    def called(args: tuple[Any, ...], plain: Rule) -> Any:
        if not torch.compiler.is_compiling():
            if "torch.utils.flop_counter" in sys.modules:
                flops.register()
            flat = _flatten(args)
            if _batches_of_autograd() and any(map(_is_batched, flat)):
                return _in_batches_of_autograd(complete, [*flat, _lengths(args)])
            recorded = torch.is_grad_enabled()
            if _unobserved():
                tensors = [one for one in flat if isinstance(one, Tensor)]
                if _PLAIN.issuperset(map(type, tensors)):
                    if not (recorded and any(one.requires_grad for one in tensors)):
                        return plain(*args)
                    if not any(one.requires_grad for one in tensors[gradients_of:]):
                        return Direct.apply(*args[:gradients_of], (args, tensors))
            if recorded or under_transform():
                return Transformed.apply(*flat, _lengths(args))
            return op(*args)
        if forward_ad._current_level >= 0:
            raise NotImplementedError(
                f"{op._qualname}: forward-mode derivatives are not compiled; take them outside of "
                "torch.compile"
            )
        return op(*args)

    op.register_autograd(gradients, setup_context=set_up)
    op.register_vmap(each)
    return call


def _unobserved() -> bool:
    """Whether nothing can tell an op from its function, which costs far less to call.

    Modes, tracers and the profiler can, and tensors of other classes.
    """
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch._C._autograd._profiler_enabled()
        and torch._C._get_tracing_state() is None
        and not under_transform()
    )


def _is_tensors(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, Tensor) for one in value)


def _flatten(args: Sequence[Any]) -> list[Any]:
    """Arguments with the items of lists in their place."""
    flat: list[Any] = []
    for value in args:  # a comprehension in a comprehension takes twice as long
        flat.extend(value) if isinstance(value, list) else flat.append(value)
    return flat


def _lengths(args: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(len(value) if isinstance(value, list) else None for value in args)


def _unflatten(given: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments from :func:`_flatten` and, last, :func:`_lengths`."""
    *flat, lengths = given
    items = iter(flat)
    return tuple(next(items) if n is None else list(itertools.islice(items, n)) for n in lengths)


def _one_by_one(call: Rule, count: int, sample: Callable[[int], list[Any]]) -> Any:
    """A call for every sample: a batch of losses is rare, and no kernel is made for it."""
    found = [call(*_unflatten(sample(i))) for i in range(count)]
    if isinstance(found[0], Tensor):
        return torch.stack(found)
    return tuple(torch.stack(values) for values in zip(*found, strict=True))


def _batches_of_autograd() -> int:
    """How many of autograd's own batches are around this call."""
    torch._C._vmapmode_increment_nesting()
    return torch._C._vmapmode_decrement_nesting()


def _is_wrapped(value: Tensor) -> bool:
    """Whether a transform, or a batch of autograd's own, stands behind a tensor."""
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped or _is_batched(value)


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and torch._C._functorch.is_legacy_batchedtensor(value)


def _in_batches_of_autograd(call: Rule, flat: list[Any]) -> Any:
    """Under the ``vmap`` of ``torch.autograd.grad(is_grads_batched=True)``, which takes no list."""
    level = _batches_of_autograd()
    # of size one along its first dimension where it is the same for all samples
    rows = [torch._remove_batch_dim(v, level, 1, 0) if isinstance(v, Tensor) else v for v in flat]
    count = max(len(v) for v in rows if isinstance(v, Tensor))

    def sample(i: int) -> list[Any]:
        return [v[min(i, len(v) - 1)] if isinstance(v, Tensor) else v for v in rows]

    torch._C._vmapmode_decrement_nesting()  # a batch around this one is taken apart in its turn
    try:
        found = _one_by_one(call, count, sample)
    finally:
        torch._C._vmapmode_increment_nesting()
    if isinstance(found, Tensor):
        return torch._add_batch_dim(found, 0, level)
    return tuple(torch._add_batch_dim(one, 0, level) for one in found)


def differentiated_once(op: CustomOpDef, name: str) -> Rule:
    """For the backward op of ``name``: to differentiate it ends in an error that says the way."""

    def refuse(ctx: Any, *unused: Tensor) -> None:
        raise NotImplementedError(
            f"drcl::{name} has no second derivative; use the reference backend "
            "(drcl.use_backend('reference')) to differentiate twice"
        )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    return differentiable(op, setup=setup, backward=refuse, jvp=refuse, gradients_of=0)
