"""Files that are whole or absent: killed writers, full disks, damage."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import stat
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save

from drcl import DRCL, portable
from drcl.storage import files
from drcl.storage.files import write_bytes
from drcl.storage.sealed import pack, read_tensors

OLD, NEW = b"o" * 3_000_000, b"n" * 4_000_000


def forked(work):
    """Run ``work`` in a child process; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_writer_leaves_old_or_new(tmp_path):
    path, draw = tmp_path / "state", random.Random(0)

    def write_forever():
        while True:
            for content in (NEW, OLD):
                write_bytes(path, content)

    write_bytes(path, OLD)
    strays = 0
    for _ in range(40):
        child = forked(write_forever)
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL
        assert path.read_bytes() in (OLD, NEW)
        strays += len(list(tmp_path.iterdir())) > 1
    assert strays > 0, "no kill fell into a write: the test shows nothing"
    write_bytes(path, NEW)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_file_that_is_being_written_is_not_swept(tmp_path):
    descriptor, partial = files._open_temporary(tmp_path / "a")
    stranger = tmp_path / ".mine.partial"
    stranger.touch()
    write_bytes(tmp_path / "b", b"b")
    assert partial.exists() and stranger.exists()
    os.close(descriptor)  # as at the death of its writer
    write_bytes(tmp_path / "b", b"b")
    assert not partial.exists() and stranger.exists()


def test_a_temporary_file_swept_before_it_was_locked_is_opened_anew(tmp_path, monkeypatch):
    real, swept = portable.fcntl.flock, []

    def sweeping(file, operation):
        if not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].unlink()
        real(file, operation)

    monkeypatch.setattr(portable.fcntl, "flock", sweeping)
    write_bytes(tmp_path / "a", b"content")
    assert len(swept) == 1 and (tmp_path / "a").read_bytes() == b"content"


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(portable.fcntl, "flock", unsupported)
    (tmp_path / ".a.x.drcl-partial").touch()
    write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / ".a.x.drcl-partial").exists()  # it may be another process's


@pytest.mark.parametrize("allowed", [0, 1_000_000])
def test_a_full_disk_leaves_the_old_file(tmp_path, allowed):
    path = tmp_path / "state"
    write_bytes(path, OLD)

    def write_too_much():
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))
        with pytest.raises(OSError, match=r"state: cannot be written .*; what it held") as caught:
            write_bytes(path, NEW)
        assert caught.value.errno == errno.EFBIG

    assert exit_code(forked(write_too_much)) == 0
    assert path.read_bytes() == OLD
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    path, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(path)
    link.symlink_to(path)
    for target in (path, link):
        with pytest.raises(OSError, match=f"{target.name}: cannot be written .it is a device or"):
            write_bytes(target, NEW)
    assert path.is_fifo() and link.is_symlink() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_file_is_written_where_a_link_points(tmp_path, there):
    target, link, further = tmp_path / "far" / "state", tmp_path / "link", tmp_path / "further"
    target.parent.mkdir()
    if there:
        write_bytes(target, OLD)
    link.symlink_to(Path("far", "state"))
    further.symlink_to(link)
    write_bytes(further, NEW)
    assert target.read_bytes() == NEW and not target.is_symlink()
    assert link.readlink() == Path("far", "state") and further.readlink() == link
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "further", "link", "state"]


def test_links_in_a_circle_are_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(OSError, match="one: cannot be written") as caught:
        write_bytes(one, NEW)
    assert caught.value.errno == errno.ELOOP and one.is_symlink() and other.is_symlink()


def test_only_a_file_that_was_there_is_said_to_be_intact(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "old").write_bytes(OLD)
    monkeypatch.setattr(os, "write", full)
    for name, intact in (("old", True), ("new", False), ("folder/new", False), ("n" * 300, False)):
        with pytest.raises(OSError, match="cannot be written") as info:
            write_bytes(tmp_path / name, NEW)
        assert ("what it held before is intact" in str(info.value)) is intact
    assert (tmp_path / "old").read_bytes() == OLD


