"""Kill a process that changes an index at random moments; what is left must be whole.

    python tests/faults/kill_index.py --kills 200 --seed 0

The process adds rows, removes one, and saves, again and again; now and then it puts a new index in
the place of the old one. It gets SIGKILL after a random time of up to some of these steps. The
folder must then hold the index as it was after one of the steps, to the last bit.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import torch
from killing import from_command_line
from torch import Tensor

from drcl import Index

ROWS, WIDTH = 40, 24
STEPS = 12  # after which a new index takes the place


def rows_of(step: int) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))


def names_of(step: int) -> list[str]:
    return [f"{step}-{row}" for row in range(ROWS)]


def extend(index: Index, step: int) -> Index:
    """The index after one more step; each removes the first row of the step before."""
    index.add(rows_of(step), ids=names_of(step), modality="m", metadata={"name": names_of(step)})
    return index.remove([names_of(step - 1)[0]]) if step else index


def change(folder: Path) -> None:
    """Step after step, until somebody ends it."""
    while True:
        index = Index.load(folder)
        step = index.total // ROWS
        fresh = step >= STEPS
        extend(Index() if fresh else index, 0 if fresh else step).save(folder, overwrite=fresh)


def check(folder: Path) -> int:
    """The number of steps that the index in the folder has made; an error if it is not whole."""
    index = Index.load(folder)
    steps = index.total // ROWS
    assert (
        1 <= steps <= STEPS
        and index.total == steps * ROWS
        and len(index) == index.total - steps + 1
    )
    assert torch.equal(index.rows(range(index.total)), torch.cat([*map(rows_of, range(steps))]))
    names = [name for step in range(steps) for name in names_of(step)]
    records = index.records(range(index.total))
    assert [one["id"] for one in records] == [one["name"] for one in records] == names
    left = set(names) - {names_of(step)[0] for step in range(steps - 1)}
    found = index.search(rows_of(0)[:2], index.total).ids.tolist()
    assert [set(row) for row in found] == [left, left]
    return steps


def start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            change(folder)
        finally:
            os._exit(1)
    return child


def run(kills: int, seed: int, folder: Path) -> None:
    draw = random.Random(seed)
    extend(Index(), 0).save(folder)
    began = time.monotonic()
    for step in range(1, 5):
        extend(Index.load(folder), step).save(folder)
    length = (time.monotonic() - began) / 4
    seen, stray = set(), 0
    for kill in range(kills):
        child = start(folder)
        time.sleep(draw.uniform(0.0, 4 * length))
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == -signal.SIGKILL, f"kill {kill} of seed {seed}: ended with {status}"
        seen.add(check(folder))
        stray += len(list(folder.glob(".*"))) > 0
    extend(Index(), 0).save(folder, overwrite=True)
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == 2 and left[1] == "index.json", f"files lie about, {left}"
    print(f"{kills} kills, {stray} in a write, after {len(seen)} different steps; always whole")


def main() -> None:
    from_command_line(run, __doc__)


if __name__ == "__main__":
    main()
