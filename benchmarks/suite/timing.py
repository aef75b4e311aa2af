"""Timing and memory, measured so that contenders can be compared on a noisy machine."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import drcl

RESULTS = Path(__file__).parents[1] / "results"
FLUSH_BYTES = 256 * 2**20  # more than any L2
REST = 0.2  # seconds to wait at most for threads that spin
LOOPED = 5e-2  # seconds of a call that a rest makes slower than it is in use


def in_turns(
    calls: Mapping[str, Callable[[], Any]], counts: Mapping[str, int], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, as often as its count says, in rounds in which all take turns.

    Noise so hits all of them alike. Who has fewer calls than there are rounds takes part in some,
    evenly spread. Every round begins with another one: none runs always behind the same neighbour,
    with what that leaves in the caches. On a CPU everything is at rest before a call: threads of
    OpenMP and OpenBLAS wait for more work for up to .1 s, and hold a core that others need. A brief
    one then runs twice, untimed, as in a loop: the first one after a rest finds threads asleep.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, rounds = list(calls), max(counts.values())
    for round_ in range(rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            if (round_ + 1) * counts[name] // rounds > round_ * counts[name] // rounds:
                if device.type == "cpu":
                    rest()
                    if min(seconds[name], default=0.0) < LOOPED:
                        calls[name]()
                        calls[name]()
                seconds[name].append(seconds_of(calls[name], device))
    return seconds


def rest() -> None:
    """Wait until no thread of this process is running."""
    until = time.monotonic() + REST
    while time.monotonic() < until:
        start, busy = time.monotonic(), time.process_time()
        time.sleep(1e-2)  # the clock of a running thread goes on in steps of 4 ms
        if time.process_time() - busy < 0.2 * (time.monotonic() - start):
            return


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Of one call, which returns them itself if it returns a float.

    On a GPU by events, after its L2 was overwritten, so that inputs are read from memory.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        if device.type == "cuda":
            return _gpu_seconds(call, device)
        start = time.perf_counter()
        own = call()
        return own if isinstance(own, float) else time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


def _gpu_seconds(call: Callable[[], Any], device: torch.device) -> float:
    torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device).zero_()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    own = call()
    stop.record()
    torch.cuda.synchronize()
    return own if isinstance(own, float) else start.elapsed_time(stop) / 1e3


class PeakMemory:
    """Peak memory of a ``with`` block beyond what was in use at its start, in bytes.

    On a CPU the operating system's count (Linux): the high-water mark of resident memory, reset at
    the start, after what the C library and drcl keep of freed blocks was given back. On a GPU the
    allocator's.
    """

    bytes: int = 0

    def __init__(self, device: torch.device | None = None) -> None:
        self.gpu = device is not None and device.type == "cuda"

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        kept = sys.modules.get("drcl.kept_memory")  # another revision may not have it
        if kept is not None:
            kept.release()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = status("VmRSS")
        return self

    def __exit__(self, *unused: object) -> None:
        if self.gpu:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self._before
        else:
            self.bytes = status("VmHWM") - self._before


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status, such as ``VmRSS`` (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


class Others:
    """The share of the machine that other processes took during a ``with`` block, in [0, 1].

    What a figure is worth: 0 is a quiet machine. NaN where /proc/stat is missing.
    """

    share: float = float("nan")

    def __enter__(self) -> Others:
        self._before = _jiffies(), _own_seconds()
        return self

    def __exit__(self, *unused: object) -> None:
        before, now = self._before[0], _jiffies()
        if before is None or now is None:
            return
        busy, total = now[0] - before[0], now[1] - before[1]
        own = (_own_seconds() - self._before[1]) * os.sysconf("SC_CLK_TCK")
        self.share = max(0.0, busy - own) / max(1, total)


def _jiffies() -> tuple[int, int] | None:
    """Busy and all clock ticks of all cores since boot."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # but for idle and waiting for I/O


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def device_name() -> str:
    """The folder of results: the GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().lower().replace("nvidia ", "").replace(" ", "-")
    return processor_name()


def processor_name() -> str:
    """The processor's name, fit for a folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].split("@")[0]
            return "-".join(name.lower().replace("(r)", "").replace("(tm)", "").split())
    return platform.machine()


def about() -> dict[str, Any]:
    """What results of a study are measured on."""
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "drcl": drcl.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def write_results(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows of a study of its own, with what they were measured on, as JSON.

    To ``results/<device>/<name>.json``; the suite's own rows are kept by :mod:`results`.
    """
    path = RESULTS / device_name() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")
    return path


def measure_missing(
    name: str, parts: Mapping[str, Callable[[], dict[str, Any]]], *, again: bool = False
) -> None:
    """Add to a study's results the parts that are not there; each is written when it is done."""
    path = RESULTS / device_name() / f"{name}.json"
    known = path.is_file() and not again
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if known else []
    for part, measure in parts.items():
        if any(row["part"] == part for row in rows):
            print(f"{part}: measured before")
            continue
        print(part, flush=True)
        rows.append({"part": part, **measure()})
        print(f"  {write_results(name, rows)}", flush=True)
