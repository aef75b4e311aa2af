"""``drcl train``."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch.distributed as dist

from drcl.automatic import auto
from drcl.cli.errors import Interrupted
from drcl.cli.launch import is_worker, launch, may_be_restarted, processes_for, worker
from drcl.cli.output import folder_option
from drcl.cli.settings import (
    AUTO,
    config_options,
    data_folder_option,
    merge,
    preset_for,
    preset_option,
)
from drcl.cli.show import finish, progress_option
from drcl.cli.summary import time_table, tried_table
from drcl.data import CrossModalDataset, load
from drcl.estimator import DRCL
from drcl.run import (
    Run,
    finish_run,
    interrupted,
    is_finished,
    measure_model,
    open_run,
    start_run,
    withdraw_run,
)
from drcl.run.record import format_settings
from drcl.storage.files import locked
from drcl.train.config import Config
from drcl.train.parallel import MODES, Mode


class _Repeatable(click.Command):
    """Keeps the arguments as they were given, for the processes that are to run the same."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Repeatable)
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@folder_option("Run directory.", required=True)
@data_folder_option
@preset_option
@config_options()
@click.option(
    "--parallel",
    type=click.Choice(MODES),
    help="Train in several processes. 'modality': each trains its own modalities, started here or "
    "by torchrun. 'data': each trains on a slice of every batch, started by torchrun.",
)
@click.option("--report/--no-report", default=True, help="Write RUN/report.", show_default=True)
@click.option(
    "--log-dir", type=click.Path(file_okay=False), help="Write TensorBoard curves to this folder."
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run with its own settings.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the directory holds.")
@progress_option
@click.pass_context
def train(ctx: click.Context, **options: Any) -> None:
    """Train on a data set.

    Measures mAP on the test split and writes everything to a run directory.

    DATASET is digits, synthetic, wikipedia, uci, wikipedia-deep, xmedia, xmedianet, nus-wide or
    inria-websearch, or the path of a manifest that describes your own files.
    """
    if is_worker() and options["parallel"] is None:
        raise click.UsageError("several processes were started: say --parallel modality or data")
    asked = _Asked(**{name: options.pop(name) for name in _Asked._fields})
    with worker() if is_worker() else nullcontext(0) as rank:
        _train(asked, options, ctx.meta["arguments"], rank)


class _Asked(NamedTuple):
    """What was asked for beside the settings."""

    dataset: str
    out: Path
    data: str | None
    preset: str | None
    parallel: Mode | None
    log_dir: str | None
    report: bool
    resume: bool
    overwrite: bool
    progress: bool


def _train(asked: _Asked, given: dict[str, Any], arguments: list[str], rank: int) -> None:
    dataset, out, parallel = asked.dataset, asked.out, asked.parallel
    resume = asked.resume or may_be_restarted()
    loaded = load(dataset, asked.data)
    if asked.preset == AUTO:
        _train_auto(asked, given, loaded)
        return
    waiting = interrupted(out) if resume else None
    ended = waiting is None and may_be_restarted() and (out / "run.json").is_file()
    if waiting is not None and asked.preset is None:
        name, base = "the interrupted run", Config.from_dict(waiting.settings)
    elif ended and asked.resume and asked.preset is None:  # which was given no settings
        name, base = "the finished run", Config.from_dict(open_run(out).settings)
    else:
        name, base = preset_for(dataset, asked.preset)
    config = merge(base, given, loaded.modalities)
    run = Run.describe(dataset, asked.data, loaded, config)
    if ended and not asked.overwrite and is_finished(out, run):
        # A process was lost when all was done, and the launcher has started them again.
        if rank == 0:
            click.echo(f"{out}: the run is finished")
        return
    model = DRCL(config)
    config.check_modalities(loaded.modalities)
    if parallel is not None and not is_worker():
        if parallel == "data":
            raise click.UsageError(
                "--parallel data: start the processes with torchrun, for example: torchrun "
                f"--nproc-per-node 2 -m drcl train {dataset} --out {out} --parallel data"
            )
        processes = processes_for(len(loaded.modalities), config.device)
        if processes > 1:
            del loaded
            launch(["train", *arguments], processes)
            return
        parallel = None
    with locked(out) if rank == 0 else nullcontext():
        if rank == 0:
            checkpoints = start_run(out, run, resume=resume, overwrite=asked.overwrite)
            click.echo(loaded.describe())
            click.echo(f"\nsettings: {format_settings(run.settings)} (preset: {name})\n")
        try:
            if parallel is not None:
                dist.barrier()
                checkpoints = start_run(out, run, resume=True)
            model.fit(
                loaded.train,
                loaded.validation,
                checkpoints=checkpoints,
                progress=asked.progress,
                parallel=parallel,
                log_dir=asked.log_dir,
            )
            group = dist.group.WORLD if parallel is not None else None
            measured = measure_model(model, loaded, process_group=group)
            if rank > 0:
                return
            run = finish_run(out, run, model, measured.metrics)
        except Exception as error:
            # A run that cannot be trained must not block the corrected command. After an error of
            # the system the same command can go on, and other processes may still be saving.
            if waiting is None and parallel is None and not isinstance(error, OSError):
                withdraw_run(out)
            raise
        except KeyboardInterrupt:
            if rank > 0:
                raise
            again = ["drcl", "train", dataset, "--out", str(out)]
            again += ["--data", asked.data] if asked.data else []
            again += ["--parallel", parallel] if parallel else []
            again += ["--log-dir", asked.log_dir] if asked.log_dir else []
            raise Interrupted(
                f"interrupted; continue with: {shlex.join([*again, '--resume'])}"
            ) from None
        click.echo(f"{time_table(model.history)}\n")
        finish(out, run, model, measured, asked.report)


def _train_auto(asked: _Asked, given: dict[str, Any], loaded: CrossModalDataset) -> None:
    """``--preset auto``: it chooses its own settings, and is too short to be continued."""
    refused = [name for name, value in given.items() if value not in (None, (), [])]
    refused = sorted(set(refused) - {"seed", "device"})
    refused += [name for name in ("parallel", "log_dir", "resume") if getattr(asked, name)]
    if refused:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise click.UsageError(f"--preset auto: expected no {flags} beside it")
    out, seed, device = asked.out, given["seed"] or 0, given["device"] or "auto"
    with locked(out):
        base = Config(seed=seed, device=device, space="posterior")
        run = Run.describe(asked.dataset, asked.data, loaded, base)
        start_run(out, run, resume=False, overwrite=asked.overwrite)
        click.echo(f"{loaded.describe()}\n\nsettings: chosen by cross-validation (preset: auto)\n")
        try:
            model = auto(
                loaded.train, loaded.validation, seed=seed, device=device, progress=asked.progress
            )
            run = replace(run, settings=model.config.to_dict())
            measured = measure_model(model, loaded)
            run = finish_run(out, run, model, measured.metrics)
        except BaseException:
            withdraw_run(out)
            raise
    click.echo(f"{tried_table(model.tried)}\n")
    finish(out, run, model, measured, asked.report)
