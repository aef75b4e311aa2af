"""The list in docs/faults.md names tests that exist, and every test of faults is in it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def names_in(*files: Path) -> set[str]:
    text = "".join(file.read_text("utf-8") for file in files)
    return set(re.findall(r"^\s*def (test_\w+)", text, flags=re.M))


def test_every_fault_on_the_page_names_a_test_and_every_test_of_faults_is_there():
    page = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert all(line.count(" | ") == 3 for line in rows)
    named = {name for line in rows for name in re.findall(r"`(test_\w+)`", line)}
    faults = [
        file for file in Path(__file__).parent.glob("test_faults_*.py") if file != Path(__file__)
    ]
    assert names_in(*faults) <= named, sorted(names_in(*faults) - named)
    assert named <= names_in(*TESTS.rglob("test_*.py")), "the table names tests that are not there"
