"""Tables as text: ``.csv`` and ``.tsv``, columns of numbers or of words.

The first line names the columns, unless it holds numbers alone: then columns count from 1 (``0, 1,
2, …``, which pandas writes where columns have no names, is a line of names too). Cells are
separated by commas, in a ``.csv`` whose first line has none by semicolons; quotes are those of
RFC 4180. Text is UTF-8, with or without a byte order mark. An empty cell, or ``NA``, ``nan``,
``null`` or ``None`` among numbers, is NaN; an empty cell among words stays an empty word.
"""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drcl.data.formats.limits import OBJECT, Budget, Refused, string_array
from drcl.storage.text import separator, unmarked

CELLS = 2**18
"""Cells turned into numbers at once, about: as text each takes many times its room."""

EXACT = 2**53
"""Up to here doubles hold every whole number."""

MISSING = {"", "na", "n/a", "nan", "null", "none"}


def choose_columns(key: str | None, names: Sequence[str]) -> list[str]:
    """The columns that ``key`` names: comma separated, ``*`` as wildcard for those with a name."""
    if key is None and len(names) > 1:
        raise Refused(f"expected the name of one of its columns, {_listed(names)}, got none")
    if key is None or key in names:
        return [key or names[0]] if names else []
    columns: list[str] = []
    for pattern in map(str.strip, key.split(",")):
        matches = [pattern] if pattern in names else fnmatch.filter(filter(None, names), pattern)
        if not matches:
            raise Refused(f"expected one of its columns, {_listed(names)}, got {pattern!r}")
        columns += matches
    if len(twice := [name for name in columns if names.count(name) > 1]):
        raise Refused(
            f"expected distinct names of columns, got {names.count(twice[0])} times {twice[0]!r}"
        )
    return columns


def read_table(budget: Budget, key: str | None) -> np.ndarray:
    """The columns that ``key`` names side by side: (N,) of one, (N, d) of several.

    Without a key, all of a table without names. Where one column holds words, all are strings.

    Raises:
        Refused: no such column, lines of different lengths, or more than the file may take.
        ValueError: text that is not UTF-8, or a cell of more than 131,072 letters.
    """
    path = budget.path
    delimiter = _delimiter(path)
    names, named = _names(path, delimiter)
    columns = list(names) if key is None and not named else choose_columns(key, names)
    places = [names.index(name) for name in columns]

    def parts() -> Iterator[list[list[str]]]:
        return _batches(_rows(path, delimiter, len(names), skip=named), places)

    numbers = _numbers(budget, parts(), len(places))
    if numbers is None:
        words: list[list[str]] = [[] for _ in places]
        for batch in parts():
            for column, cells in zip(words, batch, strict=True):
                budget.take((len(cells),), OBJECT)
                column += cells
        # Side by side, every word takes the room of the longest.
        flat = [cell for row in zip(*words, strict=True) for cell in row]
        numbers = string_array(budget, flat).reshape(-1, len(places))
    return numbers[:, 0] if len(places) == 1 else numbers


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown}, … ({len(names)} columns)"


def _delimiter(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", newline="") as file:
        return separator(file.readline(csv.field_size_limit()), ",;")


def _names(path: Path, delimiter: str) -> tuple[list[str], bool]:
    """Names of the columns, and whether the first line holds them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
    if not first:
        raise Refused("expected a table with at least one line, got none")
    names = [cell.strip() for cell in first]
    counted = list(map(str, range(len(names))))
    if _as_numbers(names) is None or "" in names or (len(names) > 1 and names == counted):
        return names, True
    return [str(index + 1) for index in range(len(names))], False


def _rows(path: Path, delimiter: str, width: int, skip: bool) -> Iterator[list[str]]:
    """Rows of cells. An empty line is an empty cell where there is one column, save at the end."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines, empty = unmarked(file, path), 0
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        for row in reader:
            if not row:
                empty += width == 1
                continue
            if skip:
                skip, empty = False, 0
                continue
            if len(row) != width:
                raise Refused(
                    f"line {reader.line_num}: expected {width} cells, as in the first line, got "
                    f"{len(row)}"
                )
            yield from ([""] for _ in range(empty))
            empty = 0
            yield row


def _batches(rows: Iterable[list[str]], places: list[int]) -> Iterator[list[list[str]]]:
    """The chosen columns of some rows at once."""
    held: list[list[str]] = []
    for row in rows:
        held.append([row[place] for place in places])
        if len(held) * len(places) >= CELLS:
            yield [list(column) for column in zip(*held, strict=True)]
            held = []
    if held:
        yield [list(column) for column in zip(*held, strict=True)]


def _numbers(budget: Budget, batches: Iterable[list[list[str]]], width: int) -> np.ndarray | None:
    """(N, width) int64, or float64 where a cell is no whole number; None where one is no number."""
    parts = []
    for batch in batches:
        budget.take((len(batch[0]), width), 2 * 8)
        cells = [_as_numbers(column) for column in batch]
        found = [column for column in cells if column is not None]
        if len(found) < len(cells):
            return None
        parts.append(_joined(found, np.column_stack))
    return _joined(parts, np.concatenate) if parts else np.empty((0, width))


def _joined(parts: list[np.ndarray], join: Callable[[list[np.ndarray]], Any]) -> np.ndarray:
    whole = [part for part in parts if part.dtype.kind == "i"]
    if len(whole) < len(parts) and any(((p > EXACT) | (p < -EXACT)).any() for p in whole):
        raise _inexact()
    return np.asarray(join(parts))


def _inexact() -> Refused:
    return Refused("whole numbers above 2⁵³ beside fractions or empty cells, as doubles inexact")


def _as_numbers(cells: Sequence[str]) -> np.ndarray | None:
    """int64, or else float64; None where a cell is neither a number nor missing."""
    if any("_" in cell for cell in cells):  # Python takes 1_000 for a number
        return None
    try:
        return np.array(list(map(int, cells)), np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        found = np.array(list(map(float, cells)))
    except ValueError:
        try:
            plain = (cell.strip().lower() for cell in cells)
            found = np.array([np.nan if cell in MISSING else float(cell) for cell in plain])
        except ValueError:
            return None
    for place in np.flatnonzero(np.isfinite(found) & (np.abs(found) >= EXACT)).tolist():
        digits = cells[place].strip().lstrip("+-")
        if digits.isdecimal() and int(digits) != abs(int(found[place])):
            raise _inexact()
    return found
