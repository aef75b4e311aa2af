"""How a command ends when it is interrupted, or when the library refuses something."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path
from typing import IO, Any

import click

from drcl._interrupt import EXIT_CODE
from drcl.data.dataset import UNPRINTED
from drcl.errors import BackendUnavailable
from drcl.out_of_memory import first_line, is_out_of_memory

# What the library raises for bad input, missing files, diverging runs, too little memory and for a
# backend that cannot run: no traceback is needed.
REFUSALS = (
    *(ValueError, OSError, FloatingPointError, ImportError, MemoryError),
    BackendUnavailable,
)


def printable(text: str) -> str:
    r"""A message with its control characters spelled out: a name in it may come from a stranger's
    file, and would act on the terminal.

    >>> printable("no array '\x1b[2J'")
    "no array '\\x1b[2J'"
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in UNPRINTED and letter != "\n"
        else letter
        for letter in text
    )


def refusal(error: BaseException) -> str | None:
    """What to say of an error that needs no traceback; None of one that does.

    >>> refusal(ValueError("dim: expected integer >= 1"))
    'dim: expected integer >= 1'
    >>> refusal(RuntimeError("can't allocate memory: you tried to allocate 4000 bytes"))
    "out of memory: can't allocate memory: you tried to allocate 4000 bytes"
    """
    if isinstance(error, REFUSALS) and str(error):
        return printable(str(error))
    if is_out_of_memory(error):
        return printable(f"out of memory: {first_line(error)}")
    return type(error).__name__ if isinstance(error, REFUSALS) else None


def is_interrupt(error: BaseException) -> bool:
    """Whether a library failed to be imported because of Ctrl-C, which it made an error of its own.

    >>> is_interrupt(ImportError("initialization failed"))
    False
    """
    if not isinstance(error, (ImportError, SystemError)):
        return False
    reason = error.__cause__ or error.__context__
    return isinstance(reason, KeyboardInterrupt) or (reason is not None and is_interrupt(reason))


class Interrupted(click.ClickException):
    """Ctrl-C: one line that says how to go on, and the exit status shells expect (128 + SIGINT)."""

    exit_code = EXIT_CODE

    def show(self, file: IO[Any] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads it; the exit status still counts
            # The line of a progress bar may still be open.
            click.echo(f"\n{self.message}", file=file, err=True)


def interrupted_study(done: int, folder: Path, again: str) -> Interrupted:
    """Ctrl-C in a study of which so many results are in a folder.

    >>> interrupted_study(0, Path("study"), "the same command").message
    'interrupted before the first result; the same command starts over'
    """
    if done == 0:
        return Interrupted(f"interrupted before the first result; {again} starts over")
    results = "1 result is" if done == 1 else f"{done} results are"
    return Interrupted(f"interrupted; {results} in {folder}, {again} goes on")
