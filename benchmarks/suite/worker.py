"""A process of its own that runs contenders on request: for memory, and for other revisions.

It speaks one line of JSON per request and reply. Requests name an entry, a contender and what to
do: ``gate``, ``seconds``, or ``peak`` (bytes beyond inputs and results).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from drcl.benchmarks.suite.measure import gate
from drcl.benchmarks.suite.registry import OURS, Contender, Entry, Problem, entries
from drcl.benchmarks.suite.timing import PeakMemory, seconds_of
from drcl.precision import network_precision

HERE = Path(__file__).resolve().parents[1]
# Freed blocks go back to the system at once, so that resident memory is what is in use.
MEASURED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MKL_DISABLE_FAST_MM": "1",
}
# The benchmarks of this checkout, with the package of the tree given.
START = """
import importlib.util, sys, warnings
warnings.simplefilter("ignore")
tree, benchmarks = sys.argv[1:3]
sys.path[:] = [tree, *(path for path in sys.path if path)]
import drcl
spec = importlib.util.spec_from_file_location(
    "drcl.benchmarks", benchmarks + "/__init__.py", submodule_search_locations=[benchmarks])
sys.modules["drcl.benchmarks"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["drcl.benchmarks"])
from drcl.benchmarks.suite.worker import serve
serve(sys.stdin, sys.stdout, *sys.argv[3:])
"""


class Failed(RuntimeError):
    """The contender cannot be run there."""


class Worker:
    """The other end: a process with the package of ``tree``, used in a ``with`` block."""

    def __init__(
        self, device: torch.device, tree: Path = HERE.parent, *, memory: bool = False
    ) -> None:
        if not (tree / "drcl").is_dir():  # installed: benchmarks/ lies inside the package
            tree = tree.parent
        environment = os.environ | (MEASURED_MEMORY if memory else {})
        command = [sys.executable, "-c", START, str(tree), str(HERE)]
        self.process = subprocess.Popen(
            [*command, str(device), str(torch.get_num_threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # it may be in the midst of something long
            self.process.terminate()
        self.process.communicate()

    def ask(self, do: str, entry: Entry, contender: str = "") -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"do": do, "entry": entry.name, "contender": contender}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the process for {entry.name} ended ({self.process.wait()})")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply["value"]

    def peak(self, entry: Entry, contender: str) -> float:
        """Peak bytes of one call beyond inputs and results."""
        return float(self.ask("peak", entry, contender))

    def seconds(self, entry: Entry, contender: str) -> float:
        """Of one call."""
        return float(self.ask("seconds", entry, contender))

    def gate(self, entry: Entry) -> dict[str, str]:
        """Our contenders with what is wrong with them, empty if nothing is."""
        return dict(self.ask("gate", entry))


class Server:
    """Keeps the last entry's problem ready."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.entries = {entry.name: entry for entry in entries(device)}
        self.ready: tuple[str, Problem] | None = None

    def answer(self, do: str, entry: str, contender: str) -> Any:
        found = self.entries[entry]
        with network_precision(found.precision):
            if self.ready is None or self.ready[0] != entry:
                self.ready = None  # before the next one takes its memory
                torch.compiler.reset()
                self.ready = entry, found.build(found.sizes, self.device)
            problem = self.ready[1]
            if do == "gate":
                return self.gate(found, problem)
            one = problem.contenders.get(contender, "unknown in another process")
            if not isinstance(one, Contender):
                raise Failed(one)
            return self.peak(one) if do == "peak" else seconds_of(one.run, self.device) / one.share

    def gate(self, entry: Entry, problem: Problem) -> dict[str, str]:
        ours = {
            name: one
            for name, one in problem.contenders.items()
            if name.startswith(OURS) and isinstance(one, Contender)
        }
        return dict.fromkeys(ours, "") | gate(entry, problem, ours, self.device)

    def peak(self, contender: Contender) -> int:
        contender.run()  # what a first call sets up stays out of the count
        with PeakMemory(self.device) as used:
            outcome = contender.run()
        results = outcome if isinstance(outcome, tuple) else ()
        return used.bytes - sum(each.nbytes for each in results)


def serve(requests: TextIO, replies: TextIO, device: str, threads: str) -> None:
    """Answer requests until there are no more; what others print goes to the error stream."""
    torch.set_num_threads(int(threads))
    server, sys.stdout = Server(torch.device(device)), sys.stderr
    for line in requests:
        try:
            reply = {"value": server.answer(**json.loads(line))}
        except Exception as error:  # any: the asker decides what it means
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
