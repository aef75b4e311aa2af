"""Compiles every Triton kernel for sm_80, sm_90 and sm_100, without a GPU and without PyTorch.

    python benchmarks/compile_gates.py [--arch 80 --arch 90] [--kernel rows] [--json out.json]

Prints for every kernel, at every default configuration, registers, spill instructions, shared
memory and the kind of its tensor-core instructions, and ends with exit code 1 if a gate is
broken: a spill, more shared memory than the chip has, or a product meant for the tensor cores
that does not reach them. Only the Triton of the running Python is needed, so any version can be
tried in an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
SHARED_LIMIT = {80: 163, 90: 227, 100: 227}  # KiB a block may have
# What a product on the tensor cores looks like in PTX.
TENSOR_CORE = {80: r"mma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}


class Case(NamedTuple):
    """A kernel and one of its default configurations."""

    module: str
    kernel: str
    label: str
    types: str  # of the arguments that are not constexpr, in order
    constants: dict[str, Any]  # constexprs, and arguments that are None
    options: dict[str, int]
    tensor_core: bool = False


class Result(NamedTuple):
    kernel: str
    label: str
    arch: int
    registers: int
    spills: int  # instructions that touch local memory
    shared: int  # bytes
    tensor_core: str
    problems: list[str]


def load_kernels() -> None:
    """Imports the kernels as ``drcl_kernels``: under their own name PyTorch would come along."""
    spec = importlib.util.spec_from_file_location(
        "drcl_kernels", KERNELS / "__init__.py", submodule_search_locations=[str(KERNELS)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["drcl_kernels"] = module
    spec.loader.exec_module(module)


def cases() -> Iterator[Case]:
    """Every kernel at every configuration its launcher picks by itself."""
    load_kernels()
    launch = import_module("drcl_kernels.launch")
    combine = import_module("drcl_kernels.combine")
    class_sums = import_module("drcl_kernels.class_sums")
    gce = import_module("drcl_kernels.gce")
    gradient = import_module("drcl_kernels.consistency_gradient")
    mixup = import_module("drcl_kernels.mixup")
    product = import_module("drcl_kernels.product")
    reduction = import_module("drcl_kernels.reduction")
    similarity = import_module("drcl_kernels.prior_similarity")
    symmetric = import_module("drcl_kernels.symmetric")
    wide_gradient = import_module("drcl_kernels.wide_gradient")
    wide_rows = import_module("drcl_kernels.wide_rows")

    def case(
        module: str,
        kernel: str,
        label: str,
        types: str,
        config: dict[str, int],
        tensor_core: bool = False,
        **constants: Any,
    ) -> Case:
        options = {k: v for k, v in config.items() if k.startswith("num_")}
        constants |= {k: v for k, v in config.items() if not k.startswith("num_")}
        return Case(module, kernel, label, types, constants, options, tensor_core)

    for dtype in ("fp32", "bf16", "fp16"):
        for width in (64, 2048):
            yield case(
                "mixup", "mix_kernel", f"{dtype} D={width}",
                f"*{dtype} *i64 *{dtype} i32 i32 i32 fp32 fp32", mixup.mix_tile(width),
            )  # fmt: skip
    yield case("mixup", "invert_kernel", "", "*i64 *i64 i32", mixup.INVERT)

    for dtype in ("fp32", "fp64"):
        for name, config in (("narrow", reduction.NARROW), ("wide", reduction.WIDE)):
            yield case(
                "reduction",
                "sum_partials_kernel",
                f"{dtype} {name}",
                f"*{dtype} *fp32 i32 i32",
                config,
            )

    for targets in ("ids", "rows"):
        target_type = "*i64" if targets == "ids" else "*fp32"
        for label, types, absent in (
            ("unit rows", "*fp32 *fp32 *fp32", {"probabilities": None}),
            ("plain", "*fp32 *fp32 *fp32", {"norms": None}),
        ):
            yield case(
                "gce", "gce_rows_kernel", f"{targets}, mixed, {label}",
                f"*fp32 {target_type} *i64 *fp64 {types} i32 i32 i32 fp32 fp32 fp32",
                gce.GCE_ROWS, IDS=targets == "ids", MIXED=True, **absent,
            )  # fmt: skip
        for classes in (10, launch.FUSED_CLASSES):
            yield case(
                "prior_similarity", "prior_similarity_kernel", f"{targets} C={classes}",
                f"*fp32 *fp32 {target_type} *fp64 *fp32 *fp32 *fp32 *fp32 "
                "i32 i32 i32 i32 i32 i32 i32 fp32",
                similarity.similarity_tile(classes), IDS=targets == "ids",
            )  # fmt: skip
    yield case(
        "prior_similarity", "scale_kernel", "", "*fp32 *fp32 *fp32 *fp32 i32", similarity.SCALE
    )
    yield case(
        "prior_similarity", "logit_gradient_kernel", "all three",
        "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 fp32", similarity.LOGIT_GRADIENT,
    )  # fmt: skip
    yield case(
        "prior_similarity", "logit_gradient_kernel", "loss only",
        "*fp32 *fp32 *fp32 *fp32 i32 i32 fp32", similarity.LOGIT_GRADIENT,
        grad_logits=None, grad_probabilities=None,
    )  # fmt: skip

    for width, classes, targets, dtype in (
        (64, 10, "ids", "fp32"),
        (300, 10, "ids", "fp32"),
        (2048, 10, "ids", "fp32"),
        (2048, 10, "rows", "fp32"),
        (2048, 10, "ids", "bf16"),
        (2048, launch.LOOPED_CLASSES, "ids", "fp32"),
        (2048, launch.LOOPED_CLASSES, "rows", "bf16"),
        (4096, 10, "ids", "fp32"),
        (launch.LOOPED_WIDTH, launch.LOOPED_CLASSES, "rows", "bf16"),
        (2048, 1000, "ids", "fp32"),
        (2048, 1000, "rows", "bf16"),
        (launch.FUSED_WIDTH, 10, "rows", "bf16"),
    ):
        tile = launch.row_tile(width)
        target_type = "*i64" if targets == "ids" else "*fp32"
        label = f"{dtype} {targets} D={width} C={classes}"
        rows_config = {
            "num_warps": tile.num_warps, "BLOCK_B": tile.block_rows, "BLOCK_D": tile.block_width
        }  # fmt: skip
        if classes > launch.LOOPED_CLASSES or width > launch.LOOPED_WIDTH:
            rows_config["BLOCK_K"] = wide_rows.BLOCK_K
            yield case(
                "wide_rows", "unit_rows_kernel", label,
                f"*{dtype} {target_type} *i64 *fp32 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32 i32 i32 "
                "fp32 fp32",
                rows_config, IDS=targets == "ids", MIXED=True,
            )  # fmt: skip
            yield case(
                "wide_rows", "outside_kernel", label,
                "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32", rows_config, OUTSIDE=True,
            )  # fmt: skip
            continue
        yield case(
            "consistency_rows", "rows_kernel", label,
            f"*{dtype} {target_type} *i64 *fp64 *fp32 *fp32 *fp32 "
            "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32 i32 i32 i32 fp32 fp32 fp32",
            rows_config, IDS=targets == "ids", MIXED=True, OUTSIDE=True,
            BLOCK_C=launch.power_of_two(classes, 16),
        )  # fmt: skip

    yield case(
        "class_sums", "class_sums_kernel", "float64", "*fp32 *fp32 *fp64 i32 i32 i32 i32 i32 i32",
        class_sums.INNER, EXACT=True, CHUNK=class_sums.CHUNK,
    )  # fmt: skip
    for label, config in (("float32", class_sums.CROSS), ("C=1000", class_sums.WIDE_CROSS)):
        yield case(
            "class_sums", "class_sums_kernel", label,
            "*fp32 *fp32 *fp32 i32 i32 i32 i32 i32 i32", config,
            EXACT=False, CHUNK=class_sums.CHUNK,
        )  # fmt: skip

    for precision, config in symmetric.SYMMETRIC.items():
        on_tensor_cores = precision != "ieee"
        # F Fᵀ reads along rows, FᵀF along columns: which stride is 1 is compiled in
        for name, unit in (("FFᵀ", "stride_k"), ("FᵀF", "stride_i")):
            yield case(
                "symmetric", "symmetric_kernel", f"{precision} {name}",
                "*fp32 *fp32 i32 i32 i32 i32",
                symmetric.symmetric_config(precision, unit == "stride_k"), on_tensor_cores,
                PRECISION=precision, **{unit: 1},
            )  # fmt: skip
        block = config["BLOCK"]
        yield case(
            "symmetric",
            "gram_kernel",
            precision,
            "*fp32 *fp32 i32 i32",
            symmetric.GRAM,
            BLOCK=block,
        )
        yield case(
            "symmetric", "differences_kernel", precision, "*fp32 *fp32 *fp32 *fp32 i32 i32 i32",
            symmetric.DIFFERENCES, BLOCK=block, class_part=None,
        )  # fmt: skip
        yield case(
            "symmetric", "differences_kernel", f"{precision} C=1000",
            "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32", symmetric.DIFFERENCES, BLOCK=block,
        )  # fmt: skip
    for precision, config in product.PRODUCT.items():
        on_tensor_cores = precision != "ieee"
        for name, unit in (("M F", "b_stride_n"), ("F FᵀF", "b_stride_k")):
            yield case(
                "product", "product_kernel", f"{precision} {name}",
                "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32 i32", config, on_tensor_cores,
                DOTS=True, PRECISION=precision, a_stride_k=1, **{unit: 1},
            )  # fmt: skip

    yield case(
        "combine",
        "similarity_kernel",
        "",
        "*fp64 *fp32 *fp32 *fp64 i32 i32 i32",
        combine.SIMILARITY,
    )
    yield case(
        "combine", "parts_kernel", "", "*fp64 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32 fp32 fp32 i32",
        combine.PARTS,
    )  # fmt: skip

    yield case(
        "consistency_gradient", "class_matrix_kernel", "", "*fp64 *fp32 i32", gradient.CLASS_MATRIX
    )
    # the gradient of the loss alone, as in training
    of_parts = {"by_label": None, "by_similarity": None, "by_squared": None}
    for width, k, by_rows in (
        (2048, 10, True),
        (2048, launch.LOOPED_CLASSES, True),
        (64, 10, False),
        (300, 10, False),
        (2048, 10, False),
        (2048, launch.LOOPED_CLASSES, False),
        (launch.LOOPED_WIDTH, launch.LOOPED_CLASSES, False),
    ):
        tile = gradient.COEFFICIENTS_BY_ROWS if by_rows else gradient.coefficient_tile(width)
        yield case(
            "consistency_gradient", "coefficients_kernel",
            f"{'M, Z' if by_rows else 'FᵀF'} D={width} K={k}",
            "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 *fp32 *fp32 *i64 "
            "i32 i32 i32 fp32 fp32 fp32",
            {"num_warps": tile.num_warps},
            MIXED=True, BY_ROWS=by_rows, OUTSIDE=not by_rows,
            BLOCK_B=tile.block_rows, BLOCK_D=tile.block_width, BLOCK_K=launch.power_of_two(k, 16),
            BLOCK=gradient.DEPTH_BY_ROWS if by_rows else gradient.DEPTH, **of_parts,
        )  # fmt: skip
    for by_rows in (True, False):
        for dtype in ("fp32", "bf16"):
            for label, part, absent in (
                ("", "", {"class_part": None}),
                (" C=1000", "*fp32 ", {}),
            ):
                yield case(
                    "consistency_gradient", "finish_kernel",
                    f"{'M, Z' if by_rows else 'FᵀF'} {dtype}{label}",
                    f"*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 {part}*fp32 *i64 "
                    f"*{dtype} i32 i32 i32 i32 i32 fp32 fp32 fp32 fp32 fp32",
                    gradient.FINISH, MIXED=True, BY_ROWS=by_rows, OUTSIDE=True,
                    **absent, **of_parts,
                )  # fmt: skip
        inner = {"crossed": None} if by_rows else {"minus": None}
        yield case(
            "wide_gradient", "wide_coefficients_kernel", "M, Z" if by_rows else "FᵀF",
            "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 *fp32 *fp32 *i64 i32 i32 i32 "
            "fp32 fp32 fp32",
            wide_gradient.WIDE, MIXED=True, **inner, **of_parts,
        )  # fmt: skip
        yield case(
            "wide_gradient", "wide_factors_kernel", "M, Z" if by_rows else "FᵀF",
            "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 *fp32 i32 i32 i32 i32 "
            "fp32 fp32 fp32 fp32 fp32 fp32",
            wide_gradient.WIDE, MIXED=True, CROSSED=not by_rows, **of_parts,
        )  # fmt: skip


def compile_case(case: Case, arch: int) -> Result:
    """Compiles one case and reads what the assembler made of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "drcl_kernels" not in sys.modules:
        load_kernels()
    kernel = getattr(import_module(f"drcl_kernels.{case.module}"), case.kernel)
    types = iter(case.types.split())
    signature = {
        name: "constexpr" if name in case.constants else next(types) for name in kernel.arg_names
    }
    assert next(types, None) is None, f"{case.kernel}: more types than arguments"
    unspecialised = {param.name for param in kernel.params if param.do_not_specialize}
    # as at run time for a width of 2,048: pointers and sizes divisible by 16
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or (kind == "i32" and name not in unspecialised)
    }
    source = ASTSource(kernel, signature, constexprs=case.constants, attrs=attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=case.options)
    registers, spills = resource_usage(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    found = re.search(r"(wgmma\.mma_async|tcgen05\.mma|mma\.sync)\S*", compiled.asm["ptx"])
    problems = []
    if spills:
        problems.append(f"{spills} spill instructions")
    if shared > SHARED_LIMIT[arch] * 1024:
        problems.append(f"needs {shared / 1024:.0f} KiB of shared memory")
    if case.tensor_core and not re.search(TENSOR_CORE[arch], compiled.asm["ptx"]):
        problems.append(f"shows no {TENSOR_CORE[arch]}")
    name = found.group(0).rstrip(";") if found else ""
    return Result(case.kernel, case.label, arch, registers, spills, shared, name, problems)


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and how many instructions touch local memory (spills), from the SASS."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True)
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers = re.findall(r"REG:(\d+)", usage.stdout)
    assert registers and "EXIT" in code.stdout, usage.stdout + code.stdout
    return max(map(int, registers)), len(re.findall(r"\b(?:STL|LDL)\b", code.stdout))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, action="append", choices=sorted(SHARED_LIMIT))
    parser.add_argument("--kernel", default="", help="only kernels with this in their name")
    parser.add_argument("--json", type=Path, help="also write the table there")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    import triton

    work = [
        (case, arch)
        for case in cases()
        for arch in options.arch or sorted(SHARED_LIMIT)
        if options.kernel in case.kernel
    ]
    print(f"Triton {triton.__version__}, {len(work)} compilations")
    print(f"{'kernel':24} {'configuration':28} sm   reg spills  shared  tensor cores")
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(compile_case, *zip(*work, strict=True)):
            results.append(result)
            print(
                f"{result.kernel:24} {result.label:28} {result.arch:<4} {result.registers:3} "
                f"{result.spills:6} {result.shared:7}  {result.tensor_core}"
                + "".join(f"  ! {problem}" for problem in result.problems),
                flush=True,
            )
    if options.json:
        options.json.write_text(
            json.dumps([result._asdict() for result in results], indent=1, ensure_ascii=False)
            + "\n"
        )
    return int(any(result.problems for result in results))


if __name__ == "__main__":
    sys.exit(main())
