"""Arrays in one file of the format safetensors, written as they lie and read by mapping the file.

What the library of that name reads and writes passes through memory as a whole; these files may be
larger. The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNED = 64  # bytes: a line of the cache


def pack_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> list[memoryview]:
    """The content of the file, piece by piece; nothing is copied.

    Arrays are int64, float32 or uint8, and contiguous. Wider ones come first, so that each begins
    at a multiple of its items.
    """
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": (end, end + array.nbytes),
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    flat = [arrays[name].reshape(-1).view(np.uint8) for name in order if arrays[name].size]
    head = len(text).to_bytes(8, "little") + text
    return [memoryview(head), *(array.data for array in flat)]


def map_arrays(path: Path) -> Arrays:
    """The arrays of such a file, mapped: what is not looked at is not read.

    Raises OSError if it cannot be opened, and ValueError, naming it, if it is none of these files
    or has been cut short.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> _ = path.write_bytes(b"".join(pack_arrays({"x": np.arange(3)})))
    >>> map_arrays(path)["x"].tolist()
    [0, 1, 2]
    """
    if path.stat().st_size < 8:
        raise ValueError(f"{path}: damaged, expected a safetensors file, got fewer than 8 bytes")
    whole = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    try:
        if start > len(whole):
            raise ValueError(f"its header ends at byte {start} of {len(whole)}")
        entries = json.loads(whole[8:start].tobytes())
        if not isinstance(entries, dict):
            raise ValueError("its header is no object")
        return {
            name: _view(whole[start:], entry)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or not a file of an index ({error})") from error


def _view(data: npt.NDArray[np.uint8], entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype = _DTYPES[entry["dtype"]]
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    counts = all(type(size) is int and size >= 0 for size in (*shape, begin, end))
    if not counts or end > len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array {shape} cannot lie at bytes {begin} to {end} of {len(data)}")
    return data[begin:end].view(dtype).reshape(shape)
