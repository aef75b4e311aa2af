"""An installed package where things are missing: no compiler, no Triton, nowhere to write.

The folder that is tried is laid out as a wheel unpacks, with what is compiled in this checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
OPS = ROOT / "drcl" / "_ops.so"
PARTS = {"drcl": "drcl", "kernels": "drcl/kernels", "benchmarks": "drcl/benchmarks"}

# Import what drcl needs from others; then watch drcl itself.
USE = """
import os, sys
sys.modules["triton"] = None  # importing it fails
import torch, numpy, safetensors.torch, click, tqdm

seen, WRITING = [], os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        seen.append((event, str(arguments[0])))
    elif event == "open" and not isinstance(arguments[0], int) and arguments[2] & WRITING:
        seen.append((event, str(arguments[0])))

sys.addaudithook(watch)
import drcl, drcl.cli, drcl.kernels
written = [what for what in seen if "__pycache__" not in what[1]]
assert written == [], written

from drcl import backends
found = {backend.name: backend for backend in backends.probe_backends()}
assert not found["triton"].available and "not installed" in found["triton"].reason
prior = drcl.Prior.orthogonal(dim=16, classes=4)
x = torch.randn(8, 16, requires_grad=True)
drcl.functional.reversible_consistency_loss(x, torch.arange(8) % 4, prior).total.backward()
assert x.grad.isfinite().all()
rows = numpy.random.rand(20, 8)
assert 0 < drcl.metrics.mean_average_precision(rows, rows, [0, 1] * 10, [0, 1] * 10) <= 1
assert "native     " + ("yes" if sys.argv[1] == "True" else "no") in backends.format_info()
print(drcl.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    for source, place in PARTS.items():
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.md", "*.sh")
        shutil.copytree(ROOT / source, folder / place, ignore=ignored)
    return folder


def python(
    *arguments: str, cwd: Path, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Without the site module, which would bring in an editable drcl."""
    dropped = ("DRCL_", "TRITON_", "PYTHONDONTWRITEBYTECODE")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    path = os.pathsep.join([environment.pop("FOLDER"), *dependencies])
    return subprocess.run(
        [*before, sys.executable, "-S", *arguments],
        cwd=cwd,
        env={**keep, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def files(folder: Path) -> dict[str, int]:
    return {
        str(file): file.stat().st_mtime_ns
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_an_editable_install_is_found_beside_a_checkout_in_a_folder_of_its_name(
    tmp_path: Path,
) -> None:
    """Python takes a folder without __init__.py only where no later path holds a package."""
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    checkout, site = tmp_path / "drcl", tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.so")
    for name in PARTS:
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = (
        "import sys, zipfile\nfrom setuptools import build_meta\n"
        f"site = {str(site)!r}\n"
        "zipfile.ZipFile(f'{site}/{build_meta.build_editable(site)}').extractall(site)"
    )
    site.mkdir()
    environment = {"CXX": "/nonexistent", "FOLDER": ""}
    built = python("-c", build, cwd=checkout, **environment)
    assert built.returncode == 0, built.stdout + built.stderr
    # forked, as each interpreter would take seconds to import PyTorch
    find = (
        "import os, site, sys, torch\n"
        "for folder in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        os.chdir(folder)\n"
        f"        site.addsitedir({str(site)!r})\n"
        "        import drcl.cli, drcl.kernels, drcl.benchmarks\n"
        "        print(drcl.__file__, drcl.kernels.__file__, drcl.benchmarks.__file__)\n"
        "        sys.exit()\n"
        "    assert os.wait()[1] == 0, folder\n"
    )
    folders = map(str, (tmp_path, checkout, Path("/")))
    found = python("-c", find, *folders, cwd=site, **environment)
    assert found.returncode == 0, found.stderr
    expected = [checkout / "drcl", checkout / "kernels", checkout / "benchmarks"]
    line = " ".join(str(one / "__init__.py") for one in expected)
    assert found.stdout.splitlines() == 3 * [line]


def test_without_compiler_and_triton_nothing_is_built(installed: Path, tmp_path: Path) -> None:
    """No process is started, no file is opened for writing, none is there afterwards."""
    before = files(installed)
    environment = {"PATH": "", "CXX": "", "HOME": str(tmp_path), "FOLDER": str(installed)}
    ran = python("-c", USE, str(OPS.is_file()), cwd=tmp_path, **environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(installed / "drcl" / "__init__.py")
    assert files(installed) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_read_only_site_packages(installed: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a read-only mount of the folder")
    there = str(installed)
    mount = f"mount --bind {there} {there} && mount -o remount,ro,bind {there}"
    refused = f"! touch {there}/x 2>/dev/null"
    mounted = ("unshare", "--mount", "sh", "-c", f'{mount} && {refused} && exec "$@"', "sh")
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    ran = python(
        "-c", USE, str(OPS.is_file()), cwd=tmp_path, before=mounted, FOLDER=there, HOME="/nowhere"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(installed / "drcl" / "__init__.py")


def run_in(installed: Path, cwd: Path, code: str) -> str:
    ran = python("-c", code, cwd=cwd, FOLDER=str(installed))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_import_takes_a_third_of_a_second_beyond_torch(installed: Path, tmp_path: Path) -> None:
    """In processor time, which a busy machine does not stretch; the first writes the bytecode."""
    code = "import torch, time; start = time.process_time(); import drcl; "
    code += "print(time.process_time() - start)"
    times = [float(run_in(installed, tmp_path, code)) for _ in range(2)]
    assert min(times) < 0.3, times


@pytest.mark.long
def test_import_by_the_clock(installed: Path, tmp_path: Path) -> None:
    """Beside torch's own import, alternately, medians: for a machine with nothing else to do."""
    both, alone = [], []
    for _ in range(8):
        for code, times in (("torch, drcl", both), ("torch", alone)):
            timed = f"import time; start = time.perf_counter(); import {code}; "
            timed += "print(time.perf_counter() - start)"
            times.append(float(run_in(installed, tmp_path, timed)))
    beyond = statistics.median(both[1:]) - statistics.median(alone[1:])  # the first compiles
    print(f"torch {statistics.median(alone[1:]):.2f} s, drcl {beyond:.3f} s beyond it")
    assert beyond < 0.3


@pytest.mark.skipif(not OPS.is_file(), reason="this build has no compiled ops")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_the_ops_ask_torch_for_nothing_but_its_stable_abi() -> None:
    """No C++ name of torch, none of Python: what makes one file fit every torch and Python."""
    said = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", str(OPS)],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = {line.split()[-1].partition("@")[0] for line in said.stdout.splitlines()}
    stable = {name for name in wanted if name.startswith(("aoti_torch_", "torch_"))}
    assert stable  # the op is registered through them
    mangled = ("_ZN2at", "_ZNK2at", "_ZN3c10", "_ZNK3c10", "_ZN5torch", "_ZNK5torch")
    assert [name for name in wanted if name.startswith((*mangled, "Py", "_Py"))] == []


@pytest.fixture
def environment_of_its_own(installed: Path, tmp_path: Path) -> Iterator[Path]:
    """A virtual environment with drcl in its site-packages; the rest is this one's."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    shutil.copytree(installed / "drcl", site / "drcl")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    yield place


@pytest.mark.long
def test_type_information_ships(environment_of_its_own: Path, tmp_path: Path) -> None:
    """mypy --strict takes what is right from the installed package, and refuses what is not."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    right = (
        "import numpy as np\n"
        "import torch\n"
        "import drcl\n"
        "from drcl.data import load\n"
        "from drcl.losses import ReversibleConsistencyLoss\n"
        "prior: drcl.Prior = drcl.Prior.orthogonal(dim=16, classes=4)\n"
        "loss = ReversibleConsistencyLoss(prior, lam=0.9)\n"
        "parts = loss.parts(torch.randn(8, 16), torch.arange(8) % 4)\n"
        "value: torch.Tensor = parts.total + parts.label\n"
        "score: float = drcl.metrics.mean_average_precision(\n"
        "    torch.randn(4, 2), torch.randn(4, 2), [0, 1, 0, 1], [0, 1, 0, 1]\n"
        ")\n"
        "model = drcl.DRCL(dim=16, epochs=1, lr={'image': 1e-3, 'text': 1e-4})\n"
        "x, y = np.ones((6, 3), np.float32), np.arange(6) % 2\n"
        "model.fit({'image': (x, y), 'text': (torch.ones(6, 2), [0, 1, 0, 1, 0, 1])})\n"
        "embeddings: torch.Tensor = model.encode('image', x)\n"
        "report = drcl.metrics.retrieval_report({'image': (embeddings, y), 'text': (x, [0] * 6)})\n"
        "mean: float = report['mAP@all']['mean']\n"
        "nearest: torch.Tensor = model.search('image', x, 'text', torch.ones(6, 2)).indices\n"
        "data = load('digits')\n"
        "digits = drcl.DRCL().fit(data.train, data.validation).evaluate(data.test)\n"
        "chosen: drcl.Prior = drcl.select_prior(data.train, config=drcl.Config(dim=16))\n"
    )
    wrong = "import drcl\nnumber: int = drcl.Prior.orthogonal(dim=16, classes='4')\n"
    (tmp_path / "right.py").write_text(right, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    interpreter = environment_of_its_own / "bin" / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(interpreter)]
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    checked = {}
    for name in ("right", "wrong"):
        checked[name] = subprocess.run(
            [*command, f"{name}.py"], cwd=tmp_path, env=keep, capture_output=True, text=True
        ).stdout
    assert "Success: no issues found" in checked["right"], checked["right"]
    assert "incompatible type" in checked["wrong"] and "Incompatible types" in checked["wrong"]


@pytest.mark.long
def test_every_install_that_can_be_had(tmp_path: Path) -> None:
    """Fetches every torch since 2.10 and takes an hour: tests/install_matrix.py."""
    reached = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), "click"],
        capture_output=True,
        text=True,
    )
    if reached.returncode:
        pytest.skip("no package registry can be reached")
    table = tmp_path / "installs.json"
    script = ROOT / "tests" / "install_matrix.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--out", str(table)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    assert len({row["ops_sha256"] for row in rows}) == 1  # the very same file in all of them
    assert all(row["install_seconds"] < 20 for row in rows)
    assert torch.__version__ in {row["torch"] for row in rows}
