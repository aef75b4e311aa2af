"""What the commands that end with a measured run have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from drcl.cli.tables import map_table
from drcl.data import CrossModalDataset
from drcl.estimator import DRCL
from drcl.run import Run, report_data
from drcl.run.evaluation import SplitName

F = TypeVar("F", bound=Callable[..., Any])

run_argument = click.argument(
    "run", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="RUN"
)
data_option = click.option(
    "--data",
    metavar="DIR|MANIFEST.toml",
    help="Data folder, or manifest, where it is not the one of the training. Files of modalities "
    "added later are read where they were.",
)
progress_option = click.option(
    "--progress/--no-progress", default=True, help="Show progress bars.", show_default=True
)


def finish(
    folder: Path,
    run: Run,
    model: DRCL,
    data: CrossModalDataset,
    split: SplitName | None,
    embeddings: dict[str, np.ndarray],
    metrics: dict[str, dict[str, float]] | None,
    report: bool,
) -> None:
    """Print mAP, seconds and the path of the report, which is written if asked for."""
    if split is None or metrics is None:
        click.echo("no mAP: no split holds labelled rows of two modalities")
    else:
        click.echo(f"{split} split, rows are queries and columns galleries\n")
        click.echo(map_table(metrics) + "\n")
    seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in run.seconds.items())
    click.echo(f"training: {seconds}\nrun: {folder}")
    if report and split is not None and metrics is not None:
        show_report(folder, run, model, data, split, embeddings, metrics)


def show_report(
    folder: Path,
    run: Run,
    model: DRCL,
    data: CrossModalDataset,
    split: SplitName,
    embeddings: dict[str, np.ndarray],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Write the report and print its path; without its libraries say so: the run is complete."""
    from drcl.report import write_report

    described = report_data(run, model, data, split, embeddings, metrics)
    try:
        path = write_report(described, folder / "report")
    except ImportError as error:
        click.echo(f"no report: {error}", err=True)
    else:
        click.echo(f"report: {path}")
