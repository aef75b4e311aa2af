"""Derivatives of an op: reverse and forward mode, and every transform of ``torch.func``.

``torch.library`` knows a custom op's reverse mode. It passes tangents by without an error, so that
forward-mode derivatives come out as zero, and refuses ``torch.func``. Where one of the two is at
work the op is therefore called through a ``torch.autograd.Function`` that has all the rules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad

from drcl.ops import flops

Rule = Callable[..., Any]


def under_transform() -> bool:
    """Whether a transform of ``torch.func`` or a level of ``forward_ad`` is at work here."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiable(op: CustomOpDef, *, setup: Rule, backward: Rule, jvp: Rule) -> Rule:
    """Give ``op`` its derivatives, and return the function to call in its place.

    Args:
        op: the op, without autograd.
        setup: ``setup(ctx, inputs, output)``; what it saves serves both modes.
        backward: ``backward(ctx, *gradients)``: gradients by the inputs.
        jvp: ``jvp(ctx, *tangents)``: tangents of the outputs.
    """

    def each(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        """One call for every sample: a batch of losses is rare, and no kernel is made for it."""
        samples = []
        for i in range(info.batch_size):
            sample = (
                value if dim is None else value.select(dim, i)
                for value, dim in zip(args, in_dims, strict=True)
            )
            samples.append(call(*sample))
        if isinstance(samples[0], Tensor):
            return torch.stack(samples), 0
        outputs = tuple(torch.stack(values) for values in zip(*samples, strict=True))
        return outputs, (0,) * len(outputs)

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return op(*args)

    Transformed.setup_context = staticmethod(setup)  # type: ignore[method-assign, assignment]
    Transformed.backward = staticmethod(backward)  # type: ignore[method-assign]
    Transformed.jvp = staticmethod(jvp)  # type: ignore[method-assign]
    Transformed.vmap = staticmethod(each)  # type: ignore[method-assign]

    def call(*args: Any) -> Any:
        if not torch.compiler.is_compiling():
            if "torch.utils.flop_counter" in sys.modules:
                flops.register()
            return Transformed.apply(*args) if under_transform() else op(*args)
        if forward_ad._current_level >= 0:
            raise NotImplementedError(
                f"{op._qualname}: forward-mode derivatives are not compiled; take them outside of "
                "torch.compile"
            )
        return op(*args)

    op.register_autograd(backward, setup_context=setup)
    op.register_vmap(each)
    return call


def differentiated_once(op: CustomOpDef, name: str) -> Rule:
    """For the backward op of ``name``: to differentiate it ends in an error that says the way."""

    def refuse(ctx: Any, *unused: Tensor) -> None:
        raise NotImplementedError(
            f"drcl::{name} has no second derivative; use the reference backend "
            "(drcl.use_backend('reference')) to differentiate twice"
        )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    return differentiable(op, setup=setup, backward=refuse, jvp=refuse)
