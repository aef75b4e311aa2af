"""What systems do differently, and what is lost where one lacks it. All else is the same anywhere.

Nothing here asks for a system's name: where ``fcntl`` is missing, files behave as on Windows. There

- a file that is open or mapped can be neither replaced nor removed, so it is closed first, waited
  for, or left to the next writer; tensors that were read are copied out of their file;
- a folder has no lock of its own: a file in it has (:data:`LOCK`), which stays after a kill;
- a folder cannot be synced: a power cut may undo the last replacement, never half of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import socket
import stat
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None  # type: ignore[assignment]

# Ends the name of a file that is no content: half-written, or a lock.
PARTIAL = ".drcl-partial"
LOCK = f".lock{PARTIAL}"
# How to open a file of bytes: Windows would write b"\n" as b"\r\n".
BYTES = getattr(os, "O_BINARY", 0)
_WAIT = 2.0  # seconds for a reader, or what looks for viruses, to close a file
_ABANDONED = 3600.0  # seconds; see `remove_abandoned`


def check_byte_order() -> None:
    """Raises ImportError on a big-endian processor: files are written in the other order."""
    if sys.byteorder != "little":
        machine = platform.machine()
        raise ImportError(f"drcl: expected a little-endian processor, got {machine}, big-endian")


def maps_hold_files() -> bool:
    """Whether a file that is mapped can be neither replaced nor removed."""
    return fcntl is None


def try_lock_folder(folder: Path) -> Callable[[], None] | None:
    """Lock a folder against other processes: what releases it, or None if another holds it.

    The system releases it when the process ends, however it does. A file system without locks
    always grants it.
    """
    if fcntl is None:
        return _try_lock_file(folder / LOCK)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
    except BaseException:
        os.close(descriptor)
        raise
    return lambda: os.close(descriptor)


def _try_lock_file(file: Path) -> Callable[[], None] | None:
    import filelock  # torch needs it everywhere

    lock = filelock.FileLock(file, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None

    def release() -> None:
        lock.release()
        with contextlib.suppress(OSError):  # another process has it already
            file.unlink(missing_ok=True)

    return release


def hold_open_file(descriptor: int) -> None:
    """Keep :func:`remove_abandoned` of other processes from a file for as long as it is open."""
    if fcntl is not None:  # elsewhere that it is open is enough
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def remove_abandoned(file: Path) -> None:
    """Remove a half-written file unless a living process holds it.

    Without ``fcntl`` only after an hour: a writer has to close its file before it can put it into
    place, and for that moment nothing shows that it is alive.
    """
    # Gone already, held by its writer, or on a file system without locks: not ours to remove.
    with contextlib.suppress(OSError):
        if fcntl is not None:
            with file.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
        elif file.name != LOCK and time.time() - file.stat().st_mtime > _ABANDONED:
            file.unlink()


def replace(source: Path, target: Path, close: Callable[[], None]) -> None:
    """``os.replace`` of a file that is open; ``close`` closes it, where that has to come first."""
    if fcntl is None:
        close()
    _patiently(lambda: os.replace(source, target))


def remove_unused(file: Path) -> None:
    """Remove a file that nothing names any more; one that is in use may stay for the next writer.

    Raises OSError as ``os.unlink`` does, but not because the file is open or mapped.
    """
    try:
        file.unlink()
    except PermissionError:
        if fcntl is not None:
            raise


def _patiently(work: Callable[[], None]) -> None:
    until = time.monotonic() + (_WAIT if fcntl is None else 0.0)
    while True:
        try:
            return work()
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Make a new name in the folder outlast a power cut, where a folder can be opened.

    On macOS the drive may still hold it in a cache of its own.
    """
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def memory_reader() -> Callable[..., int] | None:
    """The system call process_vm_readv, which Linux alone has; None elsewhere.

    Without it a mapped file that becomes shorter while its rows are read ends the process: so it is
    on macOS. Windows lets nobody shorten a file that is mapped.
    """
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
    except (TypeError, OSError):  # Windows has no library of the process itself
        return None
    if call is not None:
        pointer, count = ctypes.c_void_p, ctypes.c_ulong
        call.argtypes = (ctypes.c_int, pointer, count, pointer, count, count)
        call.restype = ctypes.c_ssize_t
    return call


def told_by(library: Path, function: str) -> str:
    """The text that a C function without arguments returns; AttributeError where there is none."""
    tell = getattr(ctypes.CDLL(str(library)), function)
    tell.restype = ctypes.c_char_p
    return str(tell().decode())


def at_fork(**handlers: Callable[[], Any]) -> None:
    """``os.register_at_fork``; where there are no forks there is nothing to do."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**handlers)


def take_address(listener: socket.socket) -> None:
    """Let a server take the address of one that has just ended, and of no living one.

    That is SO_REUSEADDR, except on Windows, where it would take the address of any.
    """
    exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    listener.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)


def notice_lost_machines(seconds: int) -> None:
    """Break every TCP connection of this process whose other end has not answered for so long.

    A process that dies closes its connections; a machine that loses its power or its network
    cannot, and who waits for it would wait on. So the kernel is told to ask, where it shows a
    process its connections (Linux).
    """
    descriptors = Path("/proc/self/fd")
    for name in os.listdir(descriptors) if descriptors.is_dir() else []:
        with contextlib.suppress(OSError):  # closed meanwhile: the listing itself, for one
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    for option, value in (
                        (socket.TCP_KEEPIDLE, seconds // 4),
                        (socket.TCP_KEEPINTVL, seconds // 4),
                        (socket.TCP_KEEPCNT, 4),
                        (socket.TCP_USER_TIMEOUT, 1000 * seconds),
                    ):
                        connection.setsockopt(socket.IPPROTO_TCP, option, value)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def print_anything() -> None:
    """Let standard output and error show ``?`` for what their encoding lacks, and not fail.

    On Windows what goes to a file or a pipe is in an old code page, without Greek letters.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def set_variable(name: str, value: str) -> str:
    """The command of the system's shell that sets a variable of the environment."""
    return f"set {name}={value}" if os.sep == "\\" else f"export {name}={value}"


def processor() -> str | None:
    """What the system calls its processor."""
    return _first("/proc/cpuinfo", r"model name\s*: (.*)") or os.environ.get("PROCESSOR_IDENTIFIER")


def nvidia_driver() -> str | None:
    """The version of NVIDIA's driver; None also where the system does not tell."""
    return _first("/proc/driver/nvidia/version", r"Kernel Module\D*([\d.]+)")


def _first(file: str, pattern: str) -> str | None:
    """What the pattern's group first matches in a file of the system; None where there is none."""
    try:
        match = re.search(pattern, Path(file).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return match[1].strip() if match else None
