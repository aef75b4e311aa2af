"""The nearest gallery items of every query: exact, streamed, in bounded memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl.checks import check_count, check_option
from drcl.dispatch import choose
from drcl.metrics.duplicates import copies_among
from drcl.metrics.embeddings import TILE_BYTES, Array, Embeddings, Gallery, embeddings
from drcl.metrics.exclusions import own_places
from drcl.metrics.options import MAX_BYTES
from drcl.metrics.scores import METRICS, PRECISIONS, Scorer
from drcl.ops.inner_products import FEW, WIDE, inner_products
from drcl.out_of_memory import in_pieces
from drcl.precision import product_precision
from drcl.progress import progress_bar

_BLOCK = 64  # items of which the largest score is found first
_ROWS = 1024  # queries that are searched for together: a gallery is read once for so many


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
    no more than a tile is held at a time.

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
        max_rows=_ROWS,
    )
    return _Search(scorer, k, max_bytes, own=own).run(progress)


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
        return _Search(known, k, MAX_BYTES, allowed=allowed).run()

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
        self.dtype, self.device = query.dtype, query.device
        self._limit = 1e150 if self.dtype == torch.float64 else 1e15
        self._whole = gallery.whole(self.dtype)
        self._tile = max(1, TILE_BYTES // (8 * gallery.width))
        self.copies, self.firsts = copies

    def products(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Of a few queries piece by piece: no row is copied; in float64 a few rows at a time."""
        if self.dtype == torch.float64:
            tiles = (
                super(_Known, self).products(x, first, min(first + self._tile, stop))
                for first in range(start, stop, self._tile)
            )
            return torch.cat(list(tiles), dim=1)
        backend = choose("inner_products", x.device)
        if len(x) > FEW or x.shape[1] < WIDE or backend != "native":
            return super().products(x, start, stop)
        self.gallery.check_files()
        parts = zip(self.gallery.starts.tolist(), self.gallery.pieces, strict=False)
        near = (piece[max(start - at, 0) : max(stop - at, 0)] for at, piece in parts)
        found = [inner_products(x, piece, backend=backend) for piece in near if len(piece)]
        return torch.cat(found, dim=1) if len(found) > 1 else found[0]


