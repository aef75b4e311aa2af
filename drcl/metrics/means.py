"""Single measures: average precision, its mean, recall, hits, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drcl.checks import check_count
from drcl.metrics.embeddings import Array, Gallery
from drcl.metrics.options import ON_EMPTY, RetrievalOptions, refuse, shows_options
from drcl.metrics.relevance import Labels
from drcl.metrics.renamed import takes_old_names
from drcl.metrics.results import PrecisionRecall, RetrievalMetrics
from drcl.metrics.retrieval import measured

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NO_QUERY = "query_labels: expected a query that counts, got none"
_NOTHING_RELEVANT = "query_labels: expected a query with a relevant item in the gallery, got none"


@takes_old_names
@shows_options()
def average_precision(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int | None = None,
    **options: Unpack[RetrievalOptions],
) -> Tensor:
    """Average precision of each query: that of :func:`retrieval_metrics`, whose options it takes.

    ``AP@k = Σ_j precision(rank of hit j) / hits`` over the hits among the first k of the cosine
    ranking; k = None is the whole gallery.

    Returns (Q,) float64; NaN for queries labelled −1, and with ``no_relevant="skip"`` for those
    with nothing relevant. Source: the field's definition, see the paper's evaluation; the divisor
    is the number of hits found in the first k unless ``divisor`` says otherwise.

    >>> import torch
    >>> average_precision(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    tensor([1., 1.], dtype=torch.float64)
    """
    found = measured(query, gallery, query_labels, gallery_labels, options, ks=(k,))
    return found.average_precision[:, 0]


@takes_old_names
@shows_options()
def mean_average_precision(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    """mAP: the mean of :func:`average_precision` over the queries that count.

    Takes the options of :func:`retrieval_metrics`. Raises ValueError when no query counts (all
    labelled −1, or all skipped).

    >>> import torch
    >>> mean_average_precision(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
    1.0
    """
    found = measured(query, gallery, query_labels, gallery_labels, options, ks=(k,))
    return found.first_mean()


@takes_old_names
@shows_options("no_relevant", "recall_levels")
def precision_recall_curve(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    points: int = 101,
    interpolated: bool = True,
    **options: Unpack[RetrievalOptions],
) -> PrecisionRecall:
    """Precision at ``points`` recall levels from 0 to 1, mean over queries.

    Interpolated precision at recall r is the highest precision at any recall >= r; otherwise it is
    the precision at the rank where recall r is first reached. Queries with nothing relevant in the
    gallery are left out. Takes the options of :func:`retrieval_metrics`, but neither
    ``no_relevant`` nor ``ties="average"``, and raises what it raises; ValueError for fewer than two
    points and where no query has a relevant item. Source: Manning, Raghavan and Schütze,
    *Introduction to Information Retrieval* (2008), section 8.4.

    >>> import torch
    >>> curve = precision_recall_curve(
    ...     torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2), points=3)
    >>> curve.precision.tolist()
    [1.0, 1.0, 1.0]
    """
    points = check_count("points", points, 2)
    refuse(options, "no_relevant", "recall_levels")
    options["recall_levels"] = points
    found = measured(query, gallery, query_labels, gallery_labels, options)
    curve = found.interpolated if interpolated else found.raw
    if curve is None:
        recall = torch.linspace(0, 1, points, dtype=torch.float64, device="cpu")
        return PrecisionRecall(recall, torch.full_like(recall, _empty(found, _NOTHING_RELEVANT)))
    return curve


@takes_old_names
@shows_options("no_relevant")
def recall_at_k(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Share of a query's relevant items among the first k, mean over queries that have any.

    With one relevant item per query this is the Recall@k of image–text retrieval. Takes the options
    of :func:`retrieval_metrics` but ``no_relevant``: recall without relevant items is not defined.
    Raises what it raises, and ValueError where no query has a relevant item.

    >>> import torch
    >>> recall_at_k(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3), k=1)
    1.0
    """
    if k is None:
        raise ValueError("k: expected an integer >= 1, got None")
    refuse(options, "no_relevant")
    options["no_relevant"] = "skip"
    found = measured(query, gallery, query_labels, gallery_labels, options, ks=(k,))
    recall = found.recall[:, 0]
    recall = recall[~recall.isnan()]
    return float(recall.mean()) if len(recall) else _empty(found, _NOTHING_RELEVANT)


@shows_options()
def hit_at_k(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Share of the queries with a relevant item among the first k: ``mean of [ρ₁ ≤ k]``.

    This is the R@K of image–text tables (COCO, Flickr30k), also with several captions an image, the
    rank-k accuracy of re-identification and, at k = 1, the accuracy of the nearest item's class.
    :func:`recall_at_k` is the share of the relevant items instead.

    With ``ties="average"`` it is the chance of one over the orders of equal scores. Takes the
    options of :func:`retrieval_metrics` and raises what it raises; ValueError when no query counts.

    >>> import torch
    >>> x, labels = torch.eye(3), torch.tensor([0, 1, 0])
    >>> hit_at_k(x, x, labels, labels, k=1), recall_at_k(x, x, labels, labels, k=1)
    (1.0, 0.6666666666666666)
    """
    hits, found = _hits(query, gallery, query_labels, gallery_labels, k, (k,), options)
    return float(hits.mean()) if len(hits) else _empty(found, _NO_QUERY)


@shows_options("no_relevant")
def cmc_curve(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int = 50,
    **options: Unpack[RetrievalOptions],
) -> Tensor:
    """Cumulative match curve: :func:`hit_at_k` for the cut-offs 1 to k, (k,) float64.

    Queries with nothing relevant in the gallery are left out, as re-identification does: what
    ``excluded_groups`` leaves out of a query's gallery (same person, same camera) is not found.
    Takes the options of :func:`retrieval_metrics` but ``no_relevant``, and raises what it raises;
    ValueError where no query has a relevant item.

    >>> import torch
    >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    >>> cmc_curve(query, gallery, torch.tensor([1]), torch.tensor([0, 1]), k=3)
    tensor([0., 1., 1.], dtype=torch.float64)
    """
    k = check_count("k", k, 1)
    refuse(options, "no_relevant")
    options["no_relevant"] = "skip"
    cutoffs = range(1, k + 1)
    hits, found = _hits(query, gallery, query_labels, gallery_labels, k, cutoffs, options)
    if len(hits) == 0:
        return found.reciprocal_rank.new_full((k,), _empty(found, _NOTHING_RELEVANT))
    return hits.mean(dim=0)


def _hits(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None,
    gallery_labels: Labels | None,
    k: int,
    cutoffs: Sequence[int],
    options: RetrievalOptions,
) -> tuple[Tensor, RetrievalMetrics]:
    """Whether the queries that count have a hit within each cut-off, none above k: (Q, K)."""
    if k is None:
        raise ValueError("k: expected an integer >= 1, got None")
    sides = query, gallery, query_labels, gallery_labels
    if options.get("ties") == "average":  # where the first rank is one of several
        found = measured(*sides, options, ks=tuple(cutoffs), measures=("hit",))
        chances = found.measures["hit"]
        return chances[~chances.isnan().any(dim=1)], found
    found = measured(*sides, options, ks=(k,))
    first = found.reciprocal_rank[~found.reciprocal_rank.isnan()]
    thresholds = 1 / torch.tensor(cutoffs, dtype=torch.float64, device="cpu")
    return (first[:, None] >= thresholds).double(), found


def _empty(found: RetrievalMetrics, message: str) -> float:
    """A mean over no query, as ``on_empty`` says."""
    if (value := ON_EMPTY[found.on_empty]) is None:
        raise ValueError(message)
    return value
