"""The ranks of the relevant items, which every measure follows from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from drcl.dispatch import choose
from drcl.ops.rank_sums import rank_sums
from drcl.ranking import Relevance


@dataclass(frozen=True)
class Ranks:
    """The ranks of every query's relevant items: what a measure is a function of.

    ``ranks`` (Q, T) float64 are those of the relevant items, rising, counted from 1, then ∞;
    ``relevant`` (Q,) int64 says how many there are and ``ranked`` (Q,) int64 how many items the
    query's ranking holds. ``graded`` (Q, T) float64 are their gains, None where all are 1.
    ``find_discounts`` gives :func:`discounts_up_to` the longest ranking, where that is at hand.

    >>> found = Ranks(torch.tensor([[1.0, 3.0]]), torch.tensor([2]), torch.tensor([5]))
    >>> found.precision
    tensor([[1.0000, 0.6667]], dtype=torch.float64)
    >>> found.hits(torch.tensor([[1, 2, 3]]))
    tensor([[1, 1, 2]])
    """

    ranks: Tensor
    relevant: Tensor
    ranked: Tensor
    graded: Tensor | None = field(default=None, repr=False)
    find_discounts: Callable[[], Tensor] | None = field(default=None, repr=False)

    def hits(self, k: Tensor) -> Tensor:
        """How many relevant items are among the first k (Q, K): (Q, K) int64.

        >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
        >>> found.hits(torch.tensor([[1, 3, 4]])).tolist()
        [[0, 1, 2]]
        """
        return self._once(
            "hits",
            k,
            lambda: torch.searchsorted(self.ranks, k.to(self.ranks.dtype), right=True),
        )

    def _once(self, what: str, of: Tensor, find: Callable[[], Tensor]) -> Tensor:
        """The result for this very tensor, kept: many measures ask at the same cut-offs."""
        known = self._found.get((what, id(of)))
        if known is None:
            # Kept with the tensor, so that no other one gets its id.
            known = self._found[what, id(of)] = of, find()
        return known[1]

    @cached_property
    def _found(self) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def precision(self) -> Tensor:
        """The precision at each relevant item, ``j/ρⱼ`` (Q, T)."""
        return self._number / self.ranks

    @cached_property
    def discounts(self) -> Tensor:
        """What a gain at each relevant item counts in the DCG, ``1/log₂(ρⱼ + 1)`` (Q, T)."""
        return (self.ranks + 1).log2_().reciprocal_()

    def precision_sums(self, counts: Tensor) -> Tensor:
        """The precision at the first ``counts`` (Q, K) relevant items, summed: (Q, K).

        >>> found = Ranks(torch.tensor([[2.0, 4.0]]).double(), torch.tensor([2]), torch.tensor([4]))
        >>> found.precision_sums(torch.tensor([[1, 2]])).tolist()  # 1/2, 1/2 + 2/4
        [[0.5, 1.0]]
        """
        return self._sums(self._number[None], counts)

    def dcg(self, counts: Tensor, gains: Tensor | None) -> Tensor:
        """The DCG (Q, K) of the first ``counts`` (Q, K) relevant items, with gains (Q, T).

        None gives each a gain of 1.

        >>> found = Ranks(torch.tensor([[1.0, 3.0]]).double(), torch.tensor([2]), torch.tensor([4]))
        >>> found.dcg(torch.tensor([[1, 2]]), None).tolist()  # 1/log₂ 2, 1/log₂ 2 + 1/log₂ 4
        [[1.0, 1.5]]
        """
        if gains is not None:
            return self._sums(gains, counts, self.discount_table)
        ones = torch.ones_like(self._number)[None]
        return self._once("dcg", counts, lambda: self._sums(ones, counts, self.discount_table))

    def _sums(self, values: Tensor, counts: Tensor, weights: Tensor | None = None) -> Tensor:
        backend = choose("rank_sums", self.ranks.device)
        return rank_sums(self.ranks, values, counts, weights, backend=backend)

    @cached_property
    def irrelevant_before(self) -> Tensor:
        """How many irrelevant items are ranked before each relevant one, ``ρⱼ − j`` (Q, T).

        0 for the padding, and for relevant items that the list of a run lacks.
        """
        before = self.ranks - self._number
        if bool(before[:, -1:].isinf().any()):  # ranks rise
            before.masked_fill_(before.isinf(), 0.0)
        return before

    @cached_property
    def gains(self) -> Tensor:
        """The gain of each relevant item (Q, T) float64: 1 unless relevance is graded."""
        return self.ranks.isfinite().double() if self.graded is None else self.graded

    @cached_property
    def discount_table(self) -> Tensor:
        """:func:`discounts_up_to` the longest ranking, or beyond."""
        if self.find_discounts is not None:
            return self.find_discounts()
        return discounts_up_to(int(self.ranked.max()), self.ranks.device)

    @cached_property
    def _number(self) -> Tensor:
        return torch.arange(
            1, self.ranks.shape[1] + 1, dtype=torch.float64, device=self.ranks.device
        )


def discounts_up_to(n: int, device: torch.device) -> Tensor:
    """What a gain counts in the DCG at each rank up to n, ``1/log₂(rank + 1)`` (n,) float64.

    >>> discounts_up_to(3, torch.device("cpu"))
    tensor([1.0000, 0.6309, 0.5000], dtype=torch.float64)
    """
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    return (ranks + 1).log2_().reciprocal_()


def is_graded(relevance: Relevance) -> bool:
    """Whether gains may be others than 1."""
    if relevance.bits is not None:
        return True
    return relevance.gains is not None and bool((relevance.gains != 1).any())
