"""Puts the sections together and writes them, all or nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from drcl.report.data import ReportData, pair_key
from drcl.report.map_matrix import draw_map_matrix
from drcl.report.precision_recall import draw_precision_recall
from drcl.report.projection import draw_projection
from drcl.report.retrieval import SEED, TOP, Example, choose_examples, draw_retrieval
from drcl.report.style import Panel
from drcl.report.training import draw_training
from drcl.storage.files import write_together

FIGURES = (
    "map_matrix.png",
    "precision_recall.png",
    "projection.png",
    "retrieval.png",
    "training.png",
)


def write_report(data: ReportData, directory: Path) -> Path:
    """Writes ``report.html`` and its figures as PNG files; returns the path of ``report.html``.

    The page needs nothing beside it: figures are embedded, there is no script and no link out. A
    figure with nothing to show (no history, no curves, no pictures) is left out, and its file from
    an earlier report removed. Files are replaced only after all of them have been written, the page
    last: a failure leaves the earlier page as it was.

    Args:
        data: what to show.
        directory: created when it does not exist.

    Raises:
        ImportError: matplotlib, jinja2 or scikit-learn is missing.
        OSError: a file cannot be written.

    >>> import numpy as np, tempfile
    >>> x, y = np.eye(3, dtype=np.float32), np.arange(3)
    >>> data = ReportData("Tiny", {"mAP@all": {"a->b": 1.0, "b->a": 1.0, "mean": 1.0}},
    ...                   {"a": x, "b": x}, {"a": y, "b": y}, ("one", "two", "three"),
    ...                   history=[], curves={}, pictures={}, summary={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(data, Path(folder))
    ...     sorted(file.name for file in path.parent.iterdir())
    ['map_matrix.png', 'projection.png', 'report.html']
    """
    _require_libraries()
    examples = choose_examples(data)
    drawn = (
        draw_map_matrix(data),
        draw_precision_recall(data),
        draw_projection(data),
        draw_retrieval(data, examples),
        draw_training(data),
    )
    panels = {panel.file: panel for panel in drawn if panel is not None}
    page = _render(data, panels, examples)
    files = {name: panel.png for name, panel in panels.items()} | {"report.html": page.encode()}
    directory = Path(directory)
    write_together({directory / name: content for name, content in files.items()})
    for name in set(FIGURES) - set(files):
        (directory / name).unlink(missing_ok=True)
    return directory / "report.html"


def _render(data: ReportData, panels: dict[str, Panel], examples: list[Example]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.jinja").render(
        data=data,
        panels={name.removesuffix(".png"): _figure(panel) for name, panel in panels.items()},
        scores=[
            (q, g, [values[pair_key(q, g)] for values in data.metrics.values()])
            for q, g in data.pairs
        ],
        modalities=[
            (m, len(data.embeddings[m]), int(data.label_rows(m).any(axis=1).sum()))
            for m in data.modalities
        ],
        examples=examples,
        top=TOP,
        seed=SEED,
    )


def _figure(panel: Panel) -> dict[str, Any]:
    return {
        "file": panel.file,
        "uri": "data:image/png;base64," + base64.b64encode(panel.png).decode(),
        "alt": panel.alt,
        "caption": panel.caption,
    }


def _require_libraries() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the report needs {error.name}: pip install 'drcl[report]' brings it"
        ) from error
