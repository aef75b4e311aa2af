"""What a backward op says when it is itself differentiated."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._library.custom_ops import CustomOpDef


def refuse_second_derivative(backward_op: CustomOpDef, name: str) -> None:
    """Let double backward through ``backward_op`` end in an error that names the op and the way."""

    def refuse(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            f"drcl::{name} has no second derivative; use the reference backend "
            "(drcl.use_backend('reference')) for double backward"
        )

    backward_op.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)
