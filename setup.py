"""Build of the compiled part; everything else about the package is in pyproject.toml.

    drcl/_ops.so   csrc/ops.cpp with csrc/cpu/*.cpp and csrc/cuda/*.cu: the ops, on PyTorch's stable
                   ABI and without Python, so that one file, and one wheel, serves every Python and
                   every torch from 2.10 on

Where something is missing the package is built as pure Python, and a message says what and how to
get it. No GPU is needed for any of it. Environment variables:

    CXX                   the C++ compiler (default: c++)
    DRCL_BUILD_CUDA       0, 1 or auto (default): auto compiles the CUDA code where nvcc and a CUDA
                          build of torch are found; 1 makes it an error when they are not
    DRCL_REQUIRE_EXT      1: what cannot be compiled is an error, not a message
    DRCL_WERROR           1: warnings of the compiler are errors, those in others' headers aside
    TORCH_CUDA_ARCH_LIST  architectures of the CUDA code (default: 7.5;8.0;9.0;10.0;12.0+PTX,
                          without the last two before CUDA 12.8)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10, the oldest one supported
HINT = "Then: pip install --no-build-isolation --force-reinstall --no-deps ."
REQUIRED = os.environ.get("DRCL_REQUIRE_EXT", "0") == "1"
WERROR = os.environ.get("DRCL_WERROR", "0") == "1"


def missing(what: str, remedy: str) -> None:
    """Say what cannot be built and how to get it; an error where the compiled part is required."""
    message = f"drcl: {what}; building without it.\ndrcl: {remedy} {HINT}"
    if REQUIRED:
        sys.exit(f"{message}\ndrcl: this is an error because DRCL_REQUIRE_EXT=1.")
    print(message, file=sys.stderr)


def cuda_architectures() -> str:
    """The architectures to compile CUDA code for; empty when there is none to compile."""
    wanted = os.environ.get("DRCL_BUILD_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        sys.exit(f"drcl: DRCL_BUILD_CUDA={wanted!r}: expected 0, 1 or auto")
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if wanted == "0" or not any(Path("csrc/cuda").glob("*.cu")):
        return ""
    nvcc = CUDA_HOME and Path(CUDA_HOME, "bin", "nvcc").is_file()
    if torch.version.cuda is None or not nvcc:
        absent = "nvcc was not found" if torch.version.cuda else "this torch is built without CUDA"
        if wanted == "1":
            sys.exit(f"drcl: DRCL_BUILD_CUDA=1, but {absent}")
        print(f"drcl: {absent}; building for the CPU only.", file=sys.stderr)
        return ""
    default = default_architectures(torch.version.cuda)
    return os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default)


def default_architectures(cuda: str) -> str:
    """Those that PyTorch's own builds for that CUDA version serve, as its nvcc knows them."""
    # nvcc knows sm_100 and sm_120 from CUDA 12.8 on
    blackwell = tuple(map(int, cuda.split("."))) >= (12, 8)
    return "7.5;8.0;9.0;10.0;12.0+PTX" if blackwell else "7.5;8.0;9.0+PTX"


def kind_of_compiler(version: str) -> str:
    """``"gcc"``, ``"clang"``, ``"apple"`` or ``"msvc"``, from what it says of itself."""
    for said, kind in (("Apple clang", "apple"), ("clang", "clang"), ("Microsoft", "msvc")):
        if said in version:
            return kind
    return "gcc"  # and what calls itself otherwise, as c++ does: its options are the common ones


def compiler_flags(kind: str) -> list[str]:
    """What this kind of compiler is given.

    No contraction: a product and a sum must round alike in every instruction set. MSVC's fp:precise
    has none from Visual Studio 2022 on.
    """
    if kind == "msvc":
        return ["/O2", "/std:c++20", "/Zc:__cplusplus", "/EHsc", "/utf-8", "/fp:precise"]
    return ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=off"]


def without_folders(kind: str, headers: str) -> list[str]:
    """Messages name sources and torch's headers without their folders: the same bytes anywhere."""
    here = {Path.cwd(): ".", headers: "torch"}
    return [] if kind == "msvc" else [f"-ffile-prefix-map={old}={new}" for old, new in here.items()]


def warning_flags(kind: str, headers: list[str]) -> list[str]:
    """Warnings as errors; ``headers`` are folders of others' headers, which are left alone."""
    if kind == "msvc":
        return ["/W3", "/WX", "/external:W0", *(f"/external:I{folder}" for folder in headers)]
    outside = [option for folder in headers for option in ("-isystem", folder)]
    return ["-Wall", "-Wextra", "-Werror", *outside]


