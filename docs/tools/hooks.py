"""What the pages leave to be filled in when the site is built: mkdocs calls the functions ``on_…``.

``{{ name arguments }}`` in a page becomes what the function ``name`` below returns. Tables and
figures come from ``benchmarks/results``, the README and the code, so no number in them is typed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import figures  # mkdocs puts the folder of a hook on the path
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from drcl.benchmarks.studies import (
    consistency_tables,
    index_tables,
    methods_tables,
    terms_tables,
    traffic_tables,
)
from drcl.benchmarks.suite import grid_map
from drcl.benchmarks.suite.results import NOT_MEASURED

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    drawn = {"linear_memory": figures.linear_memory(peaks())}
    if rows := our_cpu_rows():
        drawn["roofline_cpu"] = figures.roofline(rows)
    if studies := methods_tables.summaries():
        drawn["methods"] = figures.methods(studies, methods_tables.TITLES)
    for device, path in plots().items():
        drawn[f"loss_{device}"] = path.read_text(encoding="utf-8")
    for name, path in grid_map.maps().items():
        drawn[name] = path.read_text(encoding="utf-8")
    for name, svg in drawn.items():
        files.append(File.generated(config, f"figures/{name}.svg", content=svg))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """The index of the search also as a script: a page opened from disk may not fetch a file."""
    folder = Path(config.site_dir, "search")
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def on_page_markdown(markdown: str, page: Any, **unused: Any) -> str:
    def fill(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        if name not in FILLERS:
            raise PluginError(
                f"{page.file.src_uri}: {{{{ {name} }}}}: expected one of {sorted(FILLERS)}"
            )
        try:
            text = FILLERS[name](*arguments)
        except (KeyError, ValueError, TypeError) as error:
            raise PluginError(f"{page.file.src_uri}: {match[0]}: {error}") from error
        # a figure and its unit stay on one line
        return re.sub(r"(?<=\d) (?=(?:ms|s|MB|GB)\b|± )|(?<=±) ", "\N{NO-BREAK SPACE}", text)

    return re.sub(r"\{\{ (\w+[^}]*?) \}\}", fill, markdown)


def on_page_content(html: str, **unused: Any) -> str:
    """In narrow tables, code breaks after an underscore, a point or a bracket, not within words."""
    return re.sub(
        r"(?<=<t[hd]>).*?(?=</t[hd]>)",
        lambda cell: re.sub(
            r"<code>[^<]+</code>",
            lambda code: re.sub(r"(?<=[_.(=,])(?=[a-z])", "<wbr>", code[0]),
            cell[0],
        ),
        html,
        flags=re.S,
    )


def readme(*heading: str) -> str:
    """A section of the README, without its heading."""
    title = " ".join(heading)
    sections = re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    found = [body for name, _, body in (s.partition("\n") for s in sections) if name == title]
    if not found:
        raise ValueError(f"the README has no section {title!r}")
    text = found[0]
    # its links are given from the root of the checkout; this is for a page at the root of docs
    text = re.sub(r"\]\(benchmarks/results/([^/)]+)/(\w+)\.svg\)", r"](figures/\2_\1.svg)", text)
    return text.replace("](docs/", "](").strip()


def plots() -> dict[str, Path]:
    """Device -> the plot of the loss that is drawn from its results."""
    return {path.parent.name: path for path in sorted(RESULTS.glob("*/loss.svg"))}


def quality() -> str:
    """The stored studies of retrieval quality."""
    from drcl.benchmarks.studies import quality_tables

    return quality_tables.tables()


def evaluation() -> str:
    """The stored study of what evaluation costs."""
    from drcl.benchmarks.studies import evaluation_tables

    return evaluation_tables.table()


def low_precision() -> str:
    """The stored study of bfloat16 products in the loss."""
    from drcl.benchmarks.studies import low_precision_tables

    return low_precision_tables.tables()


def grid() -> str:
    """What the grid of sizes has found."""
    return grid_map.tables()


def methods(part: str) -> str:
    """The stored study of methods: its overview, a table for each set, damaged labels, or what J_D
    is worth."""
    return {
        "overview": methods_tables.overview,
        "sets": methods_tables.tables,
        "damaged": methods_tables.damaged,
        "consistency": consistency_tables.table,
        "terms": terms_tables.table,
    }[part]()


@cache
def suite() -> tuple[Row, ...]:
    """What the suite measured, on every device."""
    return tuple(
        row
        for path in sorted(RESULTS.glob("*/suite.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))
        if row["status"] == "measured"
    )


def is_ours(row: Row) -> bool:
    return bool(row["contender"].startswith("drcl "))


def our_cpu_rows() -> list[Row]:
    """The ops on a CPU, those that have a floor."""
    cpu = {"drcl eager", "drcl native"}
    ops = ("loss", "prior_similarity", "mixup", "map")
    rows = [r for r in suite() if r["contender"] in cpu and r["op"] in ops and r["floor_share"]]
    return [r for r in rows if r["contender"] == "drcl native" or r["op"] != "map"]


def peaks() -> list[tuple[str, int, float]]:
    """Peak memory of the loss: form, B, MB, at the width and the classes of the figure."""
    at = {"D": figures.WIDTH, "C": figures.CLASSES}
    return [
        ("ours" if is_ours(row) else "literal", row["sizes"]["B"], row["memory_MB"])
        for row in suite()
        if row["op"] == "loss"
        and {name: row["sizes"][name] for name in at} == at
        and row["contender"] in ("drcl eager", "literal")
        and row["memory_MB"] is not None
    ]


def memory() -> str:
    """Table of peak memory, ours and the literal form's."""
    found: dict[int, dict[str, float]] = {}
    for form, batch, mb in peaks():
        found.setdefault(batch, {})[form] = mb
    if not found:
        return NOT_MEASURED
    lines = ["| batch | linear form | literal form | F alone |", "|---|---|---|---|"]
    for batch, forms in sorted(found.items()):
        f = figures.linear_bytes(batch)["F"] / figures.MB
        shown = [f"{forms[form]:,.0f} MB" if form in forms else "–" for form in ("ours", "literal")]
        lines.append(f"| {batch:,} | {shown[0]} | {shown[1]} | {f:,.0f} MB |")
    return "\n".join(lines)


