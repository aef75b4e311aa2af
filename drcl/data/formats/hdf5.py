"""HDF5 files, and MATLAB's v7.3 files, which are HDF5.

A dataset may say that its values lie in another file (external storage, a virtual dataset): such
are refused, for a stranger's file must not read yours. Links to other files are not followed.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drcl.data.formats.limits import OBJECT, Budget, Refused, allow, string_array
from drcl.data.formats.matlab5 import object_refusal, text_rows
from drcl.data.formats.matlab_strings import object_number, property_cell, strings
from drcl.data.formats.sparse import dense_of_columns

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAP = b"GCOL\x01"

PIECE = 2**26
"""Bytes of strings read at once, about."""

DEPTH = 100

INNER = ("#refs#", "#subsystem#")
SPARSE = "MATLAB_sparse"
"""Marks a group as a sparse matrix, and gives its rows."""

CHUNKS = 2**20
"""So many chunks, or as many as the file has bytes. One that was never written takes no room in the
file but is looked for all the same."""


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does, or has 512 bytes of MATLAB's own before it."""
    with path.open("rb") as file:
        head = file.read(520)
    return SIGNATURE in (head[:8], head[512:])


def read_hdf5(
    budget: Budget, choose: Callable[[list[str]], str], h5py: Any, matlab: bool = False
) -> np.ndarray | list[np.ndarray | str]:
    """The dataset that ``choose`` picks among the paths; a list for a MATLAB cell array."""
    with h5py.File(budget.path, "r") as file:
        paths = _datasets(file, h5py, matlab)
        if not matlab:
            return np.asarray(_values(budget, file[choose(paths)], h5py))
        fields = {path.replace("/", "."): path for path in paths}
        dataset = file[fields[choose(list(fields))]]
        if not _is_cells(dataset, h5py):
            return np.atleast_1d(_matlab_value(budget, dataset, h5py))
        # Transposed like every MATLAB array, so C order here is MATLAB's own cell order.
        _check(budget, dataset, OBJECT)
        references = dataset[()].reshape(-1)
        return [_matlab_value(budget, file[reference], h5py) for reference in references]


def _datasets(file: Any, h5py: Any, matlab: bool) -> list[str]:
    """Paths of the datasets, save what MATLAB's cells and objects refer to; of MATLAB's files also
    those of groups that are one sparse matrix.

    The library's own visit calls itself for a group in a group: some 16 000 overflow the stack.
    """
    found: list[str] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), file)]
    seen = set()
    while waiting:
        parents, group = waiting.pop()
        for name in group:
            place = (*parents, name)
            if name in INNER or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            item = group[name]
            if isinstance(item, h5py.Dataset) or (matlab and SPARSE in item.attrs):
                found.append("/".join(place))
            elif isinstance(item, h5py.Group) and item.id not in seen:
                if len(place) > DEPTH:
                    raise Refused(f"groups in groups, more than {DEPTH} deep")
                seen.add(item.id)
                waiting.append((place, item))
    return found


def _values(budget: Budget, dataset: Any, h5py: Any) -> np.ndarray:
    string = h5py.check_string_dtype(dataset.dtype)
    if string is None and dataset.dtype.kind not in "biuf":
        raise Refused(f"{dataset.name!r} is {dataset.dtype}: expected numbers or strings")
    _check(budget, dataset, dataset.dtype.itemsize + (0 if string is None else OBJECT))
    if string is None:
        return np.asarray(dataset[()])
    longest = _check_heaps(budget.path) if string.length is None else 0
    found = _strings(budget.path, dataset, longest)
    return string_array(budget, found.reshape(-1).tolist()).reshape(found.shape)


