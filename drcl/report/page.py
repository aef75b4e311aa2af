"""Puts the sections together and writes them, all or nothing."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from drcl.checks import check_installed
from drcl.report.data import ReportData, pair_key
from drcl.report.map_matrix import draw_map_matrix
from drcl.report.panels import Panel, Section
from drcl.report.precision_recall import draw_precision_recall
from drcl.report.projection import draw_projection
from drcl.report.retrieval import SEED, TOP, Example, choose_examples, draw_retrieval
from drcl.report.training import draw_training
from drcl.storage.files import write_together

_OURS = re.compile(
    r"report\.html|(map_matrix|precision_recall|projection|retrieval|training)(_\d+)?\.(svg|png)"
)


def is_report_file(name: str) -> bool:
    """Whether a report writes a file of this name, or did when its figures were PNG files.

    >>> is_report_file("training_2.svg"), is_report_file("notes.svg")
    (True, False)
    """
    return _OURS.fullmatch(name) is not None


def write_report(data: ReportData, directory: Path) -> Path:
    """Writes ``report.html`` and its figures as SVG files; returns the path of ``report.html``.

    The page needs nothing beside it: figures are embedded, there is no script and no link out. A
    figure with nothing to show (no history, no curves, no pictures) is left out, and the files of
    an earlier report that this one does not write are removed. Files are replaced only after all
    of them have been written, the page last: a failure leaves the earlier page as it was.

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
    ['map_matrix_1.svg', 'projection.svg', 'report.html']
    """
    refusal = "the report needs {}; install it with: pip install 'drcl[report]'"
    check_installed(refusal, "jinja2", "matplotlib", "sklearn")
    examples = choose_examples(data)
    drawn = (
        draw_map_matrix(data),
        draw_precision_recall(data),
        draw_projection(data),
        draw_retrieval(data, examples),
        draw_training(data),
    )
    sections = {section.name: section for section in drawn if section is not None}
    panels = [panel for section in sections.values() for panel in section.panels]
    files = {panel.file: panel.svg for panel in panels}
    files["report.html"] = _render(data, sections, examples).encode()
    directory = Path(directory)
    write_together({directory / name: content for name, content in files.items()})
    for file in list(directory.iterdir()):
        if is_report_file(file.name) and file.name not in files and file.is_file():
            file.unlink()
    return directory / "report.html"


def environment(*folders: Path) -> Any:
    """Where the templates of this folder, and of others, are rendered from; what they show is
    escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(data: ReportData, sections: dict[str, Section], examples: list[Example]) -> str:
    return (
        environment()
        .get_template("template.html.jinja")
        .render(
            data=data,
            figures={
                name: {"caption": section.caption, "panels": [_figure(p) for p in section.panels]}
                for name, section in sections.items()
            },
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
    )


def _figure(panel: Panel) -> dict[str, Any]:
    return {
        "file": panel.file,
        "uri": "data:image/svg+xml;base64," + base64.b64encode(panel.svg).decode(),
        "alt": panel.alt,
    }
