"""What an index costs beside what it cannot do without, and what other engines find how fast.

    python -m drcl.benchmarks.studies.index [OUT.json] [--folder ON_THE_DISK]

Of a million rows: exact search of one query beside reading the matrix once, a batch beside its
product, ``add`` and ``save`` beside writing as many bytes, ``load``, and the memory of a process
that searches a mapped index. Of fewer, in clusters: the engines of ``Index.to_faiss`` and
``Index.to_usearch`` beside exact search. What is compared takes turns in one process, and answers
are checked before anything is timed. Parts that OUT.json has already are not measured again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drcl import Index
from drcl.benchmarks.suite import timing
from drcl.storage.files import write_bytes

K = 10
BLOCK = 4_096  # rows of a product at one time: with more its result leaves the cache
CPU = torch.device("cpu")
LINKS, BREADTHS = (16, 32), (16, 64, 256)  # of graphs: links a row, and ef_search
PROBES = (4, 16, 64)  # lists that are read of a compressed index
MOST = 500  # queries that the engines are asked
CHECKED = 8  # queries whose answers are checked in float64
Part = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured: ``items`` rows for the other engines, ``rows`` for all else."""

    rows: int = 1_000_000
    width: int = 256
    queries: int = 1_000
    items: int = 50_000
    rounds: int = 9


class Data:
    """The rows in memory, and the index of them in memory and in a folder."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes, self.folder = sizes, folder

    @cached_property
    def rows(self) -> Tensor:
        return unit(self.sizes.rows, self.sizes.width, 0)

    @cached_property
    def queries(self) -> Tensor:
        return unit(self.sizes.queries, self.sizes.width, 1)

    @cached_property
    def index(self) -> Index:
        return Index(space="cosine").add(self.rows)

    @cached_property
    def saved(self) -> Path:
        return Index(space="cosine").add(self.rows).save(self.folder / "index")


def unit(count: int, width: int, seed: int) -> Tensor:
    """Rows of unit length in all directions."""
    made = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(made, out=made)


def clustered(count: int, width: int, seed: int) -> Tensor:
    """Rows of unit length around a centre for each 100 of them; the centres do not depend on the
    seed."""
    centres = torch.randn(500, width, generator=torch.Generator().manual_seed(0))
    own = torch.Generator().manual_seed(seed)
    rows = centres[torch.randint(len(centres), (count,), generator=own)]
    rows += 0.8 * torch.randn(count, width, generator=own)
    return torch.nn.functional.normalize(rows)


def check_exact(found: Tensor, rows: Tensor, queries: Tensor) -> None:
    """Raise AssertionError unless the items (Q, k) are the exact answer.

    Computed in float64; items whose scores differ by less than a rounding of float32 may change
    places.
    """
    parts = [queries.double() @ part.double().T for part in rows.split(BLOCK)]
    scores = torch.cat(parts, dim=1)
    best = scores.topk(found.shape[1]).values
    assert all(len(set(one)) == len(one) for one in found.tolist()), "an item was found twice"
    torch.testing.assert_close(scores.gather(1, found), best, rtol=0, atol=1e-6)


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of all calls, which take turns."""
    return timing.in_turns(calls, dict.fromkeys(calls, rounds), CPU)


def one_query(data: Data) -> Part:
    """Search of one query beside reading the matrix once."""
    query = data.queries[:1]
    check_exact(data.index.search(query, K).indices, data.rows, query)
    return timed(
        {"search": lambda: data.index.search(query, K), "read": lambda: data.rows.sum()},
        data.sizes.rounds,
    )


def batch(data: Data) -> Part:
    """Search of many queries beside their product alone, which is made block by block."""
    found = data.index.search(data.queries, K).indices[:CHECKED]
    check_exact(found, data.rows, data.queries[:CHECKED])
    room = torch.empty(len(data.queries), min(BLOCK, len(data.rows)))

    def product() -> None:
        for part in data.rows.split(BLOCK):
            torch.mm(data.queries, part.T, out=room[:, : len(part)])

    calls = {"search": lambda: data.index.search(data.queries, K), "product": product}
    return timed(calls, data.sizes.rounds)


