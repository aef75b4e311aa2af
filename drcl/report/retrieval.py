"""Example queries and what they find in another modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from drcl import figures
from drcl.report.data import ReportData
from drcl.report.panels import Panel, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEED = 0
TOP = 8
MIN_EXAMPLES, MAX_EXAMPLES = 6, 12


@dataclass(frozen=True)
class Hit:
    """One gallery item found."""

    index: int
    classes: str
    relevant: bool


@dataclass(frozen=True)
class Example:
    """One query and its first hits."""

    query: str
    gallery: str
    index: int
    classes: str
    average_precision: float
    hits: tuple[Hit, ...]


def choose_examples(data: ReportData) -> list[Example]:
    """Seeded random queries among the labelled test rows, the same number per direction.

    At least six examples where the data allow it, at most twelve: with four modalities every
    direction has one, with more, twelve directions are drawn.
    """
    rng = np.random.default_rng(SEED)
    pairs = [pair for pair in data.pairs if all(data.label_rows(m).any() for m in pair)]
    if len(pairs) > MAX_EXAMPLES:
        kept = rng.choice(len(pairs), MAX_EXAMPLES, replace=False)
        pairs = [pairs[i] for i in sorted(kept)]
    examples = []
    for query, gallery in pairs:
        labelled = np.flatnonzero(data.label_rows(query).any(axis=1))
        count = min(max(1, MIN_EXAMPLES // len(pairs)), len(labelled))
        for index in rng.choice(labelled, count, replace=False):
            examples.append(_search(data, query, gallery, int(index)))
    return examples


def draw_retrieval(data: ReportData, examples: Sequence[Example]) -> Section | None:
    """A figure per example; None when no modality of the examples has pictures."""
    if not any({e.query, e.gallery} & set(data.pictures) for e in examples):
        return None
    panels = tuple(_draw_example(data, example, i) for i, example in enumerate(examples, start=1))
    return Section("retrieval", panels, "Green with ✓ is relevant, red with ✗ is not.")


def _draw_example(data: ReportData, example: Example, number: int) -> Panel:
    """The query at the left, and beside it what was found, in two rows."""
    with figures.canvas(4.4, 2.45) as figure:
        grid = figure.add_gridspec(2, TOP // 2 + 1, width_ratios=[1.25, *[1] * (TOP // 2)])
        figure.suptitle(
            f"{figures.plain(example.query, 16)} → {figures.plain(example.gallery, 16)} · "
            f"row {example.index} · AP {example.average_precision:.3f}",
            x=0.01,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )
        axes = figure.add_subplot(grid[:, 0])
        figures.empty(axes)
        _tile(axes, data, example.query, example.index, figures.QUERY)
        axes.set_title("query", fontsize=10, color=figures.MUTED, loc="center", fontweight="normal")
        axes.set_xlabel(
            figures.plain(example.classes, 10), fontsize=10, color=figures.QUERY, fontweight="bold"
        )
        for rank, hit in enumerate(example.hits):
            axes = figure.add_subplot(grid[rank // (TOP // 2), 1 + rank % (TOP // 2)])
            figures.empty(axes)
            colour = figures.RELEVANT if hit.relevant else figures.IRRELEVANT
            _tile(axes, data, example.gallery, hit.index, colour)
            mark = "✓" if hit.relevant else "✗"
            axes.set_xlabel(f"{mark} {figures.plain(hit.classes, 8)}", fontsize=10, color=colour)
        alt = (
            f"{example.query} query row {example.index}, {example.classes}, and the first "
            f"{len(example.hits)} found in {example.gallery}: "
            + ", ".join(f"{'✓' if hit.relevant else '✗'} {hit.classes}" for hit in example.hits)
        )
        return Panel(f"retrieval_{number}", figures.svg(figure, alt), alt)


def _search(data: ReportData, query: str, gallery: str, index: int) -> Example:
    from drcl.metrics import mean_average_precision

    # As in the metrics: items labelled -1 have unknown relevance and are not in the gallery.
    labels = np.asarray(data.labels[gallery])
    known = np.flatnonzero(labels != -1) if labels.ndim == 1 else np.arange(len(labels))
    q, items = data.embeddings[query][index : index + 1], data.embeddings[gallery][known]
    q_rows, item_rows = data.label_rows(query)[index : index + 1], data.label_rows(gallery)[known]
    norms = np.linalg.norm(items, axis=1) * np.linalg.norm(q)
    cosines = (items @ q[0]) / np.maximum(norms, 1e-12)  # 0 with a zero row
    found = np.argsort(-cosines, kind="stable")[:TOP]  # ties by gallery index
    relevant = (item_rows & q_rows).any(axis=1)
    return Example(
        query=query,
        gallery=gallery,
        index=index,
        classes=data.class_names(query, index),
        average_precision=float(
            mean_average_precision(q, items, q_rows.astype(np.uint8), item_rows.astype(np.uint8))
        ),
        hits=tuple(
            Hit(int(known[i]), data.class_names(gallery, int(known[i])), bool(relevant[i]))
            for i in found
        ),
    )


def _tile(axes: Axes, data: ReportData, modality: str, index: int, colour: str) -> None:
    """The picture of a sample in a coloured frame, or its row number where it has none."""
    axes.spines[:].set(visible=True, color=colour, linewidth=2.5)
    if modality in data.pictures:
        stack = data.pictures[modality]
        axes.imshow(
            stack[index], cmap="gray", vmin=stack.min(), vmax=stack.max(), interpolation="none"
        )
    else:
        axes.set(box_aspect=1)
        look: Any = {"color": figures.MUTED, "transform": axes.transAxes}
        axes.text(0.5, 0.5, f"row\n{index}", **figures.CENTRED, **look)
