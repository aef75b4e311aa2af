"""A backend forced in a test, which is skipped where this installation lacks it."""

from contextlib import AbstractContextManager

import pytest

from drcl.backends import probe_native
from drcl.dispatch import use_backend


def forced(name: str) -> AbstractContextManager[None]:
    """:func:`drcl.use_backend`; without compiled ops the test of "native" is skipped."""
    found = probe_native()
    if name == "native" and not found.available:
        pytest.skip(f"native: {found.reason}")
    return use_backend(name)
