"""Where the time of a training goes, by section, without stopping the device."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch

SECTIONS = ("data", "encoder", "loss", "optimizer", "evaluation", "checkpoint")


class Clock:
    """Seconds spent in each of :data:`SECTIONS`; :meth:`enter` ends one section and begins another.

    On a CPU the time is read at once. On a GPU an event is recorded in the stream, and the events
    are read together, when :meth:`read` is called: the one place that waits for the device. A step
    that is replayed as a CUDA graph holds its own events; their last replay says how the time of
    all replays is shared out.

    >>> clock = Clock(torch.device("cpu"))
    >>> clock.enter("data"), clock.enter("loss")
    (None, None)
    >>> sorted(name for name, seconds in clock.read().items() if seconds > 0)
    ['data', 'loss']
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._inside: list[tuple[str, Any]] = []

    def enter(self, section: str) -> None:
        """From here on, time belongs to ``section``, or with ``""`` to none."""
        if not self._on_gpu:
            self._marks.append((section, time.perf_counter()))
            return
        captured = torch.cuda.is_current_stream_capturing()
        event = torch.cuda.Event(enable_timing=True, external=captured)
        event.record()
        (self._inside if captured else self._marks).append((section, event))

    def read(self) -> dict[str, float]:
        """Seconds by section since the last reading; every section is there, 0 if not entered."""
        self.enter("")
        seconds = dict.fromkeys(SECTIONS, 0.0)
        replayed = 0.0
        for section, spent in self._spans(self._marks):
            if section == "replay":
                replayed += spent
            elif section:
                seconds[section] += spent
        shares = self._spans(self._inside) if replayed else []
        whole = sum(spent for _, spent in shares)
        for section, spent in shares:
            seconds[section] += replayed * spent / whole
        self._marks = []
        return seconds

    def _spans(self, marks: list[tuple[str, Any]]) -> list[tuple[str, float]]:
        if self._on_gpu and marks:
            marks[-1][1].synchronize()
        return [
            (section, begin.elapsed_time(end) / 1e3 if self._on_gpu else end - begin)
            for (section, begin), (_, end) in pairwise(marks)
        ]
