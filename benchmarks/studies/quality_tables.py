"""The tables of retrieval quality in the documentation, from studies stored in results/quality.

A study is what ``drcl ablate NAME --seeds 5`` leaves as ``runs/ablate-NAME/table.json``; copied to
``results/quality/NAME.json`` it is shown by the next ``python -m drcl.benchmarks.suite.publish``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.timing import RESULTS

METRIC = "mAP@all"


def tables(root: Path = RESULTS) -> str:
    """Every stored study."""
    studies = [json.loads(path.read_text()) for path in sorted(root.glob("quality/*.json"))]
    return "\n".join(map(table, studies))


def table(study: dict[str, Any]) -> str:
    """A line for each variant and baseline: the directions, their mean, and what is shown by it."""
    pairs = list(study["rows"][0][METRIC])
    seeds = f"{len(study['seeds'])} seeds"
    lines = [
        f"| {study['dataset']}, {seeds} | {' | '.join(map(spaced, pairs))} | vs. full |",
        "|---" * (len(pairs) + 2) + "|",
    ]
    for row in study["rows"]:
        cells = [number(row[METRIC][pair], pair == "mean") for pair in pairs]
        verdict = row["against the first"] or "–"
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def spaced(pair: str) -> str:
    """A direction that a narrow column can break: ``"image->text"`` is "image → text"."""
    return pair.replace("->", " → ").replace("_", " ")


def number(value: dict[str, float | None], with_sd: bool) -> str:
    """Three decimals as the field prints them.

    >>> number({"mean": 0.28392, "sd": 0.0071}, True), number({"mean": 0.2345, "sd": None}, True)
    ('.284 ± .007', '.234')
    """
    mean, sd = value["mean"], value["sd"]
    text = f"{mean:.3f}".removeprefix("0")
    return text if sd is None or not with_sd else f"{text} ± {sd:.3f}".replace("± 0", "± ")
