"""Modules of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


def modules(package: str, *names: str) -> Callable[[str], ModuleType]:
    """The ``__getattr__`` of a package whose modules of these names need no import of their own."""

    def get(wanted: str) -> ModuleType:
        if wanted not in names:
            raise AttributeError(f"module {package!r} has no attribute {wanted!r}")
        name = f"{package}.{wanted}"
        return importlib.import_module(name)

    return get
