"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counts:
    """Answers by path and status, their seconds, and batches with their queries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds, self._batches, self._rows = 0.0, 0, 0

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One answer; the time counts where it is a search that was done."""
        with self._lock:
            self._answers[path, status] += 1
            if path == "/search" and status == 200:
                self._seconds += seconds
                self._within.update(bound for bound in _BOUNDS if seconds <= bound)

    def batch(self, rows: int) -> None:
        """One product of so many queries."""
        with self._lock:
            self._batches += 1
            self._rows += rows

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it, and some values of the moment, in the text format 0.0.4."""
        with self._lock:
            lines = ["# TYPE drcl_answers_total counter"]
            for (path, status), count in sorted(self._answers.items()):
                lines.append(f'drcl_answers_total{{path="{path}",status="{status}"}} {count}')
            lines.append("# TYPE drcl_search_seconds histogram")
            searches = self._answers["/search", 200]
            for bound in _BOUNDS:
                lines.append(f'drcl_search_seconds_bucket{{le="{bound}"}} {self._within[bound]}')
            lines.append(f'drcl_search_seconds_bucket{{le="+Inf"}} {searches}')
            lines.append(f"drcl_search_seconds_sum {self._seconds:.6f}")
            lines.append(f"drcl_search_seconds_count {searches}")
            counters = {"batches": self._batches, "queries": self._rows}
        for name, value in counters.items():
            lines += [f"# TYPE drcl_{name}_total counter", f"drcl_{name}_total {value}"]
        for name, gauge in gauges.items():
            lines += [f"# TYPE drcl_{name} gauge", f"drcl_{name} {gauge:g}"]
        return "\n".join([*lines, ""])
