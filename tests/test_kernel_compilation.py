"""Compile gates: every kernel at every default configuration, for three GPUs, without a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("80", "90", "100")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """One process per architecture: the interpreter, where it is asked for, must not reach it."""
    folder = tmp_path_factory.mktemp("gates")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    results = []
    for architecture in ARCHITECTURES:
        report = folder / f"{architecture}.json"
        run = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / "compile_gates.py", "--arch", architecture,
             "--jobs", "2", "--json", report],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        print(run.stdout)
        assert report.exists(), run.stdout + run.stderr
        results += json.loads(report.read_text())
    return results


@pytest.mark.slow
def test_every_kernel_is_compiled(table):
    """A new kernel has to join the table: every ``*_kernel`` in the sources is in it."""
    sources = [path.read_text() for path in (ROOT / "kernels").glob("*.py")]
    kernels = {name for text in sources for name in re.findall(r"^def (\w+_kernel)\(", text, re.M)}
    assert kernels
    for architecture in ARCHITECTURES:
        compiled = {row["kernel"] for row in table if row["arch"] == int(architecture)}
        assert compiled == kernels


@pytest.mark.slow
def test_no_configuration_spills_or_overflows_shared_memory(table):
    limits = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
    for row in table:
        assert row["spills"] == 0, row
        assert 0 < row["registers"] <= 255, row
        assert row["shared"] <= limits[row["arch"]], row


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["symmetric_kernel", "product_kernel"])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_large_products_run_on_tensor_cores(table, kernel, precision):
    instructions = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
    kinds = {"tf32": "tf32", "bf16": r"(bf16|kind::f16)"}
    rows = [row for row in table if row["kernel"] == kernel and row["label"].startswith(precision)]
    assert {row["arch"] for row in rows} == set(instructions)
    for row in rows:
        assert row["tensor_core"].startswith(instructions[row["arch"]]), row
        assert re.search(kinds[precision], row["tensor_core"]), row


@pytest.mark.slow
def test_exact_products_stay_off_the_tensor_cores(table):
    """TF32 would cost the exact part half its digits; float64, and parts in bf16, are exact."""
    in_parts = {"prior_similarity_kernel", "differences_kernel"}
    exact = [row for row in table if not row["label"].startswith(("tf32", "bf16"))]
    assert exact
    for row in exact:
        kind = ".bf16." if row["kernel"] in in_parts else ".f64."
        assert not row["tensor_core"] or kind in row["tensor_core"], row
    assert all(row["tensor_core"] for row in exact if row["kernel"] in in_parts)


@pytest.mark.slow
def test_large_products_leave_room_for_other_programs(table):
    """Of sm_90's 64 Ki registers: copies of 4 bytes, which unknown sizes bring, take twice that."""
    room = {"bf16x6": (4, 3), "tf32": (8, 2), "bf16": (8, 2)}  # warps, and how many such programs
    kernels = {"symmetric_kernel": room, "product_kernel": {"bf16x6": room["bf16x6"]}}
    found = 0
    for row in table:
        precision = row["label"].split()[0] if row["label"] else ""
        if row["arch"] == 90 and precision in kernels.get(row["kernel"], {}):
            warps, programs = kernels[row["kernel"]][precision]
            assert -(-row["registers"] // 8) * 8 * 32 * warps * programs <= 2**16, row
            found += 1
    assert found == 8
