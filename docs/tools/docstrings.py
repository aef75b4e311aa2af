"""Docstrings as Markdown: roles become code, doctests become blocks. mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# What skips an example where the library that it shows is missing
GUARD = re.compile(r"^ *>>> import pytest; .*\n", flags=re.M)
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`([^`]+)`")
# ``query, gallery: words`` among the arguments, and the lines that go on with it
TOGETHER = re.compile(r"^( {4,})(\w+(?:, \w+)+): (.*(?:\n\1 .*)*)", flags=re.M)


def one_by_one(text: str) -> str:
    """Arguments that are described together get a row each, with their own type and default.

    The first has the description; the others refer to it.
    """

    def split(match: re.Match[str]) -> str:
        indent, names, words = match.groups()
        first, *others = names.split(", ")
        rows = [
            f"{indent}{first}: {words}",
            *(f"{indent}{name}: see `{first}`." for name in others),
        ]
        return "\n".join(rows)

    return TOGETHER.sub(split, text)


def as_markdown(text: str) -> str:
    """The docstring with doctests fenced, unguarded, and reStructuredText roles as plain code."""
    lines: list[str] = []
    inside = False
    for line in one_by_one(ROLE.sub(r"`\1`", GUARD.sub("", text))).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        if not inside and line.lstrip().startswith(">>>"):
            lines.append(f"{indent}```pycon")
            inside, fence = True, indent
        elif inside and not line.strip():
            lines.append(f"{fence}```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, f"{fence}```"] if inside else lines)


class Docstrings(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **unused: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