def version_of(compiler: list[str]) -> str:
    """What a compiler says of itself; MSVC, which knows no --version, complains under its name."""
    ran = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    return ran.stdout + ran.stderr


def extensions() -> list[Extension]:
    """What to compile here: nothing without torch or a C++ compiler."""
    try:
        import torch
        from torch.utils.cpp_extension import CppExtension, CUDAExtension, include_paths
    except ImportError as error:
        missing(
            f"the compiled extension needs PyTorch at build time ({error})",
            "Install torch, setuptools and ninja first.",
        )
        return []
    command = shlex.split(os.environ.get("CXX") or ("cl" if os.name == "nt" else "c++"))
    compiler = command[0]
    if shutil.which(compiler) is None:
        missing(
            f"the compiled extension needs a C++ compiler, and {compiler!r} was not found",
            "Install one (Debian: apt-get install g++; conda: gxx) or set CXX.",
        )
        return []
    architectures = cuda_architectures()
    kind = kind_of_compiler(version_of(command))
    common = compiler_flags(kind)
    headers = [*include_paths(), sysconfig.get_path("include")]
    # what `drcl info` says of the build
    said = {
        "FLAGS": " ".join([*common, STABLE_ABI]),
        "TORCH": torch.__version__,
        "CUDA_ARCH_LIST": architectures,
    }
    flags = {"cxx": [*common, STABLE_ABI, *without_folders(kind, include_paths()[0])]}
    flags["cxx"] += [f'-DDRCL_{name}="{text}"' for name, text in said.items()]
    if WERROR:
        flags["cxx"] += warning_flags(kind, headers)
    sources = [Path("csrc/ops.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp"))]
    if architectures:
        sources += sorted(Path("csrc/cuda").glob("*.cu"))
        flags["cxx"].append("-DUSE_CUDA")
        # no fused multiply-add, as on the CPU: the same bits from the same ranks
        flags["nvcc"] = ["-O3", "-std=c++20", "-lineinfo", "--fmad=false", STABLE_ABI, "-DUSE_CUDA"]
    extension = CUDAExtension if architectures else CppExtension
    return [
        extension(
            "drcl._ops",
            list(map(str, sources)),
            include_dirs=[str(Path("csrc").resolve())],
            extra_compile_args=flags,
            py_limited_api=True,  # no Python in it
        )
    ]


def build_ext() -> type:
    """The build command: torch's, through ninja, going on without what does not compile."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildExt(BuildExtension):  # type: ignore[misc, valid-type]
        def get_ext_filename(self, ext_name: str) -> str:
            # a plain shared library, the same for every Python
            return os.path.join(*ext_name.split(".")) + ".so"

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:  # torch and setuptools raise many kinds
                # an older build's file must not end in the wheel
                Path(self.get_ext_fullpath(self.extensions[0].name)).unlink(missing_ok=True)
                self.extensions.clear()  # the distribution's own list: what the wheel will hold
                missing(f"the ops did not compile ({error})", "See the compiler's output.")

    return BuildExt


class Wheel(bdist_wheel):
    """Tagged by what was really built: for every Python, and without compiled code everywhere."""

    def run(self) -> None:
        self.run_command("build")
        self.skip_build = True  # it is done; setuptools would compile a second time
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


# A build starts up to three processes that describe the package or pack its sources before the one
# that compiles, and these need no PyTorch, which takes seconds to import.
asked = set(sys.argv)
describes = not asked.isdisjoint({"egg_info", "dist_info", "sdist"})
compiles = not asked.isdisjoint({"build", "build_ext", "bdist_wheel", "editable_wheel", "install"})
ext_modules = [] if describes and not compiles else extensions()
commands: dict[str, Any] = {"bdist_wheel": Wheel}
if ext_modules:
    commands["build_ext"] = build_ext()

packages = find_packages(include=["drcl", "drcl.*"])
# In editable mode the checkout finds the others itself (drcl/_checkout_shim.py). All packages then
# have one root, which setuptools puts on the import path. Otherwise it would install a finder that
# Python asks last, and beside a checkout in a folder `drcl` that folder would be what is imported.
package_dir = {"": "."}
if "editable_wheel" not in sys.argv:
    package_dir = {"drcl": "drcl"}
    for name in ("kernels", "benchmarks"):
        packages += [f"drcl.{one}" for one in find_packages(include=[name, f"{name}.*"])]
        package_dir[f"drcl.{name}"] = name

setup(
    packages=packages,
    package_dir=package_dir,
    # the suite is installed, what it measured on our machines is not
    exclude_package_data={"drcl.benchmarks": ["results/*/*", "*.md", "*.sh"]},
    ext_modules=ext_modules,
    cmdclass=commands,
)