class _Search:
    """The k nearest items of all queries, a block of them at a time."""

    def __init__(
        self,
        scorer: Scorer,
        k: int,
        max_bytes: int,
        own: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self._scorer, self._k, self._allowed = scorer, k, allowed
        self._own = None if own is None else own.to(scorer.device)
        # A tile's scores and their sort; it is at least so wide that what is found is a small part.
        entries = max_bytes // 4 // (4 * scorer.dtype.itemsize)
        self._size = max(1, min(_ROWS, len(scorer.query), entries // max(256, 2 * k)))
        self._tile = max(1, entries // self._size)
        order = scorer.firsts.argsort(stable=True)
        # Equal rows are sought once and found together: alone, their scores might differ by a bit.
        self._copies, self._firsts = scorer.copies[order], scorer.firsts[order]

    def run(self, progress: bool = False) -> Nearest:
        count, parts = len(self._scorer.query), []
        with progress_bar(total=count, unit="query", disable=not progress) as bar:
            for part in in_pieces(self._block, count, self._size):
                parts.append(part)
                bar.update(len(part.indices))
        return Nearest(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _block(self, start: int, stop: int) -> Nearest:
        """The nearest items of the queries from a start to a stop."""
        scorer = self._scorer
        rows = torch.arange(start, stop, device="cpu")
        x = scorer.queries(rows)
        wanted = self._k + (self._own is not None)  # a query's own item is taken out in the end
        values = x.new_empty(len(x), 0)
        indices = values.long()
        for begin in range(0, scorer.count, self._tile):
            scores = self._scores(x, begin, min(begin + self._tile, scorer.count))
            if values.shape[1] < wanted:
                values, indices = _merged(values, indices, scores, begin, wanted)
                continue
            # Of later tiles, only an item with a higher score than the last that is kept counts:
            # most rows have none, and finding the largest costs far less than finding the first k.
            better = (scores.amax(dim=1) > values[:, -1]).nonzero()[:, 0]
            if len(better):
                kept = _merged(values[better], indices[better], scores[better], begin, wanted)
                values[better], indices[better] = kept
        if len(self._copies):
            values, indices = self._with_copies(values, indices, wanted)
        if self._own is not None:
            own = indices == self._own[start:stop, None]
            own[:, -1] |= ~own.any(dim=1)  # not among them: one too many
            values, indices = (t[~own].view(len(x), self._k) for t in (values, indices))
        return Nearest(self._true(values, x, rows), indices)

    def _scores(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Scores in the ranking's order; −∞ for items that equal an earlier one or are left out."""
        scorer = self._scorer
        with (
            torch.autocast(x.device.type, enabled=False),
            product_precision(scorer.precision),
        ):
            scores = scorer.products(x, begin, end)
        if scorer.scale is not None:
            scores *= scorer.scale[begin:end]
        if scorer.bias is not None:
            scores += scorer.bias[begin:end]
        edges = torch.tensor([begin, end], device="cpu")
        first, last = torch.searchsorted(scorer.copies, edges).tolist()
        scores[:, scorer.copies[first:last].to(x.device) - begin] = -torch.inf
        if self._allowed is not None:
            scores.masked_fill_(~self._allowed[begin:end], -torch.inf)
        return scores

    def _with_copies(self, values: Tensor, indices: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """What is found, with the items that equal it, in order."""
        first = torch.searchsorted(self._firsts, indices.cpu())
        last = torch.searchsorted(self._firsts, indices.cpu(), right=True)
        repeated = (last > first) & values.cpu().isfinite()
        width = min(wanted, self._scorer.count)
        scores = torch.nn.functional.pad(values, (0, width - values.shape[1]))
        items = torch.nn.functional.pad(indices, (0, width - values.shape[1]))
        for row in repeated.any(dim=1).nonzero()[:, 0].tolist():
            some = values[row].isfinite()
            score, item = values[row, some], indices[row, some]
            for place in repeated[row].nonzero()[:, 0].tolist():
                copies = self._copies[first[row, place] : last[row, place]][:wanted]
                item = torch.cat([item, copies.to(item.device)])
                score = torch.cat([score, values[row, place].expand(len(copies))])
            by_item = item.argsort()
            order = by_item[score[by_item].sort(descending=True, stable=True).indices[:width]]
            scores[row], items[row] = score[order], item[order]
        return scores, items

    def _true(self, values: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """What the scores of a ranking stand for: the query's own length is not in them."""
        scorer = self._scorer
        length = torch.linalg.vector_norm(x.double(), dim=1, keepdim=True)
        if scorer.metric == "hamming":
            found = (scorer.query.width - values) / 2
        elif scorer.metric == "cosine":
            found = values / torch.where(length > 0, length, 1.0)
        elif scorer.metric == "dot":
            whole = torch.linalg.vector_norm(
                scorer.query.rows(rows, 0, len(rows), torch.float64), dim=1, keepdim=True
            )
            found = values * torch.where(length > 0, whole / length, 1.0)
        else:
            found = (length.square() - 2 * values.double()).clamp(min=0).sqrt()
        return found.to(scorer.dtype)


def _merged(
    values: Tensor, indices: Tensor, scores: Tensor, begin: int, k: int
) -> tuple[Tensor, Tensor]:
    """The k highest of what is kept and of a tile's scores, whose items come after the kept."""
    found = _first(scores, k)
    values = torch.cat([values, found.scores], dim=1)
    indices = torch.cat([indices, found.indices + begin], dim=1)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return values.gather(1, order), indices.gather(1, order)


def _first(scores: Tensor, k: int) -> Nearest:
    """The k highest of each row (or all, if there are fewer), ties by column."""
    if k >= scores.shape[1]:
        return Nearest(*scores.sort(dim=1, descending=True, stable=True))
    blocks = scores.shape[1] // _BLOCK
    if blocks < 4 * k:
        columns = scores.topk(k, dim=1).indices.sort(dim=1).values
        seen, beyond = scores, scores.new_full((len(scores),), -torch.inf)
    else:
        # They are in the blocks whose largest scores are highest, or after the last whole block.
        end = blocks * _BLOCK
        largest = scores[:, :end].unflatten(1, (blocks, _BLOCK)).amax(dim=2).topk(k + 1, dim=1)
        inside = largest.indices[:, :k, None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)
        rest = torch.arange(end, scores.shape[1], device=scores.device).expand(len(scores), -1)
        among = torch.cat([inside.flatten(1), rest], dim=1)
        seen, beyond = scores.gather(1, among), largest.values[:, k]
        columns = among.gather(1, seen.topk(k, dim=1).indices).sort(dim=1).values
    values = scores.gather(1, columns)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # Where more items tie with the last than there is room for, any of them may be among these.
    last = values[:, -1:]
    open_ = (((seen >= last).sum(dim=1) > k) | (beyond >= last[:, 0])).nonzero()[:, 0]
    for part in open_.split(16):
        ranked = scores[part].sort(dim=1, descending=True, stable=True)
        values[part], columns[part] = ranked.values[:, :k], ranked.indices[:, :k]
    return Nearest(values, columns)
