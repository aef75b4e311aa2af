"""``drcl data``."""

from __future__ import annotations

import click

from drcl.compare.protocol import fingerprint
from drcl.data import load


@click.command()
@click.argument("dataset", metavar="DATASET|MANIFEST.toml")
@click.option(
    "--data", "root", metavar="DIR", help="Data folder; default: $DRCL_DATA, else ./data."
)
def data(dataset: str, root: str | None) -> None:
    """Show what a data set holds.

    Reads its files and prints samples, widths and labels of every split, and the fingerprint of
    the protocol. A missing file's error says where to get it.
    """
    loaded = load(dataset, root)
    click.echo(f"{loaded.describe()}\n\nfingerprint: {fingerprint(loaded)}")
