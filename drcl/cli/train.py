"""``drcl train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from drcl.cli.errors import Interrupted
from drcl.cli.settings import config_options, merge, preset_for, preset_option
from drcl.cli.show import finish, progress_option
from drcl.data import load
from drcl.estimator import DRCL
from drcl.run import Run, embed, evaluation_split, finish_run, interrupted, measure, start_run
from drcl.train.config import Config


@click.command()
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Run directory."
)
@click.option("--data", metavar="DIR", help="Data folder; default: $DRCL_DATA, else ./data.")
@preset_option
@config_options()
@click.option("--report/--no-report", default=True, help="Write RUN/report.", show_default=True)
@click.option("--resume", is_flag=True, help="Continue an interrupted run with its own settings.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the directory holds.")
@progress_option
def train(
    dataset: str,
    out: Path,
    data: str | None,
    preset: str | None,
    report: bool,
    resume: bool,
    overwrite: bool,
    progress: bool,
    **given: Any,
) -> None:
    """Train on a data set.

    Then measure mAP on its test split, and write it all to a run directory.

    DATASET is digits, synthetic, wikipedia, uci, wikipedia-deep, xmedia, xmedianet, nus-wide or
    inria-websearch; or the path of a manifest that describes your own files.
    """
    loaded = load(dataset, data)
    waiting = interrupted(out) if resume else None
    if waiting is not None and preset is None:
        name, base = "the interrupted run", Config.from_dict(waiting.settings)
    else:
        name, base = preset_for(dataset, preset)
    config = merge(base, given, loaded.modalities)
    run = Run.describe(dataset, data, loaded, config)
    model = DRCL(config)
    config.check_modalities(loaded.modalities)
    checkpoints = start_run(out, run, resume=resume, overwrite=overwrite)
    click.echo(loaded.describe())
    click.echo(f"\nsettings: {run.spelled()} (preset: {name})\n")
    try:
        model.fit(loaded.train, loaded.validation, checkpoints=checkpoints, progress=progress)
        split = evaluation_split(loaded)
        embeddings = embed(model, loaded.splits[split]) if split else {}
        metrics = measure(embeddings, loaded.splits[split]) if split else None
        run = finish_run(out, run, model, metrics)
    except KeyboardInterrupt:
        options = f" --data {data}" if data else ""
        raise Interrupted(
            f"interrupted; continue with: drcl train {dataset} --out {out}{options} --resume"
        ) from None
    finish(out, run, model, loaded, split, embeddings, metrics, report)
