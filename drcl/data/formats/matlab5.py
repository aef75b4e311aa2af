"""MATLAB files of version 5 (``save -v6`` and ``-v7``): numbers, text, cells, structs, sparse
matrices.

The format is MathWorks' *MAT-File Format*, level 5: elements of a type, a size and a payload, of
which a matrix holds others. It has no checksum, and SciPy's compiled reader trusts its types and
indices: a few altered bytes crash the process. Here every size is checked against what holds it,
and every type and index against what may stand there.

Arrays come as stored, like SciPy's: MATLAB keeps whole doubles in the smallest integer type.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from drcl.data.formats.limits import OBJECT, Budget, Refused, allow, string_array
from drcl.data.formats.sparse import dense_of_columns

Cell = np.ndarray | str

INTEGERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
NUMBERS = {**INTEGERS, 7: "f4", 9: "f8"}
LETTERS = {1: "u1", 2: "u1", 4: "u2", 17: "u2", 18: "u4"}
CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
UTF8 = 16
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, OBJECT_OF_CLASS, CHAR, SPARSE = 1, 2, 3, 4, 5
NUMERIC = range(6, 16)
FUNCTION, OPAQUE = 16, 17
COMPLEX, LOGICAL = 0x0800, 0x0200

NAME_WITHIN = 2**16
"""A variable's name stands within its first bytes, so listing the names needs no more of it."""


DIMENSIONS = 32
"""More than these no version of NumPy makes."""

FIELDS = 2**16
"""More fields no struct of data has."""

REMEDIES = {
    "string": "save cellstr(x), or char(x)",
    "categorical": "save cellstr(x), or double(x) and categories(x)",
    "table": "save its columns as variables, or table2array(x)",
    "timetable": "save its columns as variables, or table2array(timetable2table(x))",
    "datetime": "save posixtime(x)",
    "duration": "save seconds(x)",
    "dictionary": "save keys(x) and values(x)",
    "containers.Map": "save keys(x) and values(x)",
}


class Place(NamedTuple):
    """Where a variable's element lies in the file: its type, and the payload's start and size."""

    kind: int
    start: int
    size: int


def object_refusal(name: str, kind: str) -> Refused:
    """Says that a variable is an object of MATLAB's class ``kind``, and what to save instead.

    Objects lie in a part of the file whose format MathWorks does not publish.
    """
    remedy = REMEDIES.get(kind, "save what it holds as arrays")
    what = repr(name) if name and not name.startswith("#") else "a cell"
    return Refused(f"{what} is an object of MATLAB's class {kind!r}, which is not read; {remedy}")


def read_matlab5(
    budget: Budget, key: str | None, choose: Callable[[str | None, list[str]], str]
) -> np.ndarray | list[np.ndarray | str]:
    """A variable, or the field of one; a list for a cell array.

    Args:
        budget: what the file may take.
        key: the variable's name, or ``name.field`` for a field of a struct, which may be one again.
        choose: picks the variable among the names there are, or refuses.

    Raises:
        Refused: what the variable holds is none of the kinds above.
        ValueError: the file is damaged.
    """
    path = budget.path
    with path.open("rb") as file:
        order = _byte_order(file.read(128))
        places = {}
        for place in _places(file, order):
            beginning = _content(path, file, place, order, NAME_WITHIN)
            places[_header(_elements(beginning, order), order).name] = place
        places.pop("", None)  # what MATLAB keeps for objects
        named, fields = key, list[str]()
        if key is not None and key not in places:
            named, *fields = key.split(".")
        name = choose(named, list(places))
        place = places[name]
        content = _content(path, file, place, order)
        for index, field in enumerate(fields):
            content = _field(content, field, order, ".".join([name, *fields[:index]]))
        return _read_matrix(budget, content, order, ".".join([name, *fields]))


class Header(NamedTuple):
    """What every matrix begins with."""

    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str


def _byte_order(head: bytes) -> str:
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or struct.unpack(f"{order}H", head[124:126])[0] != 0x0100:
        raise ValueError("no MATLAB file of version 5 or 7.3")
    return order


def _places(file: BinaryIO, order: str) -> Iterator[Place]:
    end = file.seek(0, os.SEEK_END)
    start = 128
    while start < end:
        file.seek(start)
        kind, size = struct.unpack(f"{order}II", file.read(8))
        start += 8
        if kind not in (MATRIX, COMPRESSED) or size > end - start:
            raise ValueError(f"{size} bytes of type {kind} at byte {start}")
        yield Place(kind, start, size)
        start += size


