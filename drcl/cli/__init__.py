"""The command ``drcl``, also ``python -m drcl``. One file per group of commands."""

from __future__ import annotations

import errno
from typing import Any

import click

from drcl import _interrupt
from drcl._version import __version__
from drcl.cli.ablate import ablate
from drcl.cli.add_modality import add_modality
from drcl.cli.bench import bench
from drcl.cli.compare import compare
from drcl.cli.data import data
from drcl.cli.demo import demo
from drcl.cli.doctor import doctor
from drcl.cli.errors import Interrupted, is_interrupt, refusal
from drcl.cli.export import export
from drcl.cli.index import index
from drcl.cli.info import info
from drcl.cli.retrieve import encode, evaluate, report
from drcl.cli.score import score
from drcl.cli.search import search
from drcl.cli.serve import explore, serve
from drcl.cli.train import train
from drcl.portable import print_anything

__all__ = ["main"]
__dir__ = __all__.copy


class _Commands(click.Group):
    """Says what the library refused in one line, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        print_anything()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _interrupt.released():
                return super().invoke(ctx)
        except Exception as error:
            if is_interrupt(error):
                raise Interrupted("interrupted") from None
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `drcl evaluate … | head` is no fault; click ends it quietly
            said = refusal(error)
            if said is None:
                raise
            raise click.ClickException(said) from error
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drcl")
def main() -> None:
    """Deep Reversible Consistency Learning for cross-modal retrieval.

    A first run that needs no data files: drcl demo
    """


for command in (
    train,
    evaluate,
    encode,
    export,
    index,
    search,
    explore,
    serve,
    score,
    add_modality,
    report,
    ablate,
    compare,
    data,
    bench,
    demo,
    info,
    doctor,
):
    main.add_command(command)
