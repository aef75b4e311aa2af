"""The package as users get it: built from a copy of the tree, imported from another directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest import mock

import install_matrix
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
            "false", "the ops did not compile", id="compiler fails", marks=pytest.mark.long
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
    assert "the compiled ops are not built" in extension


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with compiled code; .ci/run builds it too, and runs .ci/check_wheel.py with it."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler (c++) on this machine")
    copy = tmp_path_factory.mktemp("compiled") / "drcl"
    shutil.copytree(source, copy)
    return build_wheel(copy, tmp_path_factory.mktemp("wheel"), **RELEASE)[0]


RELEASE = {
    "CXX": "c++",
    "DRCL_BUILD_CUDA": "0",
    "DRCL_REQUIRE_EXT": "1",
    "SOURCE_DATE_EPOCH": "1700000000",
}


@pytest.mark.long
def test_wheel_with_compiled_code(compiled: Path, tmp_path: Path) -> None:
    """One for every Python."""
    assert re.fullmatch(rf"drcl-{__version__}-py3-none-(?!any)\w+\.whl", compiled.name)
    files = {name for name in zipfile.ZipFile(compiled).namelist() if ".dist-info/" not in name}
    assert files == shipped_files() | {"drcl/_ops.so"}
    code = (
        "from drcl import backends\n"
        "print(backends._ops_library())\n"
        "print(backends.build_info()['extension']['built'])\n"
        "print(backends.probe_native().reason)\n"
    )
    place, built, reason = import_elsewhere(compiled, tmp_path, code)
    assert Path(place) == tmp_path / "unpacked" / "drcl" / "_ops.so"
    assert built == "True" and reason.startswith(("compiled with gcc", "compiled with clang"))


@pytest.mark.long
def test_a_build_in_another_folder_gives_the_same_bytes(
    compiled: Path, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "of another name" / "source"
    shutil.copytree(source, copy)
    again, _ = build_wheel(copy, tmp_path, **RELEASE)
    assert again.name == compiled.name
    assert again.read_bytes() == compiled.read_bytes()


@pytest.fixture
def repaired(compiled: Path, tmp_path: Path) -> Path:
    """As the release tags it, by the command of pyproject.toml."""
    pytest.importorskip("auditwheel", reason="auditwheel is not installed (extra 'release')")
    (tmp_path / "dist").mkdir()
    return install_matrix.repaired(compiled, tmp_path / "dist", install_matrix.path_with_tools())


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="a source distribution has no hidden files")
def test_what_would_be_published_is_checked(repaired: Path, tmp_path: Path) -> None:
    folder = repaired.parent
    platform = re.fullmatch(r"drcl-.*-py3-none-(manylinux)_2_(\d+)_(\w+)\.whl", repaired.name)
    assert platform is not None and int(platform[2]) >= 28
    wanted = f"{platform[1]}_{platform[3]}"

    def check(*platforms: str) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / ".ci" / "check_dists.py")
        return python(script, str(folder), *platforms, cwd=tmp_path)

    assert "no drcl-" in check(wanted).stderr  # the source distribution is not there yet
    sdist = folder / f"drcl-{__version__}.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(ROOT / "README.md", f"drcl-{__version__}/README.md")
    done = check(wanted)
    assert done.returncode == 0, done.stderr
    assert repaired.stat().st_size < 3_000_000
    assert "expected ('any'," in check("any", wanted).stderr
    # the same wheel with what must not be in it
    for name, content, said in (
        ("tests/test_it.py", b"", "tests/test_it.py"),
        ("drcl/data/digits.npz", os.urandom(3_000_000), "bytes"),
        ("drcl/_C.so", b"", "drcl/_C.so"),
    ):
        clean = repaired.read_bytes()
        with zipfile.ZipFile(repaired, "a") as wheel:
            wheel.writestr(name, content)
        assert said in check(wanted).stderr
        repaired.write_bytes(clean)
    assert check(wanted).returncode == 0


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="a source distribution has no hidden files")
def test_the_bill_of_materials_has_all_that_a_wheel_asks_for(
    compiled: Path, tmp_path: Path
) -> None:
    """Installs the wheel with everything that it brings, torch's gigabytes too."""
    script, out = ROOT / ".ci" / "sbom", tmp_path / "sbom.cdx.json"
    environment = {**os.environ, "PATH": install_matrix.path_with_tools()}
    made = subprocess.run(
        ["bash", str(script), str(compiled), str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if "No matching distribution" in made.stderr:
        pytest.skip("no package registry can be reached")
    assert made.returncode == 0, made.stderr
    bill = json.loads(out.read_text("utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    parts = {part["name"].lower().replace("_", "-"): part for part in bill["components"]}
    assert parts["drcl"]["version"] == __version__
    with zipfile.ZipFile(compiled) as wheel:
        text = wheel.read(f"drcl-{__version__}.dist-info/METADATA").decode()
    asked = re.findall(r"^Requires-Dist: ([\w-]+)[^;]*$", text, flags=re.M)
    assert {"torch", "numpy", "safetensors"} <= set(asked) <= set(parts)
    assert all(part["version"] for part in parts.values())
    assert all(parts[name]["licenses"] for name in ("drcl", "torch", "numpy"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("platform", "processor"),
    [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "arm64"), ("macos", "x86_64")],
)
def test_wheels_are_built_for_what_pip_can_install_torch_on(platform: str, processor: str) -> None:
    pytest.importorskip("cibuildwheel", reason="cibuildwheel is not installed (extra 'release')")
    options = ("--print-build-identifiers", "--platform", platform, "--archs", processor)
    told = python("-m", "cibuildwheel", *options, cwd=ROOT)
    assert told.returncode == 0, told.stderr
    system = {"linux": "manylinux", "macos": "macosx"}[platform]
    pythons = () if (platform, processor) == ("macos", "x86_64") else install_matrix.PYTHONS
    wanted = [f"cp{version.replace('.', '')}-{system}_{processor}" for version in pythons]
    assert told.stdout.split() == wanted
