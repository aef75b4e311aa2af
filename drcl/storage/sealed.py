"""JSON and tensors with a checksum, so that a damaged file is noticed before it is used."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drcl.portable import maps_hold_files
from drcl.storage.files import write_bytes


def to_json(value: Any) -> bytes:
    """Indented JSON, as the content of a file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` of indented JSON."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; anything else in it is a ValueError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(value)  # nested too deeply to have been written here
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged, not a valid {path.name} ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: damaged, not a valid {path.name} ({type(value).__name__}, expected an object)"
        )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected JSON, got {name}")


def is_number(value: Any) -> bool:
    """Whether this is a finite number, no larger than 64 bits can hold."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The object with an entry ``crc32`` of all others, which :func:`without_checksum` checks."""
    return {**value, "crc32": f"{zlib.crc32(json.dumps(value).encode()):08x}"}


def without_checksum(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The inverse of :func:`with_checksum`; a missing or wrong checksum is a ValueError.

    >>> without_checksum(with_checksum({"epoch": 7}), Path("run.json"))
    {'epoch': 7}
    """
    plain = {name: entry for name, entry in value.items() if name != "crc32"}
    if with_checksum(plain) != value:
        raise ValueError(f"{path}: checksum mismatch, the file is damaged")
    return plain


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
        if maps_hold_files():  # they look into the file, which the next checkpoint replaces
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got an unreadable one ({error})"
        ) from error
    if about is None:
        raise ValueError(f"{path}: expected a file of this package, got one without a checksum")
    expected, _, text = about.partition(" ")
    if _checksum(tensors, text) != expected:
        raise ValueError(f"{path}: checksum mismatch, the file is damaged; delete it to start over")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON as metadata, got other text ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: expected an object as metadata, got {type(metadata).__name__}")
    return tensors, metadata


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