def write(data: Data) -> Part:
    """``add`` and ``save`` beside writing as many bytes to the same disk, to its end both."""
    found = Index.load(data.saved).search(data.queries[:1], K).indices
    check_exact(found, data.rows, data.queries[:1])
    size = sum(file.stat().st_size for file in data.saved.iterdir())
    content = data.rows.numpy().data.cast("B")

    def add_and_save() -> float:
        began = time.perf_counter()
        folder = Index(space="cosine").add(data.rows).save(data.folder / "new")
        taken = time.perf_counter() - began
        shutil.rmtree(folder)
        return taken

    def raw() -> float:
        path = data.folder / "raw"
        began = time.perf_counter()
        with path.open("wb") as file:
            left = size
            while left > 0:
                left -= file.write(content[:left])
            file.flush()
            os.fsync(file.fileno())
        taken = time.perf_counter() - began
        path.unlink()
        return taken

    def add() -> float:
        began = time.perf_counter()
        made = Index(space="cosine").add(data.rows)
        taken = time.perf_counter() - began
        del made  # what it costs to give the memory back is no part of it
        return taken

    calls = {"add": add, "add and save": add_and_save, "raw": raw}
    return {"bytes": size, **timed(calls, data.sizes.rounds)}


def load(data: Data) -> Part:
    """``Index.load``, which maps the files."""
    assert len(Index.load(data.saved)) == data.sizes.rows
    return timed({"load": lambda: Index.load(data.saved)}, data.sizes.rounds)


def memory(data: Data) -> Part:
    """Resident bytes of a fresh process before it loads the index, and after it has searched."""
    module = ["-m", "drcl.benchmarks.studies.index", "--memory", str(data.saved)]
    done = subprocess.run([sys.executable, *module], check=True, capture_output=True, text=True)
    told: Part = json.loads(done.stdout)
    return told


def searched(folder: Path) -> Part:
    """In the process of its own of :func:`memory`: bytes of its own, and of files that it maps."""

    def now() -> dict[str, int]:
        return {name: timing.status(name) for name in ("RssAnon", "RssFile")}

    before = now()
    index = Index.load(folder)
    queries = unit(64, index.width or 0, 2)
    for query in queries[:20]:
        index.search(query[None], K)
    index.search(queries, K)
    return {"before": before, "after": now()}


def engines(data: Data) -> Part:
    """Recall and speed of exact search and of what each engine offers, on rows in clusters."""
    sizes = data.sizes
    rows = clustered(sizes.items, sizes.width, 1)
    queries = clustered(min(sizes.queries, MOST), sizes.width, 2)
    index = Index(space="cosine").add(rows)
    check_exact(index.search(queries[:CHECKED], K).indices, rows, queries[:CHECKED])
    asked, threads = queries.numpy(), torch.get_num_threads()
    calls: dict[str, Callable[[], Any]] = {"exact": lambda: index.search(queries, K)}
    lines: list[Part] = [{"engine": "exact", "made": {}, "set": {}, "recall": 1.0}]
    skipped: dict[str, str] = {}

    def take(engine: str, made: Any, about: Part, option: str, value: int, find: Any) -> None:
        """One setting of an engine: its recall now, its speed later."""
        line = {"engine": engine, **about, "set": {option: value} if option else {}}
        lines.append({**line, "recall": index.recall(made, queries, K)})
        calls[name_of(lines[-1])] = find

    if importlib.util.find_spec("faiss") is None:
        skipped["faiss"] = "faiss is not installed"
    else:
        import faiss

        faiss.omp_set_num_threads(threads)
        setting = faiss.ParameterSpace().set_index_parameter
        tried: list[tuple[str, Part, str, tuple[int, ...]]] = [("flat", {}, "", (0,))]
        tried += [("hnsw", {"links": links}, "ef_search", BREADTHS) for links in LINKS]
        if sizes.items >= 256:
            tried.append(("ivfpq", {}, "probes", PROBES))
        else:
            skipped["faiss ivfpq"] = "it needs 256 rows"
        inside = {"ef_search": "efSearch", "probes": "nprobe"}
        for kind, options, option, values in tried:
            made, about = built(lambda: index.to_faiss(kind, **options))  # noqa: B023
            about |= {"made": options, "bytes": faiss.serialize_index(made).nbytes}
            for value in values:

                def find(made: Any = made, option: str = option, value: int = value) -> None:
                    if option:
                        setting(made, inside[option], value)
                    made.search(asked, K)

                find()
                take(f"faiss {kind}", made, about, option, value, find)
    if importlib.util.find_spec("usearch") is None:
        skipped["usearch"] = "usearch is not installed"
    else:
        made, about = built(index.to_usearch)
        about |= {"made": {}, "bytes": made.serialized_length}
        for value in BREADTHS:

            def ask(made: Any = made, value: int = value) -> None:
                made.expansion_search = value
                made.search(asked, K, threads=threads)

            ask()
            take("usearch", made, about, "ef_search", value, ask)
    seconds = timed(calls, sizes.rounds)
    for line in lines:
        line["seconds"] = seconds[name_of(line)]
    return {"queries": len(queries), "lines": lines, "skipped": skipped}


