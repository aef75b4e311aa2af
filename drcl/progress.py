"""Progress bars by tqdm; without it, as in an installation that only encodes, there are none."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["progress_bar", "say"]
__dir__ = __all__.copy


def progress_bar(**options: Any) -> Any:
    """``tqdm.tqdm`` with these arguments, or something that takes the same calls and shows nothing.

    >>> with progress_bar(total=2, disable=True) as bar:
    ...     bar.update(2)
    """
    if options.get("disable"):
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(**options)


def say(text: str) -> None:
    """Write a line to the standard error stream, above the bars that are open."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, file=sys.stderr)
    else:
        tqdm.write(text, file=sys.stderr)


class _NoBar:
    n = 0

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass

    def set_postfix(self, *_: Any, **__: Any) -> None:
        pass

    def set_postfix_str(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass
