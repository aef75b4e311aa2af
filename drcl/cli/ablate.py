"""``drcl ablate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from drcl.ablate import Row, Table
from drcl.ablate import ablate as run_study
from drcl.cli.errors import interrupted_study
from drcl.cli.output import folder_option
from drcl.cli.settings import (
    config_options,
    data_folder_option,
    merge,
    preset_for,
    preset_option,
    seeds_option,
)
from drcl.cli.show import progress_option
from drcl.data import load
from drcl.run.record import format_settings
from drcl.tables import columns


@click.command()
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@folder_option("Folder for results and tables; default: runs/ablate-DATASET.")
@data_folder_option
@seeds_option
@preset_option
@config_options(without=("prior",))
@click.option("--resume", is_flag=True, help="Reuse the results in the folder.")
@progress_option
def ablate(
    dataset: str,
    out: Path | None,
    data: str | None,
    seeds: int,
    preset: str | None,
    resume: bool,
    progress: bool,
    **given: Any,
) -> None:
    """Compare the method with its variants.

    Every variant is trained with several seeds and compared with linear baselines. Variants: a
    random orthogonal prior (with unit columns, and with the learned prior's norm), a separate prior
    per modality, the prior with the lowest score, no recasting terms, no feature mixing, no label
    loss, and the behaviour of the released code. Baselines: CCA if the samples are paired, and
    semantic matching by logistic regression. Each result is saved as soon as it is computed.
    """
    loaded = load(dataset, data)
    name, base = preset_for(dataset, preset)
    config = merge(base, given, loaded.modalities)
    # A name that comes from a manifest must lead to no other folder.
    safe = re.sub(r"[^\w.+-]+", "-", loaded.name)[:60]
    folder = out or Path("runs", f"ablate-{safe}")
    click.echo(loaded.describe())
    click.echo(f"\nsettings: {format_settings(config.to_dict())} (preset: {name})\n")
    try:
        table = run_study(loaded, config, folder, seeds=seeds, resume=resume, progress=progress)
    except KeyboardInterrupt:
        done = len(list(folder.glob("results/**/*.json")))
        raise interrupted_study(done, folder, "the same command with --resume") from None
    click.echo(format_table(table))
    click.echo(f"\ntables: {folder / 'table.csv'}, {folder / 'table.json'}")
    click.echo(f"chart: {folder / 'table.png'}")


def format_table(table: Table) -> str:
    """The study as text: the means, then every direction of the full method and the baselines."""
    first = table.rows[0]
    head = ["mean over the pairs", *table.metrics, "difference", f"against {first.name}"]
    rows = [head, *(_mean_row(table, row) for row in table.rows)]
    compared = [first, *(row for row in table.rows if row.baseline)]
    pairs = [["mAP@all", *(row.name for row in compared)]]
    for pair in table.pairs:
        pairs.append([pair, *(_value(row, "mAP@all", pair) for row in compared)])
    seeds = f"{len(table.seeds)} seeds" if len(table.seeds) > 1 else "one seed: no noise estimate"
    lines = [f"{table.dataset}, {seeds}", "", columns(rows), "", columns(pairs), ""]
    lines += [_in_words(table)] if len(table.seeds) > 1 else []
    for name, chosen in table.chosen.items():
        settings = "; ".join(f"{what}: {value}" for what, value in chosen.items())
        lines.append(f"{name} chose on validation: {settings}")
    lines += [f"{name} left out: {reason}" for name, reason in table.skipped.items()]
    return "\n".join(lines)


def _mean_row(table: Table, row: Row) -> list[str]:
    values = [_value(row, metric) for metric in table.metrics]
    if row is table.rows[0]:
        return [row.name, *values, "", ""]
    return [row.name, *values, f"{table.difference(row):+.3f}", table.verdict(row)]


def _value(row: Row, metric: str, pair: str = "mean") -> str:
    sd = row.sd(metric, pair)
    return f"{row.mean(metric, pair):.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def _in_words(table: Table) -> str:
    within = [row.name for row in table.rows if table.verdict(row) == "within noise"]
    rule = "less than two standard errors of the difference"
    if not within:
        return f"Every difference is above the noise ({rule})."
    return f"No difference shown, {rule}: {'; '.join(within)}."
