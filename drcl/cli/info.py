"""``drcl info``."""

from __future__ import annotations

import click
import torch

from drcl import backends, dispatch
from drcl.ops import reversible_consistency as loss


@click.command()
@click.option(
    "--loss",
    "sizes",
    nargs=3,
    type=click.IntRange(1, 2**31),
    metavar="B D C",
    help="Say how the loss of B rows of D features in C classes is computed.",
)
def info(sizes: tuple[int, int, int] | None) -> None:
    """Show versions, devices and backends."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if sizes:
        batch, width, classes = sizes
        click.echo(f"loss at B = {batch}, D = {width}, C = {classes}, {device.type}")
        family = "reversible_consistency"
        kernels = dispatch.kernels_take(family, torch.empty(0, width))
        backend = dispatch.choose(family, device, kernels=kernels)
        if backend == "reference":
            click.echo("  backend                    reference: from the formulas, in B×B matrices")
            return
        for name, chosen in loss.explain(*sizes, backend).items():
            click.echo(f"  {name:<26} {chosen}")
        return
    click.echo(backends.format_info())
    click.echo(f"chosen on {device.type} (DRCL_BACKEND or drcl.use_backend force another)")
    for family, backend in dispatch.explain(device).items():
        click.echo(f"  {family:<26} {backend}")
