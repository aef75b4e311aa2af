"""``drcl data``."""

from __future__ import annotations

import click

from drcl.cli.settings import data_folder_option
from drcl.data import load
from drcl.data.fingerprint import fingerprint


@click.command()
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@data_folder_option
def data(dataset: str, data: str | None) -> None:
    """Show what a data set holds.

    Reads its files and prints samples, widths and labels of every split, and the fingerprint of
    the protocol. A missing file's error says where to get it.
    """
    loaded = load(dataset, data)
    click.echo(f"{loaded.describe()}\n\nfingerprint: {fingerprint(loaded)}")
