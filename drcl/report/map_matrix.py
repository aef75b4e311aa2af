"""mAP for every ordered pair of modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drcl.report.data import ReportData, pair_key
from drcl.report.style import CENTRED, INK, QUERY, Panel, Section, canvas, empty, plain, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_map_matrix(data: ReportData) -> Section:
    """A figure per metric: a matrix of query rows and gallery columns, two bars for two modalities.

    The shade runs from 0 to 1 in every report, so that two reports can be compared side by side.
    The diagonal is blank: a modality is not searched with itself.
    """
    matrix = len(data.modalities) > 2
    panels = []
    for number, (metric, values) in enumerate(data.metrics.items(), start=1):
        height = 0.62 * len(data.modalities) + 1.2 if matrix else 1.5
        with canvas(4.4, height) as figure:
            axes = figure.subplots()
            (_matrix if matrix else _bars)(axes, data, values)
            axes.set_title(f"{plain(metric)} · mean {_figure(values['mean'])}")
            alt = _sentence(metric, data)
            panels.append(Panel(f"map_matrix_{number}", svg(figure, alt), alt))
    caption = (
        "Rows are query modalities, columns are the galleries searched. "
        "The shade runs from 0 to 1 in every report."
    )
    return Section("map_matrix", tuple(panels), caption if matrix else "Query → gallery.")


def _matrix(axes: Axes, data: ReportData, values: dict[str, float]) -> None:
    from matplotlib.patches import Rectangle

    names = [plain(modality, 12) for modality in data.modalities]
    small = len(names) > 4
    for row, query in enumerate(data.modalities):
        for column, gallery in enumerate(data.modalities):
            if query == gallery:
                continue
            value = values[pair_key(query, gallery)]
            shade = 0.0 if value != value else 0.05 + 0.5 * value
            place = (column - 0.47, row - 0.46)
            axes.add_patch(Rectangle(place, 0.94, 0.92, color=QUERY, alpha=shade, linewidth=0))
            look: Any = {"color": INK, "fontsize": 9 if small else 12, "fontweight": "bold"}
            axes.text(column, row, _figure(value), **CENTRED, **look)
    empty(axes)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(length=0, labelcolor=INK, labelsize=10 if small else 11)
    axes.set_xticks(range(len(names)), names, rotation=30 if small else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="gallery", ylabel="query")


def _bars(axes: Axes, data: ReportData, values: dict[str, float]) -> None:
    for row, (query, gallery) in enumerate(data.pairs):
        value = values[pair_key(query, gallery)]
        axes.barh(row, 1.0, 0.5, color=QUERY, alpha=0.1)
        axes.barh(row, 0.0 if value != value else value, 0.5, color=QUERY)
        axes.text(1.03, row, _figure(value), va="center", fontweight="bold", color=INK)
    empty(axes)
    axes.set(xlim=(0, 1.2), ylim=(len(data.pairs) - 0.5, -0.5))
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_yticks(range(2), [f"{plain(q, 12)} → {plain(g, 12)}" for q, g in data.pairs])


def _figure(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def _sentence(metric: str, data: ReportData) -> str:
    values = (f"{q} to {g} {_figure(data.metrics[metric][pair_key(q, g)])}" for q, g in data.pairs)
    return f"{metric} by query and gallery modality: {', '.join(values)}"
