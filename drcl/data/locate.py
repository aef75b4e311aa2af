"""Where data files are looked for, and what a missing one's error says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def data_root(root: str | Path | None = None) -> Path:
    """The data folder: ``root``, else the environment's ``DRCL_DATA``, else ``./data``.

    >>> data_root("sets").as_posix()
    'sets'
    """
    return Path(root if root is not None else os.environ.get("DRCL_DATA") or "data")


def find_file(root: Path, names: Sequence[str], obtain: str) -> Path:
    """The first of ``names`` that is a file under ``root``.

    Args:
        root: the data folder.
        names: paths below it, the preferred one first.
        obtain: where the file comes from, a sentence for the error.

    Raises:
        FileNotFoundError: none is there. The error names each path tried, where to get the file
            and where to put it.

    >>> find_file(Path("nowhere"), ["wiki/wiki.mat"], "Ask for it.")
    Traceback (most recent call last):
    ...
    FileNotFoundError: not found: nowhere/wiki/wiki.mat
    Where to get it: Ask for it.
    Where to put it: nowhere/wiki/wiki.mat (the data folder is 'nowhere'; --data or root= names \
another, or the environment's DRCL_DATA)
    """
    tried = [root / name for name in names]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"not found: {', nor '.join(path.as_posix() for path in tried)}\n"
        f"Where to get it: {obtain}\n"
        f"Where to put it: {tried[0].as_posix()} (the data folder is {root.as_posix()!r}; "
        "--data or root= names another, or the environment's DRCL_DATA)"
    )
