"""What a multiprocessor has, by compute capability, and how many blocks that is enough for."""

from __future__ import annotations

from typing import NamedTuple

Architecture = int | str  # 90 of NVIDIA's sm_90, or AMD's name: "gfx942"


class Multiprocessor(NamedTuple):
    warps: int
    blocks: int
    shared: int  # KiB, all blocks together; each takes 1 KiB more than it asks for
    shared_block: int  # KiB, one block
    tensor_core: str  # how a product on the tensor cores starts in PTX; "" where Triton has none


REGISTERS = 65536  # on all of them; a warp takes them by 256, and a quarter of the warps shares 1/4
TENSOR_MEMORY = 512  # columns; sm_100 only

MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64, 64, ""),
    80: Multiprocessor(64, 32, 164, 163, "mma.sync"),
    90: Multiprocessor(64, 32, 228, 227, "wgmma.mma_async"),
    100: Multiprocessor(64, 32, 228, 227, "tcgen05.mma"),
    120: Multiprocessor(48, 24, 100, 99, "mma.sync"),
}


def resident_blocks(arch: int, warps: int, registers: int, shared: int, tensor_memory: int) -> int:
    """Blocks of so many warps, registers a thread, bytes of shared and columns of tensor memory.

    >>> resident_blocks(90, warps=8, registers=199, shared=0, tensor_memory=0)
    1
    >>> resident_blocks(90, warps=4, registers=128, shared=60 * 1024, tensor_memory=0)
    3
    """
    have = MULTIPROCESSORS[arch]
    by_warp = -(-registers * 32 // 256) * 256
    limits = [
        have.blocks,
        have.warps // warps,
        REGISTERS // 4 // by_warp * 4 // warps,
        have.shared * 1024 // (shared + 1024),
    ]
    if tensor_memory:
        limits.append(TENSOR_MEMORY // tensor_memory)
    return min(limits)
