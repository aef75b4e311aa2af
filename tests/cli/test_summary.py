"""The table of where the time of a training went."""

from __future__ import annotations

import pytest
import tiny

from drcl import DRCL
from drcl.cli.summary import seconds_by_section, time_table
from drcl.train.clock import SECTIONS


@pytest.fixture(scope="module")
def history():
    train, validation = tiny.split(), tiny.split(seed=1, image=12, text=10)
    return DRCL(**tiny.SETTINGS).fit(train, validation, progress=False).history


def test_all_time_is_accounted_for(history):
    found = seconds_by_section(history)
    assert list(found) == ["prior image", "prior text", "encoder image", "encoder text"]
    for name, spent in found.items():
        own = [r for r in history if f"{r['phase']} {r['modality']}" == name]
        whole = sum(r["seconds"] + r["time"]["checkpoint"] for r in own)
        assert sum(spent.values()) == pytest.approx(whole, abs=1e-4)
        assert min(spent.values()) >= 0
        assert all(spent[section] > 0 for section in SECTIONS if section != "checkpoint")


def test_the_table_has_a_row_for_each_training(history):
    head, *rows, share = time_table(history).splitlines()
    assert head.split() == ["seconds", *SECTIONS, "other", "all", "samples/s"]
    assert [" ".join(row.split()[:2]) for row in rows] == list(seconds_by_section(history))
    for row in rows:
        *sections, whole, rate = (float(cell.replace(",", "")) for cell in row.split()[2:])
        assert sum(sections) == pytest.approx(whole, abs=0.005 * (len(sections) + 1))
        assert rate > 0
    shares = [int(cell) for cell in share.split()[1:] if cell != "%"]
    assert shares[-1] == 100 and sum(shares[:-1]) == pytest.approx(100, abs=len(shares) / 2)
