"""The tables of bfloat16 products in the loss, from ``results/*/low_precision.json``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.suite.timing import RESULTS

Row = dict[str, Any]


def tables(root: Path = RESULTS) -> str:
    """Time and error of a call, and mAP of whole trainings, for each device."""
    found = []
    for file in sorted(root.glob("*/low_precision.json")):
        stored = json.loads(file.read_text(encoding="utf-8"))
        calls = [_call(row) for row in stored["rows"] if "errors" in row]
        trainings = [line for row in stored["rows"] if "set" in row for line in _training(row)]
        if calls:
            found.append(
                "| B × D | threads | float32 | bfloat16 | times as fast "
                "| gradient: error of float32 | of bfloat16 | literal, bfloat16 |\n"
                "|---|---|---|---|---|---|---|---|\n" + "\n".join(calls)
            )
        if trainings:
            found.append(
                "| set | bfloat16 in | seeds | mAP@all | minus float32 | least and most |\n"
                "|---|---|---|---|---|---|\n" + "\n".join(trainings)
            )
        about = stored["about"]
        found.append(f"Measured on {about['device']}, {about['date']}.")
    return "\n\n".join(found) + "\n" if found else NOT_MEASURED


def _call(row: Row) -> str:
    seconds = row["seconds"]
    before, after = seconds["ours, highest"], seconds["ours, medium"]
    highest, medium = (row["errors"][name][1] for name in ("highest", "medium"))
    return (
        f"| {row['batch']:,} × {row['dim']:,} | {row['threads']} | {1e3 * before:.3g} ms | "
        f"{1e3 * after:.3g} ms | "
        f"{before / after:.2f} | {highest:.0e} | {medium:.0e} | "
        f"{1e3 * seconds['literal, medium']:.3g} ms |"
    )


def _training(row: Row) -> list[str]:
    (_, before), *others = row["mAP@all"].items()
    lines = [f"| {row['set']} | nothing | {len(before)} | {statistics.mean(before):.4f} | | |"]
    for name, after in others:
        moved = [b - a for a, b in zip(before, after, strict=True)]
        lines.append(
            f"| | {name} | {len(after)} | {statistics.mean(after):.4f} | "
            f"{statistics.mean(moved):+.4f} | {min(moved):+.4f}, {max(moved):+.4f} |"
        )
    return lines
