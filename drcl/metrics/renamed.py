"""Options under their former names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from drcl import _deprecated

P = ParamSpec("P")
R = TypeVar("R")
_NEW_NAMES = {"levels": "recall_levels", "memory": "max_bytes"}


def takes_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which also takes options by their old names, with a DeprecationWarning."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        given: dict[str, Any] = dict(options)
        for old, new in _NEW_NAMES.items():
            if old in given:
                if new in given:
                    raise TypeError(f"{old}: expected {new} alone, its new name, got both")
                _deprecated.warn(f"{old}: is now called {new}", goes_in="0.3")
                given[new] = given.pop(old)
        return function(*args, **given)  # type: ignore[arg-type]

    return call
