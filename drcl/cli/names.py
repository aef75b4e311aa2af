"""The table beside a file of features: ids, and what is shown with each row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from drcl.report.results import PICTURE
from drcl.storage.text import separator, unmarked
from drcl.tables import shortened

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as an id is printed: "01" is another


def read_names(path: Path, count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Ids and the other columns of a CSV file with a line of names and so many lines.

    Cells are separated by commas, or by semicolons or tabs where the line of names has those and
    no comma; blanks around them and empty lines at the end do not count. Quotes are those of RFC
    4180. Pictures are found from the folder of the table, and kept as absolute paths.

    Raises ValueError that says in which line of which file.
    """
    lines = _lines(path)
    _, names = next(lines, (1, []))
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected a line of column names, all different, got {names}")
    lower = [name.lower() for name in names]
    place_of_id = next((row.index("id") for row in (names, lower) if "id" in row), 0)
    rows: list[list[str]] = []
    blank: list[int] = []
    for number, cells in lines:
        if not cells:
            blank.append(number)
            continue
        if blank:
            raise ValueError(f"{path}: expected {len(names)} columns, got none in line {blank[0]}")
        if len(cells) != len(names):
            raise ValueError(
                f"{path}: expected {len(names)} columns, as named, got {len(cells)} in line "
                f"{number}"
            )
        if not cells[place_of_id]:
            raise ValueError(f"{path}: expected an id, got an empty cell in line {number}")
        rows.append(cells)
    if len(rows) != count:
        hint = "; is its first line no line of names?" if len(rows) == count - 1 else ""
        first = shortened(",".join(names), 40)
        raise ValueError(
            f"{path}: expected {count} lines under the names, {first}, got {len(rows)}{hint}"
        )
    columns: dict[str, list[str]] = {
        name: [cells[place] for cells in rows] for place, name in enumerate(names)
    }
    ids = columns.pop(names[place_of_id])
    if repeated := [name for name, times in Counter(ids).items() if times > 1]:
        raise ValueError(f"{path}: expected unique ids, got {repeated[0]!r} twice")
    if PICTURE in columns:
        folder = path.resolve().parent
        columns[PICTURE] = [str(folder / file) if file else "" for file in columns[PICTURE]]
    return ids, columns


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of each line, the first of those that a quoted cell goes over, and its cells."""
    number, limit = 1, csv.field_size_limit()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = separator(file.readline(limit), ",;\t")
            file.seek(0)
            reader = csv.reader(
                unmarked(file, path), delimiter=delimiter, skipinitialspace=True, strict=True
            )
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                yield number, [] if stripped == [""] else stripped
                number = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a CSV file in UTF-8 ({error})") from error
    except csv.Error as error:
        reason = {
            "unexpected end of data": "a quote is not closed",
            f"field larger than field limit ({limit})": f"a cell has more than {limit:,} letters; "
            "is a quote not closed?",
        }.get(str(error), str(error))
        raise ValueError(f"{path}: line {number}: {reason}") from error
