"""Warnings about names that go: each says in which version (CONTRIBUTING.md has the policy)."""

from __future__ import annotations

import warnings


def warn(said: str, *, goes_in: str, stacklevel: int = 2) -> None:
    """A DeprecationWarning, with ``stacklevel`` as if the caller had called ``warnings.warn``."""
    text = f"{said}; the old name goes in drcl {goes_in}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)
