"""``drcl::inner_products``: queries against many rows, which are read as they lie.

The compiled library defines the op for a CPU, in two forms. For a few queries it is as fast as the
rows can be read; for many it copies these into panels (``csrc/cpu/panels.h``). Elsewhere a product
of matrices is what does it.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from drcl.backends import load_ops
from drcl.dispatch import choose
from drcl.native.products import multiplies_panels

FEW, WIDE = 8, 128
"""Of so many queries at most, in so many dimensions at least, the form for a few beats a product of
matrices.

On one thread of an AMD EPYC, in turns: more than twice as fast for one query, about equal for 16,
and slower for eight in 64 dimensions.
"""

FEWER = 3
"""Of so many at most, or of one in fewer dimensions, it beats panels, where these are used.

On the same: .3 ms of 128 dimensions for one query, .7 with panels; equal for four.
"""

_TILE = 2**18  # entries that are copied at a time, of rows whose entries do not lie side by side


class Form(enum.Enum):
    """How products of float32 are computed: by the op, or by PyTorch.

    With the op a product is the same number beside any other rows, in any block, on any number of
    threads. So equal rows, of which 0 and −0 are equal entries, have equal products.
    """

    MATRICES = 0
    FEW = 1
    PANELS = 2

    @staticmethod
    def of(queries: int, width: int, device: torch.device) -> Form:
        """The fastest for so many queries in all, of float32."""
        if choose("inner_products", device) != "native":
            return Form.MATRICES
        if multiplies_panels():
            return Form.FEW if queries <= (FEWER if width >= WIDE else 1) else Form.PANELS
        return Form.FEW if queries <= FEW and width >= WIDE else Form.MATRICES


def inner_products(query: Tensor, gallery: Tensor, out: Tensor, form: Form) -> None:
    """Products of ``query`` (Q, D) with ``gallery`` (N, D), in ``out`` (Q, N); all float32.

    The rows of ``out`` may lie apart. Panels take 4 MiB at most, or the memory of 24 queries if
    that is more; of Q queries no more than that of Q + 7.
    """
    if form == Form.MATRICES:
        torch.mm(query, gallery.T, out=out)
        return
    query, few = query.contiguous(), form == Form.FEW
    step = len(gallery) if gallery.stride(1) == 1 else max(1, _TILE // gallery.shape[1])
    for start in range(0, len(gallery), max(step, 1)):
        rows = gallery[start : start + step]
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        torch.ops.drcl.inner_products(query, rows, out[:, start : start + step], few)


def _check(query: Tensor, gallery: Tensor, out: Tensor, few: bool) -> None:
    devices = f"gallery: expected a device like that of query, {query.device}, got {gallery.device}"
    torch._check(query.device == gallery.device, lambda: devices)


if not load_ops():
    torch.library.register_fake("drcl::inner_products", _check)
