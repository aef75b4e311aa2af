"""The CUDA sources compile for every architecture that is shipped, and no register is spilled."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from drcl import dispatch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
FLAGS = ("-std=c++20", "--fmad=false", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000")
# Threads of a block, and how many blocks a multiprocessor's 65,536 registers must have room for.
RESIDENT = {"rank_kernel": (256, 4), "rank_many_kernel": (256, 3), "rank_tied_kernel": (256, 1)}
OTHERS = ("75", "80", "100", "120")  # architectures that make test-long compiles for, too


def nvcc() -> str:
    if NVCC is None:
        pytest.skip("nvcc was not found")
    return NVCC


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["90", *(pytest.param(a, marks=pytest.mark.long) for a in OTHERS)]
)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills_for_the_blocks_that_share_a_multiprocessor(
    source: Path, architecture: str, tmp_path: Path
) -> None:
    command = [
        nvcc(),
        *("-O3", "-Xptxas", "-v", f"-arch=sm_{architecture}", *FLAGS, f"-I{CSRC}"),
        *(f"-I{path}" for path in include_paths()),
        *("-c", str(source), "-o", str(tmp_path / "object.o")),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    assert set(spills) == {("0", "0")}
    used = re.findall(
        r"Compiling entry function '\w*?\d(rank\w*_kernel)I[fd]E.*?Used (\d+) registers",
        run.stderr,
        flags=re.S,
    )
    assert sorted(name for name, _ in used) == sorted(2 * list(RESIDENT))
    for name, registers in used:
        threads, blocks = RESIDENT[name]
        of_a_warp = -(-int(registers) * 32 // 256) * 256  # the unit in which they are given out
        assert 65536 // of_a_warp * 32 // threads >= blocks, (name, registers)


@pytest.mark.parametrize(
    "cuda, expected",
    [
        ("12.6", "7.5;8.0;9.0+PTX"),
        ("12.8", "7.5;8.0;9.0;10.0;12.0+PTX"),
        ("13.0", "7.5;8.0;9.0;10.0;12.0+PTX"),
    ],
)
def test_architectures_that_are_compiled_by_default(cuda: str, expected: str) -> None:
    with mock.patch("setuptools.setup"), mock.patch.dict("os.environ", DRCL_BUILD_CUDA="0"):
        build = runpy.run_path(str(ROOT / "setup.py"))
    assert build["default_architectures"](cuda) == expected


@pytest.mark.parametrize("compiled, expected", [(True, "native"), (False, "eager")])
def test_a_device_that_the_cuda_code_was_not_compiled_for_ranks_with_pytorch(
    compiled: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_probed", {**dispatch._reasons(), "native": None})
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *names: True)
    monkeypatch.setattr(torch.ops.drcl, "ranks_on", lambda device: compiled, raising=False)
    for remembered in (dispatch._has_image, dispatch._is_compiled_for):
        remembered.cache_clear()
    try:
        assert dispatch.choose("average_precision", torch.device("cuda:0")) == expected
        assert dispatch.choose("average_precision", torch.device("cpu")) == "native"
    finally:
        for remembered in (dispatch._has_image, dispatch._is_compiled_for):
            remembered.cache_clear()


# --- against the CUDA build of torch that GPU machines have

WHEEL = "torch==2.11.0"
ARCHITECTURES = (80, 90, 100, 120)


LIBRARIES = [f"lib{name}.so" for name in ("torch", "torch_cpu", "torch_cuda", "c10")]


@pytest.fixture(scope="module")
def cuda_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Headers and libraries of the wheel, 530 MB that pip fetches; nothing is installed or kept."""
    nvcc()
    if sys.platform != "linux":
        pytest.skip("the wheel with CUDA is one for Linux")
    folder = tmp_path_factory.mktemp("torch")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
    run = subprocess.run([*command, WHEEL, "-d", str(folder)], capture_output=True, text=True)
    if run.returncode != 0:
        pytest.skip(f"pip cannot fetch {WHEEL}: {run.stderr.strip().splitlines()[-1]}")
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wanted = [name for name in wheel.namelist() if name.startswith("torch/include/")]
            wanted += ["torch/version.py", *(f"torch/lib/{name}" for name in LIBRARIES)]
            wheel.extractall(folder, wanted)
        yield folder / "torch"
    finally:
        shutil.rmtree(folder)


def symbols(library: Path, which: str) -> set[str]:
    listed = subprocess.run(
        ["nm", "-D", which, "--format=posix", str(library)], capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    return {line.split()[0].split("@")[0] for line in listed.stdout.splitlines()}


@pytest.mark.long
def test_extension_builds_against_a_cuda_torch_that_exports_all_it_needs(
    cuda_torch: Path, tmp_path: Path
) -> None:
    assert "cuda: Optional[str] = '13" in (cuda_torch / "version.py").read_text()
    include = cuda_torch / "include"
    assert (include / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h").is_file()  # no CPU build
    sources = [CSRC / "ops.cpp", *sorted(CSRC.glob("cpu/*.cpp")), *SOURCES]
    built = tmp_path / "_ops.so"
    command = [
        nvcc(),
        *(*FLAGS, "-O1", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden,-ffp-contract=off"),
        *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES),
        *(f"-I{path}" for path in (CSRC, include, include / "torch/csrc/api/include")),
        *(f"-L{cuda_torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-ltorch_cuda", "-lc10"),
        *("-Xlinker", "--allow-shlib-undefined"),
        *(*map(str, sources), "-o", str(built)),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    needed = {
        name
        for name in symbols(built, "--undefined-only")
        if re.match("(aoti_)?torch_|_ZNK?(5torch|3c10|2at)", name)
    }
    assert "aoti_torch_get_current_cuda_stream" in needed
    exported = {name: symbols(cuda_torch / "lib" / name, "--defined-only") for name in LIBRARIES}
    assert "aoti_torch_get_current_cuda_stream" in exported["libtorch_cuda.so"]
    assert needed <= set().union(*exported.values())
