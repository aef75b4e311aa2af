"""``drcl info``."""

from __future__ import annotations

import click
import torch

from drcl import backends, dispatch


@click.command()
def info() -> None:
    """Show versions, devices and backends."""
    click.echo(backends.format_info())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    click.echo(f"chosen on {device.type} (DRCL_BACKEND or drcl.use_backend force another)")
    for family, backend in dispatch.explain(device).items():
        click.echo(f"  {family:<26} {backend}")
