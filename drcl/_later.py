"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def names(package: str, *modules: str, **others: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package: its modules, and name by name the module it comes from."""

    def get(wanted: str) -> Any:
        if wanted not in modules and wanted not in others:
            raise AttributeError(f"module {package!r} has no attribute {wanted!r}")
        name = f"{package}.{others.get(wanted, wanted)}"
        module = importlib.import_module(name)
        return getattr(module, wanted) if wanted in others else module

    return get
