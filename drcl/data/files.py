"""One reader for every array file: npz, npy, mat (v5 and v7.3), h5, parquet, safetensors.

Nothing is ever unpickled. Keys, where a file holds several arrays:

==================  ====================================================================
``.npz``            array name
``.npy``            none: the file is the array
``.mat``            variable name; ``name{2}`` is the second cell of a cell array
``.h5`` ``.hdf5``   path of the dataset, ``group/name``
``.h5py``
``.parquet``        column names, comma separated, ``*`` as wildcard: one column of lists,
                    or several numeric columns side by side
``.safetensors``    tensor name
==================  ====================================================================

MATLAB stores arrays column by column. A v7.3 file is HDF5, which shows them transposed; they are
turned back, so both versions of one file read the same. A plain ``.h5`` file is left as it is.

A truncated file of any format is refused. A v5 ``.mat`` file altered in its middle has no checksum
to tell, and SciPy's reader may crash on it: read such files from people you trust.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Variable", "pick", "read_array", "read_variable"]

Variable = np.ndarray | list[np.ndarray]
"""What a key names: an array, or the arrays of a MATLAB cell array."""


class _Refused(ValueError):
    """A clear answer of our own, as opposed to whatever a library raises on damaged bytes."""


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
        ValueError: unknown ending, damaged or truncated file, no such key (the keys there are
            listed), contents that are no array of numbers or strings.

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
                f"{path}: {key!r} is a cell array of {len(found)}: "
                f"name one cell, {key}{{1}} to {key}{{{len(found)}}}"
            )
        return found
    name, index = cell[1], int(cell[2])
    cells = variable(path, name)
    if not isinstance(cells, list):
        raise ValueError(f"{path}: {name!r} is an array of shape {cells.shape}, not a cell array")
    if not 1 <= index <= len(cells):
        raise ValueError(f"{path}: {name!r} has cells 1 to {len(cells)}, not {index}")
    return cells[index - 1]


def read_variable(path: Path, key: str | None) -> Variable:
    """What ``key`` names in ``path``: an array, or a list for a cell array. Raises as
    :func:`read_array` does."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown file ending; expected one of {', '.join(_READERS)}")
    try:
        found = reader(path, key)
    except (ImportError, MemoryError):
        raise
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # every library has its own way to fail on damaged bytes
        raise ValueError(
            f"{path} cannot be read as {path.suffix}: damaged, truncated or of another format "
            f"({type(error).__name__}: {error})"
        ) from error
    for array in found if isinstance(found, list) else [found]:
        if array.dtype.kind not in "biufUS":
            raise ValueError(f"{path}: {key!r} is {array.dtype}: expected numbers or strings")
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
        raise _Refused(f"name one of its arrays; it holds {available}")
    if key not in keys:
        raise _Refused(f"no array {key!r}; it holds {available}")
    return key


def _read_npy(path: Path, key: str | None) -> np.ndarray:
    if key is not None:
        raise _Refused(f"an .npy file holds one array and takes no key, but {key!r} was given")
    with path.open("rb") as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        array: np.ndarray = archive[_choose(key, list(archive.files))]
        return array


def _read_mat(path: Path, key: str | None) -> Variable:
    with path.open("rb") as file:
        head = file.read(520)
    if _HDF5 in (head[:8], head[512:]):  # MATLAB puts 512 bytes of its own before the HDF5 file
        return _read_hdf5(path, key, matlab=True)
    scipy_io = _library("scipy.io")
    key = _choose(key, [name for name, _, _ in scipy_io.whosmat(path)])
    found = scipy_io.loadmat(path, variable_names=[key])[key]
    if _library("scipy.sparse").issparse(found):
        found = found.toarray()
    if found.dtype != object:
        return np.asarray(found)
    cells = [np.asarray(cell) for cell in found.reshape(-1, order="F")]
    return _join_strings([str(c.item()) if c.dtype.kind == "U" and c.size else c for c in cells])


_HDF5 = b"\x89HDF\r\n\x1a\n"


def _read_hdf5(path: Path, key: str | None, matlab: bool = False) -> Variable:
    h5py = _library("h5py")
    with h5py.File(path, "r") as file:
        keys: list[str] = []

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#refs#"):
                keys.append(name)

        file.visititems(note)
        dataset = file[_choose(key.strip("/") if key else None, keys)]
        if not matlab:
            return np.asarray(_hdf5_values(dataset, h5py))
        if dataset.dtype == h5py.ref_dtype:
            # Transposed like every MATLAB array, so C order here is MATLAB's own cell order.
            return _join_strings([_matlab_value(file[r], h5py) for r in dataset[()].reshape(-1)])
        return np.atleast_1d(_matlab_value(dataset, h5py))


def _hdf5_values(dataset: Any, h5py: Any) -> Any:
    if h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[()], dtype=str)
    return dataset[()]


def _matlab_value(dataset: Any, h5py: Any) -> Any:
    """An array in MATLAB's own orientation, or a str for characters."""
    if dataset.attrs.get("MATLAB_empty", 0):
        return np.empty(tuple(int(size) for size in dataset[()]))
    values = _hdf5_values(dataset, h5py)
    if dataset.attrs.get("MATLAB_class", b"") == b"char":
        return "".join(map(chr, np.ravel(values)))
    return np.asarray(values).T


def _join_strings(cells: list[Any]) -> Variable:
    """A cell array of strings is one array of strings; any other stays a list of arrays."""
    if cells and all(isinstance(cell, str) for cell in cells):
        return np.array(cells)
    return [np.asarray(cell) for cell in cells]


def _read_parquet(path: Path, key: str | None) -> np.ndarray:
    parquet = _library("pyarrow.parquet")
    names = list(parquet.read_schema(path).names)
    columns: list[str] = []
    for pattern in _choose(None, names).split(",") if key is None else key.split(","):
        pattern = pattern.strip()
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matches:
            raise _Refused(f"no column {pattern!r}; it holds {', '.join(names)}")
        columns += matches
    table = parquet.read_table(path, columns=columns)
    arrays = [_parquet_column(table.column(column), column) for column in columns]
    return arrays[0] if len(arrays) == 1 else np.column_stack(arrays)


def _parquet_column(column: Any, name: str) -> np.ndarray:
    types = _library("pyarrow").types
    values = column.combine_chunks()
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(["" if value is None else value for value in values.to_pylist()])
    if not types.is_nested(column.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    if values.null_count:
        raise _Refused(f"column {name!r} has rows without a list")
    rows = len(values)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    widths = np.unique(_library("pyarrow.compute").list_value_length(values).to_numpy(False))
    if len(widths) > 1:
        raise _Refused(f"column {name!r} holds lists of {widths[0]} to {widths[-1]} values")
    return np.asarray(flat).reshape(rows, -1)


def _read_safetensors(path: Path, key: str | None) -> np.ndarray:
    # Read through torch: NumPy has no bfloat16, and float32 holds every bfloat16 exactly.
    with _library("safetensors").safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(_choose(key, list(file.keys())))
        return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


_READERS: dict[str, Callable[[Path, str | None], Variable]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".mat": _read_mat,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".h5py": _read_hdf5,
    ".parquet": _read_parquet,
    ".safetensors": _read_safetensors,
}
