"""The C++ core under sanitizers: tests/native builds it without torch, draws calls and compares
them with an oracle of its own, in every instruction set of this machine."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

from drcl.backends import probe_native

NATIVE = Path(__file__).resolve().parent
CSRC = NATIVE.parents[1] / "csrc"
RANKING_TESTS = NATIVE.parent / "metrics" / "test_average_precision.py"
CASES = int(os.environ.get("DRCL_FUZZ_CASES", "25"))
CAPABILITIES = ("default", "avx2", "avx512")  # what the machine does not have falls back
MEMORY = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
VECTORS = (
    "-D_GLIBCXX_SANITIZE_VECTOR"  # in every file or in none: the linker keeps one of each function
)
# The rounding that is shipped; the AVX-512 headers of GCC 12 warn about themselves.
COMMON = ("-std=c++20", "-g1", "-ffp-contract=off", "-Wno-maybe-uninitialized", "-pthread")
OPTIMISED = pytest.mark.parametrize(("name", "level"), product(("g++", "clang++"), ("-O1", "-O3")))


def compiler_with(name: str, *flags: str, source: str = "int main() { return 0; }") -> str:
    """The compiler's path; the test is skipped where it or what the flags need is missing."""
    compiler = shutil.which(name)
    if compiler is None:
        pytest.skip(f"{name} was not found")
    trial = subprocess.run(
        [compiler, *flags, "-x", "c++", "-", "-o", os.devnull],
        input=source,
        capture_output=True,
        text=True,
    )
    if trial.returncode != 0:
        pytest.skip(f"{name} does not build with {' '.join(flags)}")
    return compiler


