"""The tables of what evaluation costs in the documentation, from ``results/*/evaluation.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.suite.timing import RESULTS

MIB = 2**20
LABEL_BYTES = 9  # of a row of class ids, which are always in memory


def table(root: Path = RESULTS) -> str:
    """A table of times and one of memory for each device."""
    found = []
    for file in sorted(root.glob("*/evaluation.json")):
        stored = json.loads(file.read_text(encoding="utf-8"))
        rows = {row["part"]: row for row in stored["rows"]}
        timed = [_times(rows[part]) for part in ("one pass", "codes") if part in rows]
        if timed:
            head = "| problem | | time | over the first |\n|---|---|---|---|\n"
            found.append(head + "\n".join(timed))
        if "batches" in rows:
            found.append(_memory(rows["batches"]))
        about = stored["about"]
        found.append(
            f"Measured on {about['device']}, {about['threads']} threads, {about['date']}; medians "
            "in turns."
        )
    return "\n\n".join(found) + "\n" if found else NOT_MEASURED


def _times(row: dict[str, Any]) -> str:
    kind = f"D = {row['dim']}" if "dim" in row else f"{row['bits']} bits"
    problem = f"{row['queries']:,} × {row['items']:,}, {kind}"
    first = next(iter(row["seconds"].values()))
    lines = []
    for name, seconds in row["seconds"].items():
        share = row["shares"].get(name, 1)
        scaled = "" if share == 1 else f" (from {share:.1%} of it)"
        lines.append(f"| {problem} | {name} | {seconds:.3g} s{scaled} | {seconds / first:.2f}× |")
        problem = ""
    return "\n".join(lines)


def _memory(row: dict[str, Any]) -> str:
    size = 4 * row["items"] * row["dim"]
    sizes = [size, row["max_bytes"], LABEL_BYTES * row["items"]]
    sizes += [row["update_bytes"], row["compute_bytes"]]
    cells = " | ".join(f"{number / MIB:,.0f} MiB" for number in sizes)
    return (
        "| rows, in batches | embeddings | `max_bytes` | labels | peak of `update` "
        f"| peak of `compute` |\n|---|---|---|---|---|---|\n| {row['items']:,} | {cells} |"
    )
