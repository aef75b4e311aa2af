"""A segment: what one call of ``Index.add`` brought, as arrays in memory or of a mapped file.

==================  ==============================================================================
``rows``            embeddings (n, D) float32
``hashes``          a number of each row, equal for equal rows (n,) int64
``copies``          positions of rows that equal an earlier one of the index (c,) int64
``firsts``          the first row equal to each of them (c,) int64
``keys``            ids that are integers, or hashes of those that are strings (n,) int64
``ids``             ids that are strings, as texts
``column NAME``     metadata, a JSON value a row, as texts
==================  ==============================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drcl.index.texts import Texts, text_key
from drcl.storage.arrays import Arrays, map_arrays

COLUMN = "column "
# What a row is described by in any case.
RESERVED = ("id", "modality", "score")


@dataclass(frozen=True)
class Ids:
    """Ids of rows: integers are their own keys, strings have hashes as keys."""

    keys: npt.NDArray[np.int64]
    texts: Texts | None

    @classmethod
    def of(cls, ids: Any, count: int) -> Ids:
        """Ids that a user gives; TypeError or ValueError if they are none, or not unique."""
        values = _listed("ids", ids)
        if len(values) != count:
            raise ValueError(f"ids: expected {count}, one for each row, got {len(values)}")
        if all(isinstance(value, str) for value in values):
            if "" in values:
                raise ValueError("ids: expected non-empty strings, got ''")
            found = _texts("ids", values)
            own = cls(found.keys(), found)
        else:
            own = cls(_integers(values), None)
        if len(np.unique(own.keys)) < count:
            seen: set[Any] = set()
            twice = [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
            if twice:
                raise ValueError(f"ids: expected unique ids, got {twice[0]!r} twice")
        return own

    @property
    def kind(self) -> str:
        return "integers" if self.texts is None else "strings"

    def __getitem__(self, place: int) -> int | str:
        return int(self.keys[place]) if self.texts is None else self.texts[place]

    def at(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Those of some rows (n,)."""
        if self.texts is None:
            return np.asarray(self.keys[places])
        return np.array([self.texts[place] for place in places.tolist()], object)


@dataclass(frozen=True)
class Segment:
    """Rows of one modality and what is known of them; ``file`` is where they are saved, if so."""

    arrays: Arrays
    ids: Ids
    columns: dict[str, Texts]
    modality: str | None
    file: str | None = None

    @classmethod
    def read(
        cls, path: Path, start: int, rows: int, width: int, ids: str, modality: str | None
    ) -> Segment:
        """The mapped file of rows from ``start`` on.

        OSError if it is not there, ValueError if it is not as described.
        """
        arrays = map_arrays(path)
        try:
            for name in ("keys", "hashes", "copies", "firsts"):
                count = len(arrays["copies"]) if name in ("copies", "firsts") else rows
                if arrays[name].dtype != np.int64 or arrays[name].shape != (count,):
                    raise ValueError(f"{name}: expected {count} int64")
            copies, firsts = arrays["copies"], arrays["firsts"]
            good = (firsts >= 0) & (firsts < copies) & (copies >= start) & (copies < start + rows)
            if not good.all() or not (np.diff(copies) > 0).all():
                raise ValueError("copies: expected rising rows of the file, after their firsts")
            if arrays["rows"].dtype != np.float32 or arrays["rows"].shape != (rows, width):
                raise ValueError(f"rows: expected float32 ({rows}, {width})")
            names = [name for name in arrays if name.startswith(COLUMN) and name.endswith(".ends")]
            columns = {
                name[len(COLUMN) : -len(".ends")]: Texts.read(arrays, name[: -len(".ends")], rows)
                for name in names
            }
            texts = Texts.read(arrays, "ids", rows) if ids == "strings" else None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: damaged, or not this index's file ({error})") from error
        return cls(arrays, Ids(arrays["keys"], texts), columns, modality, path.name)

    def __len__(self) -> int:
        return len(self.arrays["rows"])

    def record(self, place: int) -> dict[str, Any]:
        """What is known of a row."""
        values = {name: json.loads(texts[place]) for name, texts in self.columns.items()}
        return {"id": self.ids[place], "modality": self.modality, **values}

    def matching(self, column: str, values: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Mask of the rows that have one of the values, as JSON, in a column."""
        if column not in self.columns:
            return np.zeros(len(self), bool)
        return self.columns[column].codes(values) >= 0


def make_segment(
    rows: npt.NDArray[np.float32],
    ids: Ids,
    columns: dict[str, Texts],
    modality: str | None,
    **found: npt.NDArray[np.int64],
) -> Segment:
    """A segment in memory; ``found`` are its hashes, copies and firsts."""
    arrays: Arrays = {"rows": rows, "keys": ids.keys, **found}
    if ids.texts is not None:
        arrays |= ids.texts.arrays("ids")
    for name, texts in columns.items():
        arrays |= texts.arrays(COLUMN + name)
    return Segment(arrays, ids, columns, modality)


def metadata_columns(metadata: Any, count: int) -> dict[str, Texts]:
    """Columns that a user gives; TypeError or ValueError for what a column cannot be."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(
            f"metadata: expected a mapping from column to its values, got {type(metadata).__name__}"
        )
    columns = {}
    for name, given in metadata.items():
        if not isinstance(name, str) or not name or name in RESERVED:
            raise ValueError(
                f"metadata: expected names other than {RESERVED} for columns, got {name!r}"
            )
        what = f"metadata {name!r}"
        values = _listed(what, given)
        if len(values) != count:
            raise ValueError(
                f"{what}: expected {count} values, one for each row, got {len(values)}"
            )
        _texts("metadata", [name])
        columns[name] = _texts(what, [as_json(what, value) for value in values])
    return columns


def key_of(value: Any, kind: str) -> int:
    """The key of one id; ValueError if it cannot be one of that kind."""
    if kind == "strings":
        if not isinstance(value, str):
            raise ValueError(f"ids: expected strings, as the index has, got {value!r}")
        return text_key(value.encode("utf-8", "replace"))
    return int(_integers([value])[0])


def _listed(name: str, values: Any) -> list[Any]:
    """A sequence, array, tensor or column of a frame as a list of Python's own values."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    elif hasattr(values, "to_list"):
        values = values.to_list()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a sequence, got {type(values).__name__}")
    return list(values)


def _integers(values: list[Any]) -> npt.NDArray[np.int64]:
    for value in values:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not -(2**63) <= value < 2**63:
            raise ValueError(
                f"ids: expected all strings, or all integers of 64 bits, got {value!r}"
            )
    return np.array(values, np.int64)


def as_json(name: str, value: Any) -> str:
    """A value of a column as text; ValueError if it cannot be one."""
    value = value.item() if isinstance(value, np.generic) else value
    plain = value is None or isinstance(value, (str, bool, int, float))
    if not plain or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"{name}: expected strings, finite numbers, truth values or None, got {value!r}"
        )
    return json.dumps(value, ensure_ascii=False)


def _texts(name: str, values: list[str]) -> Texts:
    try:
        return Texts.of(values)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: expected text that UTF-8 can write ({error})") from error
