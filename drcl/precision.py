"""PyTorch's precision of float32 products: read, changed for a while, and put back as it was.

PyTorch keeps it twice. The older setting is one word for the process
(``torch.set_float32_matmul_precision``, ``torch.backends.cuda.matmul.allow_tf32``). The newer ones
form a tree: ``torch.backends.fp32_precision`` above those of a backend
(``torch.backends.cudnn.fp32_precision``) above those of its ops
(``torch.backends.cuda.matmul.fp32_precision``, and ``conv`` and ``rnn`` of cuDNN, the same of
mkldnn); what is ``"none"`` follows the one above it. Products obey the newer ones. Where the two
contradict each other PyTorch raises RuntimeError as soon as the older one is read, so nothing here
relies on reading it.

All settings are one for the process, and not for the thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from drcl.portable import at_fork

__all__ = [
    "allowed_on_gpu",
    "network_precision",
    "product_precision",
    "widened",
    "widest",
    "with_float64",
]
__dir__ = __all__.copy

Key = tuple[str, str]  # a backend and an op

_GENERIC: Key = ("generic", "all")
_BACKENDS: tuple[Key, ...] = (("cuda", "all"), ("mkldnn", "all"))
_PRODUCTS: tuple[Key, ...] = (("cuda", "matmul"), ("mkldnn", "matmul"))
_FULL = ("none", "ieee")
_LAYERS: tuple[Key, ...] = tuple(product(("cuda", "mkldnn"), ("conv", "rnn")))


def allowed_on_gpu() -> Literal["highest", "high", "medium"]:
    """How the user lets a GPU multiply float32, in the words of the older setting.

    ``"highest"`` is float32, ``"high"`` TF32. ``"medium"``, bf16, exists in the older setting
    only: it counts where the newer ones allow TF32 and do not contradict it.
    """
    with _shared.lock:
        if _shown(("cuda", "matmul")) != "tf32":
            return "highest"
        try:
            older = torch.get_float32_matmul_precision()
        except RuntimeError:
            return "high"
    return "medium" if older == "medium" else "high"


def multiplies_in_full(device: torch.device) -> bool:
    """Whether float32 products are of float32 on a CPU whatever thread asks: no setting, ours for a
    while or the user's, says otherwise."""
    if device.type != "cpu" or _shown(("mkldnn", "matmul")) not in _FULL:
        return False
    wishes = tuple(_shared.wishes)
    if wishes:  # behind which the user's settings do not show
        full = _shared.older == "highest" and _shared.products[("mkldnn", "matmul")] in _FULL
        return full and all(wish.precision == "highest" for wish in wishes)
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        return False


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none, as Apple's MPS and some of Intel's GPUs.

    >>> widest(torch.device("cpu"))
    torch.float64
    """
    if device.type in ("cpu", "cuda", "meta"):
        return torch.float64
    return torch.float64 if _has_float64(device) else torch.float32


@functools.cache
def _has_float64(device: torch.device) -> bool:
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # torch's answer of MPS, and of others
        return False
    return True


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    return device if widest(device) == torch.float64 else torch.device("cpu")


def widened(tensor: Tensor) -> Tensor:
    """A copy in float64, on the CPU if the tensor's device has none."""
    return tensor.to(with_float64(tensor.device), torch.float64, copy=True)


@contextlib.contextmanager
def product_precision(precision: str) -> Iterator[None]:
    """float32 products as they are (``"highest"``) or TF32 where the device has it (``"high"``).

    Threads that want the other one wait. So this is for products alone: a thread that called back
    into the user's code, or waited for another process, could have others wait for ever.
    """
    with _held(_Wish(precision, alone=True)):
        yield


@contextlib.contextmanager
def network_precision(precision: str) -> Iterator[None]:
    """The same for all that runs inside, convolutions and recurrent layers too; no thread waits.

    Where wishes meet, of threads or of one block inside another, the most precise one holds.
    """
    with _held(_Wish(precision, alone=False)):
        yield


class _Wish:
    def __init__(self, precision: str, alone: bool) -> None:
        self.precision, self.alone = precision, alone


