"""Small evaluations of plain tensors, in a few calls.

Of 64 queries and 1,000 items the arithmetic takes a quarter of a millisecond, and what prepares
for any input, in pieces, half precision or groups, several times as long. Here is the table of
:mod:`drcl.metrics.blocks`, with the same bits, for inputs that need nothing of that; what is
irregular or wrong in others is found where all are read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.dispatch import choose
from drcl.metrics.blocks import find_first_ranks
from drcl.metrics.scores import LINE
from drcl.metrics.search import search_pays
from drcl.ops.average_precision import BLOCK, average_precision
from drcl.ops.inner_products import Form, inner_products
from drcl.precision import multiplies_in_full
from drcl.ranking import Relevance, Request

PAIRS = 7 * 2**20  # of query and item, at most: their scores are one block of the general way


def sizes_of(sides: tuple[Any, ...]) -> tuple[int, int] | None:
    """Queries and items, where the sides are float32 rows and ids in a CPU's memory, and few."""
    if not all(type(one) is Tensor and one.is_cpu and not one.requires_grad for one in sides):
        return None
    query, gallery, query_labels, gallery_labels = sides
    if query.ndim != 2 or gallery.ndim != 2 or query_labels.ndim != 1 or gallery_labels.ndim != 1:
        return None
    (q, width), (n, other) = query.shape, gallery.shape
    fits = 1 < width == other and (len(query_labels), len(gallery_labels)) == (q, n)
    few = 0 < q <= BLOCK and n > 0 and q * n <= PAIRS
    dtypes = (torch.float32, torch.float32, torch.int64, torch.int64)
    plain = tuple(one.dtype for one in sides) == dtypes
    dense = all(one.layout is torch.strided for one in sides)
    return (q, n) if fits and few and plain and dense else None


def ranked(
    sides: tuple[Tensor, ...], request: Request, max_bytes: int, find_first: bool
) -> Tensor | None:
    """The table of rankings by cosine, or None where it is not to be had here.

    ``find_first`` asks for first ranks beyond the request's depth too.
    """
    query, gallery, query_labels, gallery_labels = sides
    (q, width), (n, _) = query.shape, gallery.shape
    stride = -(-n // LINE) * LINE
    if 8 * 4 * q * stride > max_bytes or not multiplies_in_full(query.device):
        return None
    if choose("average_precision", query.device) != "native":
        return None
    if search_pays(q, n, width, request.depth, query.dtype):
        return None
    query_labels = query_labels.contiguous()
    form = Form.of(q, width, query.device)
    scale, offsets, items, begins, most = torch.ops.drcl.class_lists(
        torch.linalg.vector_norm(gallery, dim=1),
        torch.linalg.vector_norm(query, dim=1),
        gallery if form == Form.MATRICES else None,  # equal rows are for the general way
        query_labels,
        gallery_labels.contiguous(),
    )
    if most < 0:
        return None
    scores = query.new_empty(q, stride)[:, :n]
    inner_products(query, gallery, scores, form)
    relevance = Relevance(most, begins, query_labels, offsets, items)

    def table(request: Request, of: Relevance = relevance) -> Tensor:
        return average_precision(
            scores, of, request, scale=scale, max_bytes=max_bytes // 4, backend="native"
        )

    found = table(request)
    if find_first and request.depth < n:
        find_first_ranks(found, relevance, Request((1,), n), table)
    return found
