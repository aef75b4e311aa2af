"""``pytest benchmarks/`` runs the suite; nothing else in this folder is a test."""

from __future__ import annotations

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """The modules are no doctests here, and some are scripts."""
    return (collection_path.suffix == ".py" and collection_path.name != "test_suite.py") or None
