"""``drcl::inner_products``: a few queries against many rows, as fast as the rows can be read.

The compiled library defines the op for a CPU. Elsewhere, and for more queries, a product of
matrices is what does it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drcl.backends import load_ops

FEW, WIDE = 8, 128
"""Of so many queries at most, in so many dimensions at least, the op beats a product of matrices.

On one thread of an AMD EPYC, in turns: more than twice as fast for one query, about equal for 16,
and slower for eight in 64 dimensions.
"""


def inner_products(query: Tensor, gallery: Tensor, *, backend: str) -> Tensor:
    """Products (Q, N) float32 of ``query`` (Q, D) with ``gallery`` (N, D), float32.

    Of the native form every entry is the same number whatever the other rows are, on any number of
    threads.
    """
    if backend != "native":
        return query @ gallery.T
    found: Tensor = torch.ops.drcl.inner_products(query.contiguous(), gallery.contiguous())
    return found


def _products_like(query: Tensor, gallery: Tensor) -> Tensor:
    devices = f"gallery: expected a device like that of query, {query.device}, got {gallery.device}"
    torch._check(query.device == gallery.device, lambda: devices)
    return query.new_empty(query.shape[0], gallery.shape[0])


if not load_ops():
    torch.library.register_fake("drcl::inner_products", _products_like)
