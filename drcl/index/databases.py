"""The rows of an index in databases that others search, each with what is known of it.

Everywhere a row keeps its number, which is what other engines answer with, and has the same fields:
id, modality, metadata by column, vector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drcl.checks import check_flag, check_installed
from drcl.index.held import Held
from drcl.storage.files import write_together

# Handed over together: a few megabytes as text, where a server takes 32 in one request.
_ROWS, _VALUES = 1024, 2**18
_WIDEST = 16_000  # that pgvector takes
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], list[dict[str, Any]]]


def to_qdrant(held: Held, client: Any, collection: str) -> None:
    """See :meth:`drcl.Index.to_qdrant`."""
    width = held.filled().width
    if not isinstance(collection, str) or not collection:
        raise ValueError(f"collection: expected a name, got {collection!r}")
    check_installed(
        "client: needs {}; install it with: pip install 'drcl[qdrant]'", "qdrant_client"
    )
    from qdrant_client import QdrantClient, models

    if not isinstance(client, QdrantClient):
        raise TypeError(f"client: expected a QdrantClient, got {type(client).__name__}")
    if client.collection_exists(collection):
        raise ValueError(f"collection: expected a new name, got {collection!r}, which is there")
    vectors = models.VectorParams(size=width, distance=models.Distance.DOT)
    client.create_collection(collection, vectors_config=vectors)
    try:
        for numbers, rows, described in _described(held):
            points = models.Batch(ids=numbers.tolist(), vectors=rows.tolist(), payloads=described)
            client.upsert(collection, points=points, wait=True)
    except BaseException:
        client.delete_collection(collection)
        raise


def to_lancedb(held: Held, database: Any, table: str, overwrite: bool) -> Any:
    """See :meth:`drcl.Index.to_lancedb`."""
    width, overwrite = held.filled().width, check_flag("overwrite", overwrite)
    if not isinstance(table, str):
        raise ValueError(f"table: expected a name, got {table!r}")
    check_installed("database: needs {}; install it with: pip install 'drcl[lancedb]'", "lancedb")
    import lancedb
    import pyarrow as pa

    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds = _kinds(held)
    columns = pa.struct([(name, types.get(kind, pa.string())) for name, kind in kinds.items()])
    schema = pa.schema(
        [
            ("number", pa.int64()),
            ("id", pa.int64() if held.kind == "integers" else pa.string()),
            ("modality", pa.string()),
            *([("metadata", columns)] if kinds else []),
            ("vector", pa.list_(pa.float32(), width)),
        ]
    )

    def batches() -> Iterator[Any]:
        for numbers, rows, described in _described(held):
            for one in described:
                known = one["metadata"]
                known |= {
                    name: json.dumps(value, ensure_ascii=False)
                    for name, value in known.items()
                    if kinds[name] is object and value is not None
                }
            fields = {
                "number": pa.array(numbers),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width),
            }
            for name in set(schema.names) - set(fields):
                fields[name] = pa.array([one[name] for one in described], schema.field(name).type)
            yield pa.RecordBatch.from_arrays([fields[name] for name in schema.names], schema=schema)

    given = isinstance(database, (str, Path))
    connection = lancedb.connect(database) if given else database
    if not overwrite:
        try:
            connection.create_table(table, schema=schema)
        except ValueError as error:
            raise ValueError(f"table: expected a new name, got {table!r} ({error})") from error
    try:
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        # One version of the table: readers find the old one until this one is whole.
        return connection.create_table(table, data=reader, mode="overwrite")
    except BaseException:
        if not overwrite:
            connection.drop_table(table)
        raise


def to_pgvector(held: Held, path: Path, table: str, overwrite: bool) -> None:
    """See :meth:`drcl.Index.to_pgvector`."""
    width, overwrite = held.filled().width, check_flag("overwrite", overwrite)
    if not isinstance(table, str) or not re.fullmatch("[a-z_][a-z0-9_]{0,62}", table):
        raise ValueError(
            f"table: expected at most 63 of a to z, 0 to 9 and _, and no digit first, got {table!r}"
        )
    if width > _WIDEST:
        raise ValueError(f"index: expected rows of at most {_WIDEST} values, got {width}")
    write_together({path: _copied(held, table, width, overwrite)})


def _copied(held: Held, table: str, width: int, overwrite: bool) -> Iterator[bytes]:
    """The file, piece by piece."""
    key = "bigint" if held.kind == "integers" else "text"
    replaced = f'DROP TABLE IF EXISTS "{table}";\n' if overwrite else ""
    yield f"""\
-- Load it with: psql --file FILE DATABASE
\\set ON_ERROR_STOP on
SET client_encoding = 'UTF8';
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector;
{replaced}CREATE TABLE "{table}" (
    number bigint PRIMARY KEY,
    id {key} NOT NULL,
    modality text,
    metadata jsonb NOT NULL,
    embedding vector({width}) NOT NULL
);
COPY "{table}" (number, id, modality, metadata, embedding) FROM stdin;
""".encode()
    # Nine digits say which float32 it is.
    vector = "[" + ",".join(["%.9g"] * width) + "]"
    for numbers, rows, described in _described(held):
        lines = []
        for number, row, one in zip(numbers.tolist(), rows.tolist(), described, strict=True):
            for text in (one["id"], *one["metadata"], *one["metadata"].values()):
                if isinstance(text, str) and "\0" in text:
                    raise ValueError(
                        f"index: expected text without NUL, as PostgreSQL has none, got {text!r} "
                        f"in row {number}"
                    )
            metadata = json.dumps(one["metadata"], ensure_ascii=False).translate(_ESCAPES)
            name = str(one["id"]).translate(_ESCAPES)
            modality = r"\N" if one["modality"] is None else one["modality"]
            lines.append(f"{number}\t{name}\t{modality}\t{metadata}\t{vector % tuple(row)}\n")
        yield "".join(lines).encode()
    yield b"\\.\nCOMMIT;\n"


def _described(held: Held) -> Iterator[Rows]:
    """Numbers, rows, and what is known of each, of a few rows at a time."""
    step = min(_ROWS, max(1, _VALUES // held.filled().width))
    for numbers, rows in held.parts(step):
        records = map(held.record, numbers.tolist())
        described = [
            {"id": one.pop("id"), "modality": one.pop("modality"), "metadata": one}
            for one in records
        ]
        yield numbers, rows, described


def _kinds(held: Held) -> dict[str, type]:
    """Of each column of metadata a type that has all of its values; object if there is none."""
    found = {name: [str, bool, int, float] for name in held.columns}
    for number in held.kept.tolist():
        for name, value in held.record(number).items():
            if name in found and value is not None:
                found[name] = [kind for kind in found[name] if kind in _types(value)]
    return {name: kinds[0] if kinds else object for name, kinds in found.items()}


def _types(value: str | bool | int | float) -> tuple[type, ...]:
    """Types of a table's columns that have this value, exactly."""
    if isinstance(value, bool) or not isinstance(value, int):
        return (type(value),)
    short, exact = -(2**63) <= value < 2**63, abs(value) <= 2**53
    return (int,) * short + (float,) * exact
