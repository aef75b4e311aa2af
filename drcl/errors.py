"""The exceptions of this package that a caller may want to catch.

Everything else that is refused is one of Python's own: ValueError and TypeError for arguments,
OSError for files, MemoryError where memory ends, ImportError for a library that is not installed.

>>> issubclass(NonFiniteLoss, FloatingPointError), issubclass(RunExists, ValueError)
(True, True)
"""

from __future__ import annotations

__all__ = ["BackendUnavailable", "IndexChanged", "NonFiniteLoss", "RankFailed", "RunExists"]
__dir__ = __all__.copy


class BackendUnavailable(RuntimeError):
    """A backend was asked for that this machine cannot run; the message says why."""


class IndexChanged(FileExistsError):
    """The folder holds another index, or a newer state of it, and nothing said to replace it."""


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite; the message says in which phase, epoch, batch and part."""


class RankFailed(RuntimeError):
    """Another process of the group failed; the error that it raised says why."""


class RunExists(ValueError):
    """The folder holds a finished or interrupted run, and nothing said to replace it."""
