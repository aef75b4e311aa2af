"""Searching an index over HTTP, and a page to explore it.

`requests` says what may be asked, `state` which index answers, `batcher` and `answers` work on many
requests together, `gate` and `app` make a server of it, `items` and `explorer` the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drcl.checks import check_installed
from drcl.serve.answers import Encoders
from drcl.serve.explorer import explorer_page
from drcl.serve.requests import Limits

if TYPE_CHECKING:
    from drcl.serve.app import make_app

__all__ = ["Encoders", "Limits", "explorer_page", "make_app"]
__dir__ = __all__.copy


def __getattr__(name: str) -> Any:
    """``make_app``, which alone needs another library, when it is asked for."""
    if name != "make_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed("serving needs {}; install it with: pip install 'drcl[serve]'", "starlette")
    from drcl.serve.app import make_app

    return make_app