def compile_with(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def stand_ins(folder: Path, sources: list[Path], header: str = "stand_in.h") -> list[str]:
    """Where the headers are found; of torch and CUDA they are only as much as is used."""
    for source in [*CSRC.glob("*.h"), *sources]:
        for name in re.findall(r"#include <(torch/[^>]+|cuda_runtime.h)>", source.read_text()):
            path = folder / "headers" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#include "{header}"\n')
    return [f"-I{path}" for path in (CSRC, NATIVE, folder / "headers")]


def build(
    folder: Path, compiler: str, core: tuple[str, ...], driver: tuple[str, ...] | None = None
) -> Path:
    """The driver's path; ``core`` and ``driver`` (by default the same) are flags for each."""
    includes = [*stand_ins(folder, [*CSRC.glob("cpu/*.cpp")]), "-D_GLIBCXX_ASSERTIONS"]
    objects = []
    # what the driver calls
    for source in [*sorted(CSRC.glob("cpu/average_precision*.cpp")), NATIVE / "driver.cpp"]:
        flags = core if driver is None or source.parent.name == "cpu" else driver
        objects.append(folder / f"{source.stem}.o")
        compile_with(compiler, *COMMON, *includes, *flags, "-c", source, "-o", objects[-1])
    compile_with(compiler, *COMMON, *core, *objects, "-o", folder / "driver")
    return folder / "driver"


def drive(
    driver: Path, cases: int, *plant: str, capability: str = "", limit: float = 7200
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [driver, str(cases), "1", *plant],
        env={**os.environ, "DRCL_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        timeout=limit,
    )


def assert_clean_with_the_same_bits(driver: Path, cases: int) -> None:
    printed = set()
    for capability in CAPABILITIES:
        run = drive(driver, cases, capability=capability)
        assert run.returncode == 0, run.stderr
        printed.add(run.stdout)
    assert len(printed) == 1 and f"{cases} cases" in printed.pop()


@pytest.mark.slow
def test_memory_and_undefined_behaviour(tmp_path: Path) -> None:
    """The short form, unoptimised, which compiles in a third of the time."""
    compiler = compiler_with("g++", *MEMORY)
    driver = build(
        tmp_path, compiler, ("-O0", VECTORS, *MEMORY), ("-O0", VECTORS, "-fsanitize=address")
    )
    assert_clean_with_the_same_bits(driver, 4 * CASES)
    planted = drive(driver, 100, "overrun")
    assert planted.returncode != 0 and "heap-buffer-overflow" in planted.stderr
    planted = drive(driver, 100, "misaligned")
    assert planted.returncode != 0 and "misaligned address" in planted.stderr
    planted = drive(driver, 100, "wrong")
    assert planted.returncode != 0 and "expected" in planted.stderr


@pytest.mark.long
@OPTIMISED
def test_memory_of_optimised_code(name: str, level: str, tmp_path: Path) -> None:
    compiler = compiler_with(name, *MEMORY)
    assert_clean_with_the_same_bits(build(tmp_path, compiler, (level, VECTORS, *MEMORY)), CASES)


@pytest.mark.long
def test_shipped_flags(tmp_path: Path) -> None:
    """Without sanitizers, optimised as shipped: the fastest way through many cases."""
    driver = build(tmp_path, compiler_with("g++"), ("-O3",))
    assert_clean_with_the_same_bits(driver, 10 * CASES)


AARCH64 = "aarch64-linux-gnu-g++"  # Debian: g++-aarch64-linux-gnu and qemu-user


@pytest.mark.long
def test_aarch64_finds_the_bits_of_this_processor(tmp_path: Path) -> None:
    """Cross-compiled as shipped, and executed under an emulator; the oracle holds there, too."""
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("qemu-aarch64 was not found")
    there = build(tmp_path / "aarch64", compiler_with(AARCH64, "-static"), ("-O3", "-static"))
    here = build(tmp_path / "here", compiler_with("g++"), ("-O3",))
    emulated = subprocess.run(
        [emulator, there, str(4 * CASES), "1"], capture_output=True, text=True, timeout=7200
    )
    assert emulated.returncode == 0, emulated.stderr
    assert emulated.stdout == drive(here, 4 * CASES).stdout
    planted = subprocess.run([emulator, there, "100", "1", "wrong"], capture_output=True, text=True)
    assert planted.returncode != 0 and "expected" in planted.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", ["g++", "clang++"])
@pytest.mark.parametrize("source", sorted(CSRC.rglob("*.cpp")), ids=lambda path: path.stem)
def test_no_compiler_warns(source: Path, name: str, setup_py: dict[str, Any]) -> None:
    """With the flags of the build, optimised, as some warnings need that."""
    compiler = compiler_with(name)
    kind = setup_py["kind_of_compiler"](setup_py["version_of"]([compiler]))
    assert kind == {"g++": "gcc", "clang++": "clang"}[name]
    headers = [*include_paths(), sysconfig.get_path("include")]
    flags = setup_py["compiler_flags"](kind) + setup_py["warning_flags"](kind, headers)
    defines = ["CUDA_ARCH_LIST", "FLAGS", "TORCH"]
    command = [compiler, *flags, *(f'-DDRCL_{one}=""' for one in defines)]
    compile_with(*command, setup_py["STABLE_ABI"], f"-I{CSRC}", "-c", source, "-o", os.devnull)


@pytest.fixture
def setup_py() -> dict[str, Any]:
    with mock.patch("setuptools.setup"), mock.patch.dict("os.environ", DRCL_BUILD_CUDA="0"):
        return runpy.run_path(str(CSRC.parent / "setup.py"))


@pytest.mark.parametrize(
    "said, kind, flag",
    [
        ("g++ (Debian 12.2.0-14) 12.2.0", "gcc", "-ffp-contract=off"),
        ("c++ (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "gcc", "-ffp-contract=off"),
        ("Debian clang version 14.0.6", "clang", "-ffp-contract=off"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "apple", "-ffp-contract=off"),
        ("Microsoft (R) C/C++ Optimizing Compiler Version 19.39", "msvc", "/fp:precise"),
    ],
)  # fmt: skip
def test_flags_are_those_of_the_compiler(
    said: str, kind: str, flag: str, setup_py: dict[str, Any]
) -> None:
    assert setup_py["kind_of_compiler"](said) == kind
    flags = setup_py["compiler_flags"](kind)
    both = flags + setup_py["warning_flags"](kind, ["/torch/include"])
    assert flag in flags and "c++20" in " ".join(flags)
    assert {one[0] for one in both if one != "/torch/include"} == {"/" if kind == "msvc" else "-"}
    assert "/WX" in both or "-Werror" in both


@pytest.mark.parametrize("name", ["g++", AARCH64])
def test_big_endian_processors_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """By the compiler: told that it compiles for one, as none is at hand."""
    source = tmp_path / "only.cpp"
    source.write_text('#include "average_precision.h"\n')
    command = [compiler_with(name), "-std=c++20", f"-I{CSRC}", "-fsyntax-only", str(source)]
    compile_with(*command)
    swapped = [
        "-U__BYTE_ORDER__",
        "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__",
        "-Wno-builtin-macro-redefined",
    ]
    refused = subprocess.run([*command, *swapped], capture_output=True, text=True)
    assert refused.returncode != 0 and "big-endian" in refused.stderr


@pytest.mark.long
def test_races(tmp_path: Path) -> None:
    """Also the GPU's phases, run by real threads with a barrier after each: none races another."""
    driver = build(
        tmp_path, compiler_with("g++", "-fsanitize=thread"), ("-O1", "-fsanitize=thread")
    )
    run = drive(driver, CASES)
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    planted = drive(driver, 100, "race")
    assert planted.returncode != 0 and "data race" in planted.stderr


def on_the_host(source: str) -> str:
    """CUDA as the C++ that a compiler without CUDA takes."""
    source, launches = re.subn(r"([\w.]+)<<<(.+?)>>>\(", r"stand_in::launch(\1, \2)(", source)
    source, arrays = re.subn(
        r"extern __shared__ .+ shared\[\];",
        "char* shared = reinterpret_cast<char*>(stand_in::shared.data());",
        source,
    )
    assert launches == arrays == 1
    return source


# In the CUDA op: what is there, what is put in its place, and what is said of it.
FAULTS = [
    ("std::max<int64_t>(a.limit / plan.bytes, 1)", "in.queries", "more than is allowed"),
    ("blocks * plan.bytes", "plan.bytes", "heap-buffer-overflow"),
]
PLANTED = """#include <cstdlib>
static bool planted(int fault) {
  const char* asked = std::getenv("PLANTED");
  return asked && std::atoi(asked) == fault;
}
"""


@pytest.mark.slow
def test_the_gpu_ranks_within_the_memory_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA op without a GPU: ``stand_in_cuda.h`` launches it and gives it memory.

    Compiled once, with all faults, one of which is chosen as it runs.
    """
    flags = ("-O0", "-fsanitize=address")
    compiler = compiler_with("g++", *flags)
    original = CSRC / "cuda" / "average_precision.cu"
    phases = CSRC / "cpu" / "average_precision_phases.cpp"
    includes = stand_ins(tmp_path, [original, phases], "stand_in_cuda.h")
    text = original.read_text()
    for fault, (is_there, other, _) in enumerate(FAULTS):
        assert text.count(is_there) == 1
        text = text.replace(is_there, f"(planted({fault}) ? {other} : {is_there})")
    (tmp_path / "op.cpp").write_text(PLANTED + on_the_host(text))
    command = (compiler, *COMMON, *includes, *flags)
    objects = []
    for source in (phases, NATIVE / "cuda_op.cpp", tmp_path / "op.cpp"):
        objects.append(tmp_path / f"{source.stem}.o")
        compile_with(*command, "-c", source, "-o", objects[-1])
    compile_with(*command, *objects, "-o", tmp_path / "driver")

    right = drive(tmp_path / "driver", 8 * CASES)
    assert right.returncode == 0, right.stderr
    assert int(re.findall(r"(\d+) cut", right.stdout)[0]) > CASES // 4
    for fault, (_, planted, word) in enumerate(FAULTS):
        monkeypatch.setenv("PLANTED", str(fault))
        wrong = drive(tmp_path / "driver", 8 * CASES)
        assert wrong.returncode != 0 and word in wrong.stderr, planted


def build_loss(folder: Path, name: str, *flags: str) -> Path:
    """The driver of the loss's stages by rows."""
    compiler = compiler_with(name, *flags)
    driver = folder / "loss_rows"
    compile_with(
        *(compiler, *COMMON, "-D_GLIBCXX_ASSERTIONS", f"-I{CSRC}", *flags),
        *(NATIVE / "loss_rows.cpp", "-o", driver),
    )
    return driver


def drive_loss(driver: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [driver, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=7200)


def test_memory_of_the_loss(tmp_path: Path) -> None:
    """The short form: of one dtype, unoptimised, and without the slower sanitizer."""
    flags = ("-O0", "-DDRCL_FLOAT32_ALONE", "-fsanitize=address")
    driver = build_loss(tmp_path, "g++", *flags)
    run = drive_loss(driver, 4 * CASES, 1, 1)
    assert run.returncode == 0, run.stderr
    planted = drive_loss(driver, 100, 1, 1, "overrun")
    assert planted.returncode != 0 and "heap-buffer-overflow" in planted.stderr


@pytest.mark.long
@OPTIMISED
def test_memory_of_the_optimised_loss(name: str, level: str, tmp_path: Path) -> None:
    run = drive_loss(build_loss(tmp_path, name, level, *MEMORY), 40 * CASES, 2, 1)
    assert run.returncode == 0, run.stderr


@pytest.mark.long
def test_threads_of_the_loss_do_not_race(tmp_path: Path) -> None:
    driver = build_loss(tmp_path, "g++", "-O1", "-fsanitize=thread")
    run = drive_loss(driver, 4 * CASES, 3, 3)
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    planted = drive_loss(driver, 100, 3, 3, "race")
    assert planted.returncode != 0 and "data race" in planted.stderr


def build_at_once(folder: Path) -> Path:
    compiler = compiler_with("g++", "-fsanitize=thread")
    driver = folder / "at_once"
    includes = (f"-I{CSRC}", f"-I{NATIVE}")
    flags = (*COMMON, *includes, "-O1", "-fsanitize=thread")
    compile_with(compiler, *flags, NATIVE / "at_once.cpp", "-o", driver)
    return driver


def at_once(driver: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [driver, *map(str, arguments)],
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
        timeout=7200,
    )


def races_without_a_barrier(driver: Path, phase: int) -> bool:
    """Whether a race is found once the barrier after that phase is left out, in some cases."""
    runs = (at_once(driver, 100, seed, phase) for seed in range(1, 9))
    return any(run.returncode != 0 and "data race" in run.stderr for run in runs)


def test_phases_by_threads_at_once_do_not_race_and_find_the_bits_of_threads_in_turn(
    tmp_path: Path,
) -> None:
    driver = build_at_once(tmp_path)
    run = at_once(driver, 40, 1)
    assert run.returncode == 0, run.stderr
    phases = int(re.findall(r"40 cases, (\d+) phases", run.stdout)[0])
    assert phases == 66  # 17 by index, 16 with averaged ties, each of float32 and float64
    for phase in (0, phases // 2, phases - 1):
        assert races_without_a_barrier(driver, phase), phase


@pytest.mark.long
def test_every_barrier_between_phases_is_needed(tmp_path: Path) -> None:
    driver = build_at_once(tmp_path)
    run = at_once(driver, CASES, 2)
    assert run.returncode == 0, run.stderr
    unneeded = [phase for phase in range(66) if not races_without_a_barrier(driver, phase)]
    assert unneeded == []


FUZZER = "-fsanitize=fuzzer,address,undefined"
EMPTY_TARGET = 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'


@pytest.mark.long
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_fuzzer(capability: str, tmp_path: Path) -> None:
    """Coverage-guided: the fuzzer looks for bytes that reach new code."""
    compiler = compiler_with("clang++", FUZZER, source=EMPTY_TARGET)
    # without VECTORS: libFuzzer brings functions of std::vector of its own
    flags = ("-O1", FUZZER, "-fno-sanitize-recover=all", "-DDRCL_FUZZER")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    run = subprocess.run(
        [
            build(tmp_path, compiler, flags),
            *(f"-runs={CASES}", "-max_len=256", "-seed=1", "-print_final_stats=1"),
            f"-artifact_prefix={tmp_path}/",
            corpus,
        ],
        env={**os.environ, "DRCL_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        timeout=7200,
    )
    assert run.returncode == 0, run.stderr[-5000:]
    assert "stat::number_of_executed_units" in run.stderr


@pytest.mark.long
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_ops_inside_torch(capability: str, tmp_path: Path) -> None:
    """The library of ops itself, built with sanitizers, under the ranking's own tests."""
    native = probe_native()
    if not native.available:
        pytest.skip(f"native: {native.reason}")
    compiler = compiler_with("g++", *MEMORY)
    library = tmp_path / "_ops.so"
    sources = [CSRC / "ops.cpp", *sorted(CSRC.glob("cpu/*.cpp"))]
    torch_flags = [
        *(f"-I{path}" for path in (CSRC, *include_paths())),
        *(f"-L{path}" for path in library_paths()),
        *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-shared", "-fPIC", "-fvisibility=hidden"),
    ]
    compile_with(
        *(compiler, *COMMON, "-O1", *MEMORY, *torch_flags, *sources),
        *("-o", library, "-ltorch", "-ltorch_cpu"),
    )
    # With libstdc++, which Python does not load: the sanitizer looks for its functions early.
    runtime = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    code = (
        "import sys, pytest; from pathlib import Path; from drcl import backends; "
        "backends._ops_library = lambda: Path(sys.argv[1]); "
        "sys.exit(pytest.main(['-qs', '-p', 'no:cacheprovider', sys.argv[2], '-k', "
        "'not every_instruction_set']))"  # its own processes would load the usual library
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            library,
            RANKING_TESTS,
        ],
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(runtime),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "DRCL_CPU_CAPABILITY": capability,
        },
        capture_output=True,
        text=True,
        timeout=7200,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-5000:]
    assert " skipped" not in run.stdout, run.stdout[-3000:]  # for want of the library


@pytest.mark.parametrize("op", ["average_precision", "average_precision_phases"])
def test_nan_is_refused_alike(op: str) -> None:
    """The first row that holds NaN is named, however many threads there are."""
    native = probe_native()
    if not native.available:
        pytest.skip(f"native: {native.reason}")
    scores = torch.zeros(64, 5)
    scores[10:, 2] = torch.nan
    q = torch.arange(65)
    items = torch.zeros(64, dtype=torch.int32)
    run = getattr(torch.ops.drcl, op)
    phases = op.endswith("phases")
    arguments = (scores, None, None, None, None, q, q[:-1], q, items, None, None)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        if phases:
            table = run(*arguments, 1, [5], 5, 0, False, 0, None, 0, False, 4)
            assert table[:, 0].isnan().tolist() == [False] * 10 + [True] * 54
            return
        for _ in range(20):
            with pytest.raises(RuntimeError, match="row 10 holds NaN"):
                run(*arguments, 1, [5], 5, 0, False, 0, None, 0, False, 2**20)
    finally:
        torch.set_num_threads(threads)
