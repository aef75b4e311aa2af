"""drcl.metrics and seven other libraries on the same sets, and the counts that the site shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from peer_libraries import LIBRARIES, compare, row
from peer_sets import SEEDS

ROOT = Path(__file__).resolve().parents[2]
COUNTS = json.loads((ROOT / "docs" / "tools" / "peers.json").read_text(encoding="utf-8"))
# Every geometry with every form of relevance, in float32 and float64 in turn.
SOME = [i + 16 * ((i + i // 4) % 2) for i in range(16)]


@pytest.fixture(params=LIBRARIES)
def name(request: pytest.FixtureRequest) -> str:
    module = LIBRARIES[request.param].module
    pytest.importorskip(module, reason=f"{request.param} is not installed; `make peers` does it")
    return request.param


@pytest.mark.parametrize("seed", SOME)
def test_agrees_with(name: str, seed: int) -> None:
    tally = compare(name, seed)
    assert tally.equal + sum(tally.left.values()) > 0


@pytest.mark.long
def test_counts_of_the_page_are_those_of_a_run_over_all_sets(name: str) -> None:
    if LIBRARIES[name].version != COUNTS["libraries"][name]["version"]:
        pytest.skip(f"the page is of another version than {LIBRARIES[name].version}")
    assert COUNTS["libraries"][name] == row(name)


def test_page_and_environment_are_of_the_same_versions() -> None:
    text = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", text, flags=re.M))
    assert {name: found["version"] for name, found in COUNTS["libraries"].items()} == {
        name: pinned[name] for name in LIBRARIES
    }
    assert COUNTS["sets"] == len(SEEDS)
