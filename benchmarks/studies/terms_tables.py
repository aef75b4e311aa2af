"""The table of the study of the recipe's terms in the documentation, from results/terms.

``results/terms/DAMAGE/SET.jsonl`` is what ``python -m drcl.benchmarks.studies.terms --out`` leaves.
"""

from __future__ import annotations

from pathlib import Path

from drcl.benchmarks.studies.quality_tables import number
from drcl.benchmarks.studies.terms import CHANGES
from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.suite.timing import RESULTS
from drcl.compare.study import read_results, summarize


def table(root: Path = RESULTS) -> str:
    """A line for each damage and set: mAP@all of the whole recipe, and what each variant adds."""
    full, *others = CHANGES
    lines = [
        f"| damage | set | seeds | {full} | {' | '.join(others)} |",
        "|---" * (3 + len(CHANGES)) + "|",
    ]
    for file in sorted(root.glob("terms/*/*.jsonl")):
        order = {name: place for place, name in enumerate(CHANGES)}
        rows = summarize(sorted(read_results(file), key=lambda result: order[result["method"]]))
        first, *rest = rows
        gains = [signed(-row["gain"]) for row in rest]
        lines.append(
            f"| {file.parent.name} | {file.stem} | {first['seeds']} | {number(first, True)} | "
            f"{' | '.join(gains)} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else NOT_MEASURED


def signed(gain: float) -> str:
    """With a sign, unless it is rounded to nothing."""
    text = f"{gain:+.3f}"
    return ".000" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}").replace("0.", ".", 1)
