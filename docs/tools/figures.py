"""Figures of the pages, as SVG, from formulas and from what the suite has measured."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

WIDTH, CLASSES = 2048, 10
BATCHES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
BLUE, ORANGE, GREEN, GREY = "#3f51b5", "#e07b39", "#3a9b6f", "#8a8f98"
MB = 1e6


def linear_bytes(b: int, d: int = WIDTH, c: int = CLASSES) -> dict[str, float]:
    """Bytes of the linear form beyond inputs and gradient, by what they are for; K = min(C, D)."""
    k = min(c, d)
    by_rows = b < d
    return {
        "F": 4.0 * b * d if k < d else 0.0,
        "M and Z, or FᵀF": 8.0 * b * b if by_rows else 4.0 * d * d,
        "coordinates": 16.0 * b * k,
        "class sums": 0.0 if by_rows else 72.0 * k * k + 8.0 * k * d,
    }


@cache
def literal_matrices() -> int:
    """How many B×B matrices the literal form holds at its peak, from the allocator's account."""
    import torch

    from drcl import reference

    b, d = 512, 4
    x, r = torch.randn(b, d, requires_grad=True), torch.randn(b, d)
    with torch.profiler.profile(profile_memory=True) as profile:
        reference.similarity_consistency(r, x).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return round(peak / (4 * b * b))


def linear_memory(measured: Sequence[tuple[str, int, float]]) -> str:
    """Where the bytes go, beside the literal form; ``measured`` peaks are (form, B, MB)."""
    with _canvas(9.2, 4.2) as (figure, svg):
        left, right = figure.subplots(1, 2)
        shown = [b for b in BATCHES if b <= 8192]
        bottom = [0.0] * len(shown)
        colours = (BLUE, ORANGE, GREEN, GREY)
        for (part, _), colour in zip(linear_bytes(1024).items(), colours, strict=True):
            heights = [linear_bytes(b)[part] / MB for b in shown]
            left.bar(range(len(shown)), heights, 0.66, bottom, label=part, color=colour)
            bottom = [x + y for x, y in zip(bottom, heights, strict=True)]
        dots = [(shown.index(b), mb) for form, b, mb in measured if form == "ours" and b in shown]
        if dots:
            left.plot(*zip(*dots, strict=True), "k_", ms=16, mew=1.6, label="measured peak")
        left.set_xticks(range(len(shown)), [f"{b:,}" for b in shown])
        left.set(title="Linear form: what the bytes are for", xlabel="batch", ylabel="MB")
        left.legend(frameon=False, fontsize=10)

        count = literal_matrices()
        ours = [sum(linear_bytes(b).values()) / MB for b in BATCHES]
        right.plot(BATCHES, ours, color=BLUE, label="linear form")
        literal = [count * 4 * b * b / MB for b in BATCHES]
        right.plot(BATCHES, literal, color=ORANGE, label=f"literal: {count} B×B matrices")
        for form, colour in (("ours", BLUE), ("literal", ORANGE)):
            points = [(b, mb) for name, b, mb in measured if name == form]
            if points:
                right.plot(*zip(*points, strict=True), "o", color=colour, ms=5)
        right.set(xscale="log", yscale="log", xlabel="batch", ylabel="MB")
        right.set_title("Both forms" + ("; dots: measured peaks" if measured else ""))
        right.set_xticks(BATCHES[::2], [f"{batch:,}" for batch in BATCHES[::2]])
        right.minorticks_off()
        right.yaxis.set_major_formatter("{x:,.0f}")
        right.legend(frameon=False, fontsize=10)
    return svg.getvalue()


