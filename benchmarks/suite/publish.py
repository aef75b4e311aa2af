"""Tables and plots from the stored results, and nothing else: no figure is ever typed.

python -m drcl.benchmarks.suite.publish      rewrites the README's tables and results/<device>/*.svg
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.results import NAME, Row, read
from drcl.benchmarks.suite.timing import RESULTS
from drcl.storage.files import write_bytes

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- benchmarks: begin, generated -->", "<!-- benchmarks: end -->"
# What the README shows of a device: op, sizes, and how it is named there.
SHOWN: tuple[tuple[str, dict[str, int], str], ...] = (
    *(("loss", {"B": b, "D": 2048, "C": 10}, f"loss, batch {b:,}") for b in (1024, 4096, 8192)),
    ("loss", {"B": 4096, "D": 512, "C": 10}, "loss, batch 4,096, D = 512"),
    ("loss", {"B": 131072, "D": 512, "C": 10}, "loss, batch 131,072, D = 512"),
    ("prior_similarity", {"B": 1024, "D": 2048, "C": 10}, "prior similarity, batch 1,024"),
    ("mixup", {"B": 1024, "D": 2048, "C": 10}, "mixup, batch 1,024"),
    ("map", {"Q": 500, "N": 20000, "D": 512, "C": 50}, "mAP@all, 500 × 20,000"),
    ("map", {"Q": 500, "N": 20000, "D": 512, "C": 50, "k": 50}, "mAP@50, 500 × 20,000"),
    ("map", {"Q": 23661, "N": 23661, "D": 2048, "C": 10}, "mAP@all, 23,661 × 23,661"),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown: ours, its share of the floor, its memory, and how much longer each peer takes."""
    lines = [
        "| workload | ours | of the floor | memory | others take |",
        "|---|---|---|---|---|",
    ]
    for op, sizes, title in SHOWN:
        found = [r for r in rows if r.op == op and r.sizes == sizes and r.p50_ms is not None]
        ours = next((row for row in found if row.ours and row.ratio == 1.0), None)
        if ours is None:
            continue
        others = "; ".join(f"{r.contender} {figure(r.ratio)}×" for r in found if not r.ours)
        lines.append(
            f"| {title} | {milliseconds(ours.p50_ms)} | {share(ours.floor_share)} | "
            f"{figure(ours.memory_MB)} MB | {others or '–'} |"
        )
    return "\n".join(lines)


def section(folder: Path) -> str:
    """What stands between the README's markers: a device, its table, its plot."""
    rows = read(folder)
    measured = [row for row in rows if row.p50_ms is not None]
    if not measured:
        raise ValueError(f"{folder / NAME}.json: holds no measurement")
    first = measured[0]
    dates = sorted({row.date for row in measured})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))  # a part may have been measured anew
    threads = sorted({row.threads for row in measured})
    text = (
        f"{first.device}, {' or '.join(map(str, threads))} threads, {first.dtype}, "
        f"{first.versions.split(', python')[0]}, {when}.\n\n{table(rows)}\n"
    )
    if series(rows, "loss"):
        place = (folder / "loss.svg").relative_to(ROOT)
        text += f"\n![Time and memory of the loss against the batch, with its peers]({place})\n"
    return text


def milliseconds(value: float | None) -> str:
    """Three digits, in ms or s."""
    if value is None:
        return "–"
    return f"{figure(value)} ms" if value < 1000 else f"{figure(value / 1000)} s"


def figure(value: float | None) -> str:
    """Three digits.

    >>> figure(1823.4), figure(0.0456), figure(2.0)
    ('1,823', '0.046', '2.0')
    """
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def series(rows: Sequence[Row], op: str) -> dict[str, list[Row]]:
    """The longest sweep over B at one D, C and precision, by contender."""
    sweeps: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        if row.op == op and row.p50_ms is not None:
            fixed = (row.sizes["D"], row.sizes["C"], row.precision)
            sweeps.setdefault(fixed, {}).setdefault(row.contender, []).append(row)
    if not sweeps:
        return {}
    longest = max(sweeps.values(), key=lambda sweep: max(map(len, sweep.values())))
    return {name: sorted(found, key=lambda row: row.sizes["B"]) for name, found in longest.items()}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and memory of the loss against the batch, ours and the peers, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = NAME  # the same file from the same results
    from matplotlib import pyplot

    sweep = series(rows, "loss")
    first = next(iter(sweep.values()))[0]
    panels: list[tuple[str, Callable[[Row], float | None]]] = [
        ("ms, forward and backward", lambda row: row.p50_ms),
        ("MB beyond inputs and results", lambda row: row.memory_MB),
    ]
    batches = [row.sizes["B"] for row in max(sweep.values(), key=len)]
    with matplotlib.rc_context({"font.size": 13, "axes.titlesize": 13, "lines.linewidth": 2.2}):
        picture, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        for axis, (what, value) in zip(axes, panels, strict=True):
            for name, found in sweep.items():
                points = [(row.sizes["B"], value(row)) for row in found]
                points = [(b, y) for b, y in points if y]
                if points:
                    axis.plot(*zip(*points, strict=True), marker="o", label=name)
            axis.set(xscale="log", yscale="log", xlabel="batch")
            axis.set_title(what, loc="left")
            axis.set_xticks(batches, [f"{batch:,}" for batch in batches])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:,.0f}")
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.3)
        ours = found_ours(sweep)
        floor = [row.floor_ms for row in ours]
        axes[0].plot([row.sizes["B"] for row in ours], floor, ":", color="grey", label="floor")
        axes[0].legend(frameon=False)
        device = f"{first.device}, D = {first.sizes['D']}, C = {first.sizes['C']}"
        picture.suptitle(f"The loss on {device}", x=0.01, ha="left", fontweight="bold")
        picture.savefig(path, metadata={"Date": None})
        pyplot.close(picture)


def found_ours(sweep: dict[str, list[Row]]) -> list[Row]:
    """The contender that ratios refer to."""
    return next(found for found in sweep.values() if found[0].ours and found[0].ratio == 1.0)


def with_section(readme: str, text: str) -> str:
    """The README with new text between its markers."""
    pattern = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    if len(re.findall(pattern, readme, flags=re.S)) != 1:
        raise ValueError(f"README.md: expected {BEGIN} … {END} once")
    return re.sub(pattern, lambda _: f"{BEGIN}\n{text}{END}", readme, flags=re.S)


def published(readme: str) -> str:
    """The README with its generated table and plot."""
    return with_section(readme, sections())


def sections(root: Path = RESULTS) -> str:
    """Every device that has results of the suite."""
    folders = sorted(path.parent for path in root.glob(f"*/{NAME}.json"))
    return "\n".join(section(folder) for folder in folders)


def main() -> None:
    for path in sorted(RESULTS.glob(f"*/{NAME}.json")):
        rows = read(path.parent)
        if series(rows, "loss"):
            plot(rows, path.parent / "loss.svg")
            print(path.parent / "loss.svg")
    readme = ROOT / "README.md"
    write_bytes(readme, published(readme.read_text()).encode())
    print(readme)


if __name__ == "__main__":
    main()
