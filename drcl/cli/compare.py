"""``drcl compare``."""

from __future__ import annotations

from pathlib import Path

import click

from drcl.cli.errors import interrupted_study
from drcl.cli.output import folder_option
from drcl.cli.settings import data_folder_option, seeds_option
from drcl.cli.show import progress_option
from drcl.compare.methods import METHODS
from drcl.compare.protocol import damage_of
from drcl.compare.study import read_results, run_study, summarize, table
from drcl.data import load
from drcl.data.fingerprint import fingerprint
from drcl.storage.files import write_bytes


@click.command()
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@folder_option("Folder for results.jsonl and table.md; a study already there is continued.")
@data_folder_option
@click.option(
    "--methods",
    default=",".join(METHODS),
    show_default=True,
    help="Names separated by commas; the first is compared with each of the others.",
)
@seeds_option
@click.option(
    "--noise",
    metavar="KIND:RATE",
    help="Make labels wrong: symmetric:0.4 (any other class) or asymmetric:0.4 (the next one).",
)
@click.option(
    "--labels-per-class",
    type=click.IntRange(min=1),
    help="Keep this many training rows and as many validation rows of every class.",
)
@click.option(
    "--missing", type=float, metavar="RATE", help="Leave out this share of each modality's rows."
)
@click.option(
    "--unseen", type=int, metavar="N", help="Hide N classes from each modality, different ones."
)
@progress_option
def compare(
    dataset: str,
    out: Path | None,
    data: str | None,
    methods: str,
    seeds: int,
    noise: str | None,
    labels_per_class: int | None,
    missing: float | None,
    unseen: int | None,
    progress: bool,
) -> None:
    """Compare methods of the field over several seeds.

    Every method is trained on the training rows, chooses its settings on the validation rows and is
    measured on the test rows. If a set has no validation rows, a fifth of its training rows is used
    instead, drawn anew for each seed. Differences are tested by flipping signs over the seeds and
    corrected by Holm's method; with fewer than five seeds there is no verdict.
    """
    names = [name.strip() for name in methods.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown or len(set(names)) < len(names):
        raise click.BadParameter(
            f"expected different names of {', '.join(METHODS)}, got {methods}",
            param_hint="--methods",
        )
    damage = damage_of(noise, labels_per_class, missing, unseen)
    loaded = load(dataset, data)
    protocol = f"fingerprint: {fingerprint(loaded)}"
    if damage is not None:
        protocol += f", {damage.name}"
    click.echo(f"{loaded.describe()}\n\n{protocol}\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    file = None if out is None else out / "results.jsonl"
    try:
        results = run_study(
            loaded,
            {name: METHODS[name] for name in names},
            range(seeds),
            file,
            damage=damage,
            progress=progress,
        )
    except KeyboardInterrupt:
        if file is None:
            raise
        done = len(read_results(file)) if file.exists() else 0
        raise interrupted_study(done, file.parent, "the same command") from None
    text = table(summarize(results), {name: method.title for name, method in METHODS.items()})
    click.echo(text)
    if out is not None:
        write_bytes(out / "table.md", f"{loaded.name}, {protocol}\n\n{text}\n".encode())
