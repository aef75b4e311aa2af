"""Text files, and the numbers in them."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def read_text(path: Path) -> str:
    """The text in a file, without the byte order mark that Windows programs put at its head.

    Raises ValueError with file and line for what is not UTF-8, and for a mark elsewhere, as where
    files were joined: it would become part of a name, unseen.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "run.txt").write_bytes(codecs.BOM_UTF8 + b"q1")
    ...     read_text(Path(folder, "run.txt"))
    5
    'q1'
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if codecs.BOM_UTF8 in content:
        line = content.count(b"\n", 0, content.index(codecs.BOM_UTF8)) + 1
        raise ValueError(_marked(path, line))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: expected text in UTF-8 ({error.reason})") from error


def unmarked(lines: Iterable[str], name: object) -> Iterator[str]:
    """The lines of a file opened as ``utf-8-sig``; ValueError for a mark that is in one still."""
    for number, line in enumerate(lines, 1):
        if "\ufeff" in line:
            raise ValueError(_marked(name, number))
        yield line


def _marked(name: object, line: int) -> str:
    return f"{name}, line {line}: expected no byte order mark but the first, got one"


def separator(header: str, marks: str) -> str:
    """The first of the marks that a line of names has outside of its quotes; a comma if none.

    >>> separator('"name, full";id', ",;")
    ';'
    """
    plain = re.sub('"[^"]*"', "", header)
    return next((mark for mark in marks if mark in plain), ",")


def whole_number(text: str) -> int:
    """The number that digits stand for; Python's ``int`` would take ``1_0`` for 10.

    >>> whole_number("-12")
    -12
    """
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        raise ValueError(f"expected a whole number, got {text!r}")
    return int(text)


def finite_number(text: str) -> float:
    """The number that a text stands for; Python's ``float`` would take ``1_0``, ``nan``, ``٣``.

    >>> finite_number("1e-3")
    0.001
    """
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value
