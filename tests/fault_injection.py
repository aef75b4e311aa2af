"""What goes wrong on purpose: calls that fail, processes that die, disks that are full."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from drcl.cli import main

# What changes files; the modules of Python's library look them up in ``os`` at each call.
CALLS = ("open", "write", "fsync", "chmod", "replace", "unlink", "mkdir", "rmdir")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".drcl-partial")]


@contextlib.contextmanager
def failing(call: str, number: int, error: Callable[[], Any]) -> Iterator[list[int]]:
    """Within, the call of that number (from 0) among ``os.<call>`` does what ``error`` does.

    Yields a list that has an entry once it was reached.
    """
    calls, reached, real = itertools.count(), [], getattr(os, call)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            reached.append(number)
            error()
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, counted)
        yield reached


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(work: Callable[[], Any], limit: float = 60.0) -> int:
    """The exit code of a forked process that does ``work``: 0, 1 with its error shown, or −signal.

    It is killed after ``limit`` seconds, which is a failure.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
            work()
            os._exit(0)
        except click.exceptions.Exit as ended:
            os._exit(ended.exit_code)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the process did not end within {limit} s")


class Killed(BaseException):
    """Stands for the end of a process: nothing that it would still do to a file is done."""


def killed_everywhere(
    prepare: Callable[[], Any], work: Callable[[Any], Any], really: bool
) -> Iterator[Any]:
    """Does ``work`` again and again, killed at its first, second, … change of a file.

    ``prepare`` makes what ``work`` is given, anew for each, and it is yielded after the kill. Half
    of a write is on the disk then. ``really`` does it in processes that get SIGKILL.
    """
    for point in itertools.count():
        given = prepare()
        finished = (_in_a_process if really else _in_here)(work, given, point)
        yield given
        if finished:
            assert point > 3, "no call was reached: the test shows nothing"
            return


def _in_a_process(work: Callable[[Any], Any], given: Any, point: int) -> bool:
    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying() -> None:
        calls = itertools.count()
        for name in CALLS:
            setattr(os, name, _dying(name, calls, point, end))
        work(given)

    code = in_child(dying)
    assert code in (0, -signal.SIGKILL), f"ended with {code} at call {point}"
    return code == 0


def _in_here(work: Callable[[Any], Any], given: Any, point: int) -> bool:
    def end() -> None:
        raise Killed

    calls = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _dying(name, calls, point, end))
        try:
            work(given)
        except Killed:
            return False
        return True


def _dying(
    name: str, calls: Iterator[int], point: int, end: Callable[[], None]
) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if name != "open" or (arguments[1] & os.O_CREAT):
            number = next(calls)
            if number == point and name == "write":
                real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
            if number >= point:
                end()
        return None if name == "fsync" else real(*arguments, **options)

    return call


def refused(*arguments: Any) -> str:
    """The one line that a command says which ends with exit code 1."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    line = result.output.split("Error: ")[-1]
    assert line.count("\n") == 1, line
    return line
