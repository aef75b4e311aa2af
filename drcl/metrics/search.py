"""The nearest gallery items of every query: exact, streamed, in bounded memory."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl.checks import check_count, check_option
from drcl.dispatch import choose
from drcl.metrics.duplicates import copies_among
from drcl.metrics.embeddings import TILE_BYTES, Array, Embeddings, Gallery, embeddings
from drcl.metrics.exclusions import own_places
from drcl.metrics.options import MAX_BYTES
from drcl.metrics.scores import LINE, METRICS, PRECISIONS, Scorer, Scores, largest_entries
from drcl.metrics.screening import AFTER, RoundedRows, Screen
from drcl.ops.inner_products import Form, inner_products
from drcl.ops.top_k import FEW as FEW_ITEMS
from drcl.ops.top_k import top_k
from drcl.out_of_memory import in_pieces
from drcl.precision import product_precision
from drcl.progress import progress_bar

ROWS = 1024  # queries that are searched for together: a gallery is read once for so many
_ENTRIES = 2**23  # of a tile
_WIDER = 4  # times, where products are not written down: so few scores are computed in vain
FEWEST, NARROWEST, SMALLEST, PAIRS = 256, 128, 10_000, 60_000
"""Queries, dimensions and, with int16, items, and pairs of both for each of the k wanted and of 80
more, from which on finding the highest scores takes less than all of them.

On two threads of an Intel Xeon with AMX, mAP@k against computing all scores: D = 512, 2.2 times as
fast for k = 10 and 1.6 for k = 50 of 20,000 items, 1.2 for k = 100 of 13,000; 1.5 for k = 100 of
100,000 with D = 128; .6 to 1.0 with D = 64.

