"""``drcl doctor``: what is missing here, and the command that brings it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import click

from drcl import backends
from drcl.data.locate import data_root
from drcl.portable import set_variable
from drcl.tables import columns

# The extras for users; the others of pyproject.toml are for who works on drcl.
_EXTRAS = (
    "data",
    "report",
    "log",
    "serve",
    "export",
    "hub",
    "faiss",
    "usearch",
    "qdrant",
    "lancedb",
)
# How systems bring a C++ compiler, by a command of theirs.
_COMPILERS = (
    ("apt-get", "apt-get install g++"),
    ("dnf", "dnf install gcc-c++"),
    ("xcode-select", "xcode-select --install"),
)


class Finding(NamedTuple):
    """One thing that was looked at; ``remedy`` is a command, empty where nothing is to be done."""

    name: str
    there: bool
    said: str
    remedy: str = ""
    needed: bool = False

    @property
    def word(self) -> str:
        return "ok" if self.there else "MISSING" if self.needed else "without"


def examine() -> list[Finding]:
    """Everything that drcl can use, what it needs first."""
    info = backends.build_info()
    return [
        *_required(),
        _temporary_folder(),
        _compiled(info),
        *_gpu(info),
        *_extras(),
        _data_folder(),
    ]


def _required() -> Iterator[Finding]:
    if not _entries():
        said = "imported from a folder, and not installed: what it needs is not looked at"
        yield Finding("drcl", False, said, _install(""))
    for name, least in _requirements(None):
        version = backends.installed_version(name)
        there = version is not None and _numbers(version) >= _numbers(least)
        wanted = f"{name}>={least}" if least else name
        said = version or "not installed"
        said = said if there or version is None else f"{version}, expected {least} or newer"
        yield Finding(name, there, said, f'pip install --upgrade "{wanted}"', needed=True)


def _temporary_folder() -> Finding:
    try:
        with tempfile.TemporaryFile(prefix="drcl-doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        remedy = set_variable("TMPDIR", "FOLDER")
        return Finding("temporary folder", False, str(error), remedy, needed=True)
    return Finding("temporary folder", True, f"{tempfile.gettempdir()} can be written to")


def _compiled(info: dict[str, Any]) -> Finding:
    native = info["backends"]["native"]
    if native["available"]:
        return Finding("compiled ops", True, native["reason"])
    said = native["reason"].partition(": to get it")[0]
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    steps = ["pip install setuptools ninja", _install("--no-deps --force-reinstall")]
    if shutil.which(compiler) is None:
        said = f"no C++ compiler {compiler!r}; {said}"
        found = (command for tool, command in _COMPILERS if shutil.which(tool))
        steps.insert(0, next(found, "conda install gxx"))
    return Finding("compiled ops", False, said, " && ".join(steps))


def _install(options: str) -> str:
    """What builds and installs drcl from source: from the checkout that this is, or a download."""
    source = Path(backends.__file__).parents[1]
    place = f'-e "{source}"' if (source / "setup.py").is_file() else "--no-binary drcl drcl"
    return f"pip install --no-build-isolation {options} {place}"


def _gpu(info: dict[str, Any]) -> Iterator[Finding]:
    cuda, triton = info["cuda"], info["backends"]["triton"]
    devices = ", ".join(device["name"] for device in cuda["devices"])
    remedy = ""
    if cuda["rocm"]:
        said = devices or "torch is built for ROCm, but finds no device"
    elif cuda["driver"] and cuda["version"] is None:
        remedy = "pip install --force-reinstall torch"
        said = f"torch is built without CUDA, though driver {cuda['driver']} is there"
    elif cuda["version"] is None:
        said = "torch is built without CUDA, and no NVIDIA driver was found"
    else:
        said = devices or "torch is built for it, but finds no device"
    yield Finding("ROCm" if cuda["rocm"] else "CUDA", cuda["available"], said, remedy)
    lacks = info["triton"] is None and cuda["available"] and not cuda["rocm"]
    yield Finding(
        "Triton kernels",
        triton["available"],
        triton["reason"].partition(" (")[0],
        "pip install triton" if lacks else "",
    )


def _extras() -> Iterator[Finding]:
    for extra in _EXTRAS:
        names = [name for name, _ in _requirements(extra)]
        if not names:  # drcl is not installed, or was before it had this one
            continue
        lacking = [name for name in names if backends.installed_version(name) is None]
        said = f"not installed: {', '.join(lacking)}" if lacking else ", ".join(names)
        remedy = f'pip install "drcl[{extra}]"'
        yield Finding(f"extra {extra}", not lacking, said, remedy)


def _data_folder() -> Finding:
    """Only for data sets that come in files: digits and synthetic need none."""
    folder = data_root()
    if folder.is_dir():
        return Finding("data folder", True, str(folder.resolve()))
    said = f"{folder} does not exist"
    return Finding("data folder", False, said, set_variable("DRCL_DATA", "FOLDER"))


def _requirements(extra: str | None) -> Iterator[tuple[str, str]]:
    """Name and least version of what the package asks for, by itself or by an extra.

    What it asks for on some systems or Pythons only is left to pip.
    """
    for entry in _entries():
        wanted, _, marker = entry.partition(";")
        named = re.fullmatch(r"\s*extra == ['\"](.+)['\"]\s*", marker)
        if (named[1] if named else None) == extra and (named or not marker):
            found = re.match(r"([\w.-]+)(?:>=([\d.]+))?", wanted)
            assert found is not None
            yield found[1], found[2] or ""


def _entries() -> list[str]:
    try:
        return metadata.requires("drcl") or []
    except metadata.PackageNotFoundError:
        return []


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("2.13.0+cpu") >= _numbers("2.10")
    True
    """
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """List what is missing, with the command that installs it.

    Exits with status 1 if drcl cannot work without something that is missing.
    """
    found = examine()
    click.echo(columns([[one.word, one.name, one.said] for one in found], left=3))
    missing = [one for one in found if not one.there and one.remedy]
    for one in missing:
        click.echo(f"\n{one.name}:\n    {one.remedy}")
    if any(one.needed for one in missing):
        ctx.exit(1)
