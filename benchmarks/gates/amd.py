"""The gates of AMD's GPUs: what is counted from a code object's own description.

Triton's wheel brings AMD's compiler, so that no ROCm is needed. Conflicts in local data share (LDS,
AMD's shared memory) are not counted.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

LDS = 65536  # bytes a workgroup may have
THREADS = 1024  # of a workgroup
# Scalar registers that may lie in lanes of vector registers, which is no memory: one or two of
# those. A form with many masks takes two scalars each.
SCALARS = 64


class ComputeUnit(NamedTuple):
    """Of gfx9 one, of gfx11 the pair that shares LDS. Both have four SIMD units."""

    wavefront: int  # threads
    registers: int  # of 32 bits for each lane of a SIMD unit
    granule: int  # in which a wavefront takes them
    most: int  # that one wavefront can have
    wavefronts: int  # a SIMD unit holds
    lds: int  # KiB


# CDNA2, CDNA3 and RDNA3, from AMD's guides to their instruction sets
COMPUTE_UNITS = {
    "gfx90a": ComputeUnit(64, 512, 8, 512, 8, 64),
    "gfx942": ComputeUnit(64, 512, 8, 512, 8, 64),
    "gfx1100": ComputeUnit(32, 1536, 24, 256, 16, 128),
}

MATRIX = re.compile(r"\bv_(?:mfma|wmma|smfmac|swmmac)_\w+")


def counted(row: dict[str, Any], assembly: str) -> dict[str, Any]:
    """What the description at the end of the assembly says, and its instructions."""
    described = assembly[assembly.index("amdhsa.kernels:") :]

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", described)
        assert found is not None, f"{name} is not described"
        return int(found[1])

    matrix = sorted(set(MATRIX.findall(assembly)))
    shared = row["shared"] + number("group_segment_fixed_size")  # the launch adds the first
    registers = number("vgpr_count")  # gfx9's accumulators among them
    return {
        "wavefront": number("wavefront_size"),
        "registers": registers,
        "scalar_registers": number("sgpr_count"),
        "spilled": number("private_segment_fixed_size"),
        "spilled_registers": number("vgpr_spill_count"),
        # to lanes of a vector register, and not to memory: see spilled for that
        "spilled_scalars": number("sgpr_spill_count"),
        "shared": shared,
        "blocks": resident_workgroups(row["arch"], row["warps"], registers, shared),
        "tensor_core": ", ".join(matrix),
    }


def resident_workgroups(arch: str, warps: int, registers: int, shared: int) -> int:
    """Workgroups of so many wavefronts, vector registers a thread and bytes of LDS.

    >>> resident_workgroups("gfx942", warps=4, registers=128, shared=0)
    4
    >>> resident_workgroups("gfx1100", warps=4, registers=256, shared=0)
    5
    >>> resident_workgroups("gfx90a", warps=4, registers=32, shared=48 * 1024)
    1
    """
    unit = COMPUTE_UNITS[arch]
    taken = -(-max(1, registers) // unit.granule) * unit.granule
    wavefronts = 4 * min(unit.wavefronts, unit.registers // taken)
    return min(wavefronts // warps, unit.lds * 1024 // max(1, shared))


def problems(row: dict[str, Any]) -> list[str]:
    """The gates that a compiled row breaks, in words."""
    unit = COMPUTE_UNITS[row["arch"]]
    found = []
    if row["wavefront"] != unit.wavefront:
        found.append(f"wavefronts of {row['wavefront']} threads, not {unit.wavefront}")
    if row["spilled"] or row["spilled_registers"]:
        found.append(
            f"{row['spilled']} bytes a thread and {row['spilled_registers']} vector registers "
            "are spilled"
        )
    if row["spilled_scalars"] > SCALARS:
        found.append(f"{row['spilled_scalars']} scalar registers lie in lanes of vector registers")
    if row["registers"] > unit.most:
        found.append(f"{row['registers']} vector registers")
    if row["shared"] > LDS:
        found.append(f"needs {row['shared'] / 1024:.0f} KiB of LDS")
    if row["warps"] * unit.wavefront > THREADS:
        found.append(f"{row['warps']} wavefronts of {unit.wavefront} threads")
    if row["blocks"] * row["warps"] < 4:
        found.append(f"{row['blocks']} workgroups of {row['warps']} leave SIMD units idle")
    bf16 = all("bf16" in instruction for instruction in row["tensor_core"].split(", "))
    if row["precision"].startswith("bf16") and not (row["tensor_core"] and bf16):
        found.append(f"{row['precision']} products run as {row['tensor_core'] or 'fma'}")
    if row["precision"] == "ieee" and re.search(r"bf16|_f16|xf32|x8f", row["tensor_core"]):
        found.append(f"float32 products run as {row['tensor_core']}")
    return found