class _Shared:
    """The wishes of all threads, and the user's settings, which hold again after the last one."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.Lock())
        self.wishes: list[_Wish] = []
        self.older = ""
        self.products: dict[Key, str] = {}  # what the user's settings say themselves
        self.layers: dict[Key, str] = {}  # the same, while a network's are ours

    def begin(self) -> None:
        self.products = {key: _own(key) for key in _PRODUCTS}
        try:
            self.older = torch.get_float32_matmul_precision()
        except RuntimeError:
            try:
                for key in _PRODUCTS:
                    _write(key, "ieee")  # contradicts none of the older one's values
                self.older = torch.get_float32_matmul_precision()
            finally:
                self._restore(self.products)

    def apply(self) -> None:
        """The most precise wish, without a moment in which the user's settings hold."""
        torch.set_float32_matmul_precision(_strictest(self.wishes))
        networks = [wish for wish in self.wishes if not wish.alone]
        if not networks:
            self._restore_layers()
            return
        if not self.layers:
            # An op that follows its backend is not written: cuDNN's begin with a value that shows
            # as TF32 until something above says otherwise, and that cannot be set again.
            own = {key: _own(key) for key in _LAYERS}
            self.layers = {key: _own(key) for key in _BACKENDS}
            self.layers |= {key: value for key, value in own.items() if value != "none"}
        value = {"highest": "ieee", "high": "tf32"}[_strictest(networks)]
        for key in self.layers:
            _write(key, value)

    def end(self) -> None:
        torch.set_float32_matmul_precision(self.older)
        self._restore(self.products)
        self._restore_layers()

    def _restore_layers(self) -> None:
        self._restore(self.layers)
        self.layers = {}

    def _restore(self, settings: Mapping[Key, str]) -> None:
        for key, value in settings.items():
            _write(key, value)


@contextlib.contextmanager
def _held(wish: _Wish) -> Iterator[None]:
    shared = _shared
    try:
        with shared.lock:
            if wish.alone:
                shared.lock.wait_for(
                    lambda: all(
                        other.precision == wish.precision for other in shared.wishes if other.alone
                    )
                )
            if not shared.wishes:
                shared.begin()
            shared.wishes.append(wish)
            shared.apply()
        yield
    finally:
        with shared.lock:
            if wish in shared.wishes:  # not where it was interrupted before, or is a fork's
                shared.wishes.remove(wish)
                if shared.wishes:
                    shared.apply()
                else:
                    shared.end()
                shared.lock.notify_all()


def _strictest(wishes: Sequence[_Wish]) -> str:
    return "highest" if any(wish.precision == "highest" for wish in wishes) else "high"


def _shown(key: Key) -> str:
    """A setting's value or, where it has none, that of the one above it."""
    return torch._C._get_fp32_precision_getter(*key)


def _write(key: Key, value: str) -> None:
    torch._C._set_fp32_precision_setter(*key, value)


def _own(key: Key) -> str:
    """What a setting says itself, ``"none"`` where it follows the ones above it."""
    shown = _shown(key)
    if shown == "none":
        return shown
    # Above it another value, and for products never a less precise one: what follows shows that.
    above = [_GENERIC] if key in _BACKENDS else [_GENERIC, (key[0], "all")]
    with _written(above, "none" if shown == "ieee" else "ieee"):
        return shown if _shown(key) == shown else "none"


@contextlib.contextmanager
def _written(keys: Sequence[Key], value: str) -> Iterator[None]:
    """Settings from the top of the tree down: what shows another value then has it itself."""
    before = []
    for key in keys:
        if (now := _shown(key)) != value:
            before.append((key, now))
            _write(key, value)
    try:
        yield
    finally:
        for key, now in reversed(before):
            _write(key, now)


def _after_fork() -> None:
    # The threads that were at a product are not in the child, and would be waited for.
    global _shared
    old, _shared = _shared, _Shared()
    if old.wishes:
        old.wishes.clear()
        old.end()
    old.lock.release()


_shared = _Shared()
at_fork(
    before=lambda: _shared.lock.acquire(),
    after_in_parent=lambda: _shared.lock.release(),
    after_in_child=_after_fork,
)
