"""What ``python -m drcl.benchmarks.studies.index`` measured, as tables of the documentation."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.results import NOT_MEASURED
from drcl.benchmarks.suite.timing import RESULTS

ENOUGH = 0.95  # of the exact answer, of what an approximate engine has to find
Part = dict[str, Any]


def exact(root: Path = RESULTS) -> str:
    """Search, writing, loading and memory of an index beside what they cannot do without."""
    return _joined(root, _exact)


def engines(root: Path = RESULTS) -> str:
    """Recall and speed of exact search and of other engines, and what follows for the choice."""
    return _joined(root, _engines)


def _joined(root: Path, table: Any) -> str:
    records = [json.loads(file.read_text("utf-8")) for file in sorted(root.glob("*/index.json"))]
    return "\n\n".join(text for record in records if (text := table(record))) or NOT_MEASURED


def _exact(record: Part) -> str:
    parts, sizes = record["parts"], record["sizes"]
    compared = (
        ("one_query", "search of one query", "search", "reading the matrix once", "read"),
        ("batch", f"search of {sizes['queries']:,} queries", "search", "their product", "product"),
        ("write", "`add`", "add", "writing as many bytes", "raw"),
        ("write", "`add` and `save`", "add and save", "writing as many bytes", "raw"),
    )
    lines = []
    for part, ours, our, other, its in compared:
        if part in parts:
            seconds, floor = (statistics.median(parts[part][name]) for name in (our, its))
            lines.append(
                f"| {ours} | {1e3 * seconds:,.1f} ms | {other} | {1e3 * floor:,.1f} ms | "
                f"{seconds / floor:.2f} |"
            )
    if "load" in parts:
        seconds = statistics.median(parts["load"]["load"])
        lines.append(f"| `load` | {1e3 * seconds:,.1f} ms | – | – | – |")
    if not lines:
        return ""
    heads = ["| measured | time | beside | time | ratio |", "|---|---|---|---|---|"]
    about = [_about(record, next(iter(parts.values())), f"{sizes['rows']:,} × {sizes['width']}")]
    if "memory" in parts:
        before, after = parts["memory"]["before"], parts["memory"]["after"]
        grown = {name: (after[name] - before[name]) / 1e6 for name in after}
        about.append(
            f"The memory of a fresh process that loads and searches the index changes by "
            f"{grown['RssAnon']:+,.0f} MB, to {after['RssAnon'] / 1e6:,.0f} MB with Python and "
            f"PyTorch. Beside it {grown['RssFile']:,.0f} MB more of the page cache are mapped, "
            "which the system takes back when it needs them."
        )
    return "\n".join([*heads, *lines, "", " ".join(about)])


def _engines(record: Part) -> str:
    part = record["parts"].get("engines")
    if part is None:
        return ""
    sizes = record["sizes"]
    queries = part["queries"]
    rows = [
        {
            "called": _called(line),
            "recall": line["recall"],
            "speed": queries / statistics.median(line["seconds"]),
            "build": line.get("build", 0.0),
            "bytes": line.get("bytes", 4 * sizes["items"] * sizes["width"]),
            "exact": line["engine"] in ("exact", "faiss flat"),
        }
        for line in part["lines"]
    ]
    lines = [
        f"| engine | recall@{record['k']} | queries a second | build, s | MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['called']} | {row['recall']:.3f} | {row['speed']:,.0f} | {row['build']:.1f} | "
        f"{row['bytes'] / 1e6:,.1f} |"
        for row in rows
    ]
    lines += [f"| {name} | {reason} | – | – | – |" for name, reason in part["skipped"].items()]
    size = f"{sizes['items']:,} × {sizes['width']} rows in clusters, {queries:,} queries at a time"
    return "\n".join([*lines, "", f"{_choice(rows)} {_about(record, part, size)}"])


def _choice(rows: list[Part]) -> str:
    """What the figures say for the choice of an engine."""
    ours, others = rows[0], [row for row in rows if not row["exact"]]
    good = [row for row in others if row["recall"] >= ENOUGH]
    found = []
    if good:
        best = max(good, key=lambda row: row["speed"])
        times = best["speed"] / ours["speed"]
        found.append(
            f"Of the approximate engines that find {ENOUGH:.0%} or more, {best['called']} answers "
            f"most: {times:.1f} times as many queries a second as exact search, after "
            f"{best['build']:.0f} s of building."
            if times > 1
            else f"No approximate engine that finds {ENOUGH:.0%} or more is faster than exact "
            "search at this size: keep `index.search`."
        )
    elif others:
        found.append(f"No approximate engine found {ENOUGH:.0%}: keep `index.search`.")
    if others:
        small = min(others, key=lambda row: (row["bytes"], -row["recall"]))
        found.append(
            f"{small['called']} takes the least memory, {small['bytes'] / ours['bytes']:.0%} of "
            f"what the rows take, and finds {small['recall']:.0%}."
        )
    return " ".join(found)


def _called(line: Part) -> str:
    """The call that makes an engine."""
    options = [f"{name}={value}" for name, value in {**line["made"], **line["set"]}.items()]
    library, _, kind = line["engine"].partition(" ")
    if library == "exact":
        return "`index.search`"
    words = [f'"{kind}"', *options] if kind else options
    return f"`to_{library}({', '.join(words)})`"


def _about(record: Part, part: Part, size: str) -> str:
    about = part["about"]
    return (
        f"{size}, float32, k = {record['k']}, medians of {record['sizes']['rounds']} rounds in "
        f"turns; {about['device']}, threads: {about['threads']}, torch {about['torch']}, "
        f"{about['date']}. Other processes had {about['others']:.0%} of the machine."
    )
