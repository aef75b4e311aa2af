"""The folder of an index: segments, and ``index.json``, which names those that count.

    index.json                   width, space, segments in order, the file of removed rows
    <16 hex digits>.safetensors  a segment, or the removed rows

A file of tensors is never changed. Writing adds files, and then replaces ``index.json`` in one
step: whoever reads, and whenever a writer is killed, there is the old index or the new one. Files
that are not named any more are removed by the next writer. Who has mapped them keeps them.
"""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drcl.errors import IndexChanged
from drcl.index.segment import Segment
from drcl.portable import remove_unused
from drcl.storage.arrays import map_arrays, pack_arrays
from drcl.storage.files import Content, entries, is_safe_name, locked, staged
from drcl.storage.sealed import read_json, to_json, with_checksum, without_checksum

FORMAT = 1
MANIFEST = "index.json"
_FILE = re.compile(r"[0-9a-f]{16}\.safetensors")
PATIENCE = 5.0  # seconds to wait for another writer
_ATTEMPTS = 5  # to read an index that is replaced again and again


@dataclass(frozen=True)
class Stored:
    """What a folder holds."""

    width: int
    space: str | None
    about: dict[str, Any]
    ids: str
    segments: list[Segment]
    removed: npt.NDArray[np.int64]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """``index.json`` after its checksum; None where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    values = read_json(path)
    if (found := values.get("format")) != FORMAT:
        raise ValueError(f"{path}: expected index format {FORMAT}, got {found!r}")
    return without_checksum(values, path)


def read_index(folder: Path) -> tuple[dict[str, Any], Stored]:
    """The manifest of a folder, and what it names, mapped.

    Raises:
        FileNotFoundError: no index is there, or a file of it is missing.
        ValueError: a file is damaged; the message names it.
    """
    manifest = read_manifest(folder)
    for _ in range(_ATTEMPTS):
        if manifest is None:
            raise FileNotFoundError(
                f"{folder}: holds no index (no {MANIFEST}); drcl index makes one"
            )
        try:
            return manifest, _read_named(folder, manifest)
        except FileNotFoundError:
            before, manifest = manifest, read_manifest(folder)
            if manifest == before:  # not replaced while it was read: the file is missing
                raise
    raise FileNotFoundError(f"{folder}: was replaced {_ATTEMPTS} times while it was read")


def _read_named(folder: Path, manifest: dict[str, Any]) -> Stored:
    path = folder / MANIFEST
    try:
        width, ids, space = manifest["width"], manifest["ids"], manifest["space"]
        about, entries, removed = manifest["about"], manifest["segments"], manifest["removed"]
        good = type(width) is int and width > 0 and ids in ("integers", "strings")
        good = good and isinstance(about, dict) and (space is None or isinstance(space, str))
        parts = [(entry["file"], entry["rows"], entry["modality"]) for entry in entries]
        files = [file for file, *_ in parts] + ([] if removed is None else [removed])
        good = good and all(isinstance(file, str) and _FILE.fullmatch(file) for file in files)
        good = good and all(
            type(rows) is int and rows > 0 and (name is None or is_safe_name(name))
            for _, rows, name in parts
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: incomplete or damaged ({error!r})") from error
    if not good:
        raise ValueError(f"{path}: damaged, not what this package writes there")
    starts = itertools.accumulate((rows for _, rows, _ in parts), initial=0)
    segments = [
        Segment.read(folder / file, start, rows, width, ids, name)
        for (file, rows, name), start in zip(parts, starts, strict=False)
    ]
    out = np.empty(0, np.int64)
    if removed is not None:
        out = map_arrays(folder / removed).get("removed", out)
        total = sum(map(len, segments))
        rising = out.dtype == np.int64 and out.ndim == 1 and bool((np.diff(out) > 0).all())
        if not rising or not len(out) or out[0] < 0 or out[-1] >= total:
            raise ValueError(f"{folder / removed}: damaged, expected rows of 0 to {total - 1}")
    return Stored(width, space, about, ids, segments, out)


def check_free(folder: Path) -> None:
    """Refuse a folder, without an index, that holds something else; parts of one are none."""
    if folder.exists() and any(entry.suffix != ".safetensors" for entry in entries(folder)):
        raise ValueError(
            f"{folder}: expected an index or an empty folder, got other files; choose another"
        )


def save_index(
    folder: Path, stored: Stored, old: dict[str, Any] | None, overwrite: bool
) -> tuple[dict[str, Any], Stored]:
    """Replace the index of a folder, or make one there, and read it, one process at a time.

    ``old`` is the manifest that the index was last read with, or saved, if it was from this folder.
    See :meth:`drcl.Index.save` for what is raised.
    """
    with locked(folder, PATIENCE):
        there = read_manifest(folder)
        if there is None:
            check_free(folder)
        if there is not None and there != old and not overwrite:
            reason = "was changed by another process" if old else "holds another index"
            raise IndexChanged(
                f"{folder}: {reason}; load and add to that one, or save with overwrite=True"
            )
        if there is None or there != old:  # files of an older state may be gone: write them all
            segments = [replace(segment, file=None) for segment in stored.segments]
            stored, old = replace(stored, segments=segments), None
        _write(folder, stored, old)
        return read_index(folder)


def _write(folder: Path, stored: Stored, old: dict[str, Any] | None) -> None:
    """Write what is not in the folder yet, then the manifest.

    ``old`` is the manifest that the segments with a file are of. The caller holds the lock.
    """
    files: dict[Path, Content] = {}

    def add(arrays: dict[str, npt.NDArray[Any]]) -> str:
        name = f"{secrets.token_hex(8)}.safetensors"
        files[folder / name] = pack_arrays(arrays)
        return name

    entries = [
        {
            "file": segment.file or add(segment.arrays),
            "rows": len(segment),
            "modality": segment.modality,
        }
        for segment in stored.segments
    ]
    removed = None
    if len(stored.removed):
        removed = None if old is None else old["removed"]
        if removed is None or not np.array_equal(
            stored.removed, map_arrays(folder / removed)["removed"]
        ):
            removed = add({"removed": stored.removed})
    manifest = {
        "format": FORMAT,
        "width": stored.width,
        "space": stored.space,
        "about": stored.about,
        "ids": stored.ids,
        "segments": entries,
        "removed": removed,
    }
    files[folder / MANIFEST] = to_json(with_checksum(manifest))
    with staged(files) as put_in_place:
        put_in_place()
    kept = {entry["file"] for entry in entries} | {removed}
    for file in folder.iterdir():  # of an older index, or of a writer that was killed
        if _FILE.fullmatch(file.name) and file.name not in kept:
            remove_unused(file)
