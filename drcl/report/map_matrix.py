"""mAP for every ordered pair of modalities."""

from __future__ import annotations

from drcl.figures import canvas, plain, svg
from drcl.metrics.plots import draw_map, in_figure, map_size
from drcl.report.data import ReportData, pair_key
from drcl.report.panels import Panel, Section


def draw_map_matrix(data: ReportData) -> Section:
    """A figure per metric: a matrix of query rows and gallery columns, two bars for two modalities.

    The shade runs from 0 to 1 in every report, so that two reports can be compared side by side.
    The diagonal is blank: a modality is not searched with itself.
    """
    panels = []
    for number, (metric, values) in enumerate(data.metrics.items(), start=1):
        with canvas(*map_size(len(data.modalities))) as figure:
            axes = figure.subplots()
            draw_map(axes, data.modalities, [values[pair_key(*pair)] for pair in data.pairs])
            axes.set_title(f"{plain(metric)} · mean {in_figure(values['mean'])}")
            alt = _sentence(metric, data)
            panels.append(Panel(f"map_matrix_{number}", svg(figure, alt), alt))
    caption = (
        "Rows are query modalities, columns are the galleries searched. "
        "The shade runs from 0 to 1 in every report."
    )
    return Section(
        "map_matrix", tuple(panels), caption if len(data.modalities) > 2 else "Query → gallery."
    )


def _sentence(metric: str, data: ReportData) -> str:
    values = (
        f"{q} to {g} {in_figure(data.metrics[metric][pair_key(q, g)])}" for q, g in data.pairs
    )
    return f"{metric} by query and gallery modality: {', '.join(values)}"
