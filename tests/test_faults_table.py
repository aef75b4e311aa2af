"""The list in docs/faults.md names tests that exist, and every test of faults is in it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def names_in(*files: Path) -> set[str]:
    text = "".join(file.read_text("utf-8") for file in files)
    return set(re.findall(r"^\s*def (test_\w+)", text, flags=re.M))


def test_every_fault_on_the_page_names_a_test_and_every_test_of_faults_is_there():
    page = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")
    faults = re.split(r"^- \*\*", page, flags=re.M)[1:]
    unproven = [text.partition("**")[0] for text in faults if not re.search(r"`test_\w+`", text)]
    assert len(faults) > 50 and not unproven
    named = set(re.findall(r"`(test_\w+)`", page))
    files = [
        file for file in Path(__file__).parent.glob("test_faults_*.py") if file != Path(__file__)
    ]
    assert names_in(*files) <= named, sorted(names_in(*files) - named)
    assert named <= names_in(*TESTS.rglob("test_*.py")), "the page names tests that are not there"
