"""Precision against recall, a figure per query modality."""

from __future__ import annotations

import numpy as np

from drcl.figures import MUTED, canvas, modality_legend, plain, svg
from drcl.metrics.plots import draw_curve
from drcl.report.data import ReportData, pair_key
from drcl.report.panels import Panel, Section


def draw_precision_recall(data: ReportData) -> Section | None:
    """The curves of ``data.curves``, each above its chance line; None when there are none.

    A figure per query modality keeps six modalities readable: five lines each instead of thirty in
    one. A gallery has the same colour and dash in every figure.
    """
    panels: list[Panel] = []
    for query in data.modalities:
        shown = [
            (position, gallery)
            for position, gallery in enumerate(data.modalities)
            if pair_key(query, gallery) in data.curves
        ]
        if not shown:
            continue
        with canvas(4.2, 3.4) as figure:
            axes = figure.subplots()
            levels = [chance(data, query, gallery) for _, gallery in shown]
            for (position, gallery), level in zip(shown, levels, strict=True):
                draw_curve(axes, data.curves[pair_key(query, gallery)], position=position)
                axes.axhline(level, color=MUTED, linestyle=":", linewidth=1.4)
            axes.annotate(
                "chance",
                (0.02, max(levels)),
                xytext=(0, 3),
                textcoords="offset points",
                color=MUTED,
                fontsize=9.5,
            )
            axes.set_title(f"{plain(query, 20)} queries")
            modality_legend(figure, [(i, f"→ {gallery}") for i, gallery in shown])
            alt = (
                f"Precision against recall for {query} queries, one line per gallery: "
                f"{', '.join(gallery for _, gallery in shown)}; chance is "
                f"{', '.join(f'{level:.3f}' for level in levels)}"
            )
            name = f"precision_recall_{len(panels) + 1}"
            panels.append(Panel(name, svg(figure, alt), alt))
    if not panels:
        return None
    return Section(
        "precision_recall",
        tuple(panels),
        "Interpolated, mean over the test queries. Dotted: chance, the share of the gallery that "
        "is relevant.",
    )


def chance(data: ReportData, query: str, gallery: str) -> float:
    """Mean share of relevant items in the gallery, over the queries that have any.

    As in the curves, items of class id -1 are not in the gallery.
    """
    items = data.label_rows(gallery)
    if np.ndim(data.labels[gallery]) == 1:
        items = items[items.any(axis=1)]
    # Rows of equal labels are counted once: the matrix is one of label sets, not of samples.
    queries, many = np.unique(data.label_rows(query), axis=0, return_counts=True)
    found, each = np.unique(items, axis=0, return_counts=True)
    share = (queries.astype(int) @ found.T.astype(int) > 0) @ (each / max(1, each.sum()))
    counts = many * (share > 0)
    return float(counts @ share / max(1, counts.sum()))
