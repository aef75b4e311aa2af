"""Where commands write: a file, or a folder of their own.

A folder of results is made, with the folders above it. A file goes into a folder that is there, as
with ``cp``: a misspelt path is refused before anything is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from drcl.progress import say
from drcl.storage.files import followed

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class OutputFile(click.Path):
    """The path of a file to be written, in a folder that exists; of a link, what it points at."""

    endings: tuple[str, ...] = ()  # that the name may have; none says that any

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        # By path_type never bytes, which the types of click allow.
        path = followed(Path(super().convert(value, param, ctx)))  # type: ignore[arg-type]
        if not path.parent.is_dir():
            self.fail(f"{path}: expected a folder that exists, got {path.parent}", param, ctx)
        ending = Path(value).suffix.lower()
        if self.endings and ending not in self.endings:
            self.fail(f"{value}: expected a name ending in .html, got {ending!r}", param, ctx)
        name = Path(value).name
        if self.endings and not ending and name.startswith("."):  # would be a hidden file
            self.fail(f"{value}: expected a name before its ending, got {name!r}", param, ctx)
        return path


class OutputPage(OutputFile):
    """The same of a page, whose name ends as browsers expect it, or has no ending."""

    endings = (".html", ".htm", "")


def folder_option(words: str, *, required: bool = False) -> Callable[[F], F]:
    """The option for a folder of results, which is made."""
    folder = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", required=required, type=folder, help=words)


def waiting(folder: Path, write: Callable[[], T]) -> T:
    """What ``write`` returns; while another process holds the folder's lock, say so and try again.

    The system releases the lock when that process ends.
    """
    said = False
    while True:
        try:
            return write()
        except BlockingIOError:
            if not said:
                say(f"waiting for another process that is writing to {folder}")
            said = True
            time.sleep(0.05)


def check_out(out: Path, there: bool, append: bool, overwrite: bool) -> None:
    """Refuse to write over what is there unasked."""
    if append and overwrite:
        raise click.UsageError("expected --append or --overwrite, got both")
    if there and not append and not overwrite:
        raise ValueError(already_there(out))


def check_new(out: Path, overwrite: bool) -> None:
    """Refuse to replace a file unasked."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: exists; choose another name, or --overwrite it")


def already_there(out: Path) -> str:
    return f"{out}: is there already; add to it with --append, or --overwrite it"
