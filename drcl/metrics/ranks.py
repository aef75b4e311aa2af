"""The ranks of the relevant items, which every measure follows from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from drcl.eager.average_precision import Block, slots
from drcl.ranking import Relevance


@dataclass(frozen=True)
class Ranks:
    """The ranks of every query's relevant items: what a measure is a function of.

    ``ranks`` (Q, T) float64, rising, are those of the relevant items, counted from 1, then ∞;
    ``relevant`` (Q,) int64 says how many there are and ``ranked`` (Q,) int64 how many items the
    query's ranking holds.

    >>> found = Ranks(torch.tensor([[1.0, 3.0]]), torch.tensor([2]), torch.tensor([5]))
    >>> found.precision
    tensor([[1.0000, 0.6667]], dtype=torch.float64)
    >>> found.hits(torch.tensor([[1, 2, 3]]))
    tensor([[1, 1, 2]])
    """

    ranks: Tensor
    relevant: Tensor
    ranked: Tensor
    find_gains: Callable[[], Tensor] | None = field(default=None, repr=False)

    def hits(self, k: Tensor) -> Tensor:
        """How many relevant items are among the first k (Q, K): (Q, K) int64."""
        return torch.searchsorted(self.ranks, k.to(self.ranks.dtype), right=True)

    @cached_property
    def precision(self) -> Tensor:
        """The precision at each relevant item, ``j/ρⱼ`` (Q, T)."""
        return self._number / self.ranks

    @cached_property
    def discounts(self) -> Tensor:
        """What a gain at each relevant item counts in the DCG, ``1/log₂(ρⱼ + 1)`` (Q, T)."""
        return 1 / (self.ranks + 1).log2()

    @cached_property
    def irrelevant_before(self) -> Tensor:
        """How many irrelevant items are ranked before each relevant one, ``ρⱼ − j`` (Q, T)."""
        return torch.where(self.ranks.isfinite(), self.ranks - self._number, 0.0)

    @cached_property
    def gains(self) -> Tensor:
        """The gain of each relevant item (Q, T) float64: 1 unless relevance is graded."""
        if self.find_gains is None:
            return self.ranks.isfinite().double()
        return self.find_gains()

    @cached_property
    def _number(self) -> Tensor:
        return torch.arange(
            1, self.ranks.shape[1] + 1, dtype=torch.float64, device=self.ranks.device
        )


def levels_for(max_relevant: int) -> int:
    """Recall levels that reach each of so many relevant items, whatever a query's number of them.

    >>> levels_for(max_relevant=3)
    4
    """
    return max(max_relevant, 1) + 1


def from_raw_precision(raw: Tensor, relevant: Tensor) -> Tensor:
    """Ranks (Q, T), ∞ beyond R, from precision where recall first reaches :func:`levels_for` T.

    Item j is the first that reaches recall l/T for l = ⌊(j − 1)·T/R⌋ + 1, with the precision
    j/ρⱼ: of a division of whole numbers, which rounds back to ρⱼ.

    >>> from_raw_precision(torch.tensor([[1.0, 1.0, 2 / 3]]).double(), torch.tensor([2]))
    tensor([[1., 3.]], dtype=torch.float64)
    """
    count = raw.shape[1] - 1
    number = torch.arange(1, count + 1, device=raw.device)
    level = (number - 1) * count // relevant.clamp(min=1)[:, None] + 1
    precision = raw.gather(1, level.clamp(max=count))
    return torch.where(number <= relevant[:, None], (number / precision).round(), torch.inf)


def gains_in_order(block: Block, width: int) -> Tensor:
    """Gains (Q, width) of the relevant items by falling score, ties by index; then 0."""
    values, gains, kept = block
    rows, places, place_in_row = slots((gains > 0) & kept)
    scores = values.new_full((len(values), width), -torch.inf)
    found = gains.new_zeros(scores.shape)
    scores[rows, place_in_row] = values[rows, places]
    found[rows, place_in_row] = gains[rows, places]
    return found.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)


def is_graded(relevance: Relevance) -> bool:
    """Whether gains may be others than 1."""
    if relevance.bits is not None:
        return True
    return relevance.gains is not None and bool((relevance.gains != 1).any())
