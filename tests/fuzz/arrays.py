"""Arrays and tensors of all kinds: values, dtypes, strides."""

from __future__ import annotations

import numpy as np
import numpy_oracle
import torch
from fuzzing import Draw
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Values around 1, whose results can be held to an oracle digit by digit.
TAME = ("normal", "unit rows", "small integers", "equal rows", "small", "large", "some zero rows")
# Beside these: at the ends of the dtype's range.
WILD = ("zero", "denormal", "huge", "tiny and huge")


def values(draw: Draw, label: str, rows: int, width: int, *kinds: str) -> np.ndarray:
    """A float64 matrix (rows, width) of one of the kinds."""
    kind = draw.choose(label, *(kinds or TAME))
    random = draw.random
    x = random.normal(size=(rows, width))
    if kind == "unit rows":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    elif kind == "small integers":
        x = random.integers(-2, 3, size=(rows, width)).astype(float)
    elif kind == "equal rows":
        x[:] = x[:1]
    elif kind == "small":
        x *= 1e-3
    elif kind == "large":
        x *= 1e3
    elif kind == "some zero rows":
        x[random.random(rows) < 0.4] = 0
    elif kind == "zero":
        x[:] = 0
    elif kind == "denormal":
        x *= 1e-40
    elif kind == "huge":
        x *= 1e30
    elif kind == "tiny and huge":
        x *= 10.0 ** random.uniform(-35, 35, size=(rows, width))
    return x


def tensor(draw: Draw, label: str, x: np.ndarray, *dtypes: torch.dtype) -> Tensor:
    """The values in a dtype and with strides of some kind; too large for it is its largest."""
    dtype = draw.choose(f"{label} dtype", *(dtypes or FLOATS))
    info = torch.finfo(dtype)
    return laid_out(draw, label, torch.from_numpy(x).clamp(info.min, info.max).to(dtype))


def laid_out(draw: Draw, label: str, t: Tensor) -> Tensor:
    """The same values in memory of another layout; what lies between them is poison."""
    layout = draw.choose(f"{label} layout", "plain", "strided", "turned", "offset", "expanded")
    if layout == "expanded" and t.ndim == 2 and len(t) > 1 and bool((t == t[:1]).all()):
        return t[:1].expand(t.shape)
    if layout == "turned" and t.ndim == 2:
        return t.T.contiguous().T
    if layout in ("strided", "offset"):
        shape = (*t.shape[:-1], 3 * t.shape[-1] + 1)
        wide = torch.full(shape, poison(t.dtype), dtype=t.dtype)
        out = wide[..., 1::3] if layout == "strided" else wide[..., 1 : t.shape[-1] + 1]
        return out.copy_(t)
    return t.contiguous()


def poison(dtype: torch.dtype) -> float | int | bool:
    """What a function that ignores strides would stumble over."""
    if dtype == torch.bool:
        return True
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max


def spoil(draw: Draw, t: Tensor) -> tuple[Tensor, int]:
    """A copy with one entry NaN or infinite, and the row it is in."""
    bad = t.detach().clone()
    row, column = (int(draw.random.integers(size)) for size in t.shape)
    bad[row, column] = draw.choose("bad value", float("nan"), float("inf"), -float("inf"))
    return bad, row


def numpy_form(draw: Draw, label: str, x: np.ndarray) -> np.ndarray:
    """The same values as an array that NumPy holds in another way."""
    form = draw.choose(f"{label} form", "plain", "reversed", "read-only", "swapped", "fortran")
    if form == "reversed":
        return x[::-1].copy()[::-1]
    if form == "swapped":
        return x.astype(x.dtype.newbyteorder())
    if form == "fortran":
        return np.asfortranarray(x)
    x = x.copy()
    x.flags.writeable = form != "read-only"
    return x


def target_rows(draw: Draw, rows: int, classes: int) -> np.ndarray:
    """Target rows (rows, classes): one-hot, multi-hot, mixed, some or all unlabelled."""
    kind = draw.choose("targets", "one-hot", "multi-hot", "mixed", "unlabelled", "none labelled")
    if kind == "none labelled":
        return np.zeros((rows, classes))
    return numpy_oracle.target_rows(draw.random, rows, classes, kind, lam=0.75)
