"""Data: the sets of the paper, two public ones, two that need no file, and your own.

>>> load("digits").modalities
('pixels', 'spectrum', 'strokes')
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from drcl import _later
from drcl.data.dataset import CrossModalDataset, Labelled, Split
from drcl.data.locate import data_root
from drcl.data.manifest import load_manifest
from drcl.data.sets.digits import digits
from drcl.data.sets.paper_sets import LAYOUTS, paper_set
from drcl.data.sets.synthetic import synthetic
from drcl.data.sets.uci import uci
from drcl.data.sets.wikipedia import wikipedia

__all__ = ["CrossModalDataset", "Labelled", "Split", "load", "load_manifest", "names"]
__dir__ = __all__.copy
__getattr__ = _later.names(__name__, "fingerprint")

_BUILT_IN: dict[str, Callable[..., CrossModalDataset]] = {"digits": digits, "synthetic": synthetic}
_FROM_FILES: dict[str, Callable[..., CrossModalDataset]] = {
    "wikipedia": wikipedia,
    "uci": uci,
    **{name: partial(paper_set, name) for name in LAYOUTS},
}


def names() -> tuple[str, ...]:
    """The sets :func:`load` knows, those that need no file first.

    >>> names()
    ('digits', 'synthetic', 'wikipedia', 'uci', 'wikipedia-deep', 'xmedia', 'xmedianet', \
'nus-wide', 'inria-websearch')
    """
    return (*_BUILT_IN, *_FROM_FILES)


def load(name: str | Path, root: str | Path | None = None, **options: Any) -> CrossModalDataset:
    """Load a set by name, or your own by the path of its manifest.

    Args:
        name: one of :func:`names`, or a path ending in ``.toml`` (:func:`load_manifest`).
        root: the data folder of the sets that come in files; by default the environment's
            ``DRCL_DATA``, else ``./data``. Built-in sets and manifests do not look there.
        options: of the loader: ``digits(seed)``, ``synthetic(shape, scale, seed)``,
            ``uci(validation_share, seed)``.

    Raises:
        ValueError: unknown name (those there are get listed), or a file or option that does not
            hold; see the loader.
        FileNotFoundError: a file is missing. The error says where to get it and where to put it.
        TypeError: an option the loader does not have.

    >>> load("birds")
    Traceback (most recent call last):
    ...
    ValueError: name: expected digits, synthetic, wikipedia, uci, wikipedia-deep, xmedia, \
xmedianet, nus-wide, inria-websearch, or the path of a manifest ending in .toml, got 'birds'
    """
    name = os.fspath(name)
    if name.endswith(".toml"):
        return load_manifest(name, **options)
    if name in _BUILT_IN:
        return _BUILT_IN[name](**options)
    if name in _FROM_FILES:
        return _FROM_FILES[name](data_root(root), **options)
    raise ValueError(
        f"name: expected {', '.join(names())}, or the path of a manifest ending in .toml, got "
        f"{name!r}"
    )
