"""Ctrl-C before the command ``drcl`` can answer it: one line, not a traceback through PyTorch.

Importing takes seconds, and libraries turn a KeyboardInterrupt that reaches them meanwhile into
errors of their own. Nothing has begun yet that would have to be undone, so the process just ends.
Where this package is a library, nothing changes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

EXIT_CODE = 130  # as shells have it: 128 + SIGINT


def guard() -> None:
    """In the process of the command, let Ctrl-C end it at once from here on."""
    if (
        _is_command()
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt, as it always does; a guard goes on after it."""
    guarded = signal.getsignal(signal.SIGINT) is _end
    try:
        if guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if guarded:
            signal.signal(signal.SIGINT, _end)


def _is_command() -> bool:
    """Whether this process is ``drcl …`` or ``python -m drcl …``."""
    if sys.argv[:1] == ["-m"]:  # Python still looks for the module; its name is before the others
        return sys.orig_argv[-len(sys.argv)] in ("drcl", "-mdrcl")
    return bool(sys.argv) and Path(sys.argv[0]).name == "drcl"


def _end(signum: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first reports for all
        with contextlib.suppress(OSError):
            os.write(2, b"\ninterrupted\n")
    os._exit(EXIT_CODE)
