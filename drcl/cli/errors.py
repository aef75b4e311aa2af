"""How a command ends when it is interrupted, or when the library refuses something."""

from __future__ import annotations

from typing import IO, Any

import click

# What the library raises for bad input, missing files, diverging runs and where memory ends: no
# traceback is needed.
REFUSALS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError)


class Interrupted(click.ClickException):
    """Ctrl-C: one line that says how to go on, and the exit status shells expect (128 + SIGINT)."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        # The line of a progress bar may still be open.
        click.echo(f"\n{self.message}", file=file, err=True)
