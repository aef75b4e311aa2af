"""What the commands that end with a measured run have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from drcl.cli.settings import Device
from drcl.cli.tables import map_table
from drcl.data import CrossModalDataset
from drcl.estimator import DRCL
from drcl.memory import first_line
from drcl.run import Run, report_data
from drcl.run.evaluation import SplitName
from drcl.train.config import Config
from drcl.train.networks import pick_device

F = TypeVar("F", bound=Callable[..., Any])

run_argument = click.argument(
    "run", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="RUN"
)
data_option = click.option(
    "--data",
    metavar="DIR|MANIFEST.toml",
    help="Data folder or manifest, if not the one used in training. Files of modalities added "
    "later are read from their original place.",
)
device_option = click.option(
    "--device", type=Device(), help="Where to compute; default: the device of the run."
)
progress_option = click.option(
    "--progress/--no-progress", default=True, help="Show progress bars.", show_default=True
)


def on_device(model: DRCL, device: str | None) -> DRCL:
    """The same model, computing there; None is the device of its settings, which stay as they are.

    One that is not here is a ValueError that says what to do.
    """
    there = copy.copy(model)
    there.config = replace(model.config, device=device or model.config.device)
    check_device(there.config)
    return there


def check_device(config: Config) -> None:
    """Refuse a device that is not here, before anything is computed: a run may be moved."""
    try:
        pick_device(config.device)
    except ValueError as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(
            f"device: {config.device!r} cannot be used here ({reason}); choose another with "
            "--device"
        ) from error


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
