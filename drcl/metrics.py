"""Retrieval quality from embeddings: cosine ranking, streamed over blocks of queries.

Embeddings and labels may be torch tensors or NumPy arrays. Labels are class ids (N,) or multi-hot
rows (N, C). An item is relevant to a query of the same class or, multi-label, one that shares a
label. Items labelled −1 (class ids) have unknown relevance: they are left out as queries and from
the gallery. A multi-hot row without any label is relevant to nothing. Ties are ranked by gallery
index; the cosine with a zero row is 0; rows with NaN or infinite entries are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl import functional
from drcl.duplicates import first_of_equal_rows
from drcl.encoder import normalize

Array: TypeAlias = Tensor | npt.NDArray[np.generic]

# One block of scores stays around 64 MB whatever the gallery's size.
_BLOCK_BYTES = 64 * 2**20


class PrecisionRecall(NamedTuple):
    """Mean interpolated precision at equally spaced recall levels, each (P,) float64."""

    recall: Tensor
    precision: Tensor


class _Block(NamedTuple):
    """Scores (q, N) and relevance (q, N) of a block of queries, and its queries' positions (q,)."""

    rows: Tensor
    scores: Tensor
    relevant: Tensor


def average_precision(
    query: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    k: int | None = None,
    no_relevant: str = "zero",
    exclude_self: bool = False,
) -> Tensor:
    """Average precision of each query.

    ``AP@k = Σ_j precision(rank of hit j) / hits`` over the hits among the first k of the cosine
    ranking; k = None is the whole gallery.

    Args:
        query, gallery: (Q, D) and (N, D) embeddings.
        query_labels, gallery_labels: ids (Q,), (N,) or multi-hot rows (Q, C), (N, C).
        k: cut-off >= 1; above N it means N.
        no_relevant: a query with nothing relevant in the gallery counts 0 (``"zero"``) or is NaN
            (``"skip"``).
        exclude_self: query and gallery are the same set; query i does not find item i.

    Returns (Q,) float64; NaN for queries labelled −1. Source: the field's definition, see the
    paper's evaluation; the divisor is the number of hits found in the first k.

    >>> average_precision(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    tensor([1., 1.], dtype=torch.float64)
    """
    values = torch.full((len(query),), float("nan"), dtype=torch.float64)
    blocks = _blocks(query, gallery, query_labels, gallery_labels, exclude_self)
    for block in blocks:
        found = functional.average_precision(
            block.scores, block.relevant, k=k, no_relevant=no_relevant
        )
        values[block.rows] = found.cpu()
    return values


def mean_average_precision(
    query: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    k: int | None = None,
    no_relevant: str = "zero",
    exclude_self: bool = False,
) -> float:
    """mAP: the mean of :func:`average_precision` over the queries that count.

    Raises ValueError when no query counts (all labelled −1, or all skipped).

    >>> mean_average_precision(np.eye(3), np.eye(3), np.arange(3), np.arange(3))
    1.0
    """
    values = average_precision(
        query,
        gallery,
        query_labels,
        gallery_labels,
        k=k,
        no_relevant=no_relevant,
        exclude_self=exclude_self,
    )
    counted = values[~values.isnan()]
    if len(counted) == 0:
        raise ValueError(
            f"query_labels: none of the {len(values)} queries is labelled and has relevant items"
        )
    return float(counted.mean())


def precision_recall_curve(
    query: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    points: int = 101,
) -> PrecisionRecall:
    """Interpolated precision at ``points`` recall levels from 0 to 1, mean over queries.

    Interpolated precision at recall r is the highest precision at any recall >= r. Queries with
    nothing relevant in the gallery are left out.

    >>> curve = precision_recall_curve(np.eye(2), np.eye(2), np.arange(2), np.arange(2), points=3)
    >>> curve.precision.tolist()
    [1.0, 1.0, 1.0]
    """
    if points < 2:
        raise ValueError(f"points: expected at least 2, got {points}")
    levels = torch.linspace(0, 1, points, dtype=torch.float64)
    total, count = torch.zeros(points, dtype=torch.float64), 0
    for block in _blocks(query, gallery, query_labels, gallery_labels):
        scores, relevant = block.scores, block.relevant
        kept = relevant.any(dim=1)
        order = scores[kept].sort(dim=1, descending=True, stable=True).indices
        hits = relevant[kept].gather(1, order)
        found = hits.cumsum(dim=1)
        ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
        best_onwards = (found / ranks).flip(1).cummax(dim=1).values.flip(1)
        # The first rank whose recall reaches the level: found >= level * relevant, in whole items.
        needed = (levels.to(hits.device) * found[:, -1:] - 1e-9).ceil().clamp(min=1).to(found.dtype)
        first = torch.searchsorted(found.contiguous(), needed.contiguous())
        total += best_onwards.gather(1, first).sum(dim=0).cpu()
        count += int(kept.sum())
    if count == 0:
        raise ValueError("query_labels: no query has a relevant item in the gallery")
    return PrecisionRecall(levels, total / count)


