"""Ctrl-C during a training: the epoch is finished and saved first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from drcl.progress import say


@contextlib.contextmanager
def interrupt_after_epoch(active: bool) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted; the function that is yielded says whether it came.

    A second Ctrl-C interrupts at once. Python allows this in the main thread only, and a handler
    that is not Python's own is left alone. Without ``active`` nothing changes.
    """
    asked: list[int] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError):  # the same Ctrl-C may have ended the reader of a pipe
            say("finishing the epoch to save it; Ctrl-C again stops at once")

    mine = (
        active
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
        if asked:  # when no epoch was left to look at it
            raise KeyboardInterrupt
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
