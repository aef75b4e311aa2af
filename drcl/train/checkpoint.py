"""Files that are either whole or absent: tensors and JSON in one safetensors file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drcl.train.clock import SECTIONS

_PARTIAL = ".drcl-partial"
_RECORD = {"phase", "modality", "epoch", "loss", "parts", "samples", "seconds", "time"}
_SCORES = ("score", "validation_loss", "validation_map")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


def check_name(modality: str) -> str:
    """A modality's name must be usable as a file name on every system."""
    if not isinstance(modality, str) or not _SAFE_NAME.fullmatch(modality):
        raise ValueError(
            f"modality: {modality!r} cannot name a file; use letters, digits, '_', '.', '+', '-'"
        )
    return modality


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part.

    What a killed process left half-written in the folder is removed first. Raises OSError that
    names the file if it cannot be written (the disk is full, say), with its old content intact.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """:func:`write_bytes` of several files: all are written before the first one is replaced."""
    with staged(files) as replace:
        replace()


@contextlib.contextmanager
def staged(files: Mapping[Path, bytes]) -> Iterator[Callable[[], None]]:
    """:func:`write_together` in two steps, for what has to happen in between.

    Within, the files lie beside their places, and a disk that is full has said so; the function
    that is yielded puts them into their places, in order.
    """
    with contextlib.ExitStack() as open_files:
        temporary: dict[Path, Path] = {}
        for path, content in files.items():
            with naming(path):
                if path.exists() and not (path.is_file() or path.is_dir()):
                    # Root could put a file in the place of /dev/null.
                    raise OSError(errno.EINVAL, "it is a device or a pipe")
                open_files.enter_context(_made(path.parent))
                _sweep(path.parent)
                descriptor, temporary[path] = _open_temporary(path)
                open_files.callback(os.close, descriptor)
                open_files.callback(temporary[path].unlink, missing_ok=True)
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)

        def replace() -> None:
            for path in files:
                with naming(path):
                    os.replace(temporary[path], path)
            for folder in {path.parent for path in files}:
                _sync_folder(folder)

        yield replace


@contextlib.contextmanager
def claimed(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """The folder, made if need be, with no other writer in it who claims it as well.

    The lock is on the folder itself: it leaves no file, and the system lifts it where a process
    dies. Who has claimed a folder must not claim it again within. Raises BlockingIOError if another
    holds it for ``patience`` seconds.
    """
    with _made(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            until = time.monotonic() + patience
            while not _lock(descriptor):
                if time.monotonic() >= until:
                    raise BlockingIOError(f"{folder}: is being written by another process")
                time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds the lock; so it is on a file system that has none."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder and its parents; those made here go again if what follows fails in them."""
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
        message = f"{path}: cannot be written ({reason}); what it held before is intact"
        raise OSError(error.errno, message) from error


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what a killed process left half-written."""
    return all(_is_partial(entry) for entry in folder.iterdir())


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` of indented JSON."""
    write_bytes(path, to_json(value))


def to_json(value: Any) -> bytes:
    """Indented JSON, as the content of a file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with an entry ``crc32`` of all its others; :func:`unseal` checks it."""
    return {**value, "crc32": f"{zlib.crc32(json.dumps(value).encode()):08x}"}


def unseal(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The inverse of :func:`seal`; a checksum that is missing or does not match is a ValueError.

    >>> unseal(seal({"epoch": 7}), Path("run.json"))
    {'epoch': 7}
    """
    plain = {name: entry for name, entry in value.items() if name != "crc32"}
    if seal(plain) != value:
        raise ValueError(f"{path}: damaged, its content does not match its checksum")
    return plain


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; anything else in it is a ValueError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(value)  # nested deeper than this can write is none of ours either
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged, not a {path.name} ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: damaged, not a {path.name} ({type(value).__name__}, expected an object)"
        )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def pack(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Tensors and JSON values as the content of a safetensors file, with a checksum of them all."""
    plain, taken = {}, set()
    for name, value in tensors.items():
        plain[name] = value.detach().cpu().contiguous()
        memory = plain[name].untyped_storage().data_ptr()
        if memory in taken:  # as of tied weights: the format refuses tensors that share memory
            plain[name] = plain[name].clone()
        taken.add(memory)
    text = json.dumps(metadata)
    # One entry: the format writes several in random order, and equal content must give equal bytes.
    return save(plain, metadata={"crc32 json": f"{_checksum(plain, text)} {text}"})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`pack`; a truncated, damaged or foreign file is a ValueError naming it.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> write_bytes(path, pack({"x": torch.arange(3)}, {"epoch": 7}))
    >>> read_tensors(path)
    ({'x': tensor([0, 1, 2])}, {'epoch': 7})
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("crc32 json")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if about is None:
        raise ValueError(f"{path}: holds no checksum, so it is none of this package's files")
    expected, _, text = about.partition(" ")
    if _checksum(tensors, text) != expected:
        raise ValueError(
            f"{path}: damaged, its content does not match its checksum; remove it to do without it"
        )
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is no JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: its metadata is {type(metadata).__name__}, expected an object")
    return tensors, metadata


def check_history(history: Any) -> list[dict[str, Any]]:
    """Refuse what is no list of epochs' records as a training writes them, or acts on a terminal.

    >>> check_history([{"phase": "prior"}])
    Traceback (most recent call last):
    ...
    ValueError: history: entry 0 is no record of an epoch
    """
    if not isinstance(history, list):
        raise ValueError("history: expected a list with a record per epoch")
    for place, record in enumerate(history):
        if not _is_record(record):
            raise ValueError(f"history: entry {place} is no record of an epoch")
    return history


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not set(record) >= _RECORD:
        return False
    names = (record["phase"], record["modality"])
    numbers = [record[name] for name in ("epoch", "loss", "samples", "seconds")]
    numbers += [record[name] for name in _SCORES if name in record]
    for group in ("parts", "time"):
        if not isinstance(record[group], dict):
            return False
        numbers += record[group].values()
    return (
        all(isinstance(name, str) and _SAFE_NAME.fullmatch(name) for name in names)
        and all(map(is_number, numbers))
        and set(record["time"]) == set(SECTIONS)
        and record["seconds"] > 0
    )


def is_number(value: Any) -> bool:
    """Whether this is a finite number, no larger than whoever reads it can take."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """CRC-32 of the text and of every tensor's name, dtype, shape and bytes.

    It is there against damage, not against forgery, and a checkpoint should cost next to nothing.
    """
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _open_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, locked for as long as it is open: so a sweep lets it live."""
    while True:
        # Short, whatever the file is called: a system bounds the length of a name.
        temporary = path.with_name(f".{secrets.token_hex(8)}{_PARTIAL}")
        # For whom any new file of this user would be: the umask says.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept by another process before it was locked


def _sweep(folder: Path) -> None:
    """Remove the half-written files that no living process holds."""
    for stray in filter(_is_partial, folder.iterdir()):
        # Gone already, held by its writer, or on a file system without locks: not ours to remove.
        with contextlib.suppress(OSError), stray.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stray.unlink()


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_PARTIAL) and path.is_file()


def _sync_folder(folder: Path) -> None:
    """Make a new name in the folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)