def recall_at_k(
    query: Array, gallery: Array, query_labels: Array, gallery_labels: Array, *, k: int
) -> float:
    """Share of a query's relevant items among the first k, mean over queries that have any.

    With one relevant item per query this is the Recall@k of image–text retrieval.

    >>> recall_at_k(np.eye(3), np.eye(3), np.arange(3), np.arange(3), k=1)
    1.0
    """
    functional.check_cutoff(k)
    total, count = 0.0, 0
    for block in _blocks(query, gallery, query_labels, gallery_labels):
        order = block.scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        relevant = block.relevant.sum(dim=1)
        hits = block.relevant.gather(1, order).sum(dim=1)
        total += float((hits / relevant.clamp(min=1)).double().sum())
        count += int((relevant > 0).sum())
    if count == 0:
        raise ValueError("query_labels: no query has a relevant item in the gallery")
    return total / count


def retrieval_report(
    embeddings: Mapping[str, tuple[Array, Array]],
    *,
    ks: Sequence[int] = (50,),
    no_relevant: str = "zero",
) -> dict[str, dict[str, float]]:
    """mAP@all and mAP@k of every ordered pair of modalities, and their mean.

    Args:
        embeddings: modality name -> (embeddings (N, D), labels); at least two modalities.
        ks: the cut-offs beside "all".
        no_relevant: as in :func:`average_precision`.

    Returns ``{"mAP@all": {"image->text": …, "text->image": …, "mean": …}, "mAP@50": {…}}``.

    >>> x = (np.eye(3), np.arange(3))
    >>> retrieval_report({"image": x, "text": x}, ks=())
    {'mAP@all': {'image->text': 1.0, 'text->image': 1.0, 'mean': 1.0}}
    """
    if len(embeddings) < 2:
        raise ValueError(f"embeddings: expected at least two modalities, got {list(embeddings)}")
    report: dict[str, dict[str, float]] = {}
    for k in (None, *ks):
        pairs = {
            f"{source}->{target}": mean_average_precision(
                embeddings[source][0],
                embeddings[target][0],
                embeddings[source][1],
                embeddings[target][1],
                k=k,
                no_relevant=no_relevant,
            )
            for source in embeddings
            for target in embeddings
            if source != target
        }
        pairs["mean"] = sum(pairs.values()) / len(pairs)
        report["mAP@all" if k is None else f"mAP@{k}"] = pairs
    return report


def _blocks(
    query: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    exclude_self: bool = False,
) -> Iterator[_Block]:
    """Score and relevance blocks over the labelled queries and the labelled gallery."""
    x, y = _embeddings(query, "query"), _embeddings(gallery, "gallery")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"query and gallery: widths differ, {x.shape[1]} and {y.shape[1]}")
    if exclude_self and len(x) != len(y):
        raise ValueError(f"exclude_self: needs one set, got {len(x)} queries and {len(y)} items")
    query_known, query_rows = _labels(query_labels, x, "query_labels")
    gallery_known, gallery_rows = _labels(gallery_labels, y, "gallery_labels")
    if query_rows.shape[1:] != gallery_rows.shape[1:]:
        raise ValueError(
            "query_labels and gallery_labels: expected one form, got shapes "
            f"{tuple(query_rows.shape)} and {tuple(gallery_rows.shape)}"
        )
    dtype = torch.promote_types(x.dtype, y.dtype)
    kept = gallery_known.nonzero()[:, 0]
    if len(kept) == 0:
        raise ValueError("gallery_labels: every gallery item is unlabelled (−1)")
    y, gallery_rows = normalize(y.to(dtype))[kept].to(x.device), gallery_rows[kept].to(x.device)
    tied = first_of_equal_rows(y)
    size = max(1, _BLOCK_BYTES // (dtype.itemsize * len(y)))
    for rows in query_known.nonzero()[:, 0].split(size):
        scores = normalize(x[rows].to(dtype)) @ y.T
        scores = scores if tied is None else scores[:, tied]
        if gallery_rows.ndim == 1:
            relevant = query_rows[rows, None] == gallery_rows[None, :]
        else:
            relevant = (query_rows[rows] @ gallery_rows.T) > 0
        if exclude_self:
            own = rows[:, None] == kept.to(rows.device)[None, :]
            scores, relevant = scores.masked_fill(own, -torch.inf), relevant & ~own
        yield _Block(rows.cpu(), scores, relevant)


def _embeddings(array: Array, name: str) -> Tensor:
    """A finite (N, D) tensor in float32 or float64."""
    tensor = _as_tensor(array)
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name}: expected a non-empty (N, D) array, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    finite = tensor.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise ValueError(f"{name}: row {int((~finite).nonzero()[0])} holds NaN or infinite values")
    return tensor.detach()


def _as_tensor(array: Array) -> Tensor:
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    # torch reads neither foreign byte orders nor negative strides.
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _labels(labels: Array, features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Which items are labelled (N,) bool, and ids (N,) int64 or multi-hot rows (N, C) float32."""
    tensor = _as_tensor(labels).to(features.device)
    if tensor.ndim not in (1, 2) or len(tensor) != len(features):
        raise ValueError(
            f"{name}: expected {len(features)} ids or rows, got shape {tuple(tensor.shape)}"
        )
    if tensor.ndim == 2 and tensor.shape[1] > 1:
        if not bool((tensor >= 0).all() & tensor.isfinite().all()):
            raise ValueError(f"{name}: multi-hot rows must be finite and not negative")
        return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device), (tensor > 0).float()
    ids = tensor.reshape(-1)
    if ids.is_floating_point() and not bool((ids == ids.round()).all()):
        raise ValueError(f"{name}: class ids must be whole numbers, got {ids.dtype} with fractions")
    return ids >= 0, ids.long()
