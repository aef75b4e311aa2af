"""Arguments checked before anything is computed: an error names the argument and what it must be.

A setting's check returns it as a plain Python value, whether it was one of Python's or of NumPy's.
Values of tensors are looked at only where that is free; see :func:`can_look_at`.
"""

from __future__ import annotations

import importlib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ROUNDING = torch.finfo(torch.float64).eps ** 0.5


def check_matrix(name: str, value: Any, shape: str = "(B, D)") -> None:
    """Refuse anything but a dense floating-point matrix with at least one row and column."""
    check_tensor(name, value)
    if value.ndim != 2 or value.dtype not in FLOATS:
        raise ValueError(
            f"{name}: expected floating point {shape} of 16 to 64 bits, got {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )
    if 0 in value.shape:
        raise ValueError(f"{name}: expected rows and columns, got shape {tuple(value.shape)}")


def check_tensor(name: str, value: Any) -> None:
    """Refuse anything but a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise ValueError(
            f"{name}: expected a dense tensor, got layout {value.layout}; sparse ones have "
            ".to_dense()"
        )
    if hasattr(value, "to_local"):
        raise TypeError(
            f"{name}: expected a plain tensor, got a {type(value).__name__}; .to_local() has this "
            "rank's part, .full_tensor() all of it"
        )


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse tensors on two devices."""
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected on {other.device}, as {other_name}, got on {value.device}"
        )


def check_has_values(name: str, value: Tensor) -> None:
    """Refuse a tensor on the meta device, where values have to be looked at."""
    if value.is_meta:
        raise ValueError(f"{name}: expected values, got a tensor on the meta device")


def check_prior(weight: Any, features: Tensor) -> None:
    """Refuse a W (D, C) that does not fit the features."""
    check_matrix("prior", weight, "(D, C)")
    if weight.shape[0] != features.shape[1]:
        raise ValueError(
            f"features: expected width {weight.shape[0]}, as of a prior of shape "
            f"{tuple(weight.shape)}, got {features.shape[1]}"
        )
    check_device("prior", weight, "features", features)


def check_permutation(permutation: Any, features: Tensor) -> None:
    """Refuse anything but every row number of the features, once each."""
    check_tensor("permutation", permutation)
    if permutation.shape != features.shape[:1] or permutation.dtype != torch.int64:
        raise ValueError(
            f"permutation: expected int64 of shape ({features.shape[0]},), got {permutation.dtype} "
            f"of shape {tuple(permutation.shape)}"
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
    """Refuse an exponent that is not a number in [0, 1]."""
    if torch.compiler.is_compiling() and isinstance(q, float):
        return  # a look at it would compile anew for every value
    if not isinstance(q, Tensor):
        # 1 may also be a sum of a hundred times 0.01.
        _number("q", q, "a number in [0, 1]", lambda value: 0.0 <= value <= 1.0 + _ROUNDING)
    elif q.ndim != 0 or q.dtype not in FLOATS:
        raise ValueError(f"q: expected a 0-d float tensor, got {q.dtype} {tuple(q.shape)}")
    elif can_look_at(q) and not 0.0 <= float(q) <= 1.0 + torch.finfo(q.dtype).eps ** 0.5:
        raise ValueError(f"q: expected a number in [0, 1], got {float(q)}")


def check_lam(lam: Any) -> float:
    """A mixing weight in [0, 1]."""
    return _number("lam", lam, "a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)


def check_positive(name: str, value: Any) -> float:
    """A positive finite number."""
    return _number(name, value, "a number > 0", lambda value: 0.0 < value < math.inf)


def check_temperature(value: Any, dtype: torch.dtype | None = None) -> float:
    """A divisor of logits: a positive normal number of the dtype that they are computed in.

    That of half precision is float32. A number that is not normal there, or is infinite, has no
    reciprocal there, or is itself 0 or infinite.
    """
    value = check_positive("temperature", value)
    if dtype is not None:
        limits = torch.finfo(torch.promote_types(dtype, torch.float32))
        if not limits.tiny <= value <= limits.max:
            raise ValueError(
                f"temperature: expected a number from {limits.tiny:.2g} to {limits.max:.2g}, as "
                f"normal numbers of {limits.dtype} are, got {value}"
            )
    return value


def check_weight(name: str, value: Any) -> float:
    """The weight of a part of a loss: finite and not negative."""
    return _number(name, value, "a number >= 0", lambda value: 0.0 <= value < math.inf)


def check_level(name: str, value: Any) -> float:
    """The level of an interval: between 0 and 1."""
    return _number(name, value, "a level between 0 and 1", lambda value: 0.0 < value < 1.0)


def check_count(name: str, value: Any, least: int = 1, more: str = "") -> int:
    """A whole number that is not too small; ``more`` says what else would do."""
    return _integer(name, value, least, 2**63, f"an integer >= {least}{more}")


def check_counts(name: str, values: Any) -> tuple[int, ...]:
    """A sequence or array of whole numbers from 1 on."""
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, str):
        raise ValueError(f"{name}: expected a sequence of integers >= 1, got {values!r}")
    return tuple(check_count(name, value) for value in values)


def check_integer(name: str, value: Any) -> int:
    """A whole number of any size."""
    return _integer(name, value, -math.inf, math.inf, "an integer")


def check_seed(seed: Any) -> int:
    """A seed that a torch generator takes."""
    return _integer("seed", seed, -(2**63), 2**64, "an integer of 64 bits")


def check_cutoff(k: Any) -> int | None:
    """A rank cut-off: a positive whole number, or None."""
    return None if k is None else check_count("k", k, more=" or None for the whole gallery")


def check_option(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")
    return str(value)


def check_modalities(name: str, value: Any, of: str, instead: str = "") -> None:
    """Refuse anything but a mapping from modality to something; ``instead`` says what to give."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name}: expected a mapping from modality to {of}, got {type(value).__name__}{instead}"
        )


def check_pair(name: str, value: Any, expected: str) -> None:
    """Refuse anything but a tuple or list of two."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        what = f"{len(value)} items" if isinstance(value, (tuple, list)) else type(value).__name__
        raise TypeError(f"{name}: expected {expected}, got {what}")


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def check_device_name(name: str, value: Any) -> str:
    """``"auto"``, or a torch device or its name; whether it is there is not looked at."""
    named = str(value) if isinstance(value, (str, torch.device)) else ""
    if not re.fullmatch(r"[a-z]+(:\d+)?", named):
        raise ValueError(f'{name}: expected "auto" or a torch device, got {value!r}')
    return named


def check_installed(refusal: str, *names: str) -> None:
    """Raise ImportError where a module is missing, whose name goes into the refusal's ``{}``."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(refusal.format(error.name)) from error


def _number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> float:
    known = type(value) is float  # a look at an abstract class takes as long as a small op
    if not known and (not isinstance(value, Real) or isinstance(value, bool)):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer that no float can hold
        number = math.inf
    if not holds(number):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return int(value) if type(value) is int else number


def _integer(name: str, value: Any, least: float, limit: float, expected: str) -> int:
    try:
        number = operator.index(value)
        good = not isinstance(value, bool) and least <= number < limit
    except TypeError:
        number, good = 0, False
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


def can_look_at(tensor: Tensor) -> bool:
    """Looking at values would stop a GPU and break a trace or a transform of ``torch.func``; there,
    a bad id makes the loss NaN."""
    return (
        tensor.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
