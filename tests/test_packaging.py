"""The package as users get it: built from a copy of the tree, imported from another directory."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest import mock

import pytest

from drcl._version import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {  # place in a wheel -> source
    "drcl": ROOT / "drcl",
    "drcl/kernels": ROOT / "kernels",
    "drcl/benchmarks": ROOT / "benchmarks",
}
# built files, and of the benchmarks what was measured on our machines
NOT_SHIPPED = ("__pycache__", ".so", ".pyc", "/benchmarks/results/", ".md", ".sh")
HEAVY = ("h5py", "jinja2", "matplotlib", "pyarrow", "scipy", "sklearn", "torchmetrics", "triton")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without anything built, so that no test writes into the checkout."""
    copy = tmp_path_factory.mktemp("source") / "drcl"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "*.so", "*.pyc"),
    )
    return copy


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("DRCL_")}
    keep.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**keep, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def build_wheel(source: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel made from ``source`` and what the build said."""
    options = ("--verbose", "--no-build-isolation", "--no-deps", "--no-index")
    made = python(
        "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), ".", cwd=source, **environment
    )
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    (wheel,) = folder.glob("*.whl")
    return wheel, said


def import_elsewhere(wheel: Path, folder: Path, code: str) -> list[str]:
    """Unpack the wheel, run ``code`` in another directory, return the lines that it prints.

    Python runs without its site module (-S): it would bring in an editable drcl, whose import hook
    fills what the unpacked wheel lacks with files of the checkout.
    """
    unpacked, elsewhere = folder / "unpacked", folder / "elsewhere"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere.mkdir()
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    path = os.pathsep.join([str(unpacked), *dependencies])
    ran = python("-S", "-c", code, cwd=elsewhere, PYTHONPATH=path)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def shipped_files() -> set[str]:
    return {
        f"{place}/{file.relative_to(folder).as_posix()}"
        for place, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and not any(part in str(file) for part in NOT_SHIPPED)
    }


def test_every_folder_with_modules_is_a_package() -> None:
    for folder in PACKAGES.values():
        for module in folder.rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module.parent} misses __init__.py"


def test_import_is_light(tmp_path: Path) -> None:
    code = f"import sys, drcl; print([name for name in {HEAVY} if name in sys.modules])"
    ran = python("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_checkout_finds_its_own_kernels(source: Path) -> None:
    ran = python("-c", "import drcl.kernels; print(drcl.kernels.__file__)", cwd=source)
    assert ran.stdout.strip() == str(source / "kernels" / "__init__.py"), ran.stderr


def test_metadata_without_torch(source: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['setup.py', '--version'];"
        "runpy.run_path('setup.py')"
    )
    ran = python("-c", code, cwd=source)
    assert ran.stdout.splitlines()[-1] == __version__, ran.stderr
    assert "needs PyTorch at build time" in ran.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DRCL_BUILD_CUDA": "yes"}, "DRCL_BUILD_CUDA='yes': expected 0, 1 or auto"),
        (
            {"CXX": "/nonexistent", "DRCL_REQUIRE_EXT": "1"},
            "needs a C++ compiler, and '/nonexistent' was not found",
        ),
    ],
    ids=["unknown CUDA switch", "required extension without compiler"],
)
def test_a_build_that_cannot_be_as_asked_ends_before_it_begins(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which has imported PyTorch."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["setup.py", "bdist_wheel"])
    monkeypatch.chdir(ROOT)
    with mock.patch("setuptools.setup") as set_up, pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "setup.py"))
    # what is no number is printed, and the status is 1
    assert isinstance(ended.value.code, str) and message in ended.value.code
    set_up.assert_not_called()


@pytest.mark.parametrize("command", ["egg_info", "dist_info", "sdist"])
def test_describing_the_package_needs_no_pytorch(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("DRCL_REQUIRE_EXT", "1")
    monkeypatch.chdir(ROOT)
    for words in ([command], [command, "bdist_wheel"]):
        monkeypatch.setattr("sys.argv", ["setup.py", *words])
        compiles = len(words) > 1
        with (
            mock.patch("setuptools.setup") as set_up,
            pytest.raises(SystemExit) if compiles else contextlib.nullcontext(),
        ):
            runpy.run_path(str(ROOT / "setup.py"))
        assert set_up.called is not compiles


def test_source_distribution_holds_what_a_build_needs(source: Path, tmp_path: Path) -> None:
    ran = python("setup.py", "sdist", "--dist-dir", str(tmp_path), cwd=source)
    assert ran.returncode == 0, ran.stderr
    with tarfile.open(tmp_path / f"drcl-{__version__}.tar.gz") as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        file.relative_to(source)
        for folder in ("benchmarks", "csrc", "drcl", "kernels", "tests")
        for file in (source / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert len(wanted) > 10
    assert {path.as_posix() for path in wanted} <= held
    assert {"pyproject.toml", "setup.py", "Makefile", "LICENSE", "constraints.txt"} <= held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        pytest.param("/nonexistent", "needs a C++ compiler", id="no compiler"),
        pytest.param(
            "false", "drcl._C did not compile", id="compiler fails", marks=pytest.mark.long
        ),
    ],
)
def test_wheel_without_compiled_code(
    source: Path, tmp_path: Path, compiler: str, message: str
) -> None:
    wheel, said = build_wheel(source, tmp_path, CXX=compiler)
    assert message in said
    assert wheel.name == f"drcl-{__version__}-py3-none-any.whl"
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == shipped_files()
    code = (
        "import drcl, drcl.kernels\n"
        "from drcl.backends import build_info\n"
        "print(drcl.__file__)\n"
        "print(drcl.kernels.__file__)\n"
        "print(build_info()['extension'])\n"
    )
    package, kernels, extension = import_elsewhere(wheel, tmp_path, code)
    assert package == str(tmp_path / "unpacked" / "drcl" / "__init__.py")
    assert kernels == str(tmp_path / "unpacked" / "drcl" / "kernels" / "__init__.py")
    assert "'built': False" in extension
    assert "drcl._C is not built" in extension


@pytest.mark.long  # .ci/run builds this wheel, and checks it in an environment of its own
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
def test_wheel_with_compiled_code(source: Path, tmp_path: Path) -> None:
    wheel, _ = build_wheel(source, tmp_path, CXX="c++", DRCL_REQUIRE_EXT="1")
    assert not wheel.name.endswith("-any.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in files if name.endswith(".so")}
    assert files - compiled == shipped_files()
    assert any(name.startswith("drcl/_C.") for name in compiled)
    code = (
        "from drcl import _C\n"
        "print(_C.__file__)\n"
        "print(_C.compiler)\n"
        "print(_C.cxx_standard)\n"
        "print(_C.cpu_capability())\n"
    )
    place, compiler, standard, capability = import_elsewhere(wheel, tmp_path, code)
    assert Path(place).parent == tmp_path / "unpacked" / "drcl"
    assert compiler.split()[0] in ("gcc", "clang")
    assert int(standard) >= 20
    assert capability in ("default", "avx2", "avx512")
