"""Windows and macOS: what they lack is used in one module, and done without."""

from __future__ import annotations

import ast
import contextlib
import functools
import ntpath
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from another_system import names_on

from drcl import portable
from drcl.run.added import part_key

ROOT = Path(__file__).resolve().parents[1]
PORTABLE = ROOT / "drcl" / "portable.py"
SOURCES = [*sorted((ROOT / "drcl").rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]


def of_one_system(file: Path) -> set[str]:
    """What a file uses of Python's library that Windows or macOS has not, and paths of Linux's."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules: dict[str, str] = {}
    used: set[tuple[str, str]] = set()
    paths: set[str] = set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc/", "/sys/")):
            paths.add(str(node.value))
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add((modules.get(node.value.id, ""), node.attr))
    found = {name for name in modules.values() if lacking(name) and not both(name)}
    lost = {f"{module}.{name}" for module, name in used if name in lacking(module)}
    loads = {"ctypes.CDLL" for module, name in used if (module, name) == ("ctypes", "CDLL")}
    return found | lost | paths | loads


def both(module: str) -> frozenset[str]:
    return names_on("win32", module) & names_on("darwin", module)


@functools.cache
def lacking(module: str) -> frozenset[str]:
    return names_on("linux", module) - both(module)


def test_platform_specific_names_are_detected(tmp_path):
    pytest.importorskip("mypy", reason="its stubs say which system has what")
    file = tmp_path / "a.py"
    file.write_text(
        "import ctypes, fcntl as f, os\nfrom signal import SIGINT, SIGKILL\nos.getpid()\n"
        "os.sched_getaffinity(0)\nf.flock\nctypes.CDLL(None)\nopen('/proc/stat')\n"
    )
    assert of_one_system(file) == {
        *("ctypes.CDLL", "fcntl", "fcntl.flock", "signal.SIGKILL", "os.sched_getaffinity"),
        "/proc/stat",
    }


def test_platform_specific_names_stay_in_one_module():
    pytest.importorskip("mypy", reason="its stubs say which system has what")
    assert {"fcntl", "os.register_at_fork", "ctypes.CDLL"} <= of_one_system(PORTABLE)
    found = {file.relative_to(ROOT): of_one_system(file) for file in SOURCES if file != PORTABLE}
    assert not {file: names for file, names in found.items() if names}


def test_everything_works_without_what_windows_lacks(tmp_path):
    """Training, Ctrl-C, resuming, saving, metrics, an index, commands: see the scenario."""
    old_page = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "portable_scenario.py", tmp_path],
        cwd=ROOT / "tests",
        env=os.environ | old_page,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.endswith(b"? ? done\n")


def test_big_endian_processors_are_refused_by_name():
    """Before anything else is imported that would not work there."""
    told = (
        "import platform, sys; sys.byteorder = 'big'; platform.machine = lambda: 's390x'; "
        "import drcl"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ImportError: drcl: expected a little-endian processor, got s390x" in done.stderr


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(portable, "fcntl", None)


def test_a_half_written_file_is_swept_when_no_writer_can_live(windows, tmp_path):
    fresh, old, lock = (tmp_path / f".{name}{portable.PARTIAL}" for name in ("a", "b", "lock"))
    for file in (fresh, old, lock):
        file.touch()
    for file in (old, lock):
        os.utime(file, (time.time() - 4000,) * 2)
    for file in (fresh, old, lock):
        portable.remove_abandoned(file)
    assert set(tmp_path.iterdir()) == {fresh, lock}


@pytest.mark.parametrize("times", [3, 10**9])
def test_replacing_waits_for_a_reader_but_not_for_ever(windows, monkeypatch, tmp_path, times):
    real, order = os.replace, []

    def held(source, target):
        order.append("replace")
        if len(order) <= times:
            raise PermissionError(13, "held")
        real(source, target)

    (tmp_path / "new").write_bytes(b"new")
    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(portable, "_WAIT", 0.2)
    with pytest.raises(PermissionError) if times > 3 else contextlib.nullcontext():
        portable.replace(tmp_path / "new", tmp_path / "old", lambda: order.append("close"))
    assert order[:2] == ["close", "replace"] and len(order) > 3
    assert [file.name for file in tmp_path.iterdir()] == ["new" if times > 3 else "old"]


def test_on_posix_a_folder_that_may_not_be_changed_is_an_error(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        portable.remove_unused(tmp_path / "a")
    monkeypatch.setattr(portable, "fcntl", None)
    portable.remove_unused(tmp_path / "a")


def test_a_file_with_a_drive_and_a_key(monkeypatch):
    assert part_key("a/b.npz:x") == ("a/b.npz", ":", "x")
    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    assert part_key(r"C:\a\b.npz:x") == (r"C:\a\b.npz", ":", "x")
    assert part_key(r"C:\a\b.npy") == (r"C:\a\b.npy", "", "")


def test_a_server_takes_no_address_of_a_living_one(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as living, socket.socket() as other:
        portable.take_address(other)
        with pytest.raises(OSError, match="in use"):
            other.bind(living.getsockname())
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with socket.socket() as made:
        portable.take_address(made)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not made.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="a process sees no connections here")
def test_every_connection_is_asked_after_a_lost_machine():
    ours, theirs = socket.socketpair()  # within this machine, where there is nobody to ask
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server:
        portable.notice_lost_machines(60)
        with socket.create_connection(server.getsockname()) as connection:
            assert not connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            portable.notice_lost_machines(60)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            options = ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
            names = [getattr(socket, f"TCP_{option}") for option in options]
            found = [connection.getsockopt(socket.IPPROTO_TCP, name) for name in names]
            assert found == [15, 15, 4, 60_000], "asked often enough in a minute, then given up"
            connection.sendall(b"still open")
            with server.accept()[0] as accepted:
                assert accepted.recv(10) == b"still open"


# They assert how POSIX does it: flock itself, a folder that is synced, a lock that leaves no file,
# half-written files that are swept at once.
OF_POSIX = (
    "a_killed_writer_leaves_old_or_new",
    "a_file_that_is_being_written_is_not_swept",
    "a_temporary_file_swept_before_it_was_locked_is_opened_anew",
    "without_locks_files_are_written_all_the_same",
    "folder_and_file_are_synced_in_order",
    "a_folder_that_cannot_be_synced",
    "a_claimed_folder_has_one_writer_and_dies_with_it",
    "where_there_are_no_locks_a_folder_is_anybody_s",
)


@pytest.mark.long
def test_the_suite_passes_without_what_windows_lacks():
    """In one process: the plug-in is not handed on to workers of xdist."""
    left_out = [f"--deselect=tests/storage/test_storage.py::test_{name}" for name in OF_POSIX]
    parts = ("storage", "cli", "index", "data", "deploy", "train/test_step.py", "test_estimator.py")
    folders = [f"tests/{part}" for part in (*parts, "metrics/test_streaming.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "another_system"]
    done = subprocess.run(
        [*command, "-m", "not slow and not long", *left_out, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 500