def _content(
    path: Path, file: BinaryIO, place: Place, order: str, most: int | None = None
) -> memoryview:
    """What a matrix element holds; its beginning, up to ``most`` bytes, where these are given."""
    file.seek(place.start)
    stored = file.read(place.size if most is None else min(place.size, most))
    if place.kind == MATRIX:
        return memoryview(stored)
    inflater = zlib.decompressobj()
    kind, size = struct.unpack(f"{order}II", inflater.decompress(stored, 8))
    if kind != MATRIX or not size:
        raise ValueError(f"a compressed element of type {kind} and {size} bytes")
    allow(path, (size,), 1)
    wanted = size if most is None else min(size, most)
    content = inflater.decompress(inflater.unconsumed_tail, wanted)
    if most is None:
        # Reaching the end compares the checksum of the compressed data.
        rest = inflater.decompress(inflater.unconsumed_tail, 1)
        if len(content) != size or rest or not inflater.eof:
            raise ValueError(f"expected {size} bytes of a compressed variable")
    return memoryview(content)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and payload of the elements that follow each other in ``content``."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if kind >> 16:  # a small element: size and type share four bytes, the payload has four
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
        else:
            at = start + size + -size % 8
        if start + size > len(content) or (start % 8 and size > 4):
            raise ValueError(f"{size} bytes of type {kind} at {start}")
        yield kind, content[start : start + size]


def _numbers(elements: Iterator[tuple[int, memoryview]], order: str) -> np.ndarray:
    kind, payload = next(elements, (0, memoryview(b"")))
    if kind not in NUMBERS:
        raise ValueError(f"an element of type {kind} where numbers were expected")
    return np.frombuffer(payload, order + NUMBERS[kind])


def _header(elements: Iterator[tuple[int, memoryview]], order: str) -> Header:
    flags = _numbers(elements, order)
    if flags.dtype != np.dtype(f"{order}u4") or len(flags) != 2:
        raise ValueError("no matrix where one was expected")
    if int(flags[0]) & 0xFF == OPAQUE:  # an object, which has no shape
        return Header(OPAQUE, int(flags[0]), (), _string(elements))
    shape = tuple(map(int, _numbers(elements, order)[: DIMENSIONS + 1]))
    name = _string(elements)
    if not 2 <= len(shape) <= DIMENSIONS or min(shape) < 0:
        raise ValueError(f"a matrix of shape {shape}")
    return Header(int(flags[0]) & 0xFF, int(flags[0]), shape, name)


def _string(elements: Iterator[tuple[int, memoryview]]) -> str:
    """A name. MATLAB's are of its ASCII letters; other programs write UTF-8."""
    _, name = next(elements, (0, None))
    if name is None:
        raise ValueError("no name where one was expected")
    return bytes(name).decode("utf-8" if len(name) < NAME_WITHIN else "ascii", "replace")


def _field(content: memoryview, field: str, order: str, called: str) -> memoryview:
    """What a field of the struct ``called`` so holds: a matrix, like a variable."""
    elements = _elements(content, order)
    header = _header(elements, order)._replace(name=called)
    names = _field_names(header, elements, order)
    if math.prod(header.shape) != 1:
        raise Refused(f"{header.name!r} is a struct array of {header.shape}: expected one struct")
    if field not in names:
        raise Refused(f"no field {field!r} in {called!r}; it holds {', '.join(names) or 'nothing'}")
    kind, found = next(itertools.islice(elements, names.index(field), None), (0, memoryview(b"")))
    if kind != MATRIX:
        raise ValueError(f"an element of type {kind} where a field was expected")
    if not found:
        raise Refused(f"nothing was put in {called}.{field}")
    return found


def _field_names(
    header: Header, elements: Iterator[tuple[int, memoryview]], order: str
) -> list[str]:
    if header.kind != STRUCT:
        raise Refused(f"{header.name!r} is no struct, so it has no fields")
    length = _numbers(elements, order)
    _, names = next(elements, (0, memoryview(b"")))
    size = int(length[0]) if length.dtype.kind == "i" and len(length) == 1 else 0
    if size < 1 or len(names) % size or len(names) // size > FIELDS:
        raise ValueError(f"{len(names)} letters of field names with {size} each")
    stored = (bytes(names[at : at + size]) for at in range(0, len(names), size))
    return [name.partition(b"\0")[0].decode("utf-8", "replace") for name in stored]


def _read_matrix(
    budget: Budget, content: memoryview, order: str, called: str
) -> np.ndarray | list[Cell]:
    elements = _elements(content, order)
    header = _header(elements, order)._replace(name=called)
    if header.kind != CELL:
        return _read_array(budget, header, elements, order)
    count = math.prod(header.shape)
    budget.take((count,), OBJECT)
    # One more than there may be tells that there are too many; all might be millions.
    stored = itertools.islice(elements, count + 1)
    cells = [_read_cell(budget, kind, cell, order) for kind, cell in stored]
    if len(cells) != count:
        raise ValueError(f"not {count} cells in a cell array of shape {header.shape}")
    return cells


