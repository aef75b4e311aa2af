"""``drcl add-modality``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from drcl.cli import show
from drcl.cli.errors import Interrupted
from drcl.cli.settings import config_options, merge
from drcl.estimator import DRCL
from drcl.run import AddedModality, measure_model, open_run, update_run
from drcl.run.added import part_key
from drcl.run.record import format_settings
from drcl.storage.files import locked

# These made the prior, which the new modality takes as it is.
OF_THE_PRIOR = ("dim", "prior", "prior_epochs", "prior_lr", "prior_norm", "prior_selection")


@click.command("add-modality")
@show.run_argument
@click.argument("name")
@click.argument("features", metavar="FEATURES[:KEY]")
@click.argument("labels", metavar="LABELS[:KEY]")
@click.option(
    "--validation",
    nargs=2,
    metavar="FEATURES[:KEY] LABELS[:KEY]",
    help="Rows for choosing the epoch; default: a stratified tenth of the training rows.",
)
@click.option(
    "--test",
    nargs=2,
    metavar="FEATURES[:KEY] LABELS[:KEY]",
    help="Rows for measuring mAP; without them the modality is trained but not measured.",
)
@config_options(without=OF_THE_PRIOR, one_modality=True)
@show.data_option
@click.option("--report/--no-report", default=True, help="Write RUN/report.", show_default=True)
@show.progress_option
def add_modality(
    run: Path,
    name: str,
    features: str,
    labels: str,
    validation: tuple[str, str] | None,
    test: tuple[str, str] | None,
    data: str | None,
    report: bool,
    progress: bool,
    **given: Any,
) -> None:
    """Add a modality to a run.

    It is trained against the prior of the run; the other modalities do not change.

    Labels are names of the run's classes, or whole numbers, which count the classes from 0 unless
    the names themselves are numbers. Options apply to this modality only; settings that are not
    given are those of the run.
    """
    with locked(run):  # another modality, added meanwhile, would be lost
        record, model = open_run(run), DRCL.load(run)
        if name in model.modalities:
            raise ValueError(f"name: expected one that is not in {model.modalities}, got {name!r}")
        added = AddedModality(
            (_absolute(features), _absolute(labels)),
            validation and (_absolute(validation[0]), _absolute(validation[1])),
            test and (_absolute(test[0]), _absolute(test[1])),
        )
        config = merge(model.config.for_modality(name), given, [name])
        show.check_device(config)
        record = replace(record, added={**record.added, name: added})
        # All rows are read and checked before anything is trained, those of the test, too.
        loaded = record.load_data(data)
        samples = {split: part[name] for split, part in loaded.splits.items() if name in part}
        changes = {key: getattr(config, key) for key in config.to_dict() if key not in OF_THE_PRIOR}
        click.echo(f"settings: {format_settings(config.to_dict())}\n")
        try:
            model.add_modality(
                name, samples["train"], samples.get("validation"), progress=progress, **changes
            )
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {run} is as it was before") from None
        # Measured where it was trained: the device of the run may not be here.
        measured = measure_model(show.on_device(model, config.device), loaded)
        record = update_run(run, record, model, measured.metrics)
        show.finish(run, record, model, measured, report)


def _absolute(text: str) -> str:
    """A path that holds from any working directory; only the part before a key is a path."""
    file, colon, key = part_key(text)
    return f"{Path(file).resolve()}{colon}{key}"
