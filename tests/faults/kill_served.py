"""Kill a process that changes an index while a server answers from it; every answer must be whole.

    PYTHONPATH=tests python tests/faults/kill_served.py --kills 200 --seed 0

The process is the one of ``kill_index.py``: it adds rows, removes one, saves, and now
and then puts a new index in the place of the old one, until it gets SIGKILL. Meanwhile a client
searches for all rows at once: it must get those of one step, with their scores and metadata.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from asgi import client
from kill_index import ROWS, STEPS, check, extend, names_of, rows_of, start
from killing import from_command_line

from drcl import Index, serve


def killer(kills: int, seed: int, folder: Path, length: float) -> int:
    """A process that starts and kills the one that writes; forked before there are threads."""
    child = os.fork()
    if child:
        return child
    draw, status = random.Random(seed), 1
    try:
        for _ in range(kills):
            writer = start(folder)
            time.sleep(draw.uniform(0.0, 4 * length))
            os.kill(writer, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
        status = 0
    finally:
        os._exit(status)


def run(kills: int, seed: int, folder: Path) -> None:
    extend(Index(), 0).save(folder)
    began = time.monotonic()
    for step in range(1, 5):
        extend(Index.load(folder), step).save(folder)
    length = (time.monotonic() - began) / 4
    of_step = [frozenset(names_of(step)) for step in range(STEPS)]
    wholes = {}  # what can be found after so many steps
    for steps in range(1, STEPS + 1):
        gone = {names_of(step)[0] for step in range(steps - 1)}
        wholes[frozenset().union(*of_step[:steps]) - gone] = steps
    query = rows_of(0)[:1]
    scores = {
        name: score
        for step in range(STEPS)
        for name, score in zip(names_of(step), (query @ rows_of(step).T)[0].tolist(), strict=True)
    }
    ended, answers, seen, versions = 0, 0, set(), set()
    child = killer(kills, seed, folder, length)
    with client(serve.make_app(folder, limits=serve.Limits(k=ROWS * STEPS))) as one:
        while not ended:
            ended, status = os.waitpid(child, os.WNOHANG)
            reply = one.search({"embeddings": query.tolist(), "k": ROWS * STEPS})
            assert reply.status == 200, reply
            found = reply.json["results"][0]["found"]
            names = frozenset(hit["item"]["id"] for hit in found)
            assert len(names) == len(found) and names in wholes, "of two states"
            assert all(hit["item"]["name"] == hit["item"]["id"] for hit in found)
            assert all(abs(hit["score"] - scores[hit["item"]["id"]]) < 1e-4 for hit in found)
            answers += 1
            seen.add(wholes[names])
            versions.add(reply.json["version"])
        assert os.waitstatus_to_exitcode(status) == 0, "the writer ended by itself"
        check(folder)
        health = one.get("/health").json
        assert health["status"] == "ok" and health["items"] == len(Index.load(folder)), health
    print(
        f"{kills} kills, {answers} answers of {len(versions)} versions after {len(seen)} different "
        "numbers of steps; always whole"
    )


def main() -> None:
    from_command_line(run, __doc__)


if __name__ == "__main__":
    main()
