"""Old names of modules that have moved: they import with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from drcl import _deprecated

# Those that the documentation named.
MOVED = {
    "drcl.agreement": "drcl.distributed",
    "drcl.compare.statistics": "drcl.metrics.statistics",
    "drcl.data.digits": "drcl.data.sets.digits",
    "drcl.data.synthetic": "drcl.data.sets.synthetic",
}


class _Moved(MetaPathFinder, Loader):
    """Finds and makes the modules of :data:`MOVED`; asked only for what is found nowhere else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = MOVED.get(fullname)
        if new is None:
            return None
        _deprecated.warn(f"{fullname} is now {new}", goes_in="0.3")
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        name = MOVED[module.__name__]
        new = importlib.import_module(name)
        module.__dict__.update(__getattr__=partial(getattr, new), __dir__=partial(dir, new))


def install() -> None:
    """Let the old names be found, after everything that is really there."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
