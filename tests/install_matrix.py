"""Every install that can be had here: Python × torch, one library of compiled ops in all of them.

    python tests/install_matrix.py [--out docs/tools/installs.json] [--only 3.11:2.10 ...]

Builds the source distribution and, from it, one wheel with the Python that runs this. Then, for
each Python (pyenv's, or on the PATH) and torch (the last patch release of every version since 2.10
that the registry has for it), makes a fresh environment, installs, and runs the checks from another
directory. The wheel goes into the Python that it was built for; in the others the source
distribution is compiled, checked, and checked again with the wheel's ``_ops.so`` in the place of
its own: the stable ABI promises that one file serves every Python and every torch, and this is
where it is kept. Other Pythons see the oldest and the newest torch only.

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
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OLDEST = (2, 10)
BUILD_NEEDS = ("setuptools>=77", "ninja", "wheel")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

# Run in an environment, from elsewhere: compiled op and losses against the literal formulas.
CHECK = """
import json, sys, warnings
from pathlib import Path
import numpy, torch, drcl
from drcl import backends, dispatch, functional, metrics

assert Path(drcl.__file__).resolve().is_relative_to(Path(sys.prefix).resolve()), drcl.__file__
native = backends.probe_native()
assert native.available, native.reason
assert dispatch.choose("average_precision", torch.device("cpu")) == "native"

torch.manual_seed(0)
scores = torch.randint(0, 50, (40, 300)).double()  # with ties
relevant = torch.rand(40, 300) < 0.1
for options in ({}, {"k": 10}, {"divisor": "min", "k": 20}, {"ties": "average"}):
    values = {}
    for backend in ("reference", "native"):
        with drcl.use_backend(backend):
            values[backend] = functional.average_precision(scores, relevant, **options)
    torch.testing.assert_close(*values.values(), rtol=1e-12, atol=1e-13)
report = metrics.retrieval_report(
    {n: (numpy.random.rand(60, 8), numpy.arange(60) % 5) for n in ("image", "text")}
)
assert set(report) == {"mAP@all", "mAP@50"}, report

prior = drcl.Prior.orthogonal(dim=24, classes=5)
features, ids = torch.randn(32, 24), torch.arange(32) % 5
found = {}
for backend, dtype in (("reference", torch.float64), ("eager", torch.float32)):
    leaf = features.to(dtype).requires_grad_()
    with drcl.use_backend(backend):
        loss = functional.reversible_consistency_loss(leaf, ids, prior, q=0.5).total
        loss += functional.prior_similarity(leaf, prior, ids, q=0.5).loss
    found[backend] = [loss.double(), torch.autograd.grad(loss, leaf)[0].double()]
torch.testing.assert_close(*found.values(), rtol=1e-5, atol=1e-6)
print(json.dumps({"torch": torch.__version__, "numpy": numpy.__version__}))
"""


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
    return [best[key] for key in sorted(best)]


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


def built(folder: Path) -> tuple[Path, Path, Path]:
    """Source distribution, wheel, and the wheel's library of ops, from a copy of this tree."""
    copy = folder / "source"
    ignored = (".*", "build", "dist", "runs", "*.egg-info", "*.so", "*.pyc", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*ignored))
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder, cwd=copy)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.rmtree(copy)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder)
    pip = (sys.executable, "-m", "pip", "wheel")
    run(*pip, *options, sdist, cwd=folder, DRCL_REQUIRE_EXT="1", PATH=path_with_ninja())
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        ops = Path(archive.extract("drcl/_ops.so", folder))
    return sdist, wheel, ops


def path_with_ninja() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def try_install(
    python: str, torch: str, numpy: str, sdist: Path, wheel: Path | None, ops: Path
) -> dict[str, Any]:
    """One environment: what was installed from what, and that every check passed in it."""
    with tempfile.TemporaryDirectory(prefix="drcl-install-") as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "venv", cwd=folder)
        bin = folder / "venv" / "bin"
        pip = (bin / "python", "-m", "pip", "install", "--quiet", "--no-compile")
        run(*pip, f"torch=={torch}", numpy, *BUILD_NEEDS, cwd=folder)
        pinned = folder / "constraints.txt"  # nothing that comes later moves what is tried here
        pinned.write_text(f"torch=={torch}\n{numpy}\n", encoding="utf-8")
        if wheel is not None:
            run(*pip, "--constraint", pinned, wheel, cwd=folder)
        else:
            path = os.pathsep.join([str(bin), os.environ["PATH"]])
            options = ("--no-build-isolation", "--constraint", pinned)
            run(*pip, *options, sdist, cwd=folder, DRCL_REQUIRE_EXT="1", PATH=path)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        place = run(
            *(bin / "python", "-c", "import drcl.backends as b; print(b._ops_library())"),
            cwd=elsewhere,
        )
        installed = Path(place.strip())
        own = sha256(installed)
        checker = elsewhere / "check_wheel.py"
        shutil.copy(ROOT / ".ci" / "check_wheel.py", checker)
        for library in (None, ops):
            if library is not None:
                shutil.copyfile(library, installed)
            run(bin / "python", checker, cwd=elsewhere)
            found = json.loads(run(bin / "python", "-c", CHECK, cwd=elsewhere))
        told = run(bin / "drcl", "info", cwd=elsewhere)
        assert f"torch      {found['torch']}" in told and "native     yes" in told, told
        exact = run(
            bin / "python", "-c", "import platform as p; print(p.python_version())", cwd=folder
        )
        return {
            "python": exact.strip(),
            **found,
            "from": "source" if wheel is None else "wheel",
            "compiled_here_sha256": None if wheel is not None else own,
            "ops_sha256": sha256(installed),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table here, for the docs, as JSON")
    parser.add_argument("--only", nargs="*", help="Python:torch, as 3.11:2.10")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="drcl-installs-") as name:
        sdist, wheel, ops = built(Path(name))
        print(f"{wheel.name}: _ops.so {sha256(ops)}", flush=True)
        for version, python, torch, numpy in cells():
            label = f"{version}:{'.'.join(torch.split('.')[:2])}"
            if arguments.only and label not in arguments.only:
                continue
            row: dict[str, Any] = {"asked": {"python": version, "torch": torch, "numpy": numpy}}
            start = datetime.datetime.now()
            try:
                own = wheel if version == HERE else None
                row |= {"passed": True, **try_install(python, torch, numpy, sdist, own, ops)}
            except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as error:
                row |= {"passed": False, "error": str(error)}
            row["seconds"] = round((datetime.datetime.now() - start).total_seconds())
            print(json.dumps(row), flush=True)
            rows.append(row)
        missing = sorted(set(PYTHONS) - set(interpreters()))
        if arguments.out:
            record = {
                "date": datetime.date.today().isoformat(),
                "wheel": wheel.name,
                "ops_sha256": sha256(ops),
                "no_interpreter": missing,
                "rows": rows,
            }
            arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if missing:
        print(f"no interpreter at hand: {', '.join(missing)}")
    return 0 if rows and all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
