"""A plug-in of pytest: notes in docs/tools/platforms.json when the test of a cell ran, and how.

    pytest -p record_platforms -m long tests/native

What is no test notes itself when it has passed:

    python tests/record_platforms.py .ci/run
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).resolve().parents[1] / "docs" / "tools" / "platforms.json"
outcomes: dict[str, str] = {}


def outcome_of(by: str, outcomes: Mapping[str, str]) -> str | None:
    """How a test went, or some of its cases: ``file::name`` or ``file::name[case, case]``.

    >>> outcomes = {"a.py::b[3-one]": "passed", "a.py::b[3-two]": "failed", "a.py::c": "skipped"}
    >>> [outcome_of(by, outcomes) for by in ("a.py::b[one]", "a.py::b", "a.py::b[one, four]")]
    ['passed', 'failed', None]
    """
    name, _, cases = by.partition("[")
    asked = cases.rstrip("]").split(", ") if cases else [None]
    found = []
    for case in asked:
        of_case = set()
        for node, outcome in outcomes.items():
            test, _, parameters = node.partition("[")
            if test == name and (case is None or case in parameters.rstrip("]").split("-")):
                of_case.add(outcome)
        found.append(of_case)
    if any("failed" in of_case for of_case in found):
        return "failed"
    return "passed" if all("passed" in of_case for of_case in found) else None


def note(table: Iterable[dict[str, Any]], outcomes: Mapping[str, str], day: str) -> None:
    """Put the day, and "failed" if so, behind the result and the test of a cell that ran."""
    for row in table:
        for name, cell in row.items():
            if name != "platform" and (outcome := outcome_of(cell[1], outcomes)):
                cell[2:] = [day if outcome == "passed" else f"failed {day}"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how a test went; what fails in a fixture has failed."""
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write it down, once for all workers."""
    if not hasattr(session.config, "workerinput"):
        write(outcomes)


def write(outcomes: Mapping[str, str]) -> None:
    """The table with what ran today."""
    table = json.loads(TABLE.read_text("utf-8"))
    note(table, outcomes, datetime.date.today().isoformat())
    rows = ",\n".join(f" {json.dumps(row, ensure_ascii=False)}" for row in table)
    TABLE.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write(dict.fromkeys(sys.argv[1:], "passed"))
