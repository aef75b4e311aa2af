"""Old names of modules that have moved: they import with a DeprecationWarning.

The table is the whole mechanism: an old name resolves to a module that looks its attributes up in
the new one, under their new names where they were renamed.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "drcl.agreement": "drcl.distributed",
    "drcl.arrays": "drcl.tensors",
    "drcl.memory": "drcl.out_of_memory",
    "drcl.pages": "drcl.storage.mmap",
    "drcl.run.files": "drcl.run.added",
    "drcl.train.mapped": "drcl.storage.mmap",
    **{
        f"drcl.data.{name}": f"drcl.data.sets.{name}"
        for name in ("digits", "paper_sets", "synthetic", "uci", "wikipedia")
    },
    **{
        f"drcl.data.{name}": f"drcl.data.formats.{name}"
        for name in (
            *("hdf5", "limits", "matlab4", "matlab5", "matlab_strings"),
            *("npy", "parquet", "sparse", "tables"),
        )
    },
}
RENAMED = {
    "drcl.agreement": {
        "everywhere": "all_gather_int",
        "share": "shard",
        "together": "raise_together",
    },
}


class _Moved(MetaPathFinder, Loader):
    """Finds and makes the modules of :data:`MOVED`; asked only for what is found nowhere else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = MOVED.get(fullname)
        if new is None:
            return None
        warnings.warn(f"{fullname} is now {new}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        name = MOVED[module.__name__]
        new = importlib.import_module(name)
        renamed = RENAMED.get(module.__name__, {})

        def look_up(name: str) -> Any:
            return getattr(new, renamed.get(name, name))

        module.__dict__.update(__getattr__=look_up, __dir__=lambda: dir(new), __doc__=new.__doc__)


def install() -> None:
    """Let the old names be found, after everything that is really there."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
