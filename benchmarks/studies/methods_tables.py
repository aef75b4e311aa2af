"""The tables of the study of methods in the documentation, from what is in results/methods.

``results/methods/SET.jsonl`` is what ``python -m drcl.benchmarks.studies.methods --out`` leaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drcl.benchmarks.studies.quality_tables import number
from drcl.benchmarks.suite.timing import RESULTS
from drcl.compare.methods import METHODS
from drcl.compare.study import read_results, summarize, table

TITLES = {name: method.title for name, method in METHODS.items()}
COLUMNS = ("auto", "logistic", "drcl")


def tables(root: Path = RESULTS) -> str:
    """An overview, and a table for each stored set."""
    files = sorted(root.glob("methods/*.jsonl"))
    if not files:
        return "*Not measured yet.*"
    order = list(METHODS)
    studies = {
        file.stem: sorted(read_results(file), key=lambda result: order.index(result["method"]))
        for file in files
    }
    parts = [overview({name: summarize(results) for name, results in studies.items()})]
    for name, results in studies.items():
        marks = sorted({result["fingerprint"] for result in results})
        parts.append(f"### {name}\n\nFingerprints {', '.join(marks)}.\n\n")
        parts.append(table(summarize(results), TITLES) + "\n")
    return "\n".join(parts)


def overview(studies: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each set: auto, logistic regression, DRCL as published, the best of the others."""
    heads = [TITLES[name] for name in COLUMNS]
    lines = [f"| set | {' | '.join(heads)} | best of the others |", "|---" * 5 + "|"]
    for name, rows in studies.items():
        by_name = {row["method"]: row for row in rows if row["mean"] is not None}
        cells = [number(by_name[column], True) if column in by_name else "–" for column in COLUMNS]
        others = [method for method in by_name if method not in COLUMNS]
        best = max(others, key=lambda method: by_name[method]["mean"], default=None)
        last = "–" if best is None else f"{number(by_name[best], True)} ({TITLES[best]})"
        lines.append(f"| {name} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines) + "\n"
