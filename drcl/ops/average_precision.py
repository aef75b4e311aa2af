"""``drcl::average_precision``: everything there is to say about a block of rankings, in one pass.

The compiled library defines the op and its CPU (and, where built, CUDA) code; ``torch.ops.drcl``
holds it once the library is loaded. Without it :mod:`drcl.eager.average_precision` does the same
with a sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from drcl.backends import load_ops

DIVISORS = ("hits", "min", "relevant")
WORKSPACE = 2**28
# How many queries are ranked together: a product reads, and its library repacks, the whole gallery,
# and this many rows make little of that.
BLOCK = 1024
# Queries that one multiprocessor of a GPU ranks at a time, where their keys fit in shared memory.
_AT_ONCE = 4


@dataclass(frozen=True)
class Relevance:
    """Which gallery items are relevant to the queries of a block, as unions of lists of items.

    Query i's relevant items are those of the lists
    ``members[member_offsets[i]:member_offsets[i+1]]``. List l is
    ``items[offsets[l]:offsets[l+1]]``, rising, or the set bits of ``bits[l]``. An item's gain is
    the sum of its gains over the query's lists: with a list a label, the number of shared
    labels.

    ``most`` bounds the relevant items of a query: memory is reserved by it.

    Shapes: member_offsets (Q+1,), members, offsets (L+1,) int64; items, gains (1 when None) int32;
    bits (L, ⌈N/64⌉) int64, lowest bit first.
    """

    most: int
    member_offsets: Tensor
    members: Tensor
    offsets: Tensor | None = None
    items: Tensor | None = None
    gains: Tensor | None = None
    bits: Tensor | None = None

    def queries(self, start: int, stop: int) -> Relevance:
        """The part of queries start..stop."""
        offsets = self.member_offsets[start : stop + 1]
        return replace(self, member_offsets=offsets)

    def to(self, device: torch.device) -> Relevance:
        """The same on a device."""
        values: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Relevance(**values)


@dataclass(frozen=True)
class Request:
    """What to compute: see :func:`drcl.metrics.retrieval_metrics` for the definitions.

    ``cutoffs`` rise. Ranks beyond ``depth`` are not asked for, which is cheaper when it is small;
    recall levels need the whole ranking. ``discounts`` (N,) float64 asks for nDCG.
    """

    cutoffs: tuple[int, ...]
    depth: int
    divisor: str = "hits"
    average_ties: bool = False
    levels: int = 0
    discounts: Tensor | None = None


@dataclass(frozen=True)
class Columns:
    """The result's columns by name, each float64: (Q,), (Q, K) for K cut-offs, (Q, L) for L levels.

    ``first`` and ``reciprocal`` are 0 where no relevant item is within the depth.
    """

    relevant: Tensor
    first: Tensor
    reciprocal: Tensor
    average_precision: Tensor
    recall: Tensor
    precision: Tensor
    ndcg: Tensor
    interpolated: Tensor
    raw: Tensor

    @staticmethod
    def split(table: Tensor, request: Request) -> Columns:
        """Names the columns of what the op returns."""
        k, levels = len(request.cutoffs), request.levels
        head, *rest = table.split([3, k, k, k, k, levels, levels], dim=1)
        return Columns(*head.unbind(1), *rest)


def queries_per_block(device: torch.device) -> int:
    """Rows of scores to rank together: fixed for a device, so that results repeat bit for bit.

    On a GPU the last wave of queries should be nearly full, and a product's tile of 128 rows too:
    of the multiples of 128 from 1,024 to 1,536, the first whose waves are the fullest, to 2 %.
    """
    if device.type != "cuda":
        return BLOCK
    wave = torch.cuda.get_device_properties(device).multi_processor_count * _AT_ONCE
    sizes = range(BLOCK, BLOCK + BLOCK // 2 + 1, 128)
    filled = {size: size / (-(-size // wave) * wave) for size in sizes}
    return next(size for size in sizes if filled[size] > max(filled.values()) - 0.02)


def average_precision(
    scores: Tensor,
    relevance: Relevance,
    request: Request,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    left_out: tuple[Tensor, Tensor] | None = None,
    memory: int = WORKSPACE,
    backend: str,
) -> Tensor:
    """The numbers of each query's ranking by falling ``scores·scale + bias``, ties by column.

    Args:
        scores: (Q, N) float32 or float64; NaN is refused.
        scale, bias: (N,) in the scores' dtype.
        left_out: offsets (Q+1,) int64 and columns int64 that a query's ranking does not hold.
        memory: bytes that the compiled code works in beside its arguments and result. They bound
            how many queries are ranked at once; one query's is the least.
        backend: ``"native"``, ``"eager"`` or ``"reference"``.

    Returns (Q, columns) float64, to be read through :meth:`Columns.split`.
    """
    arguments = (
        scores,
        scale,
        bias,
        *(left_out or (None, None)),
        relevance.member_offsets,
        relevance.members,
        relevance.offsets,
        relevance.items,
        relevance.gains,
        relevance.bits,
        relevance.most,
        list(request.cutoffs),
        request.depth,
        DIVISORS.index(request.divisor),
        request.average_ties,
        request.levels,
        request.discounts,
        memory,
    )
    if backend != "native":
        return average_precision_by_sorting(*arguments[:-1], backend == "reference")
    table = torch.ops.drcl.average_precision(*arguments)
    if not torch.compiler.is_compiling():
        nan = table[:, 0].isnan()  # how a GPU, which cannot raise, says it
        if bool(nan.any()):
            raise ValueError(f"scores: row {int(nan.nonzero()[0])} holds NaN")
    return table


@torch.library.custom_op("drcl::average_precision_by_sorting", mutates_args=())
def average_precision_by_sorting(
    scores: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    left_out_offsets: Tensor | None,
    left_out: Tensor | None,
    member_offsets: Tensor,
    members: Tensor,
    offsets: Tensor | None,
    items: Tensor | None,
    gains: Tensor | None,
    bits: Tensor | None,
    most: int,
    cutoffs: Sequence[int],
    depth: int,
    divisor: int,
    average_ties: bool,
    levels: int,
    discounts: Tensor | None,
    literal: bool,
) -> Tensor:
    """The compiled op's table by PyTorch's sort, or by the reference where ``literal``."""
    from drcl.eager.average_precision import rank

    return rank(
        scores,
        Relevance(most, member_offsets, members, offsets, items, gains, bits),
        Request(tuple(cutoffs), depth, DIVISORS[divisor], average_ties, levels, discounts),
        scale,
        bias,
        None if left_out_offsets is None or left_out is None else (left_out_offsets, left_out),
        literal=literal,
    )


def _table_like(
    scores: Tensor, scale: Any, bias: Any, left_out_offsets: Any, left_out: Any,
    member_offsets: Any, members: Any, offsets: Any, items: Any, gains: Any, bits: Any, most: Any,
    cutoffs: Sequence[int], depth: Any, divisor: Any, average_ties: Any, levels: int, *rest: Any,
) -> Tensor:  # fmt: skip
    """What the op returns, in shape."""
    columns = 3 + 4 * len(cutoffs) + 2 * levels
    return scores.new_empty(scores.shape[0], columns, dtype=torch.float64)


average_precision_by_sorting.register_fake(_table_like)
if not load_ops():
    torch.library.register_fake("drcl::average_precision", _table_like)
