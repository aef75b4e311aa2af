"""Finds ``drcl.kernels`` and ``drcl.benchmarks`` when the package is imported from a checkout.

A wheel holds them as ``drcl/kernels`` and ``drcl/benchmarks``; in a checkout they lie beside the
package. Wherever the checkout comes first on the import path (the current directory does, also over
an installed wheel), they would be missing. They must never be imported as plain ``kernels`` or
``benchmarks``: the same ops would be registered twice, and other projects have packages of those
names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent
BESIDE = {f"drcl.{name}": PACKAGE.parent / name for name in ("kernels", "benchmarks")}


class _CheckoutFinder(MetaPathFinder):
    """Resolves these names; their submodules are then found by Python's own finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = BESIDE.get(fullname)
        if folder is None or not (folder / "__init__.py").is_file():
            return None
        return spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def install() -> None:
    """Let the packages beside this one be found under its name; in a wheel there is no need.

    Nothing is imported here. It goes first, so that a checkout uses its own kernels and not those
    of another one that is installed in editable mode.
    """
    installed = (PACKAGE / "kernels").is_dir()
    if not installed and not any(isinstance(finder, _CheckoutFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CheckoutFinder())
