"""A device that is no CPU, for finding code that only works on one.

Its tensors say that they are on ``pretend``, and lie in the CPU's memory. What a device refuses is
refused: numbers of 64 bits that it does not have, an operation that takes tensors of the device and
of the CPU together, a view of its memory as NumPy's. To be set up once in a process, before any
tensor is made there::

    with another_device():
        torch.ones(3, device="pretend")
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretend"
# They take one tensor of the device and one of the CPU: they copy, or read a single number.
COPIES = {"_to_copy", "copy_", "_copy_from", "_local_scalar_dense", "lift_fresh"}

calls: Counter[str] = Counter()  # operations that ran there


class Elsewhere(torch.Tensor):
    """A tensor on the device; ``held`` is where its numbers are."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{NAME}: this device has no {held.dtype}")
        with torch.inference_mode(False):  # a view of a tensor from outside it is none of its own
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=torch.device(NAME, 0),
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"{NAME}: can't convert a tensor of this device to numpy")

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()


class Device(TorchDispatchMode):
    """Tensors can be made on the device inside the block."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # what an op of ours is made of, too
            return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    namespace, _, name = func._schema.name.partition("::")
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in given if isinstance(x, Elsewhere)]
    asked = kwargs.get("device")
    wanted = None if asked is None else torch.device(asked)
    if namespace == "drcl" and here and func._schema.name in OPDEFS:
        return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
    parts = func.decompose(*args, **kwargs)
    if parts is not NotImplemented:  # made of other operations, which come here one by one
        return parts
    if here and name not in COPIES:
        elsewhere = [x for x in given if not isinstance(x, Elsewhere) and x.ndim]
        if elsewhere:
            raise RuntimeError(f"{NAME}: {func} takes tensors of the device and of the CPU")
        calls[str(func)] += 1
    if wanted is not None and wanted.type == NAME:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner_args, inner = tree_map_only(Elsewhere, lambda x: x.held, (args, kwargs))
    with torch.utils._python_dispatch._disable_current_modes():
        result = func(*inner_args, **inner)
    to_device = wanted.type == NAME if wanted is not None else bool(here)
    if name == "_local_scalar_dense":
        to_device = False
    if name == "copy_":
        to_device = isinstance(args[0], Elsewhere)
    known = {id(x.held): x for x in here}

    def returned(x: torch.Tensor) -> torch.Tensor:
        if id(x) in known:  # changed in place
            return known[id(x)]
        return Elsewhere(x) if to_device else x

    return tree_map_only(torch.Tensor, returned, result)


class Module(_DummyBackendModule):
    """What ``torch.pretend`` would be. Its random numbers are the CPU's, as of a generator."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return torch.default_generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        torch.default_generator.set_state(state)

    def manual_seed(self, seed: int) -> None:
        calls["manual_seed"] += 1


class Generator(torch.Generator):
    """PyTorch lets no device that is written in Python have generators: these are the CPU's."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.where = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.where


@contextlib.contextmanager
def another_device() -> Iterator[torch.device]:
    _setup_privateuseone_for_python_backend(NAME, Module())
    torch.Generator = Generator
    with Device():
        yield torch.device(NAME, 0)
