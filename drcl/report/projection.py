"""The common space in two dimensions."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from drcl.report import style
from drcl.report.data import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 0
MAX_POINTS = 1500  # t-SNE stays within seconds
MAX_LABELS = 20
_MANY_CLASSES = len(style.CLASS_COLOURS)


def draw_projection(data: ReportData) -> style.Section:
    """Test embeddings of all modalities, coloured by class and marked by modality.

    Rows are L2-normalised first, because cosine is what the ranking sees.
    """
    chosen = _subsample({modality: len(x) for modality, x in data.embeddings.items()})
    rows = np.concatenate([data.embeddings[m][index] for m, index in chosen.items()])
    points, method = project(rows)
    modality = np.repeat(np.arange(len(chosen)), [len(index) for index in chosen.values()])
    hot = np.concatenate([data.label_rows(m)[i] for m, i in chosen.items()])
    label = np.where(hot.any(axis=1), hot.argmax(axis=1), -1)  # the first of several
    colours = _class_colours(len(data.classes))

    with style.canvas(4.8, 4.6 + 0.24 * _legend_rows(data)) as figure:
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
                edgecolors=style.PAPER,
                marker=style.cycle(style.MARKERS, position),
                c=colours[label[mine]],
            )
        style.empty(axes)
        _write_class_names(axes, points, label, data.classes)
        _legend(figure, data, colours, unlabelled=bool((label < 0).any()))
        alt = (
            f"{method} projection of {len(points)} test embeddings, coloured by class and "
            f"marked by modality ({', '.join(data.modalities)})"
        )
        panel = style.Panel("projection", style.svg(figure, alt), alt)
    return style.Section("projection", (panel,), _caption(data, len(points), method))


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


def _class_colours(classes: int) -> np.ndarray:
    """(C + 1, 4) colours; the last, reached by label -1, is for unlabelled points."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    if classes <= _MANY_CLASSES:
        colours = to_rgba_array(style.CLASS_COLOURS[:classes])
    else:
        # Golden-ratio steps put neighbouring ids far apart on an evenly perceived scale.
        colours = colormaps["viridis"](np.arange(classes) * 0.6180339887 % 1.0)
    return np.concatenate([colours, to_rgba_array(style.UNLABELLED)])


def _write_class_names(
    axes: Axes, points: np.ndarray, label: np.ndarray, classes: tuple[str, ...]
) -> None:
    """Each at the median of its points: where colours fail, the name still tells classes apart."""
    from matplotlib.patheffects import withStroke

    count = np.bincount(label[label >= 0], minlength=len(classes))
    for c in np.argsort(-count, kind="stable")[:MAX_LABELS]:
        if count[c]:
            x, y = np.median(points[label == c], axis=0)
            halo = [withStroke(linewidth=3, foreground=style.PAPER)]
            look: Any = {"fontsize": 10, "fontweight": "bold", "path_effects": halo}
            axes.text(x, y, style.plain(classes[c], 18), **style.CENTRED, **look)


def _legend(figure: Figure, data: ReportData, colours: np.ndarray, *, unlabelled: bool) -> None:
    """Modalities by shape above the points; below, classes by colour where each has its own."""
    from matplotlib.lines import Line2D

    def key(name: str, colour: Any, marker: Any) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=marker, color=colour, label=style.plain(name, 16)
        )

    shapes = [
        key(m, style.INK, style.cycle(style.MARKERS, i)) for i, m in enumerate(data.modalities)
    ]
    hues = [key(name, colours[c], "o") for c, name in enumerate(data.classes)]
    hues = hues if len(data.classes) <= _MANY_CLASSES else []
    hues += [key("unlabelled", style.UNLABELLED, "o")] if unlabelled else []
    look: dict[str, Any] = {"fontsize": 10, "handletextpad": 0.2, "columnspacing": 1.2}
    figure.legend(handles=shapes, loc="outside upper left", ncols=3, **look)
    if hues:
        figure.legend(handles=hues, loc="outside lower left", ncols=_columns(data), **look)


def _columns(data: ReportData) -> int:
    return 5 if max(map(len, data.classes)) <= 9 else 3


def _legend_rows(data: ReportData) -> int:
    hues = len(data.classes) + 1 if len(data.classes) <= _MANY_CLASSES else 1
    return ceil(hues / _columns(data)) + ceil(len(data.modalities) / 3)


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
