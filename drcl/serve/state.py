"""The index of a folder as it is now, while others write to it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drcl.index import Index
from drcl.index.folder import MANIFEST
from drcl.serve.items import items_of

_log = logging.getLogger("drcl.serve")
_AGAIN = 1.0  # seconds until an index that could not be loaded is tried again


@dataclass(frozen=True)
class State:
    """A whole index; ``version`` tells it from those before and after it."""

    index: Index
    version: str
    strings: bool  # whether ids are strings
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def items(self) -> bytes:
        """What a page shows before anything is asked, as JSON; computed once."""
        with self.reading(), self._lock:
            return self._items

    @property
    def broken(self) -> str | None:
        """What is wrong with its files, if they cannot be read any more."""
        try:
            self.index.check_files()
        except OSError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """OSError where a file is cut, before or after: what was read meanwhile is not to be used.

        A page that goes while it is read ends the process all the same.
        """
        self.index.check_files()
        try:
            yield
        finally:
            self.index.check_files()

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Of the items that can be found, rising."""
        return self.index.numbers

    @cached_property
    def _items(self) -> bytes:
        return items_of(self.index, self.version)


class Served:
    """The newest whole state of an index: loaded anew when its folder has changed.

    The folder names all that counts in one file, which is replaced in one step; a look at that
    file's number, size and time finds every change. If the new state cannot be loaded, the old one
    goes on, and ``stale`` is true. If files of the old one are cut, it is loaded again as soon as
    that is possible.

    Raises what :meth:`drcl.Index.load` raises if there is no index to begin with.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._name, self.loads, self.stale = secrets.token_hex(4), 0, False
        self._seen, self._tried = self._signature(), 0.0
        self._state = self._load()

    def current(self) -> State:
        """The state to answer from; whoever holds it may go on with it."""
        with self._lock:
            found = self._signature()
            broken = self._state.broken
            due = (self.stale or broken) and time.monotonic() >= self._tried + _AGAIN
            if found != self._seen or due:
                self._seen = found
                try:
                    self._state = self._load()
                    self.stale = False
                except (OSError, ValueError) as error:
                    if not self.stale:
                        then = "no search is answered" if broken else "going on with the old one"
                        _log.warning("the index cannot be loaded, %s: %s", then, error)
                    self.stale, self._tried = True, time.monotonic()
            return self._state

    def _signature(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._folder / MANIFEST)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _load(self) -> State:
        index = Index.load(self._folder)
        self.loads += 1
        strings = isinstance(index.records([0])[0]["id"], str)
        return State(index, f"{self._name}-{self.loads}", strings)
