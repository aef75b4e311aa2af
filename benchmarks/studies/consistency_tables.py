"""The table of the study of J_D's weight in the documentation, from results/consistency.

``results/consistency/DAMAGE/SET.jsonl`` is what
``python -m drcl.benchmarks.studies.consistency --out`` leaves.
"""

from __future__ import annotations

from pathlib import Path

from drcl.benchmarks.studies.consistency import ALPHAS, SPACES
from drcl.benchmarks.studies.methods_tables import NOT_MEASURED
from drcl.benchmarks.studies.quality_tables import number
from drcl.benchmarks.suite.timing import RESULTS
from drcl.compare.study import Result, read_results, summarize

FIRST = f"{ALPHAS[0]:g}"


def table(root: Path = RESULTS) -> str:
    """A line for each damage, set and space: mAP@all for every α, and what α = 2 gains over
    none."""
    alphas = [f"{alpha:g}" for alpha in sorted(ALPHAS)]
    heads = [f"α = {alpha}" for alpha in alphas]
    lines = [
        f"| damage | set | ranked by | seeds | {' | '.join(heads)} | α = {FIRST} − 0 | p |",
        "|---" * (6 + len(alphas)) + "|",
    ]
    for file in sorted(root.glob("consistency/*/*.jsonl")):
        results = read_results(file)
        for space in SPACES:
            own = {alpha: _of(results, f"{alpha} {space}") for alpha in alphas}
            cells = [number(summarize(own[alpha])[0], False) for alpha in alphas]
            _, none = summarize(own[FIRST] + own["0"])
            p = "too few" if none["p"] is None else f"{none['p']:.3f}"
            lines.append(
                f"| {file.parent.name} | {file.stem} | {space} | {none['seeds']} | "
                f"{' | '.join(cells)} | {none['gain']:+.4f} | {p} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else NOT_MEASURED


def _of(results: list[Result], method: str) -> list[Result]:
    return [result for result in results if result["method"] == method]
