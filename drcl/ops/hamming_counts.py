"""``drcl::hamming_counts``: how many codes lie at each Hamming distance from every query.

The compiled library defines the op for a CPU; :mod:`drcl.eager.hamming_counts` does the same
without it, and on other devices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.eager import hamming_counts as eager


class Lists(NamedTuple):
    """A list of gallery items for each query: ``items[begins[i]:ends[i]]``.

    Without items it is the stretch of the gallery from ``begins[i]`` to ``ends[i]``.

    Shapes: begins, ends (Q,) int64; items int32.
    """

    begins: Tensor
    ends: Tensor
    items: Tensor | None


def hamming_counts(
    query: Tensor, gallery: Tensor, lists: Lists | None = None, *, bits: int, backend: str
) -> Tensor:
    """Counts (Q, bits + 1) float64 of the gallery's codes, or of each query's list, by distance.

    ``query`` (Q, W) and ``gallery`` (N, W) int64 hold codes of ``bits`` bits, of whose last words
    the bits that are no part of the code are the same everywhere.
    """
    if backend != "native":
        return eager.hamming_counts(query, gallery, lists, bits=bits)
    counts: Tensor = torch.ops.drcl.hamming_counts(query, gallery, *(lists or [None] * 3), bits)
    return counts


def _counts_like(query: Tensor, gallery: Tensor, *lists_and_bits: Any) -> Tensor:
    return query.new_empty(query.shape[0], lists_and_bits[-1] + 1, dtype=torch.float64)


if not load_ops():
    torch.library.register_fake("drcl::hamming_counts", _counts_like)