def _strings(path: Path, dataset: Any, longest: int) -> np.ndarray:
    """As objects, and a few at once: any number may refer to one that takes much of the file."""
    if not dataset.size or not dataset.shape:
        return np.asarray(dataset.asstr()[()])
    axis = int(np.argmax(dataset.shape))
    length = dataset.shape[axis]
    step = max(1, PIECE * length // (max(longest, 1) * dataset.size))
    parts = []
    for start in range(0, length, step):
        part = dataset.asstr()[(slice(None),) * axis + (slice(start, start + step),)]
        allow(path, (dataset.size, max(map(len, part.flat))), 4)  # as the array they become
        parts.append(part)
    return np.concatenate(parts, axis)


def _check(budget: Budget, dataset: Any, itemsize: int) -> None:
    if dataset.external or dataset.is_virtual:
        raise Refused(f"{dataset.name!r} keeps its values in other files, which are not read")
    shape, chunks = dataset.shape or (), dataset.chunks or ()
    budget.take(shape, itemsize)
    allow(budget.path, chunks, itemsize)  # a chunk may be declared larger than the dataset
    pieces = math.prod(-(-size // piece) for size, piece in zip(shape, chunks, strict=False))
    if pieces > max(CHUNKS, budget.path.stat().st_size):
        raise Refused(f"{dataset.name!r} of shape {shape} is cut into {pieces} chunks {chunks}")


def _check_heaps(path: Path) -> int:
    """Refuse heaps of variable-length strings on which the HDF5 library never ends; else the size
    of the longest string.

    A heap is a chain of objects, each with its size. Where an object of number 0, which stands for
    what is free at the end, has size 0, the library looks at it again and again.
    """
    longest = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(HEAP)
        while start >= 0:
            (size,) = struct.unpack_from("<Q", content, start + 8)
            at, end = start + 16, min(start + size, len(content))
            while at + 16 <= end:
                index, taken = struct.unpack_from("<H6xQ", content, at)
                step = 16 + taken + -taken % 8 if index else taken
                if not 16 <= step <= end - at:
                    raise ValueError(f"a heap of strings with an object of {taken} bytes")
                longest = max(longest, taken if index else 0)
                at += step
            start = content.find(HEAP, start + 1)
    return longest


def _is_cells(dataset: Any, h5py: Any) -> bool:
    return isinstance(dataset, h5py.Dataset) and dataset.dtype == h5py.ref_dtype


def _matlab_value(budget: Budget, dataset: Any, h5py: Any) -> Any:
    """An array in MATLAB's own orientation, or a str for a row of characters."""
    kind = dataset.attrs.get("MATLAB_class", b"")
    kind = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)
    if kind == "string" and (found := _matlab_strings(budget, dataset, h5py)) is not None:
        return found[0] if len(found) == 1 else string_array(budget, found)
    if "MATLAB_object_decode" in dataset.attrs or kind == "function_handle":
        raise object_refusal(dataset.name.strip("/"), kind)
    if isinstance(dataset, h5py.Group):
        if SPARSE not in dataset.attrs:
            raise Refused("a struct in a cell array: expected arrays or strings in its cells")
        return _matlab_sparse(budget, dataset, h5py)
    values = _values(budget, dataset, h5py)
    text = kind == "char"
    if dataset.attrs.get("MATLAB_empty", 0):  # then the values are its shape
        shape = tuple(map(int, values))
        if 0 not in shape:
            raise Refused(f"{dataset.name!r} is said to be empty and of shape {shape}")
        return "" if text else np.empty(shape)
    if not text:
        return values.T
    units = np.atleast_2d(values.T)
    if units.ndim != 2 or f"{units.dtype.kind}{units.itemsize}" not in ("u1", "u2", "u4"):
        raise Refused(
            f"{dataset.name!r} holds text as {units.dtype} of shape {units.shape}: expected rows "
            "of uint16"
        )
    rows = text_rows(budget, units)
    return str(rows[0]) if len(rows) == 1 else rows


def _matlab_strings(budget: Budget, dataset: Any, h5py: Any) -> list[str] | None:
    """The strings of a string array; None where they are kept in a way that is not known."""
    held = dataset.file
    for part in ("#subsystem#", "MCOS"):  # one after the other, for either may be a link outside
        if not isinstance(held.get(part, getlink=True), h5py.HardLink):
            return None
        held = held[part]
    if not isinstance(dataset, h5py.Dataset):
        return None
    number = object_number(_values(budget, dataset, h5py))
    if number is None or not _is_cells(held, h5py):
        return None
    _check(budget, held, OBJECT)
    cells = held[()].reshape(-1)
    metadata = dataset.file[cells[0]]
    if not isinstance(metadata, h5py.Dataset) or metadata.dtype != np.uint8:
        return None
    cell = property_cell(budget, _values(budget, metadata, h5py), number)
    words = None if cell is None else dataset.file[cells[cell]]
    if not isinstance(words, h5py.Dataset):
        return None
    return strings(budget, _values(budget, words, h5py))


def _matlab_sparse(budget: Budget, group: Any, h5py: Any) -> np.ndarray:
    """Compressed columns: ``jc`` their starts, ``ir`` rows and ``data`` values, which are not there
    where all is zero."""

    def part(name: str, default: np.ndarray) -> np.ndarray:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return default
        if not isinstance(group[name], h5py.Dataset):
            raise Refused(f"{group.name!r} is a sparse matrix whose {name} is no array")
        return _values(budget, group[name], h5py).reshape(-1)

    rows, starts = (part(name, np.zeros(0, np.int64)) for name in ("ir", "jc"))
    height = np.asarray(group.attrs[SPARSE]).reshape(-1)
    if height.dtype.kind not in "iu" or len(height) != 1 or not len(starts):
        raise ValueError(f"a sparse matrix with {starts.shape} column starts")
    shape = (int(height[0]), len(starts) - 1)
    return dense_of_columns(budget, shape, rows, starts, part("data", np.zeros(0)))