@pytest.mark.parametrize("umask, mode", [(0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_file_follows_the_umask(tmp_path, umask, mode):
    path = tmp_path / "state"

    def write():
        os.umask(umask)
        write_bytes(path, NEW)

    assert exit_code(forked(write)) == 0
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_no_space_at_any_step(tmp_path, monkeypatch, call):
    path = tmp_path / "state"
    write_bytes(path, OLD)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(path, NEW)
    assert caught.value.errno == errno.ENOSPC and str(path) in str(caught.value)
    assert path.read_bytes() == OLD and len(list(tmp_path.iterdir())) == 1


def test_folder_and_file_are_synced_in_order(tmp_path, monkeypatch):
    steps = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        steps.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def replace(source, target):
        steps.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_bytes(tmp_path / "state", b"x")
    assert steps[0].endswith(".drcl-partial")
    assert steps[1:] == ["replace", str(tmp_path.resolve())]


def test_a_name_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_bytes(path, NEW)
    assert path.read_bytes() == NEW


def test_folders_made_for_a_file_that_cannot_be_written_go_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "mine" / "a" / "b" / "state", NEW)
    assert [file.name for file in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize("number, fatal", [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, number, fatal):
    real = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", files_only)
    with pytest.raises(OSError, match="error") if fatal else contextlib.nullcontext():
        write_bytes(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"


def test_a_claimed_folder_has_one_writer_and_dies_with_it(tmp_path):
    folder = tmp_path / "new" / "run"

    def hold():
        with files.locked(folder):
            (folder / "mine").touch()
            time.sleep(60)

    child = forked(hold)
    while not (folder / "mine").exists():
        time.sleep(0.01)
    with (
        pytest.raises(BlockingIOError, match=f"{folder}: another process is writing to it"),
        files.locked(folder, patience=0.1),
    ):
        pytest.fail("two writers")
    os.kill(child, signal.SIGKILL)
    with files.locked(folder, patience=10):
        assert [file.name for file in folder.iterdir()] == ["mine"]
        exit_code(child)


def test_a_folder_made_for_what_fails_goes_again(tmp_path):
    with pytest.raises(ValueError, match="refused"), files.locked(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.ENOSYS])
def test_without_file_locks_two_writers_may_enter(tmp_path, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(portable.fcntl, "flock", unsupported)
    with files.locked(tmp_path), files.locked(tmp_path):
        pass


def content():
    tensors = {
        "weight": torch.randn(5, 3),
        "half": torch.randn(4).bfloat16(),
        "flags": torch.tensor([True, False]),
        "step": torch.tensor(7.0),
        "none": torch.zeros(0, 3),
        "generator": torch.Generator().get_state(),
    }
    return tensors, {"epoch": 12, "history": [{"loss": 0.1}]}


def test_tensors_of_any_kind_return(tmp_path):
    tensors, metadata = content()
    write_bytes(tmp_path / "x", pack(tensors, metadata))
    found, about = read_tensors(tmp_path / "x")
    assert about == metadata and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_equal_content_gives_equal_bytes():
    same = content()
    assert all(pack(*same) == pack(*same) for _ in range(20))


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    tensors, metadata = content()
    whole, draw = pack(tensors, metadata), random.Random(0)
    path = tmp_path / "x.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in (*range(header), *draw.sample(range(header, len(whole)), 300)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.safetensors: "):
            read_tensors(path)


def test_a_file_without_checksum_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(save({"x": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"x: expected .* got one without a checksum"):
        read_tensors(tmp_path / "x")


def test_a_damaged_checkpoint_is_not_trained_on(tmp_path):
    def fit():
        model = DRCL(**tiny.SETTINGS)
        return model.fit(tiny.split(), checkpoints=tmp_path, progress=False)

    fit()
    file = tmp_path / "encoder-image.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"encoder-image\.safetensors: checksum mismatch"):
        fit()
    assert file.read_bytes() == damaged
