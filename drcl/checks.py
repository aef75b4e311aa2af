"""Arguments checked before anything is computed: an error names the argument and what it must be.

Values are looked at only where that is free; see :func:`can_look_at`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_matrix(name: str, value: Any, shape: str = "(B, D)") -> None:
    """Refuse what is not a dense floating-point matrix with at least one row and column."""
    check_tensor(name, value)
    if value.ndim != 2 or value.dtype not in FLOATS:
        raise ValueError(
            f"{name}: expected floating point {shape} of 16 to 64 bits, got {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )
    if 0 in value.shape:
        raise ValueError(f"{name}: is empty, shape {tuple(value.shape)}")


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is not a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got layout {value.layout}")


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse tensors on two devices."""
    if value.device != other.device:
        raise ValueError(f"{name}: is on {value.device}, but {other_name} on {other.device}")


def check_has_values(name: str, value: Tensor) -> None:
    """Refuse a tensor on the meta device, where values have to be looked at."""
    if value.is_meta:
        raise ValueError(f"{name}: is on the meta device and has no values")


def check_prior(weight: Any, features: Tensor) -> None:
    """Refuse a W (D, C) that does not fit the features."""
    check_matrix("prior", weight, "(D, C)")
    if weight.shape[0] != features.shape[1]:
        raise ValueError(
            f"features of width {features.shape[1]} do not fit a prior of shape "
            f"{tuple(weight.shape)}: expected width {weight.shape[0]}"
        )
    check_device("prior", weight, "features", features)


def check_permutation(permutation: Any, features: Tensor) -> None:
    """Refuse what is not every row number of the features once."""
    check_tensor("permutation", permutation)
    if permutation.shape != features.shape[:1] or permutation.dtype != torch.int64:
        raise ValueError(
            f"permutation: expected int64 of shape ({len(features)},), got {permutation.dtype} of "
            f"shape {tuple(permutation.shape)}"
        )
    check_device("permutation", permutation, "features", features)
    if can_look_at(permutation):
        low, high = int(permutation.min()), int(permutation.max())
        if low < 0 or high >= len(features) or int(permutation.bincount().max()) > 1:
            raise ValueError(
                f"permutation: expected every row 0..{len(features) - 1} once, got {low}..{high} "
                "with repetitions or out of range"
            )


def check_q(q: Any) -> None:
    """Refuse an exponent that is no number in [0, 1]."""
    if not isinstance(q, Tensor):
        _check_number("q", q, "a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)
    elif q.ndim != 0 or q.dtype not in FLOATS:
        raise ValueError(f"q: expected a 0-d float tensor, got {q.dtype} {tuple(q.shape)}")
    elif can_look_at(q) and not 0.0 <= float(q) <= 1.0:
        raise ValueError(f"q: expected a number in [0, 1], got {float(q)}")


def check_lam(lam: Any) -> None:
    """Refuse a mixing weight outside [0, 1]."""
    _check_number("lam", lam, "a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)


def check_positive(name: str, value: Any) -> None:
    """Refuse what is not a positive finite number."""
    _check_number(name, value, "a positive number", lambda value: 0.0 < value < float("inf"))


def check_part_weights(**weights: Any) -> None:
    """Refuse weights of a loss' parts that are negative or not finite."""
    for name, value in weights.items():
        _check_number(name, value, "a number >= 0", lambda value: 0.0 <= value < float("inf"))


def check_count(name: str, value: Any, least: int = 1, more: str = "") -> None:
    """Refuse what is not a whole number, or is too small; ``more`` says what else would do."""
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected an integer >= {least}{more}, got {value!r}")


def check_seed(seed: Any) -> None:
    """Refuse a seed that a torch generator does not take."""
    try:
        good = -(2**63) <= operator.index(seed) < 2**64
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"seed: expected an integer of 64 bits, got {seed!r}")


def check_cutoff(k: Any) -> None:
    """Refuse a rank cut-off that is not a positive whole number."""
    if k is not None:
        check_count("k", k, more=" or None for the whole gallery")


def check_option(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")


def _check_number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer that no float can hold
        number = math.inf
    if not holds(number):
        raise ValueError(f"{name}: expected {expected}, got {value}")


def can_look_at(tensor: Tensor) -> bool:
    """Looking at values would stop a GPU and break a trace; there, a bad id makes the loss NaN."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
