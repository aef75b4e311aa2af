"""Methods over seeds on one data set: a line of JSON for each result, and the table of them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drcl.compare.fitted import Fit, Method, Unsuited, is_paired, measure
from drcl.compare.protocol import Damage, with_validation
from drcl.data.dataset import CrossModalDataset
from drcl.data.fingerprint import fingerprint
from drcl.metrics.statistics import holm, sign_flip_test
from drcl.storage.files import write_bytes

__all__ = ["read_results", "run_study", "summarize", "table"]
__dir__ = __all__.copy

LEAST_SEEDS = 5  # for a test

Result = dict[str, Any]


def run_study(
    data: CrossModalDataset,
    methods: dict[str, Method],
    seeds: Iterable[int],
    file: Path | None = None,
    *,
    damage: Damage | None = None,
    progress: bool = True,
) -> list[Result]:
    """Train every method with every seed and measure it on the test split.

    A seed decides the validation rows, where the set has none of its own, the damage, and the
    method's own draws: all methods see the same rows. With a ``file`` each result is written at
    once, and an interrupted study continues after the last one.

    Returns results with ``method``, ``seed``, ``fingerprint`` (of the data, validation rows and
    damage included), ``mAP@all`` and ``mAP@50`` by pair and ``"mean"``, ``chosen`` and ``seconds``;
    if the data do not suit a method, as without pairs, ``refused`` instead of the measures.

    >>> import numpy as np
    >>> from drcl.compare.fitted import Fitted
    >>> from drcl.data import Labelled
    >>> rows = Labelled(np.eye(2, dtype=np.float32), np.arange(2))
    >>> split = {"image": rows, "text": rows}
    >>> data = CrossModalDataset("pets", ("cat", "dog"), split, split, split)
    >>> raw = Method("raw features", lambda data, seed: Fitted(lambda modality, rows: rows, ""))
    >>> run_study(data, {"raw": raw}, seeds=[0], progress=False)[0]["mAP@all"]["mean"]
    1.0
    """
    seeds = list(seeds)
    paired = is_paired(data) and (damage is None or damage.keeps_pairs)
    results = read_results(file) if file is not None and file.exists() else []
    done = {(r["method"], r["seed"], r["fingerprint"]) for r in results}
    found = []
    with tqdm(total=len(seeds) * len(methods), disable=not progress, unit="fit") as bar:
        for seed in seeds:
            given = with_validation(data, seed)
            given = given if damage is None else damage.apply(given, seed=seed)
            mark = fingerprint(given)
            for name, method in methods.items():
                bar.set_postfix_str(name)
                if (name, seed, mark) not in done:
                    try:
                        if method.needs_pairs and not paired:
                            raise Unsuited("needs pairs")
                        results.append(_result(name, method.fit, given, seed, mark))
                    except Unsuited as why:
                        about = {"method": name, "seed": seed, "fingerprint": mark}
                        results.append({**about, "refused": str(why)})
                    if file is not None:
                        lines = "".join(json.dumps(result) + "\n" for result in results)
                        write_bytes(file, lines.encode())
                found.append((name, seed, mark))
                bar.update()
    kept = {(r["method"], r["seed"], r["fingerprint"]): r for r in results}
    return [kept[key] for key in found]


def _result(name: str, fit: Fit, data: CrossModalDataset, seed: int, mark: str) -> Result:
    begin = time.perf_counter()
    result: Result = {"method": name, "seed": seed, "fingerprint": mark}
    fitted = fit(data, seed)
    seconds = time.perf_counter() - begin
    measured = measure(fitted.embed, data.test, ks=(50,))
    return {**result, **measured, "chosen": fitted.chosen, "seconds": round(seconds, 2)}


def read_results(file: Path) -> list[Result]:
    """The lines of a study's file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "results.jsonl")
    >>> _ = file.write_text('{"method": "cca", "seed": 0, "fingerprint": "1f"}\\n')
    >>> read_results(file)
    [{'method': 'cca', 'seed': 0, 'fingerprint': '1f'}]
    """
    results = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            result = json.loads(line)
            result["method"], result["seed"], result["fingerprint"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}: expected a result in line {number}, got {error}") from error
        results.append(result)
    return results


def summarize(results: Sequence[Result], measure: str = "mAP@all") -> list[dict[str, Any]]:
    """A row for each method: ``mean``, ``sd``, median ``seconds``, and against the first method
    ``gain`` (the first one's mean less this one's, over the seeds both have) and the Holm-corrected
    ``p``, None with fewer than five seeds.

    >>> result = {"seed": 0, "seconds": 1.0}
    >>> new = {**result, "method": "new", "mAP@all": {"mean": 0.75}}
    >>> old = {**result, "method": "old", "mAP@all": {"mean": 0.5}}
    >>> [(row["method"], row["mean"], row["gain"]) for row in summarize([new, old])]
    [('new', 0.75, None), ('old', 0.5, 0.25)]
    """
    values: dict[str, dict[int, float]] = {}
    seconds: dict[str, list[float]] = {}
    refused = {result["method"]: result["refused"] for result in results if "refused" in result}
    for result in results:
        values.setdefault(result["method"], {})
        if measure in result:
            values[result["method"]][result["seed"]] = result[measure]["mean"]
            seconds.setdefault(result["method"], []).append(result["seconds"])
    first = next(iter(values))
    rows: list[dict[str, Any]] = []
    for name, own in values.items():
        shared = sorted(set(own) & set(values[first]))
        gains = [values[first][seed] - own[seed] for seed in shared]
        judged = name != first and len(shared) >= LEAST_SEEDS
        rows.append(
            {
                "method": name,
                "seeds": len(own),
                "mean": statistics.mean(own.values()) if own else None,
                "sd": statistics.stdev(own.values()) if len(own) > 1 else None,
                "seconds": statistics.median(seconds[name]) if own else None,
                "gain": statistics.mean(gains) if gains and name != first else None,
                "p": sign_flip_test(gains) if judged else None,
                "refused": refused.get(name),
            }
        )
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p"] = p
    return rows


def table(rows: Sequence[dict[str, Any]], titles: dict[str, str]) -> str:
    """The rows of :func:`summarize` as a Markdown table.

    >>> result = {"method": "new", "seed": 0, "seconds": 1.0, "mAP@all": {"mean": 0.75}}
    >>> print(table(summarize([result]), {"new": "the new one"}))
    | method | mAP@all | seeds | first − it | p (Holm) | seconds |
    |---|---|---|---|---|---|
    | the new one | 0.7500 | 1 |  |  | 1.0 |
    """
    lines = [
        "| method | mAP@all | seeds | first − it | p (Holm) | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = titles.get(row["method"], row["method"])
        if row["mean"] is None:
            lines.append(f"| {name} | {row['refused']} | | | | |")
            continue
        mean = f"{row['mean']:.4f}" + ("" if row["sd"] is None else f" ± {row['sd']:.4f}")
        gain = "" if row["gain"] is None else f"{row['gain']:+.4f}"
        p = "" if row["gain"] is None else "too few" if row["p"] is None else f"{row['p']:.3f}"
        cells = [name, mean, str(row["seeds"]), gain, p, f"{row['seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
