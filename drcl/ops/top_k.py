"""``drcl::top_k``: the k highest scores of every query, taken tile by tile.

The compiled library defines the op for a CPU; :mod:`drcl.eager.top_k` does the same without it, and
on other devices. ``drcl::top_k_screened`` and ``drcl::top_k_by_integers`` compute only those scores
that may be among them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.eager import top_k as eager

FEW = 4096
"""Of so many items a query at most, the compiled op, which keeps them sorted, is the faster.

On one thread of an AMD EPYC, of 200,000 scores a query: 7 times as fast for 10 items, 24 for 128,
3 for 4,096, and equal for 8,192.
"""


def top_k(scores: Tensor, begin: int, values: Tensor, indices: Tensor, *, backend: str) -> None:
    """Take a tile's scores into the k highest of every query, in place; ties by item.

    Shapes: scores (Q, n) float32 or float64, of the items from ``begin`` on, which come after those
    that are kept; values (Q, k) of its dtype, falling; indices (Q, k) int64. Before the first tile,
    values are −∞; an item whose score is that is never kept.

    >>> values, indices = torch.full((1, 2), -torch.inf), torch.zeros(1, 2, dtype=torch.int64)
    >>> top_k(torch.tensor([[3.0, 5.0]]), 0, values, indices, backend="eager")
    >>> top_k(torch.tensor([[4.0, 3.0]]), 2, values, indices, backend="eager")
    >>> values, indices
    (tensor([[5., 4.]]), tensor([[1, 2]]))
    """
    if backend == "native":
        torch.ops.drcl.top_k(scores.contiguous(), begin, values, indices)
    else:
        eager.top_k(scores, begin, values, indices)


def top_k_screened(
    screen: Tensor,
    slack: Tensor,
    queries: Tensor,
    rows: Tensor,
    scale: Tensor | None,
    begin: int,
    limit: int,
    values: Tensor,
    indices: Tensor,
) -> int:
    """:func:`top_k` of ``queries @ rows.T * scale``, of which only some entries are computed.

    Shapes: screen (Q, n) bfloat16, each entry a rounded number that is at most ``slack`` (Q,) from
    the score, or −∞ for an item that is left out; queries (Q, D), rows (n, D) and scale (n,)
    float32; values (Q, k), indices (Q, k). Where none of a query's values is −∞, only items that
    may be above the last are computed; else those that may be among the k highest of the tile.
    Returns how many scores were computed, or −1, with nothing done, for more than ``limit``.
    """
    arguments = screen, slack, queries, rows.contiguous(), scale, begin, limit, values, indices
    return int(torch.ops.drcl.top_k_screened(*arguments))


def rounded_rows(rows: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``rows * scale[:, None]`` in bfloat16, their lengths, and the lengths of what is rounded off.

    Shapes: rows (n, D), scale (n,) float32 → (n, D) bfloat16, (n,), (n,) float32. Rows are finite.
    """
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.drcl.rounded_rows(rows.contiguous(), scale)
    return made


def integer_rows(
    rows: Tensor, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``rows * scale[:, None]`` in whole steps, the finest whose products int32 can add up.

    Shapes: rows (n, D), scale (n,) float32 → (n, D) int16, with a column of 0 where D is odd;
    lengths, lengths of what is rounded off, and steps (n,) float32. D is at most 65,536, and rows
    are finite, of lengths of 1e-15 to 1e15 or 0.
    """
    made: tuple[Tensor, Tensor, Tensor, Tensor]
    made = torch.ops.drcl.integer_rows(rows.contiguous(), scale)
    return made


def top_k_by_integers(
    whole_queries: Tensor,
    query_steps: Tensor,
    whole_rows: Tensor,
    row_steps: Tensor,
    slack: Tensor,
    queries: Tensor,
    rows: Tensor,
    scale: Tensor | None,
    begin: int,
    limit: int,
    values: Tensor,
    indices: Tensor,
) -> int:
    """:func:`top_k_screened` by the products of queries and rows in whole steps.

    Shapes: whole_queries (Q, D), whole_rows (n, D) int16, D even, and query_steps (Q,), row_steps
    (n,) float32, as :func:`integer_rows` makes them. Their products are at most ``slack`` (Q,) from
    the scores. An item whose step is NaN is left out.
    """
    arguments = whole_queries, query_steps, whole_rows, row_steps, slack, queries, rows.contiguous()
    return int(torch.ops.drcl.top_k_by_integers(*arguments, scale, begin, limit, values, indices))


def multiplies_int16() -> bool:
    """Whether of all products those of int16 are the fastest on this processor: AVX2 alone."""
    return bool(torch.ops.drcl.multiplies_int16())


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16, and PyTorch uses them."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.ops.drcl.multiplies_bfloat16()
    )


def _rounded_rows_fake(rows: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    made = rows.new_empty(rows.shape, dtype=torch.bfloat16)
    return made, rows.new_empty(len(rows)), rows.new_empty(len(rows))


def _integer_rows_fake(rows: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, width = rows.shape
    made = rows.new_empty(n, width + width % 2, dtype=torch.int16)
    return made, rows.new_empty(n), rows.new_empty(n), rows.new_empty(n)


def _top_k_fake(scores: Tensor, begin: int, values: Tensor, indices: Tensor) -> None:
    return None


if not load_ops():
    torch.library.register_fake("drcl::top_k", _top_k_fake)
    torch.library.register_fake("drcl::top_k_screened", lambda *_: 0)
    torch.library.register_fake("drcl::rounded_rows", _rounded_rows_fake)
    torch.library.register_fake("drcl::top_k_by_integers", lambda *_: 0)
    torch.library.register_fake("drcl::integer_rows", _integer_rows_fake)
