"""Results as text: tables aligned for a terminal, in Markdown and in LaTeX, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def shortened(text: str, width: int) -> str:
    """A text, with an ellipsis where it is longer than ``width``.

    >>> shortened("a long class name", 7)
    'a long…'
    """
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def counted(number: int, one: str, many: str) -> str:
    """A number and what it counts.

    >>> counted(1, "query", "queries"), counted(2000, "query", "queries")
    ('1 query', '2,000 queries')
    """
    return f"{number:,} {one if number == 1 else many}"


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of cells as aligned text; the first ``left`` columns start left, the others end right.

    >>> print(columns([["", "mAP"], ["image", "0.5"]]))
           mAP
    image  0.5
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    r"""A head and rows as a table of GitHub's Markdown, with the columns of :func:`columns`.

    >>> print(markdown([["query", "mAP"], ["a|b", "0.5"]]))
    | query | mAP |
    |---|--:|
    | a\|b | 0.5 |
    """
    head, *body = ([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows)
    rule = "|" + "|".join("---" if i < left else "--:" for i in range(len(head))) + "|"
    return "\n".join([_line(head), rule, *map(_line, body)])


def latex(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    r"""A head and rows as a ``tabular`` with the rules of the package booktabs.

    >>> print(latex([["query", "R@1"], ["a_b", "50 %"]]))
    \begin{tabular}{lr}
    \toprule
    query & R@1 \\
    \midrule
    a\_b & 50 \% \\
    \bottomrule
    \end{tabular}
    """
    head, *body = (
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in row) + r" \\"
        for row in rows
    )
    alignment = "l" * left + "r" * (len(rows[0]) - left)
    return "\n".join(
        [
            *(rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule", *body),
            *(r"\bottomrule", r"\end{tabular}"),
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def json_text(value: Any, **options: Any) -> str:
    """A value as JSON, with null for NaN and infinities, which JSON does not have.

    Options are those of ``json.dumps``.

    >>> json_text({"AUROC": float("nan"), "range": (0.5, float("inf"))})
    '{"AUROC": null, "range": [0.5, null]}'
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
