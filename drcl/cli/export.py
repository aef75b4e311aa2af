"""``drcl export``."""

from __future__ import annotations

from pathlib import Path

import click

from drcl.cli import show
from drcl.cli.output import OutputFile, check_new, waiting
from drcl.deploy import FORMATS
from drcl.estimator import DRCL
from drcl.storage.files import locked, write_bytes


@click.command()
@show.run_argument
@click.argument("modality")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    help="onnx for ONNX runtimes, pt2 for torch.export.load; default: the ending of --out.",
)
@click.option(
    "--out",
    required=True,
    type=OutputFile(),
    help="Output file, such as image.onnx.",
)
@show.space_option
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def export(
    run: Path, modality: str, kind: str | None, out: Path, space: str | None, overwrite: bool
) -> None:
    """Write an encoder as a file that runs without drcl.

    The file takes unscaled features, any number of rows, and returns embeddings: it contains the
    standardizer. The format onnx needs the extra drcl[export].
    """
    ending = out.suffix[1:].lower()
    kind = kind or ending
    if kind not in FORMATS:
        raise click.BadParameter(
            f"{out}: expected a name ending in .onnx or .pt2, or --format", param_hint="--out"
        )
    if ending in FORMATS and ending != kind:
        raise click.BadParameter(
            f"{out}: expected a name ending in .{kind}, as --format says", param_hint="--out"
        )
    check_new(out, overwrite)
    content = FORMATS[kind](DRCL.load(run).encoder(modality, space=space))

    def write() -> None:
        with locked(out.parent):
            check_new(out, overwrite)  # another process may have written it meanwhile
            write_bytes(out, content)

    waiting(out.parent, write)
    click.echo(f"{out}: {len(content)} bytes")
