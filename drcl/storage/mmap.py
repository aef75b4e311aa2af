"""Memory-mapped arrays: the file one is in, whether it is still whole, and reading its rows.

A process that touches a mapped page is killed (SIGBUS) if the file has been shortened or its disk
fails. The system call process_vm_readv, asked to copy from the process's own memory, meets the same
page and returns an error instead. It costs about what reading costs: scattered rows of 4 KB, in the
cache, took 1.0 to 2.3 ms per thousand, NumPy's own copy 0.4 to 1.9 ms. Where that is too much, the
file's length is checked before every use, which leaves the moment between the two.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.portable import memory_reader

Transform: TypeAlias = Callable[[Tensor], Tensor]

SHORTER = "the mapped file has become shorter, or its disk fails"
# What the system takes in one call.
_MOST_REGIONS = 1024
_copy = memory_reader()


def is_mapped(array: Any) -> TypeGuard[npt.NDArray[Any]]:
    """Whether an array is, or looks into, a file that NumPy has mapped."""
    return isinstance(array, np.ndarray) and bool(_memmaps(array))


def find_mapping(array: npt.NDArray[Any]) -> mmap.mmap | None:
    """The mapping below an array, unless it is a private one: that holds changes of its own."""
    if any(base.mode == "c" for base in _memmaps(array)):
        return None
    return next((base for base in _bases(array) if isinstance(base, mmap.mmap)), None)


def file_name(array: npt.NDArray[Any], otherwise: str) -> str:
    """The path of the file that an array looks into, where it has one."""
    return str(next(filter(None, (base.filename for base in _memmaps(array))), otherwise))


def check_size(array: npt.NDArray[Any], name: str) -> None:
    """Raise OSError, naming the file, if it is shorter than what was mapped of it.

    Its missing pages would end the process. Of a page that it still has a part of, the rest would
    be read as zeros.
    """
    mapping, file = find_mapping(array), _memmaps(array)[-1]
    if mapping is not None and mapping.size() < file.offset + file.nbytes:
        raise OSError(errno.EIO, f"{file_name(array, name)}: {SHORTER}")


def _memmaps(array: Any) -> list[np.memmap[Any, Any]]:
    return [base for base in _bases(array) if isinstance(base, np.memmap)]


def _bases(array: Any) -> list[Any]:
    found = []
    while array is not None:
        found.append(array)
        array = getattr(array, "base", None)
    return found


def read_rows(array: npt.NDArray[Any], rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """``array[rows]`` in memory of its own.

    Raises OSError if a row cannot be read any more. On a system without process_vm_readv, and for
    rows whose numbers do not lie side by side, it is NumPy that reads.

    >>> read_rows(np.eye(3, dtype=np.int8), np.array([2, 0])).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    row_bytes = array[:1].nbytes
    if _copy is None or not array[:1].flags.c_contiguous or row_bytes == 0:
        return np.array(array[rows])
    if isinstance(rows, slice):
        start, stop, step = rows.indices(len(array))
        if step == 1 and array.strides[0] == row_bytes:
            out = np.empty((max(0, stop - start), *array.shape[1:]), array.dtype)
            first = array.ctypes.data + start * row_bytes
            return out if _filled(out, np.array([[first, out.nbytes]])) else np.array(array[rows])
        rows = np.arange(start, stop, step)
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    regions = np.empty((len(rows), 2), np.int64)
    regions[:, 0] = array.ctypes.data + rows * array.strides[0]
    regions[:, 1] = row_bytes
    return out if _filled(out, regions) else np.array(array[rows])


def _filled(out: npt.NDArray[Any], regions: npt.NDArray[np.int64]) -> bool:
    """Copy regions (address, bytes) one after the other; False where the system will not."""
    place, start = out.ctypes.data, 0
    while start < len(regions):
        part = regions[start : start + _MOST_REGIONS]
        ends = part[:, 1].cumsum()
        target = np.array([place, ends[-1]])
        assert _copy is not None
        copied = _copy(os.getpid(), target.ctypes.data, 1, part.ctypes.data, len(part), 0)
        if copied < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            return False
        if copied <= 0 < ends[-1]:
            raise OSError(errno.EIO, SHORTER)
        # One call copies 2 GiB at most, and may end within a region.
        whole = int(ends.searchsorted(copied, side="right"))
        if whole < len(part):
            begun = copied - (int(ends[whole - 1]) if whole else 0)
            part[whole] += (begun, -begun)
        place, start = place + copied, start + whole
    return True


@dataclass(frozen=True)
class MappedRows:
    """Rows (N, …) of a memory-mapped array as float32, a few at a time and never copied whole.

    Args:
        array: a NumPy array over an ``np.memmap``, of any real dtype.
        index: the rows that count, in their order; None for all.
        transform: applied to rows as they are read, a standardizer for example.
    """

    array: npt.NDArray[Any]
    index: npt.NDArray[np.int64] | None = None
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.array if self.index is None else self.index)

    @property
    def shape(self) -> torch.Size:
        """(N, …), as of a tensor."""
        return torch.Size((len(self), *self.array.shape[1:]))

    @property
    def ndim(self) -> int:
        """Number of dimensions, as of a tensor."""
        return self.array.ndim

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some rows, as a float32 tensor of its own; OSError if the file has them no more."""
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        if self.index is not None:
            chosen = self.index[chosen]
        in_order = isinstance(chosen, slice)
        # Reading ahead of a row here and a row there, the system would read many times the rows.
        self._advise("MADV_NORMAL" if in_order else "MADV_RANDOM")
        check_size(self.array, "features")
        try:
            read = read_rows(self.array, chosen)
        except OSError as error:
            file = file_name(self.array, "features")
            raise OSError(error.errno, f"{file}: {error.strerror}") from error
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, refused later
            values = read.astype(np.float32, copy=False)
        # Pages that were read count as this process's memory until the system wants them back,
        # which on a large machine is never. They stay in the system's cache.
        self._advise("MADV_DONTNEED")
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor if self.transform is None else self.transform(tensor)

    def select(self, mask: Tensor) -> MappedRows:
        """Only the rows where ``mask`` (N,) is True; nothing is read."""
        rows = mask.nonzero()[:, 0].numpy()
        return replace(self, index=rows if self.index is None else self.index[rows])

    def _advise(self, advice: str) -> None:
        """Tell the system how the mapping is used, where it can be told."""
        mapping = find_mapping(self.array)
        if mapping is not None and hasattr(mmap, advice):
            mapping.madvise(getattr(mmap, advice))
