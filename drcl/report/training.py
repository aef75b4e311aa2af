"""Loss and score per epoch, for both phases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drcl.report.data import PHASES, ReportData
from drcl.report.style import Panel, canvas, line, png, shared_legend

_PHASE_NAMES = {"prior": "Prior learning", "encoder": "Consistency training"}
# key -> (what it is called, the choice of the best epoch; None for the training loss, which
# chooses nothing)
_CURVES: dict[str, tuple[str, Any]] = {
    "loss": ("training loss", None),
    "score": ("quality score", np.argmax),
    "validation_map": ("validation mAP", np.argmax),
    "validation_loss": ("validation loss", np.argmin),
}


def draw_training(data: ReportData) -> Panel | None:
    """A row per phase and a column per curve its records hold; None without history."""
    rows = [(phase, _curves_of(data.history, phase)) for phase in PHASES]
    rows = [(phase, keys) for phase, keys in rows if keys]
    if not rows:
        return None
    columns = max(len(keys) for _, keys in rows)
    with canvas(4.6 * columns, 2.9 * len(rows) + 0.4) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, (phase, keys) in zip(grid, rows, strict=True):
            for axes, key in zip(axes_row, keys, strict=False):
                name, best = _CURVES[key]
                for position, modality in enumerate(data.modalities):
                    epochs, values = _series(data.history, phase, modality, key)
                    if not len(values):
                        continue
                    look = line(position)
                    # A line of one point would not be seen.
                    axes.plot(epochs, values, marker="." if len(values) == 1 else None, **look)
                    if best is not None:
                        at = best(values)
                        axes.plot(
                            epochs[at],
                            values[at],
                            "o",
                            color=look["color"],
                            markersize=6,
                            markeredgecolor="white",
                        )
                axes.set_title(f"{_PHASE_NAMES[phase]}: {name}")
                axes.xaxis.get_major_locator().set_params(integer=True)
            for axes in axes_row[len(keys) :]:
                axes.remove()
        for axes in grid[-1][: len(rows[-1][1])]:
            axes.set_xlabel("epoch")
        shared_legend(figure, data.modalities)
        return Panel(
            file="training.png",
            png=png(figure),
            alt="Curves over epochs, one line per modality: "
            + "; ".join(
                f"{_PHASE_NAMES[phase]}: {', '.join(_CURVES[key][0] for key in keys)}"
                for phase, keys in rows
            ),
            caption="Dots mark the best epoch. The label loss changes with its exponent q, which "
            "the default schedule raises every epoch: a falling training loss is therefore not by "
            "itself progress, the score is what to read.",
        )


def _curves_of(history: list[dict[str, Any]], phase: str) -> list[str]:
    records = [record for record in history if record["phase"] == phase]
    return [key for key in _CURVES if any(_present(record, key) for record in records)]


def _series(
    history: list[dict[str, Any]], phase: str, modality: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
    points = sorted(
        (record["epoch"], float(record[key]))
        for record in history
        if record["phase"] == phase and record["modality"] == modality and _present(record, key)
    )
    return np.array([epoch for epoch, _ in points]), np.array([value for _, value in points])


def _present(record: dict[str, Any], key: str) -> bool:
    return record.get(key) is not None and math.isfinite(record[key])