With int16 on two cores of an AMD EPYC (Zen 3), 20,000 items: D = 128, 1.5 for k = 10 and 1.4 for
k = 50 of 1,000 queries, 1.3 and 1.1 of 500, 1.0 and .7 of 320, .8 and .7 of 256; D = 512, 1.1 for
k = 50 of 500 queries and 1.0 of 256. Fewer queries leave less to be won by rounding the items, a
larger k more to be computed. 1.2 for k = 100 of 13,000 and 1,000 queries with D = 256; 1.2 and 1.4
for k = 50 of 100,000 and 256 or 300 queries with D = 128; .8 for k = 10 of 5,000 and 1,000.
"""


class Nearest(NamedTuple):
    """Scores (Q, k), nearest first, and positions in the gallery (Q, k) int64."""

    scores: Tensor
    indices: Tensor


def nearest(
    query: Array,
    gallery: Gallery,
    k: int = 10,
    *,
    metric: str = "cosine",
    exclude_self: Any = False,
    precision: str = "highest",
    max_bytes: int = MAX_BYTES,
    progress: bool = False,
) -> Nearest:
    """The k nearest gallery items of every query, ties by gallery index.

    Every query is compared with every item: ``argsort(−scores)[:k]`` without the scores, of which
    no more than a tile is held at a time. Many queries are compared first in what the processor
    multiplies faster than float32, bfloat16 or, with AVX2, int16, and only with the items that a
    bound of its error leaves in float32: the answer is exact all the same.

    Args:
        query, gallery: (Q, D) and (N, D) embeddings in any form that
            :func:`drcl.metrics.retrieval_metrics` takes, files that are mapped and chunks among
            them.
        k: number of items for each query; above N means N.
        metric: ``"cosine"`` (default), ``"dot"``, ``"euclidean"``, or ``"hamming"`` of codes.
        exclude_self: as in :func:`drcl.metrics.retrieval_metrics`: a query does not find itself.
        precision: of products, as in :func:`drcl.metrics.retrieval_metrics`.
        max_bytes: bytes that may be used, 2²⁰ at least, beside the inputs, the result and 40 bytes
            for each item.
        progress: show a progress bar.

    Returns scores (Q, k) in the dtype of products, float32 or float64: cosines or inner products,
    falling, or distances, rising, of which the Euclidean ones are found by expansion; and indices
    (Q, k) int64. Both are on the queries' device. Gallery rows that are equal have equal scores.

    Raises ValueError for shapes that do not fit, NaN, k below 1 and options that are not known;
    TypeError for what is no array; MemoryError where not even one query at a time can be searched
    for; OSError where a mapped file has become shorter.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> found = nearest(torch.tensor([[2.0, 0.0]]), gallery, k=2)
    >>> found.indices, found.scores
    (tensor([[0, 2]]), tensor([[1., 1.]]))
    """
    k = check_count("k", k)
    check_option("metric", metric, METRICS)
    check_option("precision", precision, PRECISIONS)
    check_count("max_bytes", max_bytes, 2**20)
    one, other = (embeddings(query, "query", metric), embeddings(gallery, "gallery", metric))
    if one.width != other.width:
        raise ValueError(
            f"query and gallery: expected one width, got {one.width} and {other.width}"
        )
    own = own_places(exclude_self, len(one), len(other))
    k = min(k, len(other) - (own is not None))
    scorer = Scorer(
        one,
        other,
        None,
        metric=metric,
        precision=precision,
        max_bytes=max_bytes,
        max_rows=ROWS,
    )
    return Search(scorer, k, max_bytes, own=own).run(progress)


def nearest_known(
    query: Embeddings,
    gallery: Embeddings,
    k: int,
    copies: tuple[Tensor, Tensor],
    allowed: Tensor | None = None,
) -> Nearest:
    """:func:`nearest` by inner product in a gallery of which everything is known beforehand.

    It is read once and not looked at for anything else.

    Args:
        query: on the CPU; products are in float32, but for rows of float64 with numbers that
            float32 would lose, which are compared in float64.
        gallery: float32; rows are finite, and of lengths of 1e-15 to 1e15 or 0.
        k: at most the number of rows that are allowed.
        copies: of the gallery, as :func:`drcl.metrics.duplicates.equal_rows` finds them.
        allowed: mask (N,) of the rows that are searched; None for all.
    """
    if allowed is not None:
        copies = copies_among(*copies, allowed)

    def found(rows: Tensor) -> Nearest:
        known = _Known(Embeddings(rows, "query"), gallery, copies)
        return Search(known, k, MAX_BYTES, allowed=allowed).run()

    rows = query.rows(None, 0, len(query), query.dtype)
    scores, indices = found(rows.float())
    if query.dtype == torch.float64:
        lost = ((rows != 0) & (rows.abs() < torch.finfo(torch.float32).tiny)).any(dim=1)
        if bool(lost.any()):
            exact = found(rows[lost])
            scores[lost], indices[lost] = exact.scores.float(), exact.indices
    return Nearest(scores, indices)


class _Known(Scorer):
    """Scores by inner product against float32 rows whose lengths and copies are known."""

    def __init__(
        self, query: Embeddings, gallery: Embeddings, copies: tuple[Tensor, Tensor]
    ) -> None:
        self.query, self.gallery, self.kept, self.count = query, gallery, None, len(gallery)
        self.metric, self.precision, self.scale, self.bias = "dot", "highest", None, None
        self.max_bytes = MAX_BYTES
        self.dtype, self.device = query.dtype, query.device
        self._limit = 1e150 if self.dtype == torch.float64 else 1e15
        self._whole = gallery.whole(self.dtype)
        self._tile = max(1, TILE_BYTES // (8 * gallery.width))
        self.form = self._form()
        self.copies, self.firsts = copies

    def products(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """Piece by piece where no row has to be copied for it."""
        if self.dtype == torch.float64 or self.form == Form.MATRICES:
            return super().products(x, start, stop, out)
        self.gallery.check_files()
        for at, piece in zip(self.gallery.starts.tolist(), self.gallery.pieces, strict=False):
            near = piece[max(start - at, 0) : max(stop - at, 0)]
            first = max(at - start, 0)
            inner_products(x, near, out[:, first : first + len(near)], self.form)
        return out


def highest_scores(scorer: Scores, queries: int, k: int, max_bytes: int) -> Search | None:
    """The search for the k highest scores, where that is faster than to compute all of them."""
    if not isinstance(scorer, Scorer) or scorer.bias is not None or len(scorer.copies):
        return None
    faster = search_pays(queries, scorer.count, scorer.gallery.width, k, scorer.dtype)
    native = faster and choose("top_k", scorer.device) == "native"
    return Search(scorer, k, max_bytes) if native else None


def search_pays(queries: int, items: int, width: int, k: int, dtype: torch.dtype) -> bool:
    """Whether to find the highest scores takes less here than all of them."""
    large = queries >= FEWEST and width >= NARROWEST and 2 * AFTER * k <= items
    screen = Screen.that_pays(queries, width, dtype) if large and k <= FEW_ITEMS else None
    if screen == torch.int16:
        return items >= SMALLEST and queries * items >= PAIRS * (k + 80)
    return screen is not None


class Search:
    """The k nearest items of all queries, a block of ``size`` of them at a time."""

    def __init__(
        self,
        scorer: Scorer,
        k: int,
        max_bytes: int,
        own: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self.scorer, self._allowed = scorer, allowed
        self._own = None if own is None else own.to(scorer.device)
        self._k = k = k + (own is not None)  # a query's own item is taken out in the end
        self._backend = choose("top_k", scorer.device, native=k <= FEW_ITEMS)
        # Of the bytes, an eighth goes to the queries: a copy of them, rounded ones, a panel.
        size, width = scorer.dtype.itemsize, scorer.gallery.width
        queries = max_bytes // 8 // ((2 * size + 2) * width)
        # An eighth to a tile's scores, a quarter if they are sorted; more than so many leave the
        # caches too early.
        each = 2 * size if self._backend == "native" else 4 * size
        entries = min(max_bytes // 4 // each, _ENTRIES)
        # It is at least so wide that what is found is a small part.
        self.size = max(1, min(ROWS, len(scorer.query), queries, entries // max(256, 2 * k)))
        # A quarter to its rows where they are rounded, and one to lists of what is near, of no more
        # than 1.5 bytes for each entry; the last quarter to the gallery, if the scorer copies it.
        rounded = max_bytes // 4 // ((size if scorer.copies_items else 2) * width)
        self._tile = max(LINE, min(entries // self.size, rounded) // LINE * LINE)
        entries = min(max_bytes // 4 * 2 // 3, _WIDER * _ENTRIES)
        self._wide_tile = max(self._tile, min(entries // self.size, rounded) // LINE * LINE)
        # One piece of memory for all tiles: a new one for each would have to be mapped anew.
        self._room = torch.empty(0, dtype=scorer.dtype, device=scorer.device)
        self._screens = torch.empty(0, dtype=torch.bfloat16, device=scorer.device)
        self._rounded: dict[int, RoundedRows] = {}
        several = len(scorer.query) > self.size
        self._keeps_rounded = several and 2 * scorer.count * scorer.gallery.width <= max_bytes // 4
        order = scorer.firsts.argsort(stable=True)
        # Equal rows are sought once and found together: alone, their scores might differ by a bit.
        self._copies, self._firsts = scorer.copies[order], scorer.firsts[order]

    def run(self, progress: bool = False) -> Nearest:
        scorer, begin = self.scorer, 0
        shape = len(scorer.query), self._k - (self._own is not None)
        scores = torch.empty(shape, dtype=scorer.dtype, device=scorer.device)
        indices = torch.empty(shape, dtype=torch.int64, device=scorer.device)
        with progress_bar(total=shape[0], unit="query", disable=not progress) as bar:
            for part in in_pieces(self._block, shape[0], self.size):
                end = begin + len(part.indices)
                scores[begin:end], indices[begin:end] = part
                bar.update(end - begin)
                begin = end
        return Nearest(scores, indices)

    def _block(self, start: int, stop: int) -> Nearest:
        """The nearest items of the queries from a start to a stop."""
        rows = torch.arange(start, stop, device="cpu")
        x = self.scorer.queries(rows)
        values, indices = self.highest(x)
        if self._own is not None:
            own = indices == self._own[start:stop, None]
            own[:, -1] |= ~own.any(dim=1)  # not among them: one too many
            values, indices = (t[~own].view(len(x), self._k - 1) for t in (values, indices))
        return Nearest(self._true(values, x, rows), indices)

    def highest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The highest scores of queries, as a scorer makes them, and their items, ties by item."""
        scorer = self.scorer
        values = x.new_full((len(x), self._k), -torch.inf)
        indices = torch.zeros_like(values, dtype=torch.int64)
        dtype = Screen.that_pays(len(x), x.shape[1], x.dtype)
        screened = self._backend == "native" and scorer.bias is None
        screen = Screen(x, dtype) if screened and dtype is not None else None
        begin = 0
        while begin < scorer.count:
            wide = screen is not None and screen.dtype == torch.int16
            end = min(begin + (self._wide_tile if wide else self._tile), scorer.count)
            if screen is not None and max(begin, end - begin) >= AFTER * self._k:
                tile = *self._rounded_tile(begin, end, screen.dtype), self._room_for_screen
                leave_out = partial(self._leave_out, begin, end)
                if screen.take(*tile, begin, leave_out, values, indices):
                    begin = end
                    continue
                screen = None  # so many are near that there is nothing to be won
            end = min(begin + self._tile, scorer.count)
            entries = len(x) * (end - begin)
            if len(self._room) < entries:
                self._room = x.new_empty(entries)
            scores = self._scores(x, begin, end, self._room[:entries].view(len(x), -1))
            top_k(scores, begin, values, indices, backend=self._backend)
            begin = end
        return self._with_copies(values, indices) if len(self._copies) else (values, indices)

    def _room_for_screen(self, entries: int) -> Tensor:
        if len(self._screens) < entries:
            self._screens = self._screens.new_empty(entries)
        return self._screens[:entries]

    def _rounded_tile(
        self, begin: int, end: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None, RoundedRows]:
        """Rows, what their products are multiplied by, and both rounded: once, if there is room."""
        rows = self.scorer.items(begin, end)
        scale = None if self.scorer.scale is None else self.scorer.scale[begin:end]
        rounded = self._rounded.get(begin) or RoundedRows.of(rows, scale, dtype)
        if self._keeps_rounded:
            self._rounded[begin] = rounded
        return rows, scale, rounded

    def _scores(self, x: Tensor, begin: int, end: int, out: Tensor) -> Tensor:
        """Scores in the ranking's order."""
        scorer = self.scorer
        with (
            torch.autocast(x.device.type, enabled=False),
            product_precision(scorer.precision),
        ):
            scores = scorer.products(x, begin, end, out)
        if scorer.scale is not None:
            scores *= scorer.scale[begin:end]
        if scorer.bias is not None:
            scores += scorer.bias[begin:end]
        self._leave_out(begin, end, scores)
        return scores

    def _leave_out(self, begin: int, end: int, scores: Tensor) -> None:
        """Make a tile's scores −∞ for items that equal an earlier one or are left out."""
        copies = self.scorer.copies
        edges = torch.tensor([begin, end], device="cpu")
        first, last = torch.searchsorted(copies, edges).tolist()
        scores[:, copies[first:last].to(scores.device) - begin] = -torch.inf
        if self._allowed is not None:
            scores.masked_fill_(~self._allowed[begin:end], -torch.inf)

    def _with_copies(self, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """What is found, with the items that equal it, in order."""
        first = torch.searchsorted(self._firsts, indices.cpu())
        last = torch.searchsorted(self._firsts, indices.cpu(), right=True)
        repeated = (last > first) & values.cpu().isfinite()
        width = min(self._k, self.scorer.count)
        scores = torch.nn.functional.pad(values, (0, width - values.shape[1]))
        items = torch.nn.functional.pad(indices, (0, width - values.shape[1]))
        for row in repeated.any(dim=1).nonzero()[:, 0].tolist():
            some = values[row].isfinite()
            score, item = values[row, some], indices[row, some]
            for place in repeated[row].nonzero()[:, 0].tolist():
                copies = self._copies[first[row, place] : last[row, place]][: self._k]
                item = torch.cat([item, copies.to(item.device)])
                score = torch.cat([score, values[row, place].expand(len(copies))])
            by_item = item.argsort()
            order = by_item[score[by_item].sort(descending=True, stable=True).indices[:width]]
            scores[row], items[row] = score[order], item[order]
        return scores, items

    def _true(self, values: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """What the scores of a ranking stand for: a query's own length may not be in them."""
        found = torch.empty_like(values)
        # In float64 queries may take more than all else: a few of them at a time.
        step = max(1, self.scorer.max_bytes // 64 // (8 * x.shape[1]))
        for start in range(0, len(x), step):
            some = slice(start, start + step)
            found[some] = self._true_of_some(values[some], x[some], rows[some])
        return found

    def _true_of_some(self, values: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        scorer = self.scorer
        if scorer.metric == "hamming":
            return (scorer.query.width - values) / 2
        if scorer.metric == "dot":
            whole = scorer.query.rows(rows, 0, len(rows), scorer.dtype)
            largest, own = (largest_entries(t)[:, None].double() for t in (whole, x))
            return values * torch.where(own > 0, largest / own, 1.0)
        length = torch.linalg.vector_norm(x.double(), dim=1, keepdim=True)
        if scorer.metric == "cosine":
            return values / torch.where(length > 0, length, 1.0)
        return (length.square() - 2 * values.double()).clamp(min=0).sqrt()
