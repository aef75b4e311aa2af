"""``drcl info``."""

from __future__ import annotations

import click

from drcl import backends


@click.command()
def info() -> None:
    """Show versions, devices and backends."""
    click.echo(backends.format_info())
