"""Which backend computes an op: the one place that chooses."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from drcl import _deprecated
from drcl.backends import probe_backends
from drcl.errors import BackendUnavailable
from drcl.kernels.launch import FUSED_WIDTH
from drcl.portable import at_fork

__all__ = ["FAMILIES", "choose", "explain", "kernels_take", "stages", "use_backend"]
__dir__ = __all__.copy

# For every op family, its backends from the most to the least preferred.
FAMILIES: dict[str, tuple[str, ...]] = {
    "mixup": ("triton", "eager", "reference"),
    "generalized_cross_entropy": ("eager", "reference"),
    "prior_similarity": ("triton", "native", "eager", "reference"),
    "reversible_consistency": ("triton", "native", "eager", "reference"),
    "average_precision": ("native", "eager", "reference"),
    "sharded_ranking": ("eager",),
    "hamming_counts": ("native", "eager"),
    "inner_products": ("native", "eager"),
    "top_k": ("native", "eager"),
    "rank_sums": ("native", "eager"),
}
_RENAMED = {"torch": "eager"}
# The compiled op by whose kernels a family's native form is known, where it has another name.
_COMPILED = {"prior_similarity": "cross_entropy", "reversible_consistency": "reversible_rows"}
# Whose compiled loops fuse products with sums. The bits are the same without an instruction for
# that, on x86 processors before AVX2, but the loops are slow: there they have to be asked for.
_FUSING = {"prior_similarity", "reversible_consistency"}


_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("forced", default=None)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force a backend inside a ``with`` block, over the environment variable ``DRCL_BACKEND``.

    For this thread alone: others, also those started inside the block, keep their own choice. An
    op that the backend does not have, or not for these inputs, takes its usual one.

    Args:
        name: ``"reference"``, ``"eager"`` (once called ``"torch"``), ``"triton"`` or ``"native"``.

    Raises ValueError for an unknown name and BackendUnavailable, a RuntimeError, with the reason
    for one that this machine cannot run.

    >>> with use_backend("reference"):
    ...     choose("mixup", torch.device("cpu"))
    'reference'
    """
    token = _forced.set(_checked(name, "backend", stacklevel=4))  # beyond contextlib
    try:
        yield
    finally:
        _forced.reset(token)


def kernels_take(family: str, features: Tensor, weight: Tensor | None = None) -> bool:
    """Whether the Triton kernels of a family take these inputs.

    They compute in float32. Those of the loss hold whole rows of the features on chip.
    """
    if features.dtype == torch.float64 or (weight is not None and weight.dtype != torch.float32):
        return False
    # an if, not a value: a traced width becomes a guard, and the answer stays a constant
    if family == "reversible_consistency" and features.shape[1] > FUSED_WIDTH:  # noqa: SIM103
        return False
    return True


def choose(family: str, device: torch.device, *, kernels: bool = True, native: bool = True) -> str:
    """The backend for one call: the forced one, else the first that fits the device.

    ``kernels`` is False for inputs that :func:`kernels_take` refuses, ``native`` for those that
    the compiled code does not take, and for an exported program, which may run where nothing is
    compiled.
    """
    global _used
    _used = True
    names = FAMILIES[family]
    if not (kernels and native):
        takes = {"triton": kernels, "native": native}
        names = tuple(name for name in names if takes.get(name, True))
    forced = _forced.get() or _from_environment()
    if forced in names and (forced != "native" or _fits(forced, family, device)):
        return forced
    for name in names:  # a generator takes as long as a small op
        if _fits(name, family, device) and (name != "native" or _pays(family, device)):
            return name
    raise AssertionError(family)


def _fits(name: str, family: str, device: torch.device) -> bool:
    if name == "triton":
        # The kernels are for a GPU; their interpreter, for tests, has to be asked for, and so have
        # they on AMD's, which torch calls "cuda", too: they have run on none.
        return device.type == "cuda" and torch.version.hip is None and _reasons()[name] is None
    if name == "native":
        compiled = _reasons()[name] is None and _is_compiled_for(family, device.type)
        if not compiled or device.type != "cuda":
            return compiled
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.version.hip is None and _has_image(index)
    return True


def _pays(family: str, device: torch.device) -> bool:
    """Whether compiled code is the faster: not where its loops lack their instruction."""
    return device.type != "cpu" or family not in _FUSING or _fuses_products()


@functools.cache
def _fuses_products() -> bool:
    return bool(torch.ops.drcl.fuses_products())


@functools.cache
def _is_compiled_for(family: str, device: str) -> bool:
    return device in ("cpu", "cuda") and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"drcl::{_COMPILED.get(family, family)}", device.upper()
    )


@functools.cache
def _has_image(device: int) -> bool:
    """Whether the compiled CUDA code runs on a device: it is built for some architectures only."""
    return bool(torch.ops.drcl.ranks_on(device))


def _after_fork() -> None:
    # The child has none of OpenMP's threads, yet waits for them, for ever, in the first operation
    # that torch divides among threads. With one thread there is nothing to wait for.
    if _used:
        torch.set_num_threads(1)


_used = False  # whether this process has called an op
at_fork(after_in_child=_after_fork)

# A traced graph keeps the choice of when it was traced: torch.compiler.assume_constant_result
# without its import of the whole compiler.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def stages(family: str, backend: str) -> ModuleType:
    """The module in which a backend computes an op family, imported on first use."""
    home = {"eager": "drcl.eager", "triton": "drcl.kernels", "native": "drcl.native"}[backend]
    name = f"{home}.{family}"
    return importlib.import_module(name)


def explain(device: torch.device) -> dict[str, str]:
    """The choice for every op family on a device, for ``drcl info``."""
    return {family: choose(family, device) for family in FAMILIES}


def _from_environment() -> str | None:
    name = os.environ.get("DRCL_BACKEND")
    return _checked(name, "DRCL_BACKEND", stacklevel=5) if name else None


def _checked(name: str, where: str, stacklevel: int) -> str:
    """The name as it is called today, of a backend that this machine can run."""
    if name in _RENAMED:
        today = _RENAMED[name]
        said = f"{where}: the backend {name!r} is now called {today!r}"
        _deprecated.warn(said, goes_in="0.3", stacklevel=stacklevel)
        name = today
    reasons = _reasons()
    if name not in reasons:
        raise ValueError(f"{where}: expected one of {tuple(reasons)}, got {name!r}")
    if reasons[name] is not None:
        raise BackendUnavailable(f"{where}: {name!r} cannot be used here: {reasons[name]}")
    return name


def _reasons() -> dict[str, str | None]:
    """Why a backend cannot be used, None if it can; probed once, as the machine does not change."""
    if not _probed:
        _probed.update({b.name: None if b.available else b.reason for b in probe_backends()})
    return _probed


_probed: dict[str, str | None] = {}
