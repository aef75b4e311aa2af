"""NumPy's files: ``.npy``, archives of them, and the sparse matrices that SciPy keeps in those."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from drcl.data.formats.limits import Budget, Refused, allow
from drcl.data.formats.sparse import dense_matrix, dense_of_columns

COMPRESSED = {"format", "shape", "data", "indices", "indptr"}
COORDINATES = {"format", "shape", "data", "row", "col"}
"""The arrays that ``scipy.sparse.save_npz`` keeps of a matrix."""


def read_npy(path: Path) -> np.ndarray:
    """The array in an ``.npy`` file."""
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def read_npz(budget: Budget, key: str | None, choose: Callable[[list[str]], str]) -> np.ndarray:
    """The array that ``choose`` picks among the names; without a key, ``save_npz``'s matrix."""
    with zipfile.ZipFile(budget.path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if key is None and {"format", "shape", "data"} <= set(members):
            return _sparse(budget, archive, members)
        return _member(budget.path, archive, members[choose(list(members))])


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{member.filename!r} is compressed in a way that NumPy does not write")
    allow(path, (member.file_size,), 1)
    with archive.open(member) as file:
        return _array(file, member.file_size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in an .npy file of ``size`` bytes, which must be as large as it says it is."""
    version = np.lib.format.read_magic(file)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise Refused(f".npy version {version}: expected 1.0 or 2.0")
    shape, _, dtype = headers[version](file)
    if dtype.hasobject:
        raise Refused(
            "an array of Python objects, which are never unpickled; save strings as "
            "np.array(names, dtype=str) and rows of one length as np.stack(rows)"
        )
    # An element of no bytes still counts: empty strings, say, are turned into others later.
    wanted = math.prod(shape) * max(dtype.itemsize, 1)
    if min(shape, default=0) < 0 or wanted > size - file.tell():
        raise ValueError(f"its header says {dtype} {shape}, {wanted} bytes")
    file.seek(0)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    if isinstance(file, zipfile.ZipExtFile) and file.read(1):  # reading to the end checks the CRC
        raise ValueError("more bytes than its header says")
    return array


def _sparse(
    budget: Budget, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> np.ndarray:
    """The matrix of ``save_npz``, as a dense one."""
    stored = _member(budget.path, archive, members["format"]).reshape(-1)[:1].astype(str).tolist()
    kind = (stored or [""])[0]
    parts = {"csr": COMPRESSED, "csc": COMPRESSED, "coo": COORDINATES}.get(kind, set())
    if not parts or not parts <= set(members):
        raise Refused(
            f"a sparse matrix of the format {kind!r} with {', '.join(sorted(members))}: expected "
            "csr, csc or coo, so save matrix.tocsr()"
        )
    # The parts are as large as the matrix is full, and lie beside it while it is made.
    for name in parts:
        budget.take((members[name].file_size,), 1)
    arrays = {name: _member(budget.path, archive, members[name]) for name in parts}
    shape = tuple(map(int, arrays["shape"].reshape(-1)[:3]))
    values = arrays["data"]
    if kind == "coo":
        return dense_matrix(budget, shape, arrays["row"], arrays["col"], values)
    if kind == "csc":
        return dense_of_columns(budget, shape, arrays["indices"], arrays["indptr"], values)
    return dense_of_columns(budget, shape[::-1], arrays["indices"], arrays["indptr"], values).T
