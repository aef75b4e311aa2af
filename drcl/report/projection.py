"""The common space in two dimensions."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from drcl.figures import (
    CLASS_COLOURS,
    INK,
    MARKERS,
    PAPER,
    UNLABELLED,
    canvas,
    cycle,
    empty,
    plain,
    svg,
)
from drcl.report.data import ReportData
from drcl.report.panels import Panel, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["draw_projection", "project"]

SEED = 0
MAX_POINTS = 1500  # t-SNE stays within seconds
MAX_LABELS = 20
_MANY_CLASSES = len(CLASS_COLOURS)


def draw_projection(data: ReportData) -> Section:
    """Test embeddings of all modalities, coloured by class and marked by modality.

    Rows are L2-normalised first, because cosine is what the ranking sees.
    """
    chosen = _subsample({modality: len(x) for modality, x in data.embeddings.items()})
    rows = np.concatenate([data.embeddings[m][index] for m, index in chosen.items()])
    points, method = project(rows)
    modality = np.repeat(np.arange(len(chosen)), [len(index) for index in chosen.values()])
    label = np.concatenate([_first_label(data.label_rows(m)[i]) for m, i in chosen.items()])
    colours = _class_colours(len(data.classes))

    legends = _keys(data, colours, unlabelled=bool((label < 0).any()))
    rows_of_keys = sum(ceil(len(keys) / _columns(keys)) for keys in legends)

    with canvas(4.8, 4.6 + 0.24 * rows_of_keys) as figure:
        axes = figure.subplots()
        order = np.random.default_rng(SEED).permutation(len(points))  # no modality on top
        for position in range(len(chosen)):
            mine = order[modality[order] == position]
            x, y = points[mine].T
            axes.scatter(
                x,
                y,
                s=18,
                linewidths=0.4,
                edgecolors=PAPER,
                marker=cycle(MARKERS, position),
                c=colours[label[mine]],
            )
        empty(axes)
        _write_class_names(axes, points, label, data.classes)
        look: dict[str, Any] = {"handlelength": 1.0, "handletextpad": 0.3, "columnspacing": 1.2}
        for keys, place in zip(legends, ("outside upper left", "outside lower left"), strict=True):
            if keys:
                look |= {"loc": place, "ncols": _columns(keys), "fontsize": 10}
                figure.legend(handles=keys, **look)
        alt = (
            f"{method} projection of {len(points)} test embeddings, coloured by class and "
            f"marked by modality ({', '.join(data.modalities)})"
        )
        panel = Panel("projection", svg(figure, alt), alt)
    return Section("projection", (panel,), _caption(data, len(points), method))


def project(rows: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, D) rows to (N, 2) points, and the name of the method.

    PCA to at most 50 dimensions, then t-SNE with perplexity 30 (a third of the points when there
    are fewer than 90) on L2-normalised rows. PCA alone for fewer than 10 points, or where the rows
    do not differ and t-SNE has nothing to work on.

    >>> project(np.eye(4))[1]
    'PCA'
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.asarray(rows, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows = np.pad(rows, ((0, 0), (0, max(0, 2 - rows.shape[1]))))
    components = min(50, *rows.shape)
    if components < 2 or np.ptp(rows, axis=0).max() < 1e-6:
        return rows[:, :2] - rows[:, :2].mean(axis=0), "PCA"
    reduced = PCA(components, svd_solver="full").fit_transform(rows)
    if len(rows) < 10:
        return reduced[:, :2], "PCA"
    perplexity = min(30.0, len(rows) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED)
    return tsne.fit_transform(reduced), f"PCA to {components} then t-SNE"


def _subsample(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Rows to show: an equal share of MAX_POINTS for each modality, in seeded random order."""
    share = MAX_POINTS // len(sizes)
    rng = np.random.default_rng(SEED)
    return {modality: rng.permutation(size)[:share] for modality, size in sizes.items()}


def _first_label(rows: np.ndarray) -> np.ndarray:
    return np.where(rows.any(axis=1), rows.argmax(axis=1), -1)


def _class_colours(classes: int) -> np.ndarray:
    """(C + 1, 4) colours; the last, reached by label -1, is for unlabelled points."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    if classes <= _MANY_CLASSES:
        colours = to_rgba_array(CLASS_COLOURS[:classes])
    else:
        # Golden-ratio steps put neighbouring ids far apart on an evenly perceived scale.
        colours = colormaps["viridis"](np.arange(classes) * 0.6180339887 % 1.0)
    return np.concatenate([colours, to_rgba_array(UNLABELLED)])


def _write_class_names(
    axes: Axes, points: np.ndarray, label: np.ndarray, classes: tuple[str, ...]
) -> None:
    """Each at the median of its points: where colours fail, the name still tells classes apart."""
    from matplotlib.patheffects import withStroke

    count = np.bincount(label[label >= 0], minlength=len(classes))
    for c in np.argsort(-count, kind="stable")[:MAX_LABELS]:
        if count[c]:
            x, y = np.median(points[label == c], axis=0)
            axes.text(
                x,
                y,
                plain(classes[c], 18),
                fontsize=10,
                ha="center",
                va="center",
                fontweight="bold",
                path_effects=[withStroke(linewidth=3, foreground=PAPER)],
            )


def _keys(
    data: ReportData, colours: np.ndarray, *, unlabelled: bool
) -> tuple[list[Line2D], list[Line2D]]:
    """Keys of the legends: modalities by shape, and classes by colour where each has its own."""
    from matplotlib.lines import Line2D

    def key(name: str, colour: Any, marker: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, label=plain(name, 16))

    shapes = [key(m, INK, cycle(MARKERS, i)) for i, m in enumerate(data.modalities)]
    hues = [key(name, colours[c], "o") for c, name in enumerate(data.classes)]
    hues = hues if len(data.classes) <= _MANY_CLASSES else []
    return shapes, hues + ([key("unlabelled", UNLABELLED, "o")] if unlabelled else [])


def _columns(keys: list[Line2D]) -> int:
    """As many columns as fit the figure beside the longest name."""
    longest = max((len(str(key.get_label())) for key in keys), default=1)
    return next((n for n, room in ((5, 7), (4, 10), (3, 14)) if longest <= room), 2)


def _caption(data: ReportData, shown: int, method: str) -> str:
    total = sum(len(x) for x in data.embeddings.values())
    words = [f"{method[0].upper()}{method[1:]}, of cosine geometry."]
    if "t-SNE" in method:
        words.append("In t-SNE, distances between far-apart groups mean little.")
    if shown < total:
        words.append(
            f"{shown:,} of {total:,} test rows, drawn at random (seed {SEED}), at most the same "
            "number from each modality."
        )
    else:
        words.append(f"All {total:,} test rows.")
    if any(np.ndim(y) == 2 for y in data.labels.values()):
        words.append("A sample with several labels has the colour of its first one.")
    if len(data.classes) > _MANY_CLASSES:
        words.append(
            f"Of {len(data.classes)} classes, the names of the {MAX_LABELS} most frequent are "
            "written, each at the median of its points."
        )
    return " ".join(words)
