"""One reader for every array file: npz, npy, mat (v4, v5 and v7.3), h5, parquet, csv, safetensors.

Nothing is ever unpickled. Keys, where a file holds several arrays:

==================  ====================================================================
``.npz``            array name; none for a sparse matrix of ``scipy.sparse.save_npz``
``.npy``            none: the file is the array
``.mat``            variable name; ``name.field`` is the field of a struct, ``name{2}`` the second
                    cell of a cell array
``.h5`` ``.hdf5``   path of the dataset, ``group/name``
``.h5py``
``.parquet``        column names, comma separated, ``*`` as wildcard: one column of lists,
                    or several numeric columns side by side
``.csv`` ``.tsv``   column names likewise; none for a table of numbers without a line of names,
                    whose columns are called 1, 2, … (:mod:`drcl.data.formats.tables`)
``.safetensors``    tensor name
==================  ====================================================================

MATLAB stores arrays column by column. A v7.3 file is HDF5, which shows them transposed; they are
turned back, so both versions of one file read the same. A plain ``.h5`` file is left as it is.
Sparse matrices come dense. Of MATLAB's objects the strings of v7.3 are read; the others (table,
datetime, …) are refused by name.

A truncated file of any format is refused, and so is one that asks for far more memory than it takes
(:mod:`drcl.data.formats.limits`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drcl.data.formats.hdf5 import is_hdf5, read_hdf5
from drcl.data.formats.limits import Budget, Refused, string_array
from drcl.data.formats.matlab4 import is_matlab4, read_matlab4
from drcl.data.formats.matlab5 import read_matlab5
from drcl.data.formats.npy import read_npy, read_npz
from drcl.data.formats.parquet import read_parquet
from drcl.data.formats.tables import read_table

__all__ = ["Variable", "pick", "read_array", "read_variable"]
__dir__ = __all__.copy

Variable = np.ndarray | list[np.ndarray]
"""What a key names: an array, or the arrays of a MATLAB cell array."""


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """Read one array.

    Args:
        path: the file; its ending chooses the format (table above).
        key: which array; may be left out where the file holds a single one.

    Returns:
        The array as stored: any shape, numbers or strings.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the format needs a library that is not installed.
        MemoryError: the array is honestly larger than memory.
        ValueError: unknown ending, damaged or truncated file, no such key (the keys there are
            listed), contents that are no array of numbers or strings, or larger than
            :func:`drcl.data.formats.limits.allow` lets a file of its size be.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "birds.npz"), x=np.eye(2), y=np.array([3, 4]))
    ...     read_array(Path(folder, "birds.npz"), "y")
    array([3, 4])
    """
    return pick(Path(path), key, read_variable)


def pick(
    path: Path, key: str | None, variable: Callable[[Path, str | None], Variable]
) -> np.ndarray:
    """:func:`read_array` on top of any ``variable`` reader, for callers who keep what they read."""
    cell = re.fullmatch(r"(.+)\{(\d+)\}", key) if key and path.suffix.lower() == ".mat" else None
    if cell is None:
        found = variable(path, key)
        if isinstance(found, list):
            raise ValueError(
                f"{path}: expected the name of one cell, {key}{{1}} to {key}{{{len(found)}}}, got "
                f"{key!r}"
            )
        return found
    name, index = cell[1], int(cell[2])
    cells = variable(path, name)
    if not isinstance(cells, list):
        raise ValueError(
            f"{path}: expected a cell array as {name!r}, got an array of shape {cells.shape}"
        )
    if not 1 <= index <= len(cells):
        raise ValueError(f"{path}: expected a cell from 1 to {len(cells)} of {name!r}, got {index}")
    return cells[index - 1]


def read_variable(path: Path, key: str | None) -> Variable:
    """What ``key`` names in ``path``: an array, or a list for a cell array. Raises as
    :func:`read_array` does."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a file ending in {', '.join(_READERS)}")
    try:
        found = reader(path, key)
    except ImportError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: needs more memory than there is ({error})") from error
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # every library has its own way to fail on damaged bytes
        raise ValueError(
            f"{path}: expected {path.suffix}, got a damaged, truncated or other file "
            f"({type(error).__name__}: {error})"
        ) from error
    for array in found if isinstance(found, list) else [found]:
        if array.dtype.kind not in "biufUS":
            raise ValueError(f"{path}: expected numbers or strings as {key!r}, got {array.dtype}")
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"this file needs {package}, which is not installed: install drcl with its data extra"
        ) from error


def _choose(key: str | None, keys: list[str]) -> str:
    if key is None and len(keys) == 1:
        return keys[0]
    available = ", ".join(sorted(keys)) or "nothing"
    if key is None:
        raise Refused(f"expected the name of one of its arrays, {available}, got none")
    if key not in keys:
        raise Refused(f"expected one of its arrays, {available}, got {key!r}")
    return key


def _read_npy(path: Path, key: str | None) -> np.ndarray:
    if key is not None:
        raise Refused(f"expected no key, as an .npy file holds one array, got {key!r}")
    return read_npy(path)


def _read_mat(path: Path, key: str | None) -> Variable:
    if is_hdf5(path):
        return _read_hdf5(path, key.replace("/", ".") if key else None, matlab=True)
    budget = Budget(path)
    if is_matlab4(path):
        return read_matlab4(budget, partial(_choose, key))
    found = read_matlab5(budget, key, _choose)
    return _join_strings(budget, found) if isinstance(found, list) else found


def _read_hdf5(path: Path, key: str | None, matlab: bool = False) -> Variable:
    key = key.strip("/") if key else None
    budget = Budget(path)
    found = read_hdf5(budget, partial(_choose, key), _library("h5py"), matlab)
    return _join_strings(budget, found) if isinstance(found, list) else found


def _join_strings(budget: Budget, cells: list[np.ndarray | str]) -> Variable:
    """A cell array of strings is one array of strings; any other stays a list of arrays."""
    strings = [cell for cell in cells if isinstance(cell, str)]
    if strings and len(strings) == len(cells):
        return string_array(budget, strings)
    return [np.asarray(cell) for cell in cells]


def _read_parquet(path: Path, key: str | None) -> np.ndarray:
    _library("pyarrow.compute")
    return read_parquet(Budget(path), key, _library("pyarrow"), _library("pyarrow.parquet"))


def _read_safetensors(path: Path, key: str | None) -> np.ndarray:
    # Read through torch: NumPy has no bfloat16, and float32 holds every bfloat16 exactly.
    with _library("safetensors").safe_open(path, framework="pt") as file:
        name = _choose(key, list(file.keys()))
        tensor = file.get_tensor(name)
        if "float8" in str(tensor.dtype) or "float4" in str(tensor.dtype):
            raise Refused(
                f"{name!r} is {tensor.dtype}, which is kept with scales that only its writer "
                "knows: save it scaled back, as float16 or float32"
            )
        return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


_READERS: dict[str, Callable[[Path, str | None], Variable]] = {
    ".npz": lambda path, key: read_npz(Budget(path), key, partial(_choose, key)),
    ".npy": _read_npy,
    ".mat": _read_mat,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".h5py": _read_hdf5,
    ".parquet": _read_parquet,
    ".csv": lambda path, key: read_table(Budget(path), key),
    ".tsv": lambda path, key: read_table(Budget(path), key),
    ".safetensors": _read_safetensors,
}