def stage_work(b: int, d: int = WIDTH, k: int = CLASSES) -> dict[str, tuple[float, float]]:
    """Stage of the loss -> operations and bytes of device memory, float32, one branch or the other.

    From the formulas at the top of the kernels' files; the row mixed in comes from L2.
    """
    if b < d:
        large = {
            "differences": (b * b * d + 10.0 * b * b * k, 4.0 * b * d + 8.0 * b * b),
            "combine": (4.0 * b * b, 8.0 * b * b),
            "gradient": (
                2.0 * b * b * d + 2.0 * b * d * k + 4.0 * b * b * k,
                20.0 * b * d + 8.0 * b * b,
            ),
        }
    else:
        large = {
            "class_sums": (4.0 * k * b * d + 18.0 * k * k * b, 4.0 * b * d + 12.0 * b * k),
            "gram": (1.0 * b * d * d, 4.0 * b * d + 4.0 * d * d),
            "combine": (2.0 * d * d, 4.0 * d * d),
            "gradient": (2.0 * b * d * d + 10.0 * b * d * k, 24.0 * b * d + 4.0 * d * d),
        }
    return {"rows": (8.0 * b * d * k, 8.0 * b * d), **large}


def least_work(op: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Operations and bytes of the floor that the suite holds an op against."""
    b, d, c = (sizes.get(name, 0) for name in "BDC")
    q, n = sizes.get("Q", 0), sizes.get("N", 0)
    return {
        "loss": (3.0 * b * d * min(b, d) + 4.0 * b * d * c, 20.0 * b * d),
        "prior_similarity": (6.0 * b * d * c, 12.0 * b * d + 12.0 * d * c),
        "mixup": (6.0 * b * d, 24.0 * b * d),
        "map": (2.0 * q * n * d, 4.0 * (q + n) * d),
    }[op]


def roofline(rows: Sequence[dict[str, Any]]) -> str:
    """Our ops at their measured rates under the product and copy rates of the same runs."""
    marks = dict(zip(dict.fromkeys(row["op"] for row in rows), "os^D", strict=False))
    with _canvas(7.2, 3.8) as (figure, svg):
        axes = figure.subplots()
        flops = max(row["gemm_GFLOPs"] for row in rows)
        bandwidth = max(row["copy_GBps"] for row in rows)
        x = [2.0**i for i in range(-3, 15)]
        axes.plot(x, [min(flops, bandwidth * i) for i in x], color=GREY, label="measured ceilings")
        for op, mark in marks.items():
            points = []
            for row in (row for row in rows if row["op"] == op):
                operations, size = least_work(op, row["sizes"])
                points.append((operations / size, operations / row["p50_ms"] / 1e6))
            axes.plot(*zip(*points, strict=True), mark, ms=5, alpha=0.8, label=op.replace("_", " "))
        axes.set(xscale="log", yscale="log")
        axes.set(xlabel="operations per byte (of the floor)", ylabel="GFLOP/s")
        axes.legend(frameon=False, fontsize=10)
    return svg.getvalue()


def methods(studies: Mapping[str, Sequence[dict[str, Any]]], titles: Mapping[str, str]) -> str:
    """A line for each set, a dot for each method; ``studies`` are set -> summaries."""
    shown = {"auto": (BLUE, "o", 9), "logistic": (ORANGE, "D", 6), "drcl": (GREEN, "s", 6)}
    with _canvas(5, 0.42 * len(studies) + 1.4) as (figure, svg):
        axes = figure.subplots()
        for place, rows in enumerate(studies.values()):
            for row in (row for row in rows if row["mean"] is not None):
                first = place == 0
                if row["method"] in shown:
                    colour, mark, size = shown[row["method"]]
                    label = titles[row["method"]] if first else None
                    axes.plot(
                        row["mean"], place, mark, color=colour, ms=size, label=label, zorder=3
                    )
                else:
                    axes.plot(row["mean"], place, "|", color=GREY, ms=10, mew=1.5)
        axes.plot([], [], "|", color=GREY, ms=10, mew=1.5, label="all others")
        axes.set_yticks(range(len(studies)), list(studies))
        axes.invert_yaxis()
        axes.grid(axis="y", color="#e3e5e8")
        axes.set_axisbelow(True)
        axes.set(xlabel="mAP@all, mean over pairs and seeds")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg.getvalue()


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Any, io.StringIO]]:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
    style |= {
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "svg.hashsalt": "drcl",
        "svg.fonttype": "none",
    }
    svg = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        yield figure, svg
        figure.savefig(svg, format="svg", metadata={"Date": None})