def measured(op: str) -> str:
    """Every contender at every workload of an op: time, over ours, share of the floor, memory."""
    rows = [row for row in suite() if row["op"] == op]
    if not rows:
        return NOT_MEASURED
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        dates = sorted({row["date"] for row in here})
        threads = ", ".join(str(n) for n in sorted({row["threads"] for row in here}))
        lines += [f"On {device}, {threads} threads, {dates[-1]}; medians:", ""]
        lines += ["| workload | | time | over ours | share of the floor | extra memory |"]
        lines += ["|---|---|---|---|---|---|"]
        last = ""
        for row in here:
            workload = " ".join(f"{name}={value:,}" for name, value in row["sizes"].items())
            memory_used = "–" if row["memory_MB"] is None else f"{row['memory_MB']:,.0f} MB"
            share = "–" if row["floor_share"] is None else f"{row['floor_share']:.0%}"
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}×"
            cells = ["" if workload == last else workload, row["contender"], time_of(row)]
            lines.append("| " + " | ".join([*cells, ratio, share, memory_used]) + " |")
            last = workload
        lines.append("")
    return "\n".join(lines)


def time_of(row: Row) -> str:
    ms = row["p50_ms"]
    text = f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1e3:.3g} s"
    return text if row["share"] == 1 else f"{text} (from {row['share']:.0%} of it)"


def roofline() -> str:
    """The figure, where something was measured."""
    if not our_cpu_rows():
        return NOT_MEASURED
    return "![Measured rates of the ops, and the measured ceilings](../figures/roofline_cpu.svg)"


