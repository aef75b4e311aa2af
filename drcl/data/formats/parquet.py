"""Parquet files: a column of lists, or columns side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from drcl.data.formats.limits import Budget, Refused, allow
from drcl.data.formats.tables import choose_columns

BATCH, VALUES = 2**14, 2**22
"""Rows read at once, and values of lists. A run of equal values takes a few bytes, however long it
is: what a file comes to is only known as it is read."""


def read_parquet(budget: Budget, key: str | None, pyarrow: Any, parquet: Any) -> np.ndarray:
    """The columns that ``key`` names, comma separated, ``*`` as wildcard."""
    path = budget.path
    schema = parquet.read_schema(path)
    columns = choose_columns(key, list(schema.names))
    # Equal strings stay one until it is known how much room all of them take.
    strings = [field.name for field in schema if _is_text(field.type, pyarrow.types)]
    parts: list[list[np.ndarray]] = [[] for _ in columns]
    with parquet.ParquetFile(path, read_dictionary=strings) as file:
        rows = file.metadata.num_rows
        allow(path, (rows, len(columns)), 1)
        empty = pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow)
        size = _rows_at_once(path, columns, file, pyarrow.types)
        for batch in file.iter_batches(size, columns=columns) if rows else [empty]:
            for name, found in zip(columns, parts, strict=True):
                found.append(_array(budget, batch.column(name), name, pyarrow))
    for name, found in zip(columns, parts, strict=True):
        if len(widths := {part.shape[1:] for part in found}) > 1:
            raise _uneven(name, *min(widths), *max(widths))
    # Put together, every string takes the room of the longest, and a number that of a string.
    width = sum(math.prod(found[0].shape[1:]) for found in parts)
    kind = np.result_type(*{part.dtype for found in parts for part in found})
    allow(path, (sum(map(len, parts[0])), width), kind.itemsize)
    arrays = [np.concatenate(parts.pop(0)) for _ in columns]
    return arrays[0] if len(arrays) == 1 else np.column_stack(arrays)


def _rows_at_once(path: Path, columns: list[str], file: Any, types: Any) -> int:
    """How many rows make a batch: fewer where lists are long. Those that say they are too long are
    refused, for a batch is decoded before its size is known."""
    declared, values = Budget(path), 0
    for name in columns:
        kind = file.schema_arrow.field(name).type
        if types.is_nested(kind):
            if not types.is_primitive(getattr(kind, "value_type", kind)):
                raise Refused(f"column {name!r} is {kind}: expected numbers, or lists of them")
            count = _values(file, name)
            declared.take((count,), kind.value_type.bit_width // 8)
            values += count
    return max(1, min(BATCH, VALUES * file.metadata.num_rows // max(values, 1)))


def _values(file: Any, name: str) -> int:
    """How many values the file says that a column of lists has."""
    metadata = file.metadata
    paths = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    leaves = [leaf for leaf, path in enumerate(paths) if path.startswith(f"{name}.")]
    values = 0
    for group in range(metadata.num_row_groups):
        # Where what is said of a column is damaged, reading a row raises an error, but looking at
        # it would end the process.
        if next(file.iter_batches(1, row_groups=[group], columns=[name]), None) is not None:
            values += sum(metadata.row_group(group).column(leaf).num_values for leaf in leaves)
    return values


def _array(budget: Budget, values: Any, name: str, pyarrow: Any) -> np.ndarray:
    """The rows of one column in one batch."""
    types, compute = pyarrow.types, pyarrow.compute
    if types.is_dictionary(values.type) and _is_text(values.type.value_type, types):
        longest = compute.max(compute.utf8_length(values.dictionary)).as_py() or 0
        budget.take((len(values), longest), 4)
        return np.array([value or "" for value in values.to_pylist()], dtype=str)
    if not types.is_nested(values.type):
        if values.null_count:
            values = _with_gaps(values, name, pyarrow)
        array = np.asarray(values.to_numpy(zero_copy_only=False))
        if array.dtype.kind not in "biufUS":  # an object in each row may take any room
            raise Refused(f"column {name!r} is {array.dtype}: expected numbers or strings")
        budget.take(array.shape, array.itemsize)
        return array
    if values.null_count:
        raise Refused(f"column {name!r} has rows without a list")
    widths = np.unique(compute.list_value_length(values).to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise _uneven(name, widths[0], widths[-1])
    flat = values.flatten()
    # With gaps, numbers of any kind become doubles.
    budget.take((len(flat),), 8 if flat.null_count else flat.type.bit_width // 8)
    width = int(widths[0]) if len(widths) else 0
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), width)


def _with_gaps(values: Any, name: str, pyarrow: Any) -> Any:
    """What becomes doubles exactly, with NaN in the gaps."""
    if pyarrow.types.is_boolean(values.type):
        return values.cast(pyarrow.uint8())
    if pyarrow.types.is_integer(values.type):
        ends = pyarrow.compute.min_max(values).as_py().values()
        if any(abs(end) > 2**53 for end in ends if end is not None):
            raise Refused(
                f"column {name!r} holds whole numbers above 2⁵³ beside empty cells, as doubles "
                "inexact"
            )
    return values


def _uneven(name: str, least: int, most: int) -> Refused:
    return Refused(f"column {name!r} holds lists of {least} to {most} values")


def _is_text(kind: Any, types: Any) -> bool:
    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_kind(kind) for is_kind in kinds)
