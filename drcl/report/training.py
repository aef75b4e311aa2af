"""Loss and score per epoch, for both phases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drcl.figures import PAPER, canvas, line, modality_legend, plain, svg
from drcl.report.data import PHASES, ReportData
from drcl.report.panels import Panel, Section

_PHASE_NAMES = {"prior": "Prior", "encoder": "Encoders"}
# key -> (name, how the best epoch is chosen; None for the training loss, which chooses nothing)
_CURVES: dict[str, tuple[str, Any]] = {
    "loss": ("training loss", None),
    "score": ("quality score", np.argmax),
    "validation_map": ("validation mAP", np.argmax),
    "validation_loss": ("validation loss", np.argmin),
}


def draw_training(data: ReportData) -> Section | None:
    """A figure per phase and curve that its records hold; None without history."""
    held = {(r["phase"], key) for r in data.history for key in _CURVES if _present(r, key)}
    shown = [(phase, key) for phase in PHASES for key in _CURVES if (phase, key) in held]
    if not shown:
        return None
    panels = []
    for number, (phase, key) in enumerate(shown, start=1):
        name, best = _CURVES[key]
        with canvas(4.2, 3.3) as figure:
            axes = figure.subplots()
            entries = []
            for position, modality in enumerate(data.modalities):
                epochs, values = _series(data.history, phase, modality, key)
                if not len(values):
                    continue
                # A line of one point would not be seen.
                marker = "." if len(values) == 1 else None
                axes.plot(epochs, values, marker=marker, **line(position))
                entries.append((position, modality))
                if best is not None:
                    at = best(values)
                    colour = line(position)["color"]
                    axes.scatter(epochs[at], values[at], 50, colour, edgecolors=PAPER, zorder=3)
                    text = f"{plain(modality, 12)}: {values[at]:.3f} at epoch {epochs[at]}"
                    entries[-1] = (position, text)
            axes.set_title(f"{_PHASE_NAMES[phase]}: {name}")
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)
            modality_legend(figure, entries)
            alt = f"{_PHASE_NAMES[phase]}: {name} per epoch. " + "; ".join(t for _, t in entries)
            panels.append(Panel(f"training_{number}", svg(figure, alt), alt))
    return Section(
        "training",
        tuple(panels),
        "Dots mark the best epoch. By default the exponent q of the label loss rises with the "
        "epochs, which lowers the loss by itself; judge progress by the score and the mAP.",
    )


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
