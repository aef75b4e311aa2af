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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drcl.index.texts import Texts, text_key
from drcl.index.values import as_json, integers, listed
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
        values = listed("ids", ids)
        if len(values) != count:
            raise ValueError(f"ids: expected {count}, one for each row, got {len(values)}")
        if all(isinstance(value, str) for value in values):
            if "" in values:
                raise ValueError("ids: expected non-empty strings, got ''")
            found = _texts("ids", values)
            own = cls(found.keys(), found)
        else:
            own = cls(integers(values), None)
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
        """Mask of the rows that have one of the values, spelled as JSON, in a column."""
        if column not in self.columns:
            return np.zeros(len(self), bool)
        return self.columns[column].codes(values) >= 0

    def subset(
        self,
        places: npt.NDArray[np.int64],
        copies: npt.NDArray[np.int64],
        firsts: npt.NDArray[np.int64],
    ) -> Segment:
        """Some of the rows, rising, which of them equal an earlier one of the index, and which one.

        It is this segment, in its file, where nothing changes.
        """
        own = self.arrays
        if len(places) == len(self):
            known = np.array_equal(own["copies"], copies) and np.array_equal(own["firsts"], firsts)
            found = own | {"copies": copies, "firsts": firsts}
            return self if known else replace(self, arrays=found, file=None)
        texts = self.ids.texts
        rows, keys, hashes = (np.asarray(own[name])[places] for name in ("rows", "keys", "hashes"))
        return make_segment(
            rows,
            Ids(keys, None if texts is None else texts.at(places)),
            {name: column.at(places) for name, column in self.columns.items()},
            self.modality,
            hashes=hashes,
            copies=copies,
            firsts=firsts,
        )


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
    columns: dict[str, Texts] = {}
    for name, given in _columns_of(metadata):
        if not isinstance(name, str) or not name or name in RESERVED:
            raise ValueError(
                f"metadata: expected names other than {RESERVED} for columns, got {name!r}"
            )
        if name in columns:
            raise ValueError(f"metadata: expected columns of different names, got {name!r} twice")
        what = f"metadata {name!r}"
        values = listed(what, given)
        if len(values) != count:
            raise ValueError(
                f"{what}: expected {count} values, one for each row, got {len(values)}"
            )
        _texts("metadata", [name])
        columns[name] = _texts(what, [as_json(what, value) for value in values])
    return columns


def _columns_of(metadata: Any) -> Iterable[tuple[Any, Any]]:
    """Names and columns of a mapping, or of a frame of pandas or Polars."""
    if isinstance(metadata, Mapping):
        return metadata.items()
    if hasattr(metadata, "iter_columns"):
        return ((column.name, column) for column in metadata.iter_columns())
    if hasattr(metadata, "columns") and hasattr(metadata, "items"):
        return metadata.items()  # names may recur, and an index is not looked at
    raise TypeError(
        "metadata: expected a mapping from column to its values, or a frame, got "
        f"{type(metadata).__name__}"
    )


def key_of(one: int | str) -> int:
    """The key of an id."""
    return text_key(one.encode("utf-8", "replace")) if isinstance(one, str) else one


def _texts(name: str, values: list[str]) -> Texts:
    try:
        return Texts.of(values)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: expected text that UTF-8 can write ({error})") from error
