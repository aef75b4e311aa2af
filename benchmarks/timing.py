"""Timing and memory, measured so that two forms can be compared on a noisy machine."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import drcl

RESULTS = Path(__file__).parent / "results"


def medians(
    contestants: Mapping[str, Callable[[], Any]], repeats: int, label: str = ""
) -> dict[str, float]:
    """Median seconds of each contestant, called in turn, so that noise hits all of them alike.

    One round before the timed ones warms up caches, allocators and compilers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in tqdm(range(repeats + 1), desc=label, leave=False, disable=None):
        for name, call in contestants.items():
            _synchronize()
            start = time.perf_counter()
            call()
            _synchronize()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class PeakMemory:
    """Peak resident memory of a ``with`` block beyond what was resident at its start, in bytes.

    Linux only: the kernel's own high-water mark, reset at the start.
    """

    bytes: int = 0

    def __enter__(self) -> PeakMemory:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *unused: object) -> None:
        self.bytes = _status("VmHWM") - self._before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def device_name() -> str:
    """The folder of results: the GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().lower().replace("nvidia ", "").replace(" ", "-")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].split("@")[0]
            return "-".join(name.lower().replace("(r)", "").replace("(tm)", "").split())
    return platform.machine()


def write_results(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows with what they were measured on to ``results/<device>/<name>.json``."""
    path = RESULTS / device_name() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "drcl": drcl.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    return path
