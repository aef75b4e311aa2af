"""Files that are replaced whole or not at all, and folders with one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TypeAlias

from drcl import portable
from drcl.portable import PARTIAL

# Of a large file, pieces that lie apart in memory, or in another file, or are made one by one.
Content: TypeAlias = bytes | Iterable[bytes | memoryview]


def is_safe_name(name: object) -> bool:
    """Whether a name can be part of a file's name on every system.

    >>> is_safe_name("image"), is_safe_name("../image")
    (True, False)
    """
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", name))


def check_name(modality: str) -> str:
    """A modality's name must be usable as a file name on every system."""
    if not is_safe_name(modality):
        raise ValueError(
            "modality: expected a name of at most 64 letters, digits, '_', '.', '+' and '-', got "
            f"{modality!r}"
        )
    return modality


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part.

    Through a symbolic link it is written where that points. What a killed process left half-written
    in the folder is removed first. Raises OSError that names the file if it cannot be written (the
    disk is full, say), with its old content intact.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, Content]) -> None:
    """:func:`write_bytes` of several files: all are written before the first one is replaced."""
    with staged({followed(path): content for path, content in files.items()}) as replace:
        replace()


def followed(path: Path) -> Path:
    """Where a file is that may be behind symbolic links, or will be; OSError where they circle.

    A device or a pipe, which is never written to, keeps the link's name.
    """
    with naming(path):
        if not path.is_symlink() or (path.exists() and not path.is_file()):
            return path
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return target


@contextlib.contextmanager
def staged(files: Mapping[Path, Content]) -> Iterator[Callable[[], None]]:
    """:func:`write_together` in two steps, for what has to happen in between.

    For the files of a folder of ours: a symbolic link is replaced itself, as it may lead to another
    folder's. Within, the files lie beside their places, and a disk that is full has said so; the
    function that is yielded puts them into their places, in order.
    """
    with contextlib.ExitStack() as open_files:
        temporary: dict[Path, Path] = {}
        opened: dict[Path, IO[bytes]] = {}
        for path, content in files.items():
            with naming(path):
                if path.exists() and not (path.is_file() or path.is_dir()):
                    # Root could put a file in the place of /dev/null.
                    raise OSError(errno.EINVAL, "it is a device or a pipe")
                open_files.enter_context(_made(path.parent))
                _sweep(path.parent)
                descriptor, temporary[path] = _open_temporary(path)
                open_files.callback(temporary[path].unlink, missing_ok=True)
                opened[path] = open_files.enter_context(os.fdopen(descriptor, "wb", buffering=0))
                for piece in (content,) if isinstance(content, bytes) else content:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)

        def replace() -> None:
            for path in files:
                with naming(path):
                    portable.replace(temporary[path], path, opened[path].close)
            for folder in {path.parent for path in files}:
                _sync_folder(folder)

        yield replace


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be, against other processes that lock it.

    The lock is on the folder itself and leaves no file, except on Windows; the system releases it
    when the process ends. It is not reentrant. Raises BlockingIOError if another process still
    holds it after ``patience`` seconds.
    """
    with _made(folder):
        until = time.monotonic() + patience
        while (release := portable.try_lock_folder(folder)) is None:
            if time.monotonic() >= until:
                raise BlockingIOError(f"{folder}: another process is writing to it")
            time.sleep(0.02)
        try:
            yield
        finally:
            release()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder and its parents; those made here are removed if the block fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # it holds something by now
                path.rmdir()
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the system's, with the file's name in it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written ({reason})"
        if os.path.isfile(path):  # False, and no error, where nobody may look
            message += "; what it held before is intact"
        raise OSError(error.errno, message) from error


def entries(folder: Path) -> list[Path]:
    """What a folder holds, without what a killed process left half-written and without locks."""
    return [entry for entry in folder.iterdir() if not _is_partial(entry)]


def is_empty(folder: Path) -> bool:
    """Whether a folder has no :func:`entries`."""
    return not entries(folder)


def _open_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, held for as long as it is open: so a sweep lets it live."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | portable.BYTES
    while True:
        # Short, whatever the file is called: a system bounds the length of a name.
        temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        # For whom any new file of this user would be: the umask says.
        descriptor = os.open(temporary, flags, 0o666)
        portable.hold_open_file(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept by another process before it was held


def _sweep(folder: Path) -> None:
    """Remove the half-written files that no living process holds."""
    for stray in filter(_is_partial, folder.iterdir()):
        portable.remove_abandoned(stray)


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(PARTIAL) and path.is_file()


def _sync_folder(folder: Path) -> None:
    """Make a new name in the folder outlast a power cut."""
    try:
        portable.sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
