"""Every measure and option of seven libraries: none is missed, and what is direct here is equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_api import APIS, DIRECT, KINDS, counts, problems
from peer_libraries import LIBRARIES

COUNTS = json.loads((Path(__file__).parents[2] / "docs/tools/peers.json").read_text("utf-8"))


@pytest.fixture(params=APIS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    module = LIBRARIES[request.param].module
    pytest.importorskip(module, reason=f"{request.param} is not installed; `make peers` does it")
    return request.param


def test_every_measure_and_option_is_listed(name: str) -> None:
    """One that a new version brings fails here until it has its place."""
    rows = APIS[name].rows()
    listed = [(row.measure, row.option) for row in rows]
    assert len(set(listed)) == len(listed)
    assert set(listed) == APIS[name].offered()
    assert {row.how for row in rows} <= set(KINDS)
    assert all(row.note for row in rows if row.how != DIRECT)


@pytest.mark.filterwarnings("ignore")
def test_what_is_direct_is_equal(name: str) -> None:
    for row in APIS[name].rows():
        assert (row.how == DIRECT) == (row.check is not None), row[:2]
        compared = 0
        for problem in problems(row) if row.check else ():
            for ours, theirs in row.check(problem):
                found, expected = as_array(ours), as_array(theirs)
                np.testing.assert_allclose(
                    *(found, expected),
                    rtol=0,
                    atol=LIBRARIES[name].tolerance,
                    err_msg=f"{row.measure} {row.option} on {problem}",
                )
                compared += found.size
        assert row.check is None or compared > 0, row[:2]


def as_array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def test_counts_of_the_page_are_those_of_the_lists(name: str) -> None:
    if LIBRARIES[name].version != COUNTS["libraries"][name]["version"]:
        pytest.skip(f"the page is of another version than {LIBRARIES[name].version}")
    assert COUNTS["offered"][name] == counts(name)
