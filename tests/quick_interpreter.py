"""Triton's interpreter without what it does again and again for the same result.

For processes that run under it (``TRITON_INTERPRET=1``) to their end: import this before a launch.
A loss takes less than half the time, to the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import triton.language.core as tl
from triton.runtime import interpreter

_replace_in = interpreter._patch_lang
_done: set[str] = set()


def _once(function: Any) -> interpreter._LangPatchScope:
    """The language as the module of ``function`` sees it; there is nothing to put back."""
    if function.__module__ not in _done:
        _replace_in(function)
        _done.add(function.__module__)
    return interpreter._LangPatchScope()


# It goes through all members of the language, on every launch and on every call of a function of a
# kernel, for a third of all time in small launches.
interpreter._patch_lang = _once

# Sums and products of integers are made once more in int64, for an assertion that without `debug`
# is none.
assert not interpreter.interpreter_builder.options.debug
interpreter.interpreter_builder.options = dataclasses.replace(
    interpreter.interpreter_builder.options, sanitize_overflow=False
)

_np_dtype_of = interpreter._get_np_dtype
_np_dtypes: dict[str, Any] = {}


def _np_dtype(dtype: Any) -> Any:
    if dtype.name not in _np_dtypes:
        _np_dtypes[dtype.name] = _np_dtype_of(dtype)
    return _np_dtypes[dtype.name]


interpreter._get_np_dtype = _np_dtype


def _remembered(kind: type, key: Callable[..., object]) -> Callable[..., None]:
    """The ``__init__`` of ``kind``, run once per key; later objects get the same attributes."""
    make: Callable[..., None] = kind.__init__  # type: ignore[misc]
    made: dict[object, dict[str, Any]] = {}

    def __init__(self: Any, *arguments: Any) -> None:
        found = made.get(key(*arguments))
        if found is None:
            make(self, *arguments)
            made[key(*arguments)] = dict(self.__dict__)
        else:
            self.__dict__.update(found)

    return __init__


def _block(element: Any, shape: Any) -> tuple[object, ...]:
    return element.name, *(getattr(size, "value", size) for size in shape)


_tensor = _remembered(tl.tensor, lambda handle, dtype: dtype.name)


def _tensor_with_its_handle(self: Any, handle: Any, type: Any) -> None:
    _tensor(self, handle, type)
    self.handle = handle


# Every result is given its type and its shape, which are made of objects of their own.
tl.block_type.__init__ = _remembered(tl.block_type, _block)
tl.tensor.__init__ = _tensor_with_its_handle
