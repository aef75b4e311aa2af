"""MATLAB's ``string`` arrays in version 7.3, which are objects.

The format of objects is not published; this much of it is known from other programs that read it.
A variable is a tag, its dimensions, the number of its object and that of its class. A table of
metadata (of words: version, number of names, the offsets of eight regions; then the names) says
which properties an object has, and in which cell each lies. That of a string array is one row of
words: 1, the dimensions, the lengths of the strings, and their UTF-16, column by column.
"""

from __future__ import annotations

import math

import numpy as np

from drcl.data.formats.limits import OBJECT, Budget

TAG = 0xDD000000
VERSIONS = range(2, 5)
MISSING = 2**64 - 1
"""The length of a string that is ``missing``; it is read as an empty one."""

IN_CELL = 1
"""How a property is kept whose value lies in a cell."""


def object_number(values: np.ndarray) -> int | None:
    """The object that a variable's words name, where they name one."""
    words = values.reshape(-1)[:6].tolist()
    return words[4] if words[:4] == [TAG, 2, 1, 1] and len(words) == 6 == values.size else None


def property_cell(budget: Budget, metadata: np.ndarray, number: int) -> int | None:
    """Which cell holds the property ``any`` of an object; None in a file of another kind.

    Raises:
        IndexError, ValueError: the table is damaged.
    """
    budget.take((metadata.size,), 32)  # at most, as names of one letter
    content = metadata.tobytes()
    # Seen through a view they are Python's integers, which do not overflow.
    words = np.frombuffer(content[: len(content) // 4 * 4], "<u4").astype(np.uint32).data
    version, _, *offsets = words[:10]
    if version not in VERSIONS:
        return None
    names = [name for name in content[40 : offsets[0]].split(b"\0") if name]
    # Six words an object, of which the fourth and fifth number its properties in either list.
    at = offsets[2] // 4 + 6 * number
    saved, plain = words[at + 3], words[at + 4]
    at, count = (offsets[1] // 4, saved) if saved else (offsets[3] // 4, plain)
    # Lists of a length and three words for each property, to the next whole eight bytes. The first
    # belongs to no object.
    for _ in range(count):
        at += (1 + 3 * words[at] + 1) // 2 * 2
    held = words[at + 1 : at + 1 + 3 * min(words[at], len(words))]
    for name, kind, cell in zip(held[::3], held[1::3], held[2::3], strict=True):
        if 1 <= name <= len(names) and names[name - 1] == b"any" and kind == IN_CELL:
            return cell + 2  # behind the table and an empty cell
    return None


def strings(budget: Budget, words: np.ndarray) -> list[str] | None:
    """The strings in the words of a property, in MATLAB's order; None for another kind of words.

    Raises:
        ValueError: there are more letters or strings than words.
    """
    words = words.reshape(-1)
    if words.dtype != np.uint64 or len(words) < 4 or words[0] != 1:
        return None
    dimensions = int(words[1])
    shape = words[2 : 2 + dimensions].tolist()
    count, start = math.prod(shape), 2 + dimensions
    if len(shape) != dimensions or count > len(words) - start:
        raise ValueError(f"{count} strings in {len(words)} words")
    budget.take((count,), OBJECT)
    lengths = words[start : start + count].tolist()
    units = words[start + count :].astype("<u8").tobytes()
    budget.take((len(units),), 4)
    found, at = [], 0
    for length in lengths:
        size = 0 if length == MISSING else 2 * length
        if at + size > len(units):
            raise ValueError(
                f"a string of {length} letters where {(len(units) - at) // 2} are left"
            )
        found.append(units[at : at + size].decode("utf-16-le"))
        at += size
    return found
