"""What Windows lacks, taken from drcl in this process, and what it has instead.

    python -m pytest -p another_system …

drcl, and nobody else, finds no module of POSIX's, no name in ``os`` and ``signal`` that Windows has
not, and no ``/proc``; there is no compiled part and no Triton. A file that is open or mapped can be
neither replaced nor removed; a folder cannot be opened; files are not written as text. What cannot
be shown here: paths with drives and backslashes, and Windows' own locks (``filelock`` gives those
of this system).
"""

from __future__ import annotations

import ast
import builtins
import errno
import functools
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
_BINARY = 0x8000  # os.O_BINARY of Windows; Linux takes it as O_LARGEFILE, which holds anyway
_BETWEEN = {__name__, "pathlib", "io", "os", "shutil", "contextlib", "importlib"}
_open = builtins.open


@functools.cache
def names_on(platform: str, module: str) -> frozenset[str]:
    """Public names of a module of Python's library on a platform, by typeshed; none of others."""
    import mypy

    stubs = Path(mypy.__file__).parent / "typeshed" / "stdlib" / module.replace(".", "/")
    for file in (stubs.with_suffix(".pyi"), stubs / "__init__.pyi"):
        if file.is_file():
            seen = SimpleNamespace(platform=platform, version_info=sys.version_info)
            tree = ast.parse(file.read_text(encoding="utf-8"))
            return frozenset(n for n in _defined(tree.body, seen) if not n.startswith("_"))
    return frozenset()


def _defined(body: list[ast.stmt], seen: SimpleNamespace) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If):
            holds = eval(compile(ast.Expression(node.test), "stub", "eval"), {"sys": seen})
            yield from _defined(node.body if holds else node.orelse, seen)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname)


def lacking(platform: str, module: str) -> frozenset[str]:
    """Names that a module of Python's library has on Linux and not on that platform."""
    return names_on("linux", module) - names_on(platform, module)


def become() -> None:
    """Be that system from here on; drcl must not have been imported."""
    assert not any(name.partition(".")[0] == "drcl" for name in sys.modules)
    import torch

    sys.modules["triton"] = None  # type: ignore[assignment]
    torch.ops.load_library = _refuse  # type: ignore[method-assign]
    builtins.__import__ = _importing(builtins.__import__)
    for module in (os, signal):
        _hide(module, lacking("win32", module.__name__))
    os.O_BINARY = _BINARY  # type: ignore[attr-defined]
    os.open = _opening_descriptor(os.open)
    builtins.open = io.open = _opening(io.open)  # type: ignore[assignment]
    for change in ("replace", "rename", "unlink", "remove"):
        setattr(os, change, _unless_in_use(getattr(os, change)))
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[misc]


def _asked_by_drcl() -> bool:
    """Whether the caller's caller is drcl, be it through Python's library."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("drcl")


def _refuse(path: Any) -> None:
    raise OSError(f"{path} is not a library of this system")


def _importing(real: Callable[..., Any]) -> Callable[..., Any]:
    def imported(name: str, *arguments: Any, **options: Any) -> Any:
        if name in MODULES and _asked_by_drcl():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    return imported


def _hide(module: ModuleType, names: frozenset[str]) -> None:
    hidden = {name: vars(module).pop(name) for name in names if name in vars(module)}

    def found(name: str) -> Any:
        if name in hidden and not _asked_by_drcl():
            return hidden[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = found  # type: ignore[method-assign]


def _opening(real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).startswith(("/proc/", "/sys/")) and _asked_by_drcl():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        return real(file, *arguments, **options)

    return opened


def _opening_descriptor(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if _asked_by_drcl():
            if os.path.isdir(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            assert flags & _BINARY, rf"{path}: opened as text, \n would become \r\n"
        return real(path, flags, *arguments, **options)

    return opened


def _unless_in_use(real: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*paths: Any, **options: Any) -> Any:
        if _asked_by_drcl():
            used = _in_use()
            for path in paths:
                if os.path.realpath(path) in used and not os.path.islink(path):
                    raise PermissionError(errno.EACCES, "a process uses it", path)
        return real(*paths, **options)

    return changed


def _in_use() -> set[str]:
    """The files that this process has open or mapped."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # that of the list itself
            continue
    with _open("/proc/self/maps", encoding="utf-8") as maps:
        return found | {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}


if any(argument == "another_system" for argument in sys.argv):  # pytest -p another_system
    become()
