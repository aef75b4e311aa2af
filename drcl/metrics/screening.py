"""The nearest items by products of bfloat16 first: exact, and faster than one float32 product.

Rows x and y become x̂ and ŷ, which lose |x − x̂| and |y − ŷ|. As ``xy − x̂ŷ`` is
``(x − x̂)y + x̂(y − ŷ)``, a product is off by ``|x − x̂|·|y| + |x̂|·|y − ŷ|`` at most (Cauchy and
Schwarz). An item whose product is farther than that below the k-th best score so far is not among
the nearest; the scores of the few others are computed in float32. In the first tile, the k-th best
score is at most that far below the k-th best product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drcl.ops.top_k import multiplies_bfloat16, rounded_rows, top_k_screened

FEWEST, NARROWEST = 128, 32
"""Queries, and dimensions, from which on the saved time is more than rounding a tile takes.

On two threads of an AMD EPYC, 100,000 items, k = 10: 1.3 to 1.5 times as fast for 128 queries,
1.7 to 2.1 for 1,000; from 0.9 to 1.2 for 16 to 64.
"""

_MOST = 32  # of so many scores one may have to be computed: with more, float32 is faster
AFTER = 2 * _MOST
"""Items for each of the k wanted, of which no more than that are expected to be near."""


class RoundedRows(NamedTuple):
    """Rows (n, D) in bfloat16, and the greatest length of one and of what one has lost."""

    rows: Tensor
    length: float
    off: float

    @staticmethod
    def of(rows: Tensor, scale: Tensor | None) -> RoundedRows:
        """Of ``rows * scale[:, None]``."""
        rounded, lengths, off = rounded_rows(rows, scale)
        return RoundedRows(rounded, float(lengths.max()), float(off.max()))


class Screen:
    """Some queries, and what their products of bfloat16 are compared with."""

    def __init__(self, queries: Tensor) -> None:
        self._queries = queries.contiguous()
        self._rounded, self._lengths, self._off = rounded_rows(self._queries)

    def slack(self, items: RoundedRows) -> Tensor:
        """How far from the scores the products with these items are at most (Q,)."""
        bound = self._off * items.length + (self._lengths + self._off) * items.off
        # For sums in float32: one in a hundred of those that the bound is made of, and the scores'.
        sums = 2.0**-22 * self._queries.shape[1] * self._lengths * items.length
        return 1.01 * bound + sums

    @staticmethod
    def pays(queries: int, width: int, dtype: torch.dtype) -> bool:
        """Whether this processor, with these queries, is faster with a screen."""
        enough = queries >= FEWEST and width >= NARROWEST
        return enough and dtype == torch.float32 and multiplies_bfloat16()

    def take(
        self,
        rows: Tensor,
        scale: Tensor | None,
        rounded: RoundedRows,
        room: Tensor,
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
            room: for Q·n products, bfloat16.
            leave_out: makes a tile's scores (Q, n) −∞ for items that are not looked at.
            values, indices: what is kept.
        """
        count = len(self._queries) * len(rows)
        screen = room[:count].view(len(self._queries), len(rows))
        with torch.autocast("cpu", enabled=False):
            torch.mm(self._rounded, rounded.rows.T, out=screen)
        leave_out(screen)
        computed = top_k_screened(
            screen,
            self.slack(rounded),
            self._queries,
            rows,
            scale,
            begin,
            count // _MOST,
            values,
            indices,
        )
        return computed >= 0
