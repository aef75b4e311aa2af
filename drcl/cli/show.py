"""What the commands that end with a measured run have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from drcl.cli.settings import Device
from drcl.cli.tables import map_table
from drcl.estimator import DRCL
from drcl.out_of_memory import first_line
from drcl.run import Measured, Run, report_data
from drcl.train.config import SPACES, Config
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
space_option = click.option(
    "--space", type=click.Choice(SPACES), help="What to rank by; default: as the run was trained."
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
            f"device: expected one that is here, got {config.device!r} ({reason}); choose another "
            "with --device"
        ) from error


def finish(folder: Path, run: Run, model: DRCL, measured: Measured, report: bool) -> None:
    """Print mAP, seconds and the path of the report, which is written if asked for."""
    if measured.metrics is None:
        click.echo("no mAP: no split holds labelled rows of two modalities")
    else:
        show_metrics(measured)
    seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in run.seconds.items())
    click.echo(f"\ntraining: {seconds}\nrun: {folder}")
    if report and measured.metrics is not None:
        show_report(folder, run, model, measured)


def show_metrics(measured: Measured) -> None:
    """Print the mAP of every ordered pair."""
    assert measured.metrics is not None
    click.echo(f"{measured.split} split, rows are queries and columns galleries\n")
    click.echo(map_table(measured.metrics))


def show_report(folder: Path, run: Run, model: DRCL, measured: Measured) -> None:
    """Write the report and print its path; without its libraries say so: the run is complete."""
    from drcl.report import write_report

    described = report_data(run, model, measured)
    try:
        path = write_report(described, folder / "report")
    except ImportError as error:
        click.echo(f"no report: {error}", err=True)
    else:
        click.echo(f"report: {path}")
