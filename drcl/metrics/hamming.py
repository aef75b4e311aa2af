"""Codes ranked by Hamming distance, from how many items there are at each distance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drcl.dispatch import choose
from drcl.eager.average_precision import gain_matrix
from drcl.metrics.embeddings import Array, Embeddings, Gallery
from drcl.metrics.harmonic import harmonic
from drcl.metrics.options import ON_EMPTY, RetrievalOptions, Settings, refuse, shows_options
from drcl.metrics.relevance import Labels, offsets_of
from drcl.metrics.results import PrecisionRecall
from drcl.metrics.retrieval import apply_no_relevant
from drcl.metrics.task import Task
from drcl.ops.hamming_counts import Lists, hamming_counts
from drcl.progress import progress_bar
from drcl.ranking import Relevance
from drcl.tables import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

_REFUSED = (
    *("metric", "divisor", "ties", "ndcg", "recall_levels", "precision", "process_group"),
    *("query_groups", "gallery_groups", "adaptive_k"),
)


@dataclass(frozen=True, repr=False)
class HammingMetrics:
    """What :func:`hamming_metrics` returns; float64, NaN for the queries that do not count.

    ``average_precision`` and ``relevant`` are (Q,); ``precision`` and ``recall`` (Q, bits + 1), a
    column for each radius from 0 on.
    """

    average_precision: Tensor
    precision: Tensor
    recall: Tensor
    relevant: Tensor
    on_empty: str = "error"

    def __repr__(self) -> str:
        queries, radii = self.precision.shape
        return f"HammingMetrics({counted(queries, 'query', 'queries')}, radii 0 to {radii - 1})"

    def mean_average_precision(self) -> float:
        """The mean over the queries that count; ValueError, or as ``on_empty`` says, if none does.

        >>> codes, labels = torch.tensor([[0], [255]], dtype=torch.uint8), torch.arange(2)
        >>> hamming_metrics(codes, codes, labels, labels).mean_average_precision()
        1.0
        """
        return float(self._mean(self.average_precision))

    def precision_recall(self) -> PrecisionRecall:
        """Mean recall and precision within each radius, (bits + 1,): the curve of hash lookups.

        >>> codes, labels = torch.tensor([[0], [255]], dtype=torch.uint8), torch.arange(2)
        >>> hamming_metrics(codes, codes, labels, labels).precision_recall().precision[[0, 7, 8]]
        tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
        """
        return PrecisionRecall(self._mean(self.recall), self._mean(self.precision))

    def _mean(self, table: Tensor) -> Tensor:
        counted = ~self.average_precision.isnan()
        if bool(counted.any()):
            return table[counted].mean(dim=0)
        if (empty := ON_EMPTY[self.on_empty]) is None:
            raise ValueError("query_labels: expected a query that counts, got none")
        return table.new_full(table.shape[1:], empty)


@shows_options(*_REFUSED)
def hamming_metrics(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    **options: Unpack[RetrievalOptions],
) -> HammingMetrics:
    """Average precision of binary codes, and precision and recall within every Hamming radius.

    All follow from how many items, and how many relevant ones, there are at each of the bits + 1
    distances: no ranking is made. Items at one distance tie, and the average precision is its exact
    mean over their orders, as that of ``average_precision(…, metric="hamming", ties="average")``.
    Precision within radius r is the share of relevant items among those at distance r or less, 0
    where there are none; recall is the share of the relevant items that these are.

    Args:
        query, gallery: codes (Q, bits/8) and (N, bits/8) uint8, as ``np.packbits(bits, axis=1)``
            makes them, in any form that :func:`retrieval_metrics` takes. The last byte of a number
            of bits that 8 does not divide is filled up, which no distance sees. The gallery's codes
            are held in memory.
        query_labels, gallery_labels: as in :func:`retrieval_metrics`.
        options: of :func:`retrieval_metrics`, those of what is relevant, what is excluded, queries
            with nothing relevant, memory and progress.

    Raises what :func:`retrieval_metrics` raises, and ValueError for codes of another dtype. Source:
    McSherry and Najork (2008) for the mean over ties; lookups within a radius as in the papers on
    hashing.

    >>> codes = torch.tensor([[0b0000_0000], [0b0000_0001], [0b1111_1111]], dtype=torch.uint8)
    >>> found = hamming_metrics(codes[:1], codes, torch.tensor([1]), torch.tensor([0, 1, 1]))
    >>> found.average_precision, found.precision[0, :3]
    (tensor([0.5833], dtype=torch.float64), tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64))
    """
    refuse(options, *_REFUSED)
    settings = Settings.of({**options, "metric": "hamming"})
    task = Task(query, gallery, query_labels, gallery_labels, settings)
    count, radii = task.count, task.query.width + 1
    shapes = {
        "average_precision": (count,),
        "precision": (count, radii),
        "recall": (count, radii),
        "relevant": (count,),
    }
    found = {
        name: torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")
        for name, shape in shapes.items()
    }
    with progress_bar(total=len(task.queries), unit="query", disable=not settings.progress) as bar:
        for rows, every, relevant in _counts(task):
            for name, value in _from_counts(every, relevant).items():
                found[name][rows] = value
            bar.update(len(rows))
    nothing = found["relevant"] == 0
    apply_no_relevant(settings.no_relevant, found, nothing, empty=task.is_empty)
    return HammingMetrics(**found, on_empty=settings.on_empty)


def _counts(task: Task) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries (q,), and how many items and relevant items there are at each distance (q, L)."""
    rows, items, bits = task.queries, task.items, task.query.width
    backend = choose("hamming_counts", torch.device("cpu"))
    query, gallery = _words(task.query, rows), _words(task.gallery, items)
    _, relevance = task.relevance(rows, items)
    in_order = False
    if task.settings.relevance is None and not task.exclusions.bytes_per_item:
        classes = relevance(0, rows[:0]).items
        if classes is not None:  # class after class: a list is then a stretch of codes
            gallery, in_order = gallery[classes.to(gallery.device).long()], True
    # A few numbers for each distance; where lists are made of a matrix, some for each item.
    max_bytes = task.settings.max_bytes
    size = max(1, min(1024, max_bytes // (64 * (bits + 1))))
    if task.exclusions.bytes_per_item:
        per_query = (32 + task.exclusions.bytes_per_item) * len(items)
        size = max(1, min(size, max_bytes // max(per_query, 1)))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        own, relevant = query[start : start + size], relevance(start, part).to(query.device)
        every = hamming_counts(own, gallery, bits=bits, backend=backend)
        excluded = task.exclusions.of(part, items)
        if excluded is not None:
            lists = Lists(excluded[0][:-1], excluded[0][1:], excluded[1].int())
            every -= hamming_counts(own, gallery, lists, bits=bits, backend=backend)
        hits = []
        step = max(1, max_bytes // 16 // max(len(items), 1))
        for first in range(0, len(part), step):
            last = min(first + step, len(part))
            lists = _lists(relevant.queries(first, last), excluded, first, len(items))
            if in_order:
                lists = lists._replace(items=None)
            hits.append(hamming_counts(own[first:last], gallery, lists, bits=bits, backend=backend))
        yield part, every, torch.cat(hits)


def _words(codes: Embeddings, kept: Tensor) -> Tensor:
    """The kept codes (n, W) int64, filled up with zero bits."""
    codes.check_files()
    whole = torch.cat([piece.cpu() for piece in codes.pieces])
    whole = whole if len(kept) == len(whole) else whole[kept]
    whole = torch.nn.functional.pad(whole, (0, -whole.shape[1] % 8))
    return whole.contiguous().view(torch.int64)


def _lists(
    relevance: Relevance, excluded: tuple[Tensor, Tensor] | None, first: int, items: int
) -> Lists:
    """The relevant items of queries from ``first`` on of a block, without what is excluded."""
    counts = relevance.member_offsets.diff()
    if relevance.bits is None and excluded is None and not bool((counts > 1).any()):
        assert relevance.offsets is not None and relevance.items is not None
        begins, ends = torch.zeros_like(counts), torch.zeros_like(counts)
        some = slice(int(relevance.member_offsets[0]), int(relevance.member_offsets[-1]))
        members = relevance.members[some]
        begins[counts > 0] = relevance.offsets[members]
        ends[counts > 0] = relevance.offsets[members + 1]
        return Lists(begins, ends, relevance.items)
    found = gain_matrix(relevance, len(counts), items) > 0
    if excluded is not None:
        offsets, places = excluded
        query = torch.arange(len(counts), device="cpu")
        query = query.repeat_interleave(offsets[first : first + len(counts) + 1].diff())
        found[query, places[int(offsets[first]) : int(offsets[first + len(counts)])]] = False
    offsets = offsets_of(found.sum(dim=1))
    return Lists(offsets[:-1], offsets[1:], found.nonzero()[:, 1].int())


def _from_counts(every: Tensor, relevant: Tensor) -> dict[str, Tensor]:
    """The measures from counts of items and of relevant ones (q, L) at each distance.

    A place of a distance with s items holds one of its r relevant ones with probability r/s, and
    then (r − 1)/(s − 1) of the places before it do.
    """
    within, hits = every.cumsum(dim=1), relevant.cumsum(dim=1)
    above, before, total = within - every, hits - relevant, hits[:, -1:]
    first = harmonic(above, every)
    second = every - (above + 1) * first  # Σ (i − 1) / (above + i)
    others = (relevant - 1) / (every - 1).clamp(min=1)
    parts = relevant / every.clamp(min=1) * ((before + 1) * first + others * second)
    parts = torch.where(relevant > 0, parts, 0.0)
    return {
        "average_precision": parts.sum(dim=1) / total[:, 0].clamp(min=1),
        "precision": hits / within.clamp(min=1),
        "recall": hits / total.clamp(min=1),
        "relevant": total[:, 0],
    }
