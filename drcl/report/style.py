"""How every figure looks: palettes, type, and the way from a Figure to PNG bytes.

Figures are made without pyplot, so no window, backend or figure list of the caller is touched.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b2330"
MUTED = "#5c6675"
RULE = "#d9dee6"
UNLABELLED = "#c4c9d1"
# Okabe-Ito's green and red stay apart under every common colour vision deficiency.
RELEVANT, IRRELEVANT, QUERY = "#00815e", "#c44601", "#2457a8"

# Petroff, "Accessible color sequences for data visualization" (arXiv 2107.02270): sequences of
# six and ten colours with the largest distances under colour vision deficiencies.
MODALITY_COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))

_RC: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#edf0f4",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Panel:
    """A drawn figure and the words that go with it."""

    file: str
    png: bytes
    alt: str
    caption: str


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A Figure of the given size in inches; draw it and take its :func:`png` inside the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def plain(text: str, width: int = 40) -> str:
    """Text safe to draw: no mathtext, not hidden from legends by a leading ``_``, not too long.

    >>> plain("_$5"), plain("a long class name", width=7)
    (' _\\\\$5', 'a long…')
    """
    if len(text) > width:
        text = text[: width - 1].rstrip() + "…"
    text = text.replace("$", r"\$")
    return " " + text if text.startswith("_") else text


def cycle(values: Sequence[Any], index: int) -> Any:
    """``values[index]``, starting again where the values run out."""
    return values[index % len(values)]


def line(position: int) -> dict[str, Any]:
    """How the line of the modality at this position looks, in every figure."""
    return {"color": cycle(MODALITY_COLOURS, position), "linestyle": cycle(LINES, position)}


def shared_legend(figure: Figure, names: Sequence[str]) -> None:
    """One legend of the modalities' lines above all axes, where no curve can run under it."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=plain(name, 20), **line(i)) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper left", ncols=6)


def empty(axes: Axes) -> None:
    """Takes ticks, grid and frame from axes that only carry a picture or text."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
