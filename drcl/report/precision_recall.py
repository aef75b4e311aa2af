"""Precision against recall, one panel per query modality."""

from __future__ import annotations

from math import ceil

from drcl.report.data import ReportData, pair_key
from drcl.report.style import Panel, canvas, line, plain, png, shared_legend


def draw_precision_recall(data: ReportData) -> Panel | None:
    """The curves of ``data.curves``; None when there are none.

    A panel per query modality keeps six modalities readable: five lines each instead of thirty in
    one. A gallery has the same colour and dash in every panel.
    """
    queries = [
        q for q in data.modalities if any(pair_key(q, g) in data.curves for g in data.modalities)
    ]
    if not queries:
        return None
    columns = min(3, len(queries))
    rows = ceil(len(queries) / columns)
    with canvas(3.3 * columns + 0.4, 3.0 * rows + 0.4) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, query in zip(grid.flat, queries, strict=False):
            for position, gallery in enumerate(data.modalities):
                if pair_key(query, gallery) in data.curves:
                    recall, precision = data.curves[pair_key(query, gallery)]
                    axes.plot(recall, precision, **line(position))
            axes.set_title(f"{plain(query, 20)} queries")
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        for spare in range(len(queries), grid.size):
            grid.flat[spare].remove()
            grid.flat[spare - columns].tick_params(labelbottom=True)
        shared_legend(figure, [f"→ {gallery}" for gallery in data.modalities])
        figure.supxlabel("recall", fontsize=10)
        figure.supylabel("precision", fontsize=10)
        return Panel(
            file="precision_recall.png",
            png=png(figure),
            alt=f"Precision against recall for queries of {', '.join(queries)}, "
            "one line per gallery modality",
            caption="Mean over the test queries, one panel per query modality. A random ranking "
            "gives about a flat line at the share of relevant items.",
        )