def built(make: Callable[[], Any]) -> tuple[Any, Part]:
    """What is made, and how long it took."""
    began = time.perf_counter()
    made = make()
    return made, {"build": time.perf_counter() - began}


def name_of(line: Part) -> str:
    """An engine with its settings."""
    settings = {**line["made"], **line["set"]}
    return " ".join([line["engine"], *(f"{name}={value}" for name, value in settings.items())])


PARTS: dict[str, Callable[[Data], Part]] = {
    part.__name__: part for part in (one_query, batch, write, load, memory, engines)
}


def is_done(part: Part | None) -> bool:
    """Whether a part has been measured, and could not be more complete now."""
    if part is None:
        return False
    missing = [name for name in part.get("skipped", {}) if " " not in name]
    return all(importlib.util.find_spec(name) is None for name in missing)


def measure(sizes: Sizes, out: Path, folder: Path) -> None:
    """Measure what ``out`` lacks, and write each part as it comes."""
    record: Part = {"sizes": asdict(sizes), "k": K, "parts": {}}
    if out.exists():
        record = json.loads(out.read_text(encoding="utf-8"))
        if record["sizes"] != asdict(sizes):
            raise SystemExit(f"{out}: has other sizes, {record['sizes']}; name another file")
    with disk(folder) as own:
        data = Data(sizes, own)
        for number, (name, part) in enumerate(PARTS.items(), start=1):
            began = time.perf_counter()
            if is_done(record["parts"].get(name)):
                print(f"[{number}/{len(PARTS)}] {name}: there already", flush=True)
                continue
            with timing.Others() as others:
                found = part(data)
            about = {**timing.about(), "others": others.share}
            record["parts"][name] = {**found, "about": about}
            write_bytes(out, (json.dumps(record, indent=1) + "\n").encode())
            print(
                f"[{number}/{len(PARTS)}] {name}: {medians(found)} "
                f"({time.perf_counter() - began:.0f} s)",
                flush=True,
            )


def medians(part: Part) -> Part:
    """What is printed of a part: medians in seconds, and other figures as they are."""
    if "lines" in part:
        every = {name_of(line): line for line in part["lines"]}
        shown: Part = {
            name: (round(line["recall"], 3), round(statistics.median(line["seconds"]), 5))
            for name, line in every.items()
        }
        return {**shown, **part["skipped"]}
    return {
        name: round(statistics.median(value), 5) if isinstance(value, list) else value
        for name, value in part.items()
    }


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A folder of its own in this one, which is removed at the end."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="index-study-") as own:
        yield Path(own)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--memory"]:
        print(json.dumps(searched(Path(arguments[1]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    default = timing.RESULTS / timing.device_name() / "index.json"
    parser.add_argument("out", nargs="?", type=Path, default=default)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="on the disk to be written to; default: here"
    )
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value:,}")
    options = vars(parser.parse_args(arguments))
    out, folder = options.pop("out"), options.pop("folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    measure(Sizes(**options), out, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
