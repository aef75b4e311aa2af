"""Curves and matrices on axes of matplotlib, of results and of the report alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from drcl.checks import check_installed
from drcl.figures import CENTRED, INK, QUERY, empty, line, plain, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]
Pairs = dict[tuple[str, str], float]


def axes_for(given: Axes | None, width: float = 4.2, height: float = 3.4) -> Axes:
    """The axes that are given, or those of a new figure, which pyplot shows where it shows any."""
    if given is not None:
        return given
    check_installed("plots need {}; install it with: pip install 'drcl[report]'", "matplotlib")
    from matplotlib import pyplot

    with styled():
        return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def draw_curve(
    axes: Axes, curve: tuple[Values, Values], label: str | None = None, position: int | None = None
) -> None:
    """A curve, recall and precision.

    Its look is that of the ``position``, by default the next after those there are.
    """
    look = line(len(axes.lines) if position is None else position)
    axes.plot(*curve, label=_name(label), **look)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    _legend(axes)


def draw_cmc(axes: Axes, share: Values, label: str | None = None) -> None:
    """Shares of queries by rank, from 1 on."""
    ranks = np.arange(1, len(share) + 1)
    marker = "." if len(share) == 1 else None  # a line of one point would not be seen
    axes.plot(ranks, share, marker=marker, label=_name(label), **line(len(axes.lines)))
    axes.set(ylim=(0, 1.02), xlabel="rank", ylabel="queries with a relevant item")
    axes.locator_params(axis="x", integer=True)
    _legend(axes)


def draw_map(axes: Axes, modalities: Sequence[str], values: Iterable[float]) -> None:
    """Values of the ordered pairs, in the order of ``permutations(modalities, 2)``.

    They make a matrix of queries and galleries, or two bars where there are two modalities.

    The shade runs from 0 to 1. The diagonal is blank: a modality is not searched with itself.
    """
    pairs = dict(zip(permutations(modalities, 2), values, strict=True))
    if len(modalities) > 2:
        _matrix(axes, modalities, pairs)
    else:
        _bars(axes, pairs)


def map_size(modalities: int) -> tuple[float, float]:
    """Width and height in inches of a figure for :func:`draw_map`."""
    return 4.4, 0.62 * modalities + 1.2 if modalities > 2 else 1.5


def in_figure(value: float) -> str:
    """A value in a figure; NaN is a dash."""
    return "–" if value != value else f"{value:.3f}"


def _matrix(axes: Axes, modalities: Sequence[str], values: Pairs) -> None:
    from matplotlib.patches import Rectangle

    names = [plain(modality, 12) for modality in modalities]
    small = len(names) > 4
    for row, query in enumerate(modalities):
        for column, gallery in enumerate(modalities):
            if query == gallery:
                continue
            value = values[query, gallery]
            shade = 0.0 if value != value else 0.05 + 0.5 * value
            place = (column - 0.47, row - 0.46)
            axes.add_patch(Rectangle(place, 0.94, 0.92, color=QUERY, alpha=shade, linewidth=0))
            look: Any = {"color": INK, "fontsize": 9 if small else 12, "fontweight": "bold"}
            axes.text(column, row, in_figure(value), **CENTRED, **look)
    empty(axes)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(length=0, labelcolor=INK, labelsize=10 if small else 11)
    axes.set_xticks(range(len(names)), names, rotation=30 if small else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="gallery", ylabel="query")


def _bars(axes: Axes, values: Pairs) -> None:
    for row, value in enumerate(values.values()):
        axes.barh(row, 1.0, 0.5, color=QUERY, alpha=0.1)
        axes.barh(row, 0.0 if value != value else value, 0.5, color=QUERY)
        axes.text(1.03, row, in_figure(value), va="center", fontweight="bold", color=INK)
    empty(axes)
    axes.set(xlim=(0, 1.2), ylim=(len(values) - 0.5, -0.5))
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_yticks(range(2), [f"{plain(q, 12)} → {plain(g, 12)}" for q, g in values])


def _name(label: str | None) -> str | None:
    return None if label is None else plain(label)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)