def _read_cell(budget: Budget, kind: int, content: memoryview, order: str) -> Cell:
    if kind != MATRIX:
        raise ValueError(f"an element of type {kind} where a cell was expected")
    if not content:  # a cell that nothing was put in
        return np.empty((0, 0))
    elements = _elements(content, order)
    header = _header(elements, order)
    if header.kind == CELL:
        raise Refused("a cell array in a cell array: expected arrays or strings in its cells")
    array = _read_array(budget, header, elements, order)
    return str(array[0]) if header.kind == CHAR and len(array) == 1 else array


def _read_array(
    budget: Budget, header: Header, elements: Iterator[tuple[int, memoryview]], order: str
) -> np.ndarray:
    if header.kind == CHAR:
        return _read_text(budget, header.shape, elements, order)
    if header.kind == OPAQUE:
        system, kind = _string(elements), _string(elements)
        raise object_refusal(header.name, kind if system == "MCOS" else f"{system} {kind}")
    if header.kind == OBJECT_OF_CLASS:
        raise object_refusal(header.name, _string(elements))
    if header.kind == FUNCTION:
        raise object_refusal(header.name, "function_handle")
    if header.kind == STRUCT:
        if not header.name:
            raise Refused("a struct in a cell array: expected arrays or strings in its cells")
        fields = _field_names(header, elements, order)
        named = ", ".join(f"{header.name}.{field}" for field in fields) or "it has none"
        raise Refused(f"{header.name!r} is a struct: name one of its fields, {named}")
    if header.kind not in (SPARSE, *NUMERIC):
        raise ValueError(f"a matrix of class {header.kind}")
    if header.flags & COMPLEX:
        raise Refused(f"{header.name!r} is complex: expected real numbers, so save real(x)")
    if header.kind == SPARSE:
        return _read_sparse(budget, header, elements, order)
    values = _numbers(elements, order)
    if len(values) != math.prod(header.shape):
        raise ValueError(f"{len(values)} numbers in an array of shape {header.shape}")
    budget.take(values.shape, values.itemsize)
    # A copy of its own in this machine's byte order.
    return values.astype(values.dtype.newbyteorder("=")).reshape(header.shape, order="F")


def _read_text(
    budget: Budget, shape: tuple[int, ...], elements: Iterator[tuple[int, memoryview]], order: str
) -> np.ndarray:
    """The rows of a character matrix as an array of strings."""
    kind, payload = next(elements, (UTF8, memoryview(b"")))
    if kind not in (UTF8, *LETTERS) or len(shape) != 2:
        raise ValueError(f"text of shape {shape} in an element of type {kind}")
    budget.take((len(payload),), 16)  # at most while the letters lie apart
    if kind == UTF8:
        text = bytes(payload).decode()
        # MATLAB counts a letter that takes two units of UTF-16 as two, SciPy counts it as one.
        size = 4 if len(text) == math.prod(shape) else 2
        units = np.frombuffer(text.encode(CODECS[size]), f"<u{size}")
    else:
        units = np.frombuffer(payload, order + LETTERS[kind])
    if shape[0] != 1 and len(units) != math.prod(shape):
        raise ValueError(f"{len(units)} letters in text of shape {shape}")
    return text_rows(budget, units.reshape(shape if shape[0] != 1 else (1, -1), order="F"))


def text_rows(budget: Budget, units: np.ndarray) -> np.ndarray:
    """The rows of a character matrix as strings.

    Args:
        budget: what the file may take.
        units: of one, two or four bytes: Latin-1, UTF-16 or UTF-32.
    """
    if not units.size:  # MATLAB's '' has no rows, and is a string all the same
        return np.array([""])
    budget.take(units.shape, 8)  # at most, as bytes and as letters
    budget.take(units.shape[:1], OBJECT)
    units = units.astype(units.dtype.newbyteorder("<"))
    return string_array(budget, [row.tobytes().decode(CODECS[row.itemsize]) for row in units])


def _read_sparse(
    budget: Budget, header: Header, elements: Iterator[tuple[int, memoryview]], order: str
) -> np.ndarray:
    """A compressed-column matrix, as a dense one."""
    rows, starts = _numbers(elements, order), _numbers(elements, order)
    kind, payload = next(elements, (0, memoryview(b"")))
    stored = int(starts[-1]) if len(starts) and starts.dtype.kind in "iu" else 0
    if header.flags & LOGICAL and NUMBERS.get(kind) == "f8" and len(payload) == stored:
        kind = 2  # MATLAB says that they are doubles, and writes bytes
    values = _numbers(iter([(kind, payload)]), order)
    return dense_of_columns(budget, header.shape, rows, starts, values)
