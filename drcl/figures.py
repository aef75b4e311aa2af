"""How every figure looks: colours, type, and the way from a Figure to an SVG file.

Figures are made without pyplot, so no window, backend or figure list of the caller is touched. They
have no background: on a dark page their ink turns light, by a style sheet inside the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from drcl.tables import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b2330"
MUTED = "#5c6675"
RULE = "#d9dee6"
GRID = "#edf0f4"
PAPER = "#ffffff"
UNLABELLED = "#c4c9d1"
# Okabe-Ito's green and red stay apart under every common colour vision deficiency.
RELEVANT, IRRELEVANT, QUERY = "#00815e", "#c44601", "#2457a8"
# What replaces them on a dark page; data colours serve on both.
DARK = {
    INK: "#e8ecf2",
    MUTED: "#9aa5b4",
    RULE: "#3a4452",
    GRID: "#28303b",
    PAPER: "#1b212a",
    UNLABELLED: "#5b6472",
    RELEVANT: "#4fd0a5",
    IRRELEVANT: "#ff9a66",
    QUERY: "#6f9fe8",
}

# Petroff, "Accessible color sequences for data visualization" (arXiv 2107.02270).
MODALITY_COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")
# Searched for: of ten colours that stand out on white and on the dark page, those whose closest two
# are the furthest apart, in OKLab, for normal vision and three deficiencies (Machado et al. 2009).
# In this order each is the furthest from those before it.
CLASS_COLOURS = (
    "#3c84fc", "#e4c030", "#545400", "#9c0084", "#54d8b4",
    "#e430b4", "#3c00fc", "#9c6c54", "#b4a8fc", "#cc903c",
)  # fmt: skip
CENTRED: Any = {"ha": "center", "va": "center"}
MARKERS = ("o", "^", "s", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited in a saved figure
    "svg.hashsalt": "drcl",  # the same file from the same data
}


def styled() -> AbstractContextManager[None]:
    """Within, what matplotlib draws looks like all figures."""
    from matplotlib import rc_context

    return rc_context(_RC)


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A Figure of the given size in inches; draw and save it inside the block.

    Figures about four inches wide have type that can be read on a phone.
    """
    from matplotlib.figure import Figure

    with styled():
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, title: str) -> bytes:
    """The figure as an SVG file without background, whose ink follows a dark page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the DOCTYPE, which names a file elsewhere
    head = f"<title>{escape(title)}</title>\n<style>{_dark_ink()}</style>\n"
    return re.sub(r"(<svg[^>]*>\n?)", lambda tag: tag[1] + head, text, count=1).encode()


def _dark_ink() -> str:
    rules = (
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER)
    return buffer.getvalue()


def plain(text: str, width: int = 40) -> str:
    """Text safe to draw: no mathtext, not hidden from legends by a leading ``_``, not too long.

    >>> plain("_$5"), plain("a long class name", width=7)
    (' _\\\\$5', 'a long…')
    """
    text = shortened(text, width).replace("$", r"\$")
    return " " + text if text.startswith("_") else text


def cycle(values: Sequence[Any], index: int) -> Any:
    """``values[index]``, starting again where the values run out."""
    return values[index % len(values)]


def line(position: int) -> dict[str, Any]:
    """How the line of the modality at this position looks, in every figure."""
    return {"color": cycle(MODALITY_COLOURS, position), "linestyle": cycle(LINES, position)}


def modality_legend(figure: Figure, entries: Sequence[tuple[int, str]]) -> None:
    """A legend above the axes, where no curve can run under it; (position, text) by modality."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=plain(text, 30), **line(i)) for i, text in entries]
    long = max(len(text) for _, text in entries) > 14
    figure.legend(handles=handles, loc="outside upper left", ncols=1 if long else 3, fontsize=10)


def empty(axes: Axes) -> None:
    """Takes ticks, grid and frame from axes that only carry a picture or text."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
