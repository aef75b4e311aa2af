"""Blocks of similarity scores between queries and a gallery that may not fit in memory."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from drcl.metrics.duplicates import equal_rows
from drcl.metrics.embeddings import TILE_BYTES, Embeddings
from drcl.ops.inner_products import Form, inner_products
from drcl.precision import product_precision

METRICS = ("cosine", "dot", "euclidean", "hamming")
PRECISIONS = ("highest", "high")
# A product whose rows begin at lines of the cache, of so many entries, takes a third less time.
LINE = 16
_BLOCK_BYTES = 28 * 2**20  # from 32 MiB on, glibc has the system clear new memory for every call
_PANEL, _FEWEST = 24, 48  # queries of a panel, and of a block all the same


class Scores(Protocol):
    """Scores in blocks of queries; a query's order is that of ``block·scale + bias``."""

    dtype: torch.dtype
    scale: Tensor | None
    bias: Tensor | None
    rows_per_block: int

    def block(self, rows: Tensor) -> Tensor:
        """Scores (q, N) of the queries at these positions."""


class Scorer:
    """Scores of query blocks against the kept gallery rows.

    The order of a query's gallery is that of ``block·scale + bias``: for the cosine the gallery is
    not normalised, which would take a copy of it, but its scores are divided by its lengths; for
    the Euclidean distance ``q·g − |g|²/2`` falls as the distance grows, and for codes the product
    of signs does.
    """

    def __init__(
        self,
        query: Embeddings,
        gallery: Embeddings,
        kept: Tensor | None,
        *,
        metric: str,
        precision: str,
        max_bytes: int,
        max_rows: int,
    ) -> None:
        self.query, self.gallery, self.kept, self.metric = query, gallery, kept, metric
        self.precision, self.max_bytes = precision, max_bytes
        self.count = len(gallery) if kept is None else len(kept)
        self.dtype = torch.promote_types(query.dtype, gallery.dtype)
        self.device = query.device
        lengths = gallery.norms(kept, self.count, gallery.dtype, max_bytes)
        largest = float(lengths.max()) if self.count else 0.0
        smallest = float(lengths[lengths > 0].min()) if bool((lengths > 0).any()) else 1.0
        if largest > 1e15 or smallest < 1e-15:
            if max(largest, 1 / smallest) > 1e150:
                raise ValueError(
                    "gallery: expected row lengths of 1e-150 to 1e150, got "
                    f"{smallest:.1e} to {largest:.1e}"
                )
            self.dtype = torch.float64
        self._limit = 1e150 if self.dtype == torch.float64 else 1e15
        self.scale = self.bias = None
        if metric == "cosine":
            inverse = lengths.reciprocal().masked_fill_(lengths == 0, 0.0)
            self.scale = inverse.to(self.dtype).to(self.device)
            del inverse
        elif metric == "euclidean":
            self.bias = (-0.5 * lengths.square()).to(self.dtype).to(self.device)
        size = self.dtype.itemsize
        whole = gallery.whole(self.dtype) if kept is None else None
        if whole is None and self.count * gallery.width * size <= max_bytes // 4:
            whole = gallery.rows(kept, 0, self.count, self.dtype)
        self._whole = None if whole is None else whole.to(self.device)
        self._tile = max(1, min(TILE_BYTES, max_bytes // 8) // (size * gallery.width))
        self._stride = -(-self.count // LINE) * LINE
        self.form = self._form()
        scores_bytes = size * max(self._stride, 1)
        # Beside its scores a query may be copied, and once more into a panel.
        rows = max_bytes // 2 // (scores_bytes + 2 * size * gallery.width)
        if self.form == Form.PANELS:  # which read the gallery as it lies, for a few as for many
            rows = min(rows, max(_FEWEST, _BLOCK_BYTES // scores_bytes // _PANEL * _PANEL))
        self.rows_per_block = max(1, min(max_rows, rows))
        self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)
        del lengths  # a large gallery's vectors are a good part of a small budget
        self.copies = self.firsts = torch.empty(0, dtype=torch.int64, device="cpu")
        # Those of codes are exact, and those of our own op the same wherever a row stands.
        if metric != "hamming" and self.form == Form.MATRICES:
            self.copies, self.firsts = equal_rows(
                lambda start, stop: gallery.rows(kept, start, stop, gallery.dtype),
                lambda items: gallery.at(items if kept is None else kept[items], gallery.dtype),
                self.count,
                gallery.width,
                max_bytes // 64,  # of which each takes 30 bytes at most
            )

    def _form(self) -> Form:
        """One for all queries: blocks of any size have the same scores."""
        if self.dtype != torch.float32 or self.precision != "highest":
            return Form.MATRICES
        return Form.of(len(self.query), self.gallery.width, self.device)

    def block(self, rows: Tensor) -> Tensor:
        """Scores (q, N) of the queries at these positions; the next block reuses their memory."""
        x = self.queries(rows)
        if not len(rows) <= len(self._buffer) < 2 * len(rows):  # also when blocks have shrunk
            self._buffer = x.new_empty(0)  # before the next one is made
            self._buffer = x.new_empty(len(rows), self._stride)
        scores = self._buffer[: len(rows), : self.count]
        with product_precision(self.precision):
            self.products(x, 0, self.count, scores)
        for copies, firsts in zip(self.copies.split(4096), self.firsts.split(4096), strict=True):
            scores[:, copies] = scores[:, firsts]
        return scores

    @property
    def copies_items(self) -> bool:
        """Whether :meth:`items` makes a copy each time."""
        return self._whole is None

    def items(self, start: int, stop: int) -> Tensor:
        """The kept gallery rows from start to stop."""
        if self._whole is not None:
            self.gallery.check_files()
            return self._whole[start:stop]
        return self.gallery.rows(self.kept, start, stop, self.dtype).to(self.device)

    def products(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """Products (q, n) of queries with the kept gallery rows from start to stop, in ``out``."""
        if self._whole is not None:
            inner_products(x, self.items(start, stop), out, self.form)
            return out
        for first in range(start, stop, self._tile):
            last = min(first + self._tile, stop)
            tile = self.items(first, last)
            inner_products(x, tile, out[:, first - start : last - start], self.form)
            del tile  # before the next one is made
        return out

    def queries(self, rows: Tensor) -> Tensor:
        """The queries at these positions, of a length that products do not overflow with.

        They lie one after the other; there is at most one copy of them.
        """
        x = self.query.rows(rows, 0, len(rows), self.dtype).contiguous()
        norms = self.query.norms(rows, len(rows), self.dtype, self.max_bytes)
        # A query's own length does not change its ranking, unless products leave the dtype's range.
        far, near = norms > self._limit, (norms > 0) & (norms < 1 / self._limit)
        if self.metric == "euclidean":
            if bool(far.any()):
                place = int(far.nonzero()[0, 0])
                raise ValueError(
                    f"query: expected rows no longer than {self._limit:.0e}, got "
                    f"{float(norms[place]):.1e} in row {int(rows[place])}"
                )
        elif bool((odd := far | near).any()):
            # A power of two changes no digit: scores that are equal stay equal.
            largest = largest_entries(x)
            power = largest / (2 * largest.frexp().mantissa)  # at most the largest entry
            x = x / torch.where(odd, power, 1.0)[:, None]
        return x


def largest_entries(x: Tensor) -> Tensor:
    """The largest absolute value of each row (n,), without a copy of them."""
    return torch.maximum(x.amax(dim=1), -x.amin(dim=1))
