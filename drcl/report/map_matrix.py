"""mAP for every ordered pair of modalities."""

from __future__ import annotations

import numpy as np

from drcl.report.data import ReportData, pair_key
from drcl.report.style import Panel, canvas, empty, plain, png


def draw_map_matrix(data: ReportData) -> Panel:
    """One panel per metric: query rows, gallery columns, the value in the cell.

    The shade runs from 0 to 1 in every report, so that two reports can be laid side by side. The
    diagonal is blank: a modality is not searched with itself.
    """
    names = [plain(modality, 14) for modality in data.modalities]
    side = max(2.6, 0.7 * len(names))
    with canvas(len(data.metrics) * (side + 1.2), side + 0.9) as figure:
        panels = figure.subplots(1, len(data.metrics), squeeze=False)[0]
        for axes, (metric, values) in zip(panels, data.metrics.items(), strict=True):
            cells = np.array(
                [
                    [values.get(pair_key(q, g), np.nan) for g in data.modalities]
                    for q in data.modalities
                ]
            )
            axes.imshow(np.ma.masked_invalid(cells), cmap="Blues", vmin=0, vmax=1)
            for (row, column), value in np.ndenumerate(cells):
                if row != column:
                    text = "–" if np.isnan(value) else f"{value:.3f}"
                    colour = "white" if value > 0.6 else "#10243e"
                    axes.text(
                        column,
                        row,
                        text,
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=11,
                        fontweight="bold",
                    )
            empty(axes)
            # White gaps between the cells.
            axes.set_xticks(np.arange(-0.5, len(names)), minor=True)
            axes.set_yticks(np.arange(-0.5, len(names)), minor=True)
            axes.grid(which="minor", color="white", linewidth=3)
            axes.tick_params(which="both", length=0)
            axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 4 else 0)
            axes.set_yticks(range(len(names)), names)
            axes.set(xlabel="gallery", ylabel="query")
            axes.set_title(f"{plain(metric)}   mean {values['mean']:.3f}")
        return Panel(
            file="map_matrix.png",
            png=png(figure),
            alt="; ".join(_sentence(metric, data) for metric in data.metrics),
            caption="Rows are query modalities, columns are the galleries searched. "
            "The shade runs from 0 (white) to 1 (dark) in every report.",
        )


def _sentence(metric: str, data: ReportData) -> str:
    values = (f"{q} to {g} {data.metrics[metric][pair_key(q, g)]:.3f}" for q, g in data.pairs)
    return f"{metric} by query and gallery modality: {', '.join(values)}"
