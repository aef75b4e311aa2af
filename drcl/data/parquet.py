"""Parquet files: a column of lists, or columns side by side."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from drcl.data.limits import Refused, allow, string_array

__all__ = ["read_parquet"]

BATCH = 2**14
"""Rows read at once. A run of equal values takes a few bytes, however long it is: what a file comes
to is only known as it is read."""


def read_parquet(path: Path, key: str | None, pyarrow: Any, parquet: Any) -> np.ndarray:
    """The columns that ``key`` names, comma separated, ``*`` as wildcard."""
    schema = parquet.read_schema(path)
    columns = _choose(key, list(schema.names))
    # Equal strings stay one until it is known how much room all of them take.
    strings = [field.name for field in schema if _is_text(field.type, pyarrow.types)]
    with parquet.ParquetFile(path, read_dictionary=strings) as file:
        allow(path, (file.metadata.num_rows, len(columns)), 1)
        table = file.schema_arrow.empty_table().select(columns)
        batches, taken = table.to_batches(), 0
        for batch in file.iter_batches(BATCH, columns=columns):
            taken += batch.nbytes
            allow(path, (taken,), 1)
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches, table.schema)
    arrays = [_array(path, table.column(column), column, pyarrow) for column in columns]
    return arrays[0] if len(arrays) == 1 else np.column_stack(arrays)


def _choose(key: str | None, names: list[str]) -> list[str]:
    if key is None and len(names) > 1:
        raise Refused(f"name one of its arrays; it holds {', '.join(names)}")
    columns: list[str] = []
    for pattern in names if key is None else map(str.strip, key.split(",")):
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matches:
            raise Refused(f"no column {pattern!r}; it holds {', '.join(names)}")
        columns += matches
    return columns


def _array(path: Path, column: Any, name: str, pyarrow: Any) -> np.ndarray:
    types = pyarrow.types
    if types.is_dictionary(column.type) and _is_text(column.type.value_type, types):
        entries = [entry for chunk in column.chunks for entry in chunk.dictionary.to_pylist()]
        allow(path, (len(column), max(map(len, filter(None, entries)), default=0)), 4)
        return string_array(path, [value or "" for value in column.to_pylist()])
    values = column.combine_chunks()
    if not types.is_nested(column.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    if not types.is_primitive(getattr(column.type, "value_type", column.type)):
        raise Refused(f"column {name!r} is {column.type}: expected numbers, or lists of them")
    if values.null_count:
        raise Refused(f"column {name!r} has rows without a list")
    rows = len(values)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    widths = np.unique(pyarrow.compute.list_value_length(values).to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise Refused(f"column {name!r} holds lists of {widths[0]} to {widths[-1]} values")
    return np.asarray(flat).reshape(rows, -1)


def _is_text(kind: Any, types: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))
