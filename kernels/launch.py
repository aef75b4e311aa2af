"""What every launcher needs.

No file of kernels imports PyTorch before a kernel is launched: to compile them Triton is enough.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# The class axis of a cross-entropy stays on chip up to this many classes; wider rows are walked in
# blocks of this size.
FUSED_CLASSES = 128

# Up to this many classes the loss goes through the prior's basis vector by vector, beside a row
# that is held in registers. A vector costs a reduction over the row, so that beyond it products are
# cheaper, also at twice the memory traffic. Rows wider than this leave no registers for a vector.
LOOPED_CLASSES = 32
LOOPED_WIDTH = 8192


class RowTile(NamedTuple):
    """A tile of whole rows, held in registers."""

    block_rows: int
    block_width: int
    num_warps: int


def row_tile(width: int) -> RowTile:
    """How many whole rows of ``width`` one program holds.

    One warp up to D = 2,048, 64 values a thread: sums over a row then need no barrier, and many
    programs share a multiprocessor. Several rows where they are short, as many as leave 32 values a
    thread; and 32 values a thread again where a row takes several warps, or the widest spill.
    """
    block_width = power_of_two(width, 16)
    block_rows = min(8, max(1, 1024 // block_width))
    return RowTile(block_rows, block_width, block_width // 1024 if block_width > 2048 else 1)


# The widest row that is held whole, by 16 warps.
FUSED_WIDTH = 16384


def power_of_two(size: int, at_least: int) -> int:
    """The smallest power of two that is neither below ``size`` nor below ``at_least``."""
    return max(at_least, 1 << max(0, size - 1).bit_length())


def blocks(size: int, block: int) -> int:
    """How many blocks cover ``size``."""
    return -(-size // block)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels start on the current stream of this tensor's device; nothing to do on a CPU."""
    import torch

    return torch.cuda.device_of(tensor)


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor with neighbours in a row adjacent in memory; rows may lie apart. Rarely a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def columns_first(matrix: Tensor) -> Tensor:
    """The matrix with the entries of a column adjacent in memory, as whole columns are read."""
    return matrix if matrix.stride(0) == 1 else matrix.T.contiguous().T


# Enough programs for about four rounds on a large GPU: the last, partly filled one then costs
# little.
PROGRAMS = 512


def slices(tiles: int, depth: int, shortest: int) -> int:
    """Into how many slices to cut a sum of ``depth`` terms so that few tiles still fill the GPU."""
    return max(1, min(blocks(PROGRAMS, tiles), depth // shortest))
