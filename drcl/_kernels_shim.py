"""Finds ``drcl.kernels`` when the package is imported straight from a checkout.

A wheel holds the kernels as ``drcl/kernels``; in a checkout they lie beside the package, in
``kernels/``. Wherever the checkout comes first on the import path (the current directory does, also
over an installed wheel), ``drcl.kernels`` would be missing. They must never be imported as plain
``kernels``: the same ops would be registered twice, and another project has a package of that name.
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
CHECKOUT_KERNELS = PACKAGE.parent / "kernels"


class _CheckoutKernels(MetaPathFinder):
    """Resolves one name; its submodules are then found by Python's own finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "drcl.kernels":
            return None
        return spec_from_file_location(
            fullname,
            CHECKOUT_KERNELS / "__init__.py",
            submodule_search_locations=[str(CHECKOUT_KERNELS)],
        )


def install() -> None:
    """Let ``import drcl.kernels`` find the checkout's ``kernels/``; in a wheel there is no need.

    Nothing is imported here. It goes first, so that a checkout uses its own kernels and not those
    of another one that is installed in editable mode.
    """
    installed = (PACKAGE / "kernels").is_dir()
    in_checkout = not installed and (CHECKOUT_KERNELS / "__init__.py").is_file()
    if in_checkout and not any(isinstance(finder, _CheckoutKernels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CheckoutKernels())
