"""What is fuzzed: every reader of files, given bytes as a file.

A reader may refuse: with a ValueError or an OSError that names the file. Anything else that it
raises comes out of here, and is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import seeds

Target = Callable[[bytes], None]


def make_target(name: str, folder: Path) -> Target:
    """The reader of one format of :data:`seeds.SEEDS`, with its files in ``folder``."""
    from drcl.storage.sealed import read_tensors

    match name:
        case "checkpoint":
            return lambda content: _read(folder / "a.safetensors", content, read_tensors)
        case "manifest":
            return _manifest(folder)
        case "lists":
            return _lists(folder)
        case "config":
            return _config(folder)
        case "run":
            return _run(folder)
    ending = {"mat4": "mat", "mat73": "mat"}.get(name, name)
    return lambda content: _arrays(folder / f"a.{ending}", content)


def _read(path: Path, content: bytes, read: Callable[[Path], object]) -> None:
    path.write_bytes(content)
    _must_name(path, read)


def _must_name(path: Path, read: Callable[[Path], object]) -> None:
    try:
        read(path)
    except (ValueError, OSError) as error:
        # Or a file beside it, which a manifest names.
        assert str(path.parent) in str(error), f"no file is named: {error!r}"


def _arrays(path: Path, content: bytes) -> None:
    from drcl.data.files import read_array

    path.write_bytes(content)
    for key in (None, "x", "x{1}", "x.field", "group/x"):
        _must_name(path, lambda path, key=key: read_array(path, key))


def _manifest(folder: Path) -> Target:
    from drcl.data import load_manifest

    np.savez(folder / "a.npz", x=seeds.X, y=seeds.Y)
    np.save(folder / "b.npy", seeds.X)
    return lambda content: _read(folder / "birds.toml", content, load_manifest)


def _lists(folder: Path) -> Target:
    from drcl.data.sets.wikipedia import _read_list

    return lambda content: _read(folder / "a.list", content, _read_list)


def _config(folder: Path) -> Target:
    from drcl import DRCL

    seeds.model().save(folder)
    return lambda content: _read(
        folder / "config.json", _sealed(content), lambda path: DRCL.load(path.parent)
    )


def _run(folder: Path) -> Target:
    from drcl.run import open_run

    return lambda content: _read(
        folder / "run.json", _sealed(content), lambda path: open_run(path.parent)
    )


def _sealed(content: bytes) -> bytes:
    """The same JSON with a checksum that is right: a forger can do that, so the rest must hold."""
    from drcl.storage.sealed import with_checksum

    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(with_checksum(value)).encode() if isinstance(value, dict) else content
