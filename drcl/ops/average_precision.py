"""``drcl::average_precision``: everything there is to say about a block of rankings, in one pass.

The compiled library defines the op and its CPU (and, where built, CUDA) code; ``torch.ops.drcl``
holds it once the library is loaded. Without it :mod:`drcl.eager.average_precision` does the same
with a sort. What the op is given and returns is in :mod:`drcl.ranking`.

Three things go by this name: this op, which ranks scores and returns a table of every measure;
:func:`drcl.functional.average_precision`, the AP of scores; and
:func:`drcl.metrics.average_precision`, the AP of embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.eager.average_precision import Block, rank
from drcl.ranking import DIVISORS, Relevance, Request, width

WORKSPACE = 2**28
# How many queries are ranked together: a product reads, and its library repacks, the whole gallery,
# and this many rows make little of that.
BLOCK = 1024
# Queries that one multiprocessor of a GPU ranks at a time, where their keys fit in shared memory.
_AT_ONCE = 4


class Arguments(NamedTuple):
    """The arguments of the compiled op, in the order of its schema (``csrc/ops.cpp``)."""

    scores: Tensor
    scale: Tensor | None
    bias: Tensor | None
    excluded_offsets: Tensor | None
    excluded: Tensor | None
    member_offsets: Tensor
    members: Tensor
    offsets: Tensor | None
    items: Tensor | None
    gains: Tensor | None
    bits: Tensor | None
    max_relevant: int
    cutoffs: Sequence[int]
    depth: int
    divisor: int
    average_ties: bool
    recall_levels: int
    discounts: Tensor | None
    ranks: int
    rank_gains: bool
    last: int  # max_bytes; of the op that sorts, whether it loops over the ranks instead

    @property
    def request(self) -> Request:
        """What is asked for."""
        return Request(
            tuple(self.cutoffs),
            self.depth,
            DIVISORS[self.divisor],
            self.average_ties,
            self.recall_levels,
            self.discounts,
            self.ranks,
            self.rank_gains,
        )


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
    excluded: tuple[Tensor, Tensor] | None = None,
    max_bytes: int = WORKSPACE,
    backend: str,
) -> Tensor:
    """The numbers of each query's ranking by falling ``scores·scale + bias``, ties by column.

    Args:
        scores: (Q, N) float32 or float64; NaN is refused.
        scale, bias: (N,) in the scores' dtype.
        excluded: offsets (Q+1,) int64 and columns int64 that a query's ranking does not hold.
        max_bytes: what the compiled code may work in beside its arguments and result. It bounds
            how many queries are ranked at once; one query's is the least.
        backend: as :func:`drcl.dispatch.choose` names it.

    Returns a table (Q, columns) float64, to be read through :meth:`drcl.ranking.Columns.split`.
    """
    excluded_offsets, excluded_columns = excluded or (None, None)
    arguments = Arguments(
        scores,
        scale,
        bias,
        excluded_offsets,
        excluded_columns,
        relevance.member_offsets,
        relevance.members,
        relevance.offsets,
        relevance.items,
        relevance.gains,
        relevance.bits,
        relevance.max_relevant,
        list(request.cutoffs),
        request.depth,
        DIVISORS.index(request.divisor),
        request.average_ties,
        request.recall_levels,
        request.discounts,
        request.ranks,
        request.rank_gains,
        max_bytes,
    )
    if backend != "native":
        literal = backend == "reference"
        table: Tensor = average_precision_by_sorting(*arguments._replace(last=literal))
        return table
    table = torch.ops.drcl.average_precision(*arguments)
    if not torch.compiler.is_compiling():
        nan = table[:, 0].isnan()  # how a GPU, which cannot raise, says it
        if bool(nan.any()):
            raise ValueError(f"scores: row {int(nan.nonzero()[0])} holds NaN")
    return table


def _by_sorting(*arguments: Any) -> Tensor:
    """The compiled op's table by PyTorch's sort, or by the reference where the last one is true."""
    a = Arguments(*arguments)
    relevance = Relevance(
        a.max_relevant, a.member_offsets, a.members, a.offsets, a.items, a.gains, a.bits
    )
    excluded = None
    if a.excluded_offsets is not None and a.excluded is not None:
        excluded = a.excluded_offsets, a.excluded
    block = Block.of(a.scores, relevance, a.scale, a.bias, excluded)
    return rank(block, a.request, literal=bool(a.last))


def _table_like(*arguments: Any) -> Tensor:
    """What the op returns, in shape."""
    a = Arguments(*arguments)
    return a.scores.new_empty(a.scores.shape[0], width(a.request), dtype=torch.float64)


average_precision_by_sorting = torch.library.custom_op(
    "drcl::average_precision_by_sorting",
    _by_sorting,
    mutates_args=(),
    schema="(Tensor scores, Tensor? scale, Tensor? bias, Tensor? excluded_offsets, "
    "Tensor? excluded, Tensor member_offsets, Tensor members, Tensor? offsets, Tensor? items, "
    "Tensor? gains, Tensor? bits, int max_relevant, int[] cutoffs, int depth, int divisor, "
    "bool average_ties, int recall_levels, Tensor? discounts, int ranks, bool rank_gains, "
    "bool literal) -> Tensor",
)
average_precision_by_sorting.register_fake(_table_like)
if not load_ops():
    torch.library.register_fake("drcl::average_precision", _table_like)