def gates(*kernels: str) -> str:
    """What is counted in the assembler's code of every kernel, for sm_90."""
    table = json.loads((Path(__file__).with_name("compile_gates.json")).read_text("utf-8"))
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        if row["kernel"] in kernels:
            cases.setdefault((row["kernel"], row["label"]), []).append(row)
    missing = sorted(set(kernels) - {kernel for kernel, _ in cases})
    if missing:
        raise ValueError(f"no kernels {missing} in compile_gates.json")
    cases = dict(sorted(cases.items(), key=lambda case: kernels.index(case[0][0])))
    versions = sorted({row["triton"] for rows in cases.values() for row in rows})
    if versions == [""]:
        return _cuda_gates(cases)
    lines = [
        "| kernel | first launched by | tile | registers | blocks per multiprocessor "
        "| shared memory, KiB | bank conflicts | tensor cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kernel, label), rows in cases.items():
        cells = [
            f"`{kernel}`",
            label,
            rows[-1]["configuration"],
            once(str(row["registers"]) for row in rows),
            once(str(row["blocks"]) for row in rows),
            once(f"{row['shared'] / 1024:.3g}" for row in rows),
            once(f"{row['conflict']}-way" if row["conflict"] > 1 else "–" for row in rows),
            once(_core(row["tensor_core"]) for row in rows),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    spilled = sum(row["spilled"] for rows in cases.values() for row in rows)
    lines += [
        "",
        f"Counted, for sm_90 with Triton {' / '.join(versions)}; one number where both agree. "
        f"{spilled} bytes spilled. Conflicts are those in the loops of products.",
    ]
    return "\n".join(lines)


def _cuda_gates(cases: dict[tuple[str, str], list[Row]]) -> str:
    lines = ["| kernel | configuration | registers | shared memory, KiB |", "|---|---|---|---|"]
    for (kernel, label), rows in cases.items():
        registers = once(str(row["registers"]) for row in rows)
        shared = once(f"{row['shared'] / 1024:.3g}" for row in rows)
        lines.append(f"| `{kernel}` | {label} | {registers} | {shared} |")
    archs = " / ".join(f"sm_{row['arch']}" for row in next(iter(cases.values())))
    spilled = sum(row["spilled"] for rows in cases.values() for row in rows)
    lines += ["", f"{archs}, one number where all are the same; {spilled} bytes spilled."]
    return "\n".join(lines)


def _core(instruction: str) -> str:
    parts = instruction.split(".")
    return f"`{'.'.join(parts[:1] + parts[-2:])}`" if instruction else "–"


def predicted() -> str:
    """The step of the loss at the headline shapes: predicted from the code, beside its floor."""
    table = json.loads((Path(__file__).with_name("predicted.json")).read_text("utf-8"))
    lines = [
        "| B × D, C | launches | kernels that take most, µs | step, µs | floor, µs | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for step in table["steps"]:
        times: dict[str, float] = {}
        for launch in step["launches"]:
            name = launch["kernel"].removesuffix("_kernel")
            times[name] = times.get(name, 0.0) + launch["predicted_us"]
        most = sorted(times.items(), key=lambda item: -item[1])[:4]
        cells = [
            step["problem"],
            str(len(step["launches"])),
            ", ".join(f"`{name}` {time:,.0f}" for name, time in most),
            f"{step['predicted_us']:,.0f}",
            f"{step['floor_us']:,.0f}",
            f"{step['predicted_us'] / step['floor_us']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Predicted for an {table['device']}, Triton {table['triton']}, float32; not measured.",
    ]
    return "\n".join(lines)


def once(values: Iterable[str]) -> str:
    """Values side by side, or the one that all of them are."""
    found = list(values)
    return found[0] if len(set(found)) == 1 else " / ".join(found)


def intensity() -> str:
    """Operations per byte of every stage of the loss."""
    lines = ["| stage | B | operations | bytes | operations per byte |", "|---|---|---|---|---|"]
    for batch in (1024, 8192):
        for stage, (operations, size) in figures.stage_work(batch).items():
            cells = [
                f"`{stage}`",
                f"{batch:,}",
                f"{operations / 1e9:.3g} G",
                f"{size / 1e6:.3g} MB",
            ]
            lines.append("| " + " | ".join([*cells, f"{operations / size:.3g}"]) + " |")
    return "\n".join(lines)


def literal_matrices() -> str:
    return str(figures.literal_matrices())


def backends(family: str) -> str:
    """The backends of an op family, in the order in which they are tried."""
    from drcl.dispatch import FAMILIES

    return ", ".join(f"`{name}`" for name in FAMILIES[family])


def stored(name: str) -> Any:
    """What is kept beside this file, or None."""
    path = Path(__file__).with_name(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def definitions(part: str) -> str:
    """Published definitions: who uses them, or their values in one worked example."""
    from drcl.metrics.definitions import DEFINITIONS

    names = {"log2": math.log2, "min": min}
    lines = {
        "published": [cells("called", "formula", "who", "here"), "|" + "---|" * 4],
        "worked": [cells("called", "with these ranks", "value", "here"), "|" + "---|" * 4],
    }
    for one in DEFINITIONS:
        here = f"`{one.here}`"
        lines["published"].append(cells(one.called, one.formula, one.used_by, here))
        value = f"{eval(one.worked, names):.3f}"
        lines["worked"].append(cells(one.called, f"`{one.worked}`", value, here))
    return "\n".join(lines[part])


def newcomer() -> str:
    """How long the ways in took from a fresh clone."""
    if (timed := stored("newcomer.json")) is None:
        return NOT_MEASURED
    lines = ["| from a fresh clone to | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.0f} |" for name, seconds in timed["seconds"].items()]
    return "\n".join([*lines, "", f"{timed['about']}, {timed['date']}."])


def index(part: str) -> str:
    """The stored study of an index: its ``exact`` search and what else it does, or ``engines``."""
    return {"exact": index_tables.exact, "engines": index_tables.engines}[part]()


def traffic(part: str) -> str:
    """What ranks send: ``counted`` between two hosts, or ``predicted`` for more."""
    if part == "counted":
        return traffic_tables.counted(Path(__file__).with_name("traffic.json"))
    return {"predicted": traffic_tables.predicted}[part]()


def serving() -> str:
    """The latency of a server beside the bare product, and what the machine was."""
    if (timed := stored("serving.json")) is None:
        return NOT_MEASURED
    lines = [
        "| clients | p50, ms | p99, ms | answers a second | queries a batch | cores it got "
        "| product p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in timed["lines"]:
        cells = [line["p50_ms"], line["p99_ms"], line["per_second"], line["queries_per_batch"]]
        cells += [line["server_cores"], line["bare"]["p50_ms"], line["bare"]["p99_ms"]]
        lines.append(f"| {line['clients']} | {' | '.join(f'{cell:.3g}' for cell in cells)} |")
    about = (
        f"{timed['rows']:,} × {timed['width']} rows, k = {timed['k']}, one query a request, "
        f"{timed['lines'][0]['requests']} requests at each number of clients; {timed['cores']} "
        f"cores, products on {timed['threads']}, {timed['date']}. The machine was shared: when "
        f"it began, {timed['load_before']:.1f} other processes had a core or waited for one, and "
        "of a core the server got what the table says."
    )
    return "\n".join([*lines, "", about])


def installs() -> str:
    """Every Python and torch in which the package was installed and checked."""
    if (tried := stored("installs.json")) is None:
        return NOT_MEASURED
    lines = ["| Python | torch | NumPy | wheel installed in | source compiled too | checks |"]
    lines.append("|---|---|---|---|---|---|")
    for row in tried["rows"]:
        asked = row["asked"]
        cells = [row.get("python", asked["python"]), row.get("torch", asked["torch"])]
        cells += [row.get("numpy", "–"), f"{row.get('install_seconds', '–')} s"]
        cells += ["yes" if row.get("compiled_too") else "–", "pass" if row["passed"] else "fail"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"`{tried['wheel']}`, {tried['bytes'] / 1e6:.1f} MB, {tried['date']}."]
    if tried["no_interpreter"]:
        lines.append(f"No interpreter was at hand for {', '.join(tried['no_interpreter'])}.")
    return "\n".join(lines)


PLATFORM_CELLS = {
    "imports": "imports",
    "suite": "suite",
    "native": "native code",
    "compile": "kernels compile",
    "ran": "kernels ran",
}


def platforms() -> str:
    """What was run on which platform, with the test that ran it and when; all else was not run."""
    rows = stored("platforms.json")
    lines = [f"| platform | {' | '.join(PLATFORM_CELLS.values())} |", "|---" * 6 + "|"]
    runs: list[str] = []
    for row in rows:
        cells = []
        for name in PLATFORM_CELLS:
            if name not in row:
                cells.append("not run")
                continue
            result, test, *day = row[name]
            run = f"`{test}`, {day[0] if day else 'no run recorded'}"
            if run not in runs:
                runs.append(run)
            result = "failed" if day and day[0].startswith("failed") else result
            cells.append(f"{result} [{runs.index(run) + 1}]")
        lines.append(f"| {row['platform']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{n}. {run}" for n, run in enumerate(runs, start=1))])


def peers(what: str) -> str:
    """Other libraries and drcl: values that agree (``counts``) and why others are ``left``; what
    they offer (``offered``), and why it is not ``direct`` or not ``expressible``."""
    found = json.loads(Path(__file__).with_name("peers.json").read_text(encoding="utf-8"))
    libraries: dict[str, Row] = found["libraries"]
    offered: dict[str, Row] = found["offered"]
    kinds = ("direct", "by arithmetic", "not expressible")
    if what == "counts":
        rows = {
            name: [row["equal"], sum(row["not expressible"].values())]
            for name, row in libraries.items()
        }
        return _totals(("compared and equal", "not available there"), rows)
    if what == "offered":
        rows = {
            name: [row["direct"], *(sum(row[kind].values()) for kind in kinds[1:])]
            for name, row in offered.items()
        }
        return _totals(kinds, rows)
    tables = {
        "left": {name: row["not expressible"] for name, row in libraries.items()},
        "arithmetic": {name: row["by arithmetic"] for name, row in offered.items()},
        "nothing": {name: row["not expressible"] for name, row in offered.items()},
    }
    reasons: dict[str, list[str]] = {}
    for name, table in tables[what].items():
        for reason, count in table.items():
            reasons.setdefault(reason, []).append(f"{name} {count:,}")
    lines = [cells("what", "where"), "|---|---|"]
    lines += [cells(reason, ", ".join(where)) for reason, where in reasons.items()]
    return "\n".join(lines)


def _totals(heads: Iterable[str], rows: dict[str, list[int]]) -> str:
    """Numbers of every library, and their sums."""
    titles = list(heads)
    libraries = json.loads(Path(__file__).with_name("peers.json").read_text("utf-8"))["libraries"]
    lines = [cells("library", "version", *titles), "|" + "---|" * (2 + len(titles))]
    for name, counts in rows.items():
        lines.append(cells(name, libraries[name]["version"], *(f"{n:,}" for n in counts)))
    sums = (sum(column) for column in zip(*rows.values(), strict=True))
    return "\n".join([*lines, cells("all", "", *(f"{n:,}" for n in sums))])


def cells(*values: str) -> str:
    return "| " + " | ".join(values) + " |"


def commands() -> str:
    """The help of every command."""
    import click

    from drcl.cli import main

    parts = []
    for name, command in main.commands.items():
        context = click.Context(command, info_name=f"drcl {name}", terminal_width=88)
        parts.append(f"## drcl {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


FILLERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        *(
            backends,
            commands,
            definitions,
            evaluation,
            gates,
            grid,
            index,
            installs,
            intensity,
            literal_matrices,
            low_precision,
            measured,
            memory,
        ),
        *(
            methods,
            newcomer,
            peers,
            platforms,
            predicted,
            quality,
            readme,
            roofline,
            serving,
            traffic,
        ),
    )
}
