"""Random damage to valid files, the same in every run: ``python replay.py CASES FORMAT...``.

Meant for a process of its own: memory is limited, and a case that takes too long ends it. What was
being read stays in the folder that is then named.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import seeds
import targets

MEMORY = 4 * 2**30
SECONDS = 60


def damage(source: random.Random, content: bytes) -> bytes:
    """One to six changes: bits, bytes, numbers at their limits, cuts, copies from elsewhere."""
    found = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        at = source.randrange(len(found) + 1)
        match source.randrange(6):
            case 0 if at < len(found):
                found[at] ^= 1 << source.randrange(8)
            case 1:
                found[at : at + 1] = source.randbytes(1)
            case 2:
                size = source.choice((1, 2, 4, 8))
                limits = (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
                number = source.choice((*limits, 1 << source.randrange(8 * size)))
                at -= at % size
                found[at : at + size] = number.to_bytes(size, source.choice(("little", "big")))
            case 3:
                other, size = source.randrange(len(found) + 1), source.randrange(1, 33)
                found[at : at + size] = found[other : other + size]
            case 4:
                del found[at : at + source.randrange(1, 9) if source.random() < 0.7 else None]
            case _:
                found[at:at] = source.randbytes(source.randrange(1, 9))
    return bytes(found)


def main() -> None:
    cases, formats = int(sys.argv[1]), sys.argv[2:]
    folder = Path(tempfile.mkdtemp())
    for name in formats:
        home = folder / name
        home.mkdir()
        valid, target = list(seeds.SEEDS[name]()), targets.make_target(name, home)
        for content in valid:
            target(content)
        _limit_memory()
        for case in range(cases):
            source = random.Random(f"{name} {case}")
            content = damage(source, source.choice(valid))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                target(content)
            except BaseException:
                print(f"{name}, case {case}, of {len(content)} bytes in {home}", flush=True)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
        for file in home.rglob("*"):
            if file.is_file():
                file.unlink()
    print(f"{cases} cases each of {' '.join(formats)}")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    faulthandler.enable()
    main()
