"""The nearest items by rounded products first: exact, and faster than one float32 product.

Rows x and y become x̂ and ŷ, which lose |x − x̂| and |y − ŷ|. As ``xy − x̂ŷ`` is
``(x − x̂)y + x̂(y − ŷ)``, a product is off by ``|x − x̂|·|y| + |x̂|·|y − ŷ|`` at most (Cauchy and
Schwarz). An item whose product is farther than that below the k-th best score so far is not among
the nearest; the scores of the few others are computed in float32. In the first tile, the k-th best
score is at most that far below the k-th best product.

Rows are rounded to what a processor multiplies faster than float32: to bfloat16 where it has
instructions for those products, else, with AVX2, to int16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drcl.ops.top_k import (
    integer_rows,
    multiplies_bfloat16,
    multiplies_int16,
    rounded_rows,
    top_k_by_integers,
    top_k_screened,
)

FEWEST, NARROWEST = 128, 32
"""Queries, and dimensions, from which on the saved time is more than rounding a tile takes.

On two threads of an AMD EPYC, 100,000 items, k = 10: 1.3 to 1.5 times as fast for 128 queries,
1.7 to 2.1 for 1,000; from 0.9 to 1.2 for 16 to 64. With int16 on two cores without AVX-512 (Zen 3),
20,000 items, D of 32 to 512, k of 1 to 100: 1.1 to 1.6 for 128 queries, 1.5 to 2.3 for 1,000; from
1.0 to 1.35 for 64.
"""

WIDEST = 2**16  # of rows whose products int32 adds up

_MOST = 32  # of so many scores one may have to be computed: with more, float32 is faster
AFTER = 2 * _MOST
"""Items for each of the k wanted, of which no more than that are expected to be near."""


class RoundedRows(NamedTuple):
    """Rows (n, D) in bfloat16, or in int16 and then with a step for each row.

    Beside them are their lengths, and those of what they have lost (n,).
    """

    rows: Tensor
    lengths: Tensor
    off: Tensor
    steps: Tensor | None = None

    @staticmethod
    def of(rows: Tensor, scale: Tensor | None, dtype: torch.dtype) -> RoundedRows:
        """Of ``rows * scale[:, None]``."""
        rounded = integer_rows if dtype == torch.int16 else rounded_rows
        return RoundedRows(*rounded(rows, scale))


class Screen:
    """Some queries, and what their products of a dtype are compared with."""

    def __init__(self, queries: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._queries = queries.contiguous()
        self._rounded = RoundedRows.of(self._queries, None, dtype)

    def slack(self, items: RoundedRows) -> Tensor:
        """How far from the scores the products with these items are at most (Q,)."""
        own, length, off = self._rounded, items.lengths.max(), items.off.max()
        bound = own.off * length + (own.lengths + own.off) * off
        # For sums in float32: one in a hundred of those that the bound is made of, and the scores'.
        sums = 2.0**-22 * (self._queries.shape[1] + 8) * own.lengths * length
        return 1.01 * bound + sums

    @staticmethod
    def that_pays(queries: int, width: int, dtype: torch.dtype) -> torch.dtype | None:
        """What this processor, with these queries, is faster with a screen of; None for nothing."""
        if dtype != torch.float32 or queries < FEWEST or not NARROWEST <= width <= WIDEST:
            return None
        if multiplies_bfloat16():
            return torch.bfloat16
        return torch.int16 if multiplies_int16() else None

    def take(
        self,
        rows: Tensor,
        scale: Tensor | None,
        rounded: RoundedRows,
        room: Callable[[int], Tensor],
        begin: int,
        leave_out: Callable[[Tensor], None],
        values: Tensor,
        indices: Tensor,
    ) -> bool:
        """:func:`drcl.ops.top_k.top_k` of the products with a tile of rows; False if it has done
        nothing, because too many items are near.

        Args:
            rows: (n, D) float32, the items from ``begin`` on.
            scale: by which an item's products are multiplied (n,); None for 1.
            rounded: those rows, so multiplied.
            room: memory for so many products, where they are of bfloat16.
            leave_out: makes a tile's scores (Q, n) −∞ for items that are not looked at.
            values, indices: what is kept.
        """
        own, count = self._rounded, len(self._queries) * len(rows)
        slack = self.slack(rounded)
        rest = self._queries, rows, scale, begin, count // _MOST, values, indices
        if own.steps is not None and rounded.steps is not None:
            unseen = rounded.steps.new_zeros(1, len(rows))
            leave_out(unseen)
            steps = torch.where(unseen[0] == 0, rounded.steps, torch.nan)
            return top_k_by_integers(own.rows, own.steps, rounded.rows, steps, slack, *rest) >= 0
        screen = room(count).view(len(self._queries), len(rows))
        with torch.autocast("cpu", enabled=False):
            torch.mm(own.rows, rounded.rows.T, out=screen)
        leave_out(screen)
        return top_k_screened(screen, slack, *rest) >= 0
