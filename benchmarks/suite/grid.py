"""Sizes of all kinds: which of them to measure in the time there is.

An op's grid is the product of its axes, thousands of points. Each point is a workload of
the suite like any other, with its gate, its peers and its floor. In turns come a neighbour of a
point where a peer was faster than ours, and the point that is the farthest from all that have been
measured, so that any number of them is spread over the whole grid.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from drcl.benchmarks.suite.measure import measure
from drcl.benchmarks.suite.registry import Entry
from drcl.benchmarks.suite.results import Row, folder_name, keep, read, signed
from drcl.benchmarks.workloads import loss, prior_similarity, ranking

NAME = "grid"
SLOWER = 1.03  # ours over a peer's: beyond that the point is lost
NOISY = 0.2  # the share of the machine with other processes beyond which a point is measured again
LIMIT = 1.5  # seconds for the rounds of a point
MOST_OPERATIONS, MOST_BYTES = 1e11, 2**31  # of the floor of a point
Point = tuple[int, ...]  # places on the axes


def powers(first: int, last: int, by: int = 2) -> tuple[int, ...]:
    """
    >>> powers(32, 256)
    (32, 64, 128, 256)
    """
    count = round(math.log(last / first, by))
    return tuple(first * by**step for step in range(count + 1))


class Grid(NamedTuple):
    """The axes of an op, values rising, 0 for "not given"; and the workload at a point."""

    axes: Mapping[str, tuple[int, ...]]
    at: Callable[..., Entry]
    work: Callable[[Mapping[str, int]], tuple[float, float]]  # operations and bytes


def _of_batch(sizes: Mapping[str, int]) -> tuple[float, float]:
    b, d, c = sizes["B"], sizes["D"], sizes["C"]
    least = loss.work(b, d, c)
    decompositions = 30.0 * d * c * min(d, c)  # of the prior, before anything is timed
    return max(least.operations, decompositions), least.bytes + 8 * b * c * 4


def _of_ranking(sizes: Mapping[str, int]) -> tuple[float, float]:
    q, n, d = sizes["Q"], sizes["N"], sizes["D"]
    return 2.0 * q * n * d, 4.0 * (q + n) * d


BATCH = {"B": powers(32, 131_072), "D": powers(64, 4_096), "C": powers(2, 4_096)}
GRIDS = {
    "loss": Grid(BATCH | {"rows": (0, 1), "mixed": (0, 1), "forward": (0, 1)}, loss.at, _of_batch),
    "prior_similarity": Grid(BATCH, prior_similarity.at, _of_batch),
    "map": Grid(
        {
            "Q": powers(64, 16_384, 4),
            "N": (1_000, 5_000, 20_000, 100_000),
            "D": powers(32, 2_048),
            "C": (2, 10, 100, 1_000),
            "k": (0, 10, 50),
            "ties": (0, 1),
        },
        ranking.at,
        _of_ranking,
    ),
}


def sizes_at(op: str, point: Point) -> dict[str, int]:
    axes = GRIDS[op].axes.items()
    values = {name: axis[place] for (name, axis), place in zip(axes, point, strict=True)}
    return {name: value for name, value in values.items() if value}


def point_of(op: str, sizes: Mapping[str, int]) -> Point:
    return tuple(axis.index(sizes.get(name, 0)) for name, axis in GRIDS[op].axes.items())


def points(op: str) -> list[Point]:
    """Those of a grid that take no more than a second or so, to make too, and some gigabytes."""
    grid = GRIDS[op]
    every = itertools.product(*(range(len(axis)) for axis in grid.axes.values()))
    found = []
    for point in every:
        operations, moved = grid.work(sizes_at(op, point))
        if operations <= MOST_OPERATIONS and moved <= MOST_BYTES:
            found.append(point)
    return found


def order(
    op: str, measured: Iterable[Point], lost: Iterable[Point]
) -> Generator[Point, bool | None, None]:
    """What to measure next; it is told whether that was lost.

    >>> first = next(order("map", [], []))
    >>> sizes_at("map", first)
    {'Q': 64, 'N': 1000, 'D': 32, 'C': 2}
    """
    candidates = points(op)
    lengths = [max(2, len(axis) - 1) for axis in GRIDS[op].axes.values()]  # of 0 and 1 half a side
    places = np.array(candidates) / np.array(lengths)
    distance = np.full(len(candidates), np.inf)
    index = {point: place for place, point in enumerate(candidates)}
    beside: list[Point] = []

    def take(point: Point) -> None:
        away = np.linalg.norm(places - places[index[point]], axis=1)
        np.minimum(distance, away, out=distance)

    for point in measured:
        take(point)
    for point in lost:
        beside += neighbours(point)
    for refines in itertools.cycle((True, False)):
        if not distance.any():
            return
        near = (p for p in beside if p in index and distance[index[p]] > 0 and refines)
        chosen = next(near, candidates[int(distance.argmax())])
        take(chosen)
        if (yield chosen):
            beside += neighbours(chosen)


def neighbours(point: Point) -> list[Point]:
    """One step away along one axis."""
    steps = itertools.product(range(len(point)), (-1, 1))
    return [(*point[:axis], point[axis] + step, *point[axis + 1 :]) for axis, step in steps]


def best_peer(rows: Sequence[Row]) -> Row | None:
    """The fastest that is not ours."""
    peers = [row for row in rows if not row.ours and row.ratio is not None]
    return min(peers, key=lambda row: row.ratio or math.inf, default=None)


def is_lost(rows: Sequence[Row]) -> bool:
    peer = best_peer(rows)
    return peer is not None and (peer.ratio or math.inf) * SLOWER < 1


def file_name() -> str:
    """Of the rows of so many threads, which do not replace each other."""
    return f"{NAME}-{torch.get_num_threads()}"


def by_point(rows: Iterable[Row]) -> dict[tuple[str, Point], list[Row]]:
    found: dict[tuple[str, Point], list[Row]] = {}
    for row in rows:
        found.setdefault((row.op, point_of(row.op, row.sizes)), []).append(row)
    return found


def run(
    ops: Sequence[str],
    seconds: float,
    device: torch.device,
    root: Path,
    tell: Callable[[Entry, list[Row]], None],
) -> Path:
    """Measure for so long, going on where the last time ended; rows are kept as they come."""
    folder = root / folder_name(device)
    known = by_point(read(folder, file_name()))
    orders: dict[str, Generator[Point, bool | None, None]] = {}
    for op in ops:
        mine = {point: rows for (of, point), rows in known.items() if of == op}
        quiet = [p for p, rows in mine.items() if all((r.others or 0) <= NOISY for r in rows)]
        orders[op] = order(op, quiet, [p for p in quiet if is_lost(mine[p])])
    answers: dict[str, bool | None] = dict.fromkeys(ops)
    end = time.monotonic() + seconds
    for op in itertools.cycle(ops):
        if time.monotonic() > end or not orders:
            return folder
        if op not in orders:
            continue
        try:
            point = orders[op].send(answers[op])
        except StopIteration:
            del orders[op]
            continue
        entry = GRIDS[op].at(sizes_at(op, point), NAME)
        rows = signed(measure(entry, device, LIMIT), device)
        keep(rows, root, file_name())
        answers[op] = is_lost(rows)
        tell(entry, rows)
    return folder
