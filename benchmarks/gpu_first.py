"""What ``gpu_first.sh`` measures: times by kernel, the headline figures, and large sizes.

python -m drcl.benchmarks.gpu_first kernels | headlines | scale  --out FOLDER  [--device cpu --tiny]

Every figure follows its correctness gate in the same run, and is in the file as soon as it is
measured, so that a step that is stopped keeps what it reached. On a CPU, with ``--tiny`` sizes, all
of it runs as well, for the tests: such figures are nobody's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]

import drcl
from drcl import functional
from drcl.benchmarks.suite.measure import distance, timed
from drcl.benchmarks.suite.registry import Entry, Outcome, Problem, Sizes, entries
from drcl.benchmarks.suite.results import folder_name, rounded, signed
from drcl.benchmarks.suite.timing import seconds_of
from drcl.benchmarks.workloads import loss, ranking
from drcl.out_of_memory import first_line
from drcl.precision import network_precision

SHAPES = ((1024, 2048, 10), (8192, 2048, 10), (2**20, 512, 10), (1024, 2048, 1000))
PRECISIONS = ("highest", "high")  # float32 and TF32
TOLERANCE = {"highest": 1e-5, "high": 2e-3}
SECONDS = 6.0  # for the rounds of a workload
REPLAYS = 20
TINY = {"B": 24, "D": 16, "C": 3, "Q": 9, "N": 30}


class Journal:
    """Rows in a JSON file that is whole after every row."""

    def __init__(self, path: Path, device: torch.device, tiny: bool) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()
        self.about = {
            "device": folder_name(device),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "drcl": drcl.__version__,
            "python": platform.python_version(),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "tiny": tiny,
        }

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        beside = self.path.with_suffix(".part")
        beside.write_text(f'{{"about": {json.dumps(self.about)}, "rows": [\n{lines}\n]}}\n')
        beside.replace(self.path)
        print(json.dumps(row)[:400], flush=True)

    @property
    def failed(self) -> bool:
        return any("wrong" in row or row.get("status") == "wrong" for row in self.rows)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@dataclass
class Case:
    """One step of the loss, forward and backward, at one size, ready to be run on a device."""

    sizes: tuple[int, int, int]
    device: torch.device
    replays: int

    def __post_init__(self) -> None:
        self.features, self.ids, self.prior = self._inputs(self.sizes)

    def _inputs(self, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, drcl.Prior]:
        features, ids, prior = loss.batch(*sizes)
        leaf = features.detach().to(self.device).requires_grad_()
        return leaf, ids.to(self.device), prior.to(self.device)

    def error(self) -> float:
        """Of value and gradient against the literal formulas in float64.

        At most a few thousand rows, and more of them than columns wherever the case has more: the
        two sides are different code.
        """
        b, d, c = self.sizes
        small = (min(b, max(2048, 2 * d)), d, c)
        x, ids, prior = (
            (self.features, self.ids, self.prior) if small[0] == b else self._inputs(small)
        )
        rows = torch.nn.functional.one_hot(ids, c).double()
        weight = prior.weight.double()
        exact = x.detach().double().requires_grad_()
        inverse = torch.linalg.pinv(weight)
        oracle = loss.step(loss.literal(rows, weight, inverse), exact)()
        return distance(self._step(x, ids, prior)(), oracle)

    def _step(self, x: Tensor, ids: Tensor, prior: drcl.Prior) -> Callable[[], Outcome]:
        return loss.step(self._loss(ids, prior), x)

    def _loss(self, ids: Tensor, prior: drcl.Prior) -> Callable[[Tensor], Tensor]:
        return lambda x: functional.reversible_consistency_loss(x, ids, prior, q=loss.Q).total

    def replay(self) -> Callable[[], Outcome]:
        """The step in a CUDA graph, captured and run once; on a CPU as it is."""
        if self.device.type == "cuda":
            run = loss.graphed(self._loss(self.ids, self.prior), self.features)
        else:
            run = self._step(self.features, self.ids, self.prior)
        run()
        return run

    def replay_us(self, run: Callable[[], Any]) -> float:
        """Median time of a replay in µs, inputs read from memory."""
        times = [seconds_of(run, self.device) for _ in range(self.replays)]
        return float(f"{statistics.median(times) * 1e6:.4g}")


def by_kernel(case: Case, run: Callable[[], Any]) -> list[dict[str, Any]]:
    """Calls and µs a replay of every kernel, from the profiler, longest first."""
    with torch.profiler.profile() as profile:
        for _ in range(case.replays):
            run()
        if case.device.type == "cuda":
            torch.cuda.synchronize()
    kind, own = DeviceType.CPU, "self_cpu_time_total"
    if case.device.type == "cuda":  # the kernels themselves, not the ops that have launched them
        kind, own = DeviceType.CUDA, "self_device_time_total"
    found = [
        {
            "name": event.key[:120],
            "calls": event.count / case.replays,
            "us": float(f"{getattr(event, own) / case.replays:.4g}"),
        }
        for event in profile.key_averages()
        if event.device_type == kind and getattr(event, own) > 0
    ]
    return sorted(found, key=lambda kernel: -kernel["us"])


def kernels(journal: Journal, device: torch.device, tiny: bool) -> None:
    """Times of single kernels in replays of the loss, float32 and TF32."""
    shapes = [(24, 16, 3), (9, 16, 3)] if tiny else SHAPES
    for sizes in shapes:
        for precision in PRECISIONS:
            row: dict[str, Any] = {**dict(zip("BDC", sizes, strict=True)), "precision": precision}
            with network_precision(precision):
                case = Case(sizes, device, 1 if tiny else REPLAYS)
                row["error"] = float(f"{case.error():.3g}")
                if not row["error"] <= TOLERANCE[precision]:
                    journal.add({**row, "wrong": f"allowed {TOLERANCE[precision]:.0e}"})
                    continue
                run = case.replay()
                row["replay_us"] = case.replay_us(run)
                row["kernels"] = by_kernel(case, run)
            journal.add(row)


def taking_part(entry: Entry, names: Sequence[str]) -> Entry:
    """The entry with some of its contenders only."""

    def build(sizes: Sizes, device: torch.device) -> Problem:
        problem = entry.build(sizes, device)
        kept = {name: each for name, each in problem.contenders.items() if name in names}
        return replace(problem, contenders=kept)

    contenders = tuple(name for name in entry.contenders if name in names)
    return replace(entry, build=build, contenders=contenders)


GRAPH = ("drcl triton", "drcl in a CUDA graph")
LITERAL = ("literal", "literal, torch.compile")
# Entries of the suite by name, and who takes part: what is worth most comes first.
HEADLINES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss B=1024 D=2048 C=10", (*GRAPH, *LITERAL)),
    ("map Q=23661 N=23661 D=2048 C=10", ("drcl native", "torch argsort")),
    ("loss B=8192 D=2048 C=10", (*GRAPH, "literal")),
    ("loss B=1024 D=2048 C=10 tf32", (*GRAPH, "literal")),
    ("loss B=8192 D=2048 C=10 tf32", (*GRAPH, "literal")),
)
SCALE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss B=32768 D=2048 C=10 tf32", (*GRAPH, "literal")),
    ("loss B=1048576 D=512 C=10", GRAPH),
    ("map Q=8192 N=1000000 D=512 C=1000", ("drcl native",)),
)


def chosen(wanted: Sequence[tuple[str, tuple[str, ...]]], tiny: bool) -> Iterator[Entry]:
    found = {entry.name: entry for entry in entries(torch.device("cuda"))}
    for name, names in wanted:
        entry = found[name]
        if tiny:
            sizes = {key: TINY[key] for key in entry.sizes}
            entry, names = replace(entry, sizes=sizes, gate={}), (*names, "drcl eager")
            names = tuple(name for name in names if "compile" not in name)
        yield taking_part(entry, names)


def suite(
    journal: Journal,
    device: torch.device,
    tiny: bool,
    wanted: Sequence[tuple[str, tuple[str, ...]]],
) -> None:
    """Rows of the suite; after one of a ranking also the time of its product alone."""
    for entry in chosen(wanted, tiny):
        rows, _ = timed(entry, device, 0.0 if tiny else SECONDS)
        for row in signed(rows.values(), device):
            journal.add(rounded(asdict(row)))
        if entry.op == "map" and any(row.p50_ms is not None for row in rows.values()):
            sizes = dict(entry.sizes)
            seconds = product_alone(sizes, device)
            journal.add(
                {"op": "product alone", "sizes": sizes, "p50_ms": float(f"{seconds * 1e3:.4g}")}
            )


def product_alone(sizes: Sizes, device: torch.device) -> float:
    """Median seconds of all queries against all items in float32, 1,024 queries at a time."""
    size = ranking.Size(sizes["Q"], sizes["N"], sizes["D"], sizes["C"])
    data = ranking.make(size).to(device)
    scores = torch.empty(1024, size.items, device=device)

    def run() -> None:
        for rows in data.query.split(1024):
            torch.mm(rows, data.gallery.T, out=scores[: len(rows)])

    run()
    return statistics.median(seconds_of(run, device) for _ in range(5))


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, torch.device]:
    """With the options that every script for a card has; a parser says which ``step`` it is."""
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"{asked.step}: no CUDA device here; nothing measured")
    return asked, device


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["kernels", "headlines", "scale"])
    asked, device = parse(parser, arguments)
    journal = Journal(asked.out / f"{asked.step}.json", device, asked.tiny)
    try:
        if asked.step == "kernels":
            kernels(journal, device, asked.tiny)
        else:
            wanted = HEADLINES if asked.step == "headlines" else SCALE
            suite(journal, device, asked.tiny, wanted)
    except Exception as failure:  # said in the file too: the log may be cut
        journal.add({"wrong": f"{type(failure).__name__}: {first_line(failure)}"})
        raise
    return int(journal.failed)


if __name__ == "__main__":
    raise SystemExit(main())
