"""The tables of the study of methods in the documentation, from what is in results/methods.

``results/methods/DAMAGE/SET.jsonl`` is what ``python -m drcl.benchmarks.studies.methods --out``
leaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drcl.benchmarks.studies.quality_tables import number
from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.suite.timing import RESULTS
from drcl.compare.methods import METHODS
from drcl.compare.study import Result, read_results, summarize, table

TITLES = {name: method.title for name, method in METHODS.items()}
COLUMNS = ("auto", "logistic", "drcl")
DAMAGED = ("auto", "svm", "logistic", "drcl")
FORMS = ("logistic-train", "drcl-posterior")  # of methods that have a column


def studies(root: Path = RESULTS, damage: str = "all labels") -> dict[str, list[Result]]:
    """Set -> its stored results, in the order of the methods."""
    order = list(METHODS)
    return {
        file.stem: sorted(read_results(file), key=lambda result: order.index(result["method"]))
        for file in sorted(root.glob(f"methods/{damage}/*.jsonl"))
    }


def summaries(root: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Set -> what :func:`drcl.compare.study.summarize` says of each method."""
    return {name: summarize(results) for name, results in studies(root).items()}


def tables(root: Path = RESULTS) -> str:
    """A table for each stored set."""
    parts = []
    for name, results in studies(root).items():
        marks = sorted({result["fingerprint"] for result in results})
        parts.append(f"### {name}\n\n{table(summarize(results), TITLES)}\n")
        parts.append(f"Fingerprints: {', '.join(marks)}.\n")
    return "\n".join(parts) or NOT_MEASURED


def overview(root: Path = RESULTS) -> str:
    """A line for each set: auto, logistic regression, DRCL as published, the best of the others."""
    heads = [TITLES[name] for name in COLUMNS]
    lines = [f"| set | seeds | {' | '.join(heads)} | best of the others |", "|---" * 6 + "|"]
    for name, results in studies(root).items():
        by_name = {row["method"]: row for row in summarize(results) if row["mean"] is not None}
        cells = [number(by_name[column], True) if column in by_name else "–" for column in COLUMNS]
        others = [method for method in by_name if method not in COLUMNS + FORMS]
        best = max(others, key=lambda method: by_name[method]["mean"], default=None)
        last = "–" if best is None else f"{TITLES[best]}, {number(by_name[best], True)}"
        seeds = min(by_name[column]["seeds"] for column in COLUMNS if column in by_name)
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else NOT_MEASURED


def damaged(root: Path = RESULTS) -> str:
    """A line for each damage to the training rows, and set."""
    heads = [TITLES[name] for name in DAMAGED]
    lines = [f"| damage | set | seeds | {' | '.join(heads)} |", "|---" * (3 + len(DAMAGED)) + "|"]
    kinds = sorted({file.parent.name for file in root.glob("methods/*/*.jsonl")} - {"all labels"})
    for damage in kinds:
        for name, results in studies(root, damage).items():
            by_name = {row["method"]: row for row in summarize(results)}
            cells = [number(by_name[column], True) for column in DAMAGED]
            seeds = min(row["seeds"] for row in by_name.values())
            lines.append(f"| {damage} | {name} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else NOT_MEASURED
