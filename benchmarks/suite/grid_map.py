"""What a grid has found: a map, a table of the points where a peer was faster, and in one line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from drcl.benchmarks.suite.grid import GRIDS, NAME, SLOWER, best_peer, by_point, is_lost
from drcl.benchmarks.suite.publish import milliseconds
from drcl.benchmarks.suite.results import NOT_MEASURED, Row, read
from drcl.benchmarks.suite.timing import RESULTS

MOST_LINES = 12  # of the table of lost points
ACROSS = {"loss": ("B", "D"), "prior_similarity": ("B", "D"), "map": ("Q", "N")}
TITLES = {"loss": "loss", "prior_similarity": "prior similarity", "map": "mAP"}


class Spot:
    """A point that was measured: ours beside the best peer, and beside the floor."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.ours = next(row for row in rows if row.ratio == 1.0 and row.ours)
        self.peer, self.lost = best_peer(rows), is_lost(rows)

    @property
    def gain(self) -> float:
        """How many times as long the best peer takes."""
        return math.nan if self.peer is None else self.peer.ratio or math.nan


def spots(rows: Sequence[Row], op: str) -> list[Spot]:
    groups = [found for (of, _), found in by_point(rows).items() if of == op]
    return [Spot(found) for found in groups if any(row.ratio == 1.0 and row.ours for row in found)]


def maps(root: Path = RESULTS) -> dict[str, Path]:
    """The map of every device and number of threads, drawn by :func:`main`."""
    return {f"{p.stem}_{p.parent.name}": p for p in sorted(root.glob(f"*/{NAME}-*.svg"))}


def tables(root: Path = RESULTS) -> str:
    """For each device and number of threads a line for each op, and the points that are lost."""
    parts = []
    for path in sorted(root.glob(f"*/{NAME}-*.json")):
        rows = read(path.parent, path.stem)
        parts += [_summary(rows), _lost(rows)]
        if path.with_suffix(".svg").is_file():
            link = f"../figures/{path.stem}_{path.parent.name}.svg"
            parts.append(f"![The grid on {path.parent.name}, {_on(rows)}]({link})")
    return "\n\n".join(part for part in parts if part) + "\n" if parts else NOT_MEASURED


def _on(rows: Sequence[Row]) -> str:
    threads = rows[0].threads
    return "1 thread" if threads == 1 else f"{threads} threads"


def _summary(rows: Sequence[Row]) -> str:
    lines = [
        "| op | points | a peer is faster | beside the best peer, least | median "
        "| share of the floor, median |",
        "|---|---|---|---|---|---|",
    ]
    for op, title in TITLES.items():
        found = spots(rows, op)
        gains = [spot.gain for spot in found if not math.isnan(spot.gain)]
        if gains:
            share = statistics.median(spot.ours.floor_share or 0.0 for spot in found)
            lines.append(
                f"| {title} | {len(found)} | {sum(spot.lost for spot in found)} | "
                f"{min(gains):.2f}× | {statistics.median(gains):.2f}× | {share:.0%} |"
            )
    first = rows[0]
    lines.append(
        f"\n{first.device}, {_on(rows)}, {max(row.date for row in rows)}; faster by "
        f"more than {SLOWER - 1:.0%}, and 2× is twice as fast."
    )
    return "\n".join(lines)


def _lost(rows: Sequence[Row]) -> str:
    lost = [spot for op in TITLES for spot in spots(rows, op) if spot.lost]
    lost.sort(key=lambda spot: spot.gain)
    lines = [
        f"| {TITLES[spot.ours.op]} {spot.ours.workload} | {milliseconds(spot.ours.p50_ms)} | "
        f"{spot.gain:.2f}× | {spot.peer.contender if spot.peer else ''} | "
        f"{spot.ours.floor_share or 0:.0%} |"
        for spot in lost[:MOST_LINES]
    ]
    if not lines:
        return ""
    shown = "" if len(lines) == len(lost) else f" {len(lines)} of {len(lost)} are shown."
    head = f"Where ours is behind, the farthest first.{shown}\n\n"
    table = "| point | ours | peer over ours | peer | ours, of the floor |\n|---|---|---|---|---|\n"
    return head + table + "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Every op's points over two of its axes: gain over the best peer, and share of the floor."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = NAME
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    ops = [op for op in TITLES if spots(rows, op)]
    with matplotlib.rc_context({"font.size": 12}):
        size = 3.7 * len(ops), 6.4
        picture, axes = pyplot.subplots(
            2, len(ops), figsize=size, layout="constrained", squeeze=False
        )
        for op, (above, below) in zip(ops, axes.T, strict=True):
            found = spots(rows, op)
            across, up = ACROSS[op]
            # Points that differ in other axes only lie beside each other.
            spread = [1 + 0.28 * ((number * 0.618) % 1 - 0.5) for number in range(len(found))]
            x = [spot.ours.sizes[across] * s for spot, s in zip(found, spread, strict=True)]
            y = [spot.ours.sizes[up] * s for spot, s in zip(found, reversed(spread), strict=True)]
            edges = ["black" if spot.lost else "none" for spot in found]
            gain = above.scatter(
                *(x, y),
                c=[spot.gain for spot in found],
                norm=LogNorm(1 / 4, 4),
                cmap="RdBu",
                edgecolors=edges,
                s=34,
            )
            floor = below.scatter(
                *(x, y),
                c=[spot.ours.floor_share for spot in found],
                vmin=0,
                vmax=1,
                cmap="viridis",
                s=34,
            )
            above.set_title(TITLES[op], loc="left")
            values = GRIDS[op].axes[across], GRIDS[op].axes[up]
            across_at, up_at = (value[:: (len(value) - 1) // 2] for value in values)
            for axis in (above, below):
                axis.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
                axis.set_xticks(across_at, [f"{size:,}" for size in across_at])
                axis.set_yticks(up_at, [f"{size:,}" for size in up_at])
                axis.minorticks_off()
                axis.spines[["top", "right"]].set_visible(False)
        ticks = [0.25, 0.5, 1, 2, 4]
        bar = picture.colorbar(
            gain, ax=axes[0], ticks=ticks, label="times as fast as the best peer"
        )
        bar.ax.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
        bar.ax.minorticks_off()
        picture.colorbar(floor, ax=axes[1], label="share of the floor", format="{x:.0%}")
        picture.savefig(path, metadata={"Date": None})
        pyplot.close(picture)


def main() -> None:
    for path in sorted(RESULTS.glob(f"*/{NAME}-*.json")):
        draw(read(path.parent, path.stem), path.with_suffix(".svg"))
        print(path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
