"""The index of a folder as it is now, while others write to it."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

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
        with self._lock:
            return self._items

    @cached_property
    def _items(self) -> bytes:
        return items_of(self.index, self.version)


class Served:
    """The newest whole state of an index: loaded anew when its folder has changed.

    The folder names all that counts in one file, which is replaced in one step; a look at that
    file's number, size and time finds every change. Where the new state cannot be loaded the old
    one goes on, and ``stale`` is true.

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
            due = self.stale and time.monotonic() >= self._tried + _AGAIN
            if found != self._seen or due:
                self._seen = found
                try:
                    self._state = self._load()
                    self.stale = False
                except (OSError, ValueError) as error:
                    if not self.stale:
                        _log.warning("going on with the index as it was: %s", error)
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
