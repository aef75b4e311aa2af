"""Docstrings as Markdown: roles become code, doctests become blocks. mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`([^`]+)`")


def as_markdown(text: str) -> str:
    """The docstring with doctests fenced, and reStructuredText roles as plain code."""
    lines: list[str] = []
    inside = False
    for line in ROLE.sub(r"`\1`", text).splitlines():
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
