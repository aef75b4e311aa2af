"""``drcl demo``."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import click

from drcl.cli.show import progress_option
from drcl.cli.train import train

# In place of the digits: made here, and small enough for seconds.
_WITHOUT_DIGITS = (
    *("synthetic", "--dim", "64", "--hidden", "128", "--lr", "2e-3"),
    *("--epochs", "10", "--prior-epochs", "5"),
)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs", "digits-demo"),
    show_default=True,
    help="Run directory; a run already there is replaced.",
)
@progress_option
@click.pass_context
def demo(ctx: click.Context, out: Path, progress: bool) -> None:
    """Train on handwritten digits, print mAP, write a report.

    Takes seconds and needs no data files. The digits come with scikit-learn; if it is not
    installed, synthetic classes are used instead. The report is skipped if the extra drcl[report]
    is not installed.
    """
    given = ["digits"]
    if util.find_spec("sklearn") is None:
        click.echo("scikit-learn is not installed: classes are synthetic (drcl doctor says more)\n")
        given = list(_WITHOUT_DIGITS)
    given += ["--out", str(out), "--overwrite", *(() if progress else ("--no-progress",))]
    with train.make_context("train", given, parent=ctx) as training:
        train.invoke(training)
