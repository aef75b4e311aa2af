"""Triton's interpreter, which replaces the language once and not on every call of a function.

For processes that run under it (``TRITON_INTERPRET=1``) to their end: import this before a launch.
"""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

_replace_in = interpreter._patch_lang
_done: set[str] = set()


def _once(function: Any) -> interpreter._LangPatchScope:
    """The language as the module of ``function`` sees it; there is nothing to put back."""
    if function.__module__ not in _done:
        _replace_in(function)
        _done.add(function.__module__)
    return interpreter._LangPatchScope()


# It goes through all members of the language, on every launch and on every call of a function of a
# kernel, for a third of all time in small launches.
interpreter._patch_lang = _once
