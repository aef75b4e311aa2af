"""The suite under pytest-benchmark: a group for every workload, a test for every contender.

    pytest benchmarks/                       everything, half an hour on two cores
    pytest benchmarks/ -m quick -k loss      some of it

All of a group take turns in one measurement, as in ``drcl bench``, when its first test comes up.
Each test then hands its own rounds to pytest-benchmark, through a clock that replays them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from drcl.benchmarks.suite.measure import timed
from drcl.benchmarks.suite.registry import Entry, entries
from drcl.benchmarks.suite.results import Row

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
QUICK, FULL = 1.5, 20.0  # seconds for the rounds of a workload


class Replay:
    """A clock that moves by what was measured before."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Replay()


def cases() -> Iterator[Any]:
    for entry in entries(DEVICE):
        marks = [pytest.mark.quick] if entry.quick else []
        for name in entry.contenders:
            yield pytest.param(entry, name, id=f"{entry.name}-{name}", marks=marks)


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[dict[str, Row], dict[str, list[float]]]]:
    return {}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("entry", "contender"), cases())
def test_contender(entry: Entry, contender: str, measured: Any, benchmark: Any) -> None:
    if entry.name not in measured:
        measured.clear()
        limit = QUICK if entry.quick else FULL
        measured[entry.name] = timed(entry, DEVICE, 0.0 if benchmark.disabled else limit)
    rows, times = measured[entry.name]
    row = rows[contender]
    if row.status == "skipped":
        pytest.skip(row.reason)
    assert row.status == "measured", row.reason
    benchmark.group = entry.name
    benchmark.extra_info |= {"ratio": row.ratio, "floor_share": row.floor_share}
    rounds = iter(times[contender])
    benchmark.pedantic(lambda: CLOCK.advance(next(rounds)), rounds=len(times[contender]))
