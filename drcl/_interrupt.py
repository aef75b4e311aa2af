"""Ctrl-C before the command ``drcl`` can answer it: one line, not a traceback through PyTorch.

Importing takes seconds, and libraries turn a KeyboardInterrupt that reaches them meanwhile into
errors of their own. Nothing has begun yet that would have to be undone, so the process just ends.
Where this package is a library, nothing changes.
"""

from __future__ import annotations

import os
import signal
import sys

# Until the guard stands, every import is a moment without it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

EXIT_CODE = 130  # as shells have it: 128 + SIGINT


def guard() -> None:
    """In the process of the command, let Ctrl-C end it at once from here on."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:  # noqa: SIM105 (contextlib would be one more import)
            signal.signal(signal.SIGINT, _end)
        except ValueError:  # imported in another thread than the first
            pass


class released:
    """Within, Ctrl-C raises KeyboardInterrupt, as it always does; a guard goes on after it."""

    def __enter__(self) -> None:
        self._guarded = signal.getsignal(signal.SIGINT) is _end
        if self._guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        if self._guarded:
            signal.signal(signal.SIGINT, _end)


def _is_command() -> bool:
    """Whether this process is ``drcl …`` or ``python -m drcl …``."""
    if sys.argv[:1] == ["-m"]:  # Python still looks for the module; its name is before the others
        return sys.orig_argv[-len(sys.argv)] in ("drcl", "-mdrcl")
    return bool(sys.argv) and os.path.basename(sys.argv[0]) in ("drcl", "drcl.exe")


def _end(signum: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first reports for all
        try:  # noqa: SIM105 (as above)
            os.write(2, b"\ninterrupted\n")
        except OSError:
            pass
    os._exit(EXIT_CODE)
