"""Retrieval quality from embeddings: exact, all measures in one pass, in bounded memory.

Embeddings may be torch tensors, NumPy arrays (also memory-mapped ones), frames, SciPy's sparse
matrices, arrays of h5py or zarr (these three are read whole), or, for the gallery, a sequence or
iterator of chunks of these; of any real dtype. Labels are class ids (N,) or multi-hot rows (N, C)
of 0 and 1. Class ids are whole numbers, 0 to 2⁶³ − 1 or −1, in any real dtype; others, also those
below −1, are refused. An item is relevant to a query of the same class or, multi-label, one that
shares a label. Items labelled −1 (class ids) have unknown relevance: they are left out as queries
and from the gallery. A multi-hot row without any label is relevant to nothing. Ties are ranked by
gallery index unless told otherwise; the cosine with a zero row is 0; rows with NaN or infinite
entries are refused.

For labels of other kinds, names among them, and for what −1 means, see :mod:`drcl.labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.agreement import everywhere, gather_rows, share, together
from drcl.arrays import as_features, as_tensor, row_count
from drcl.checks import check_count, check_cutoff, check_modalities, check_option, check_pair
from drcl.dispatch import choose
from drcl.eager import sharded_ranking
from drcl.labels import ParsedLabels, look_up, parse_labels, resolve
from drcl.memory import in_pieces
from drcl.ops.average_precision import DIVISORS, Columns, Relevance, Request, queries_per_block
from drcl.ops.average_precision import average_precision as rank_block
from drcl.pages import is_mapped
from drcl.relevance import (
    Callback,
    Known,
    Labels,
    Pairs,
    from_callback,
    places,
    shared_labels,
)
from drcl.similarity import METRICS, PRECISIONS, Array, Rows, Scorer, Source

MEMORY = 256 * 2**20


class PrecisionRecall(NamedTuple):
    """Mean precision at equally spaced recall levels, each (P,) float64."""

    recall: Tensor
    precision: Tensor


@dataclass(frozen=True, repr=False)
class RetrievalMetrics:
    """What :func:`retrieval_metrics` returns; float64, NaN for the queries that do not count.

    Printed, it is its :meth:`summary` and not its tables.

    ``average_precision``, ``recall``, ``precision`` and ``ndcg`` (None unless asked for) are
    (Q, K), a column for each of ``ks``. ``relevant``, ``first_rank`` (0: none within the ranks
    asked for) and ``reciprocal_rank`` are (Q,). ``interpolated`` and ``raw`` are None without
    recall levels.
    """

    ks: tuple[int | None, ...]
    average_precision: Tensor
    recall: Tensor
    precision: Tensor
    ndcg: Tensor | None
    relevant: Tensor
    first_rank: Tensor
    reciprocal_rank: Tensor
    interpolated: PrecisionRecall | None
    raw: PrecisionRecall | None

    def __repr__(self) -> str:
        counted = int((~self.reciprocal_rank.isnan()).sum())
        means = self.summary().items() if counted else ()
        numbers = "".join(f", {name} {mean:.4f}" for name, mean in means)
        return f"RetrievalMetrics({counted} of {len(self.reciprocal_rank)} queries{numbers})"

    def summary(self) -> dict[str, float]:
        """Means over the queries that count: ``{"mAP@all": …, "recall@10": …, …, "MRR": …}``.

        ``recall@k`` is the share of a query's *relevant items* among the first k: hits over R. With
        R items of the query's class it is k/R at best, and not the share of queries with a hit
        among the first k, which other libraries call recall@k or R@k too.

        Raises ValueError when no query counts.
        """
        counted = ~self.reciprocal_rank.isnan()
        if not bool(counted.any()):
            raise ValueError(
                f"query_labels: none of the {len(counted)} queries is labelled and has relevant "
                "items"
            )
        means = {}
        tables = {"mAP": self.average_precision, "recall": self.recall, "precision": self.precision}
        if self.ndcg is not None:
            tables["nDCG"] = self.ndcg
        for name, table in tables.items():
            for k, column in zip(self.ks, table[counted].T, strict=True):
                # contiguous: a sum's last bit depends on the layout, so on the other cut-offs
                means[f"{name}@{'all' if k is None else k}"] = float(column.contiguous().mean())
        means["MRR"] = float(self.reciprocal_rank[counted].contiguous().mean())
        return means


def retrieval_metrics(
    query: Array,
    gallery: Rows,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    ks: Sequence[int | None] = (None,),
    relevance: Callback | Any | None = None,
    metric: str = "cosine",
    divisor: str = "hits",
    ties: str = "index",
    no_relevant: str = "zero",
    exclude_self: bool = False,
    query_groups: Labels | None = None,
    gallery_groups: Labels | None = None,
    ndcg: bool = False,
    levels: int = 0,
    precision: str = "highest",
    memory: int = MEMORY,
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> RetrievalMetrics:
    """Every measure of every query's ranking, each similarity computed once.

    ``AP@k = Σ_j precision(rank of hit j) / divisor`` over the hits among the first k; recall@k is
    hits over relevant items R, precision@k hits over k, ``DCG@k = Σ gain / log₂(rank + 1)`` with
    the number of shared labels as the gain, and nDCG@k its share of the best possible.

    Args:
        query, gallery: (Q, D) and (N, D) embeddings; the gallery may be chunks (n, D) of it. An
            iterator's chunks are kept in a temporary file.
        query_labels, gallery_labels: ids or names (Q,), (N,), also as a column, −1, NaN or None
            where unlabelled; or multi-hot rows (Q, C), (N, C) with C > 1.
        ks: cut-offs >= 1, None for the whole gallery; above N means N. Without None, ranks beyond
            the largest are not looked at (MRR is then cut there too), which is faster.
        relevance: instead of labels, pairs (P, 2) of query and item, (P, 3) with an integer gain, a
            matrix (Q, N) of bool or whole gains, dense or SciPy sparse, or a function from query
            positions (q,) to bool or integer gains (q, N). Integers that fit pairs and a matrix
            alike (two or three items) are refused.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"``. Euclidean distances are found by
            expansion: they carry the rounding of the squared lengths, in the embeddings' dtype.
        divisor: of AP@k: ``"hits"`` in the first k (the field's papers), ``"min"`` of R and k, or
            ``"relevant"``: R. All the same for the whole gallery.
        ties: equal scores are ranked by gallery ``"index"``, or every measure is the exact
            ``"average"`` over all orders of equal scores; not together with ``levels``.
        no_relevant: a query with nothing relevant counts 0 (``"zero"``) or not (``"skip"``).
        exclude_self: query and gallery are the same set; query i does not find item i.
        query_groups, gallery_groups: integers or names (Q,), (N,); a query ranks its own group's
            items only.
        ndcg: whether nDCG is wanted.
        levels: number of recall levels (0, or at least 2) for the precision–recall points.
        precision: ``"highest"``, or ``"high"``: TF32 products where a GPU has them; on an x86
            processor with AVX-512 it changed no bit. TF32, emulated, rounds the embeddings
            to 10 bits, which moves cosines by 1e-5, at most 7e-5 (D = 512 and 2048). That moved mAP
            by less than 3e-5 where a query's cosines had a standard deviation above 4e-3 (mAP@50 by
            1e-4 among near copies of other classes), by 1e-4 at 5e-4 and by 1e-2 at 5e-5: centre
            embeddings that share most of their direction.
        memory: bytes that may be used, 2²⁰ at least, not counting the inputs, the results of
            8·(3 + 4K) bytes a query for K cut-offs, and C·N/8 bytes for the bits of multi-hot
            labels. One query at a time is the least, so a gallery of N items needs about 70·N
            bytes, or 160·N without the compiled library. Where less is to be had, fewer queries are
            ranked at a time.
        progress: show a progress bar.
        process_group: ranks that each hold all queries, what belongs to them, and a piece of the
            gallery with its labels and groups; relevance is that of a rank's own piece, its items
            counted from 0. The pieces follow one another in the order of the ranks. Scores of
            relevant items and counts travel, and every rank returns the whole gallery's measures,
            bit for bit the same. PyTorch ranks them, whatever backend is asked for.

    Raises ValueError for shapes that do not fit, NaN, and options that are not known or do not go
    together; TypeError for arguments of the wrong kind; MemoryError where not even one query at a
    time can be ranked; OSError where a mapped file has become shorter. Source: the paper's
    evaluation for mAP; nDCG: Järvelin and Kekäläinen (2002), with linear gains.

    >>> x, labels = torch.eye(3), torch.tensor([0, 1, 0])
    >>> found = retrieval_metrics(x, x, labels, labels, ks=(1,))
    >>> found
    RetrievalMetrics(3 of 3 queries, mAP@1 1.0000, recall@1 0.6667, precision@1 1.0000, MRR 1.0000)
    >>> found.summary()["recall@1"]
    0.6666666666666666
    """
    ks = _check_cutoffs(ks)
    check_option("metric", metric, METRICS)
    check_option("divisor", divisor, DIVISORS)
    check_option("ties", ties, ("index", "average"))
    check_option("no_relevant", no_relevant, ("zero", "skip"))
    check_option("precision", precision, PRECISIONS)
    if (levels := check_count("levels", levels, 0)) == 1:
        raise ValueError("levels: expected 0 or at least 2, got 1")
    if levels and ties == "average":
        raise ValueError('ties: precision–recall points are defined for ties="index" only')
    memory = check_count("memory", memory, 2**20)
    task = _Task(
        query,
        gallery,
        query_labels,
        gallery_labels,
        relevance,
        query_groups,
        gallery_groups,
        exclude_self,
        process_group,
    )
    # On the CPU, whatever torch's default device is.
    shape = len(task.query), 3 + 4 * len(ks)
    table = torch.full(shape, float("nan"), dtype=torch.float64, device="cpu")
    curves = torch.zeros(2, levels, dtype=torch.float64, device="cpu")
    with _bar(progress, len(task.queries)) as bar:
        for rows, items in task.parts():
            size = sum(task.everywhere(len(items)))
            if size == 0:  # a group without items
                table[rows] = 0.0
                continue
            request, order = _request(ks, size, divisor, ties, levels, ndcg)
            for part, found in _rank(task, rows, items, request, metric, precision, memory):
                measures = found[:, 3 : 3 + 4 * len(request.cutoffs)]
                table[part] = torch.cat([found[:, :3], measures[:, order]], dim=1)
                if levels:
                    columns = Columns.split(found, request)
                    points = torch.stack([columns.interpolated, columns.raw], dim=1)
                    # One by one: the sum does not depend on where the blocks end.
                    curves = torch.cat([curves[None], points]).cumsum(dim=0)[-1]
                bar.update(len(part))
    with_relevant = int((table[:, 0] > 0).sum())
    if no_relevant == "skip":
        table[table[:, 0] == 0] = float("nan")
    head, *measured = table.split([3, *[len(ks)] * 4], dim=1)
    curve = []
    if levels and with_relevant:
        recall = torch.linspace(0, 1, levels, dtype=torch.float64, device="cpu")
        curve = [PrecisionRecall(recall, total / with_relevant) for total in curves]
    return RetrievalMetrics(
        ks=ks,
        average_precision=measured[0],
        recall=measured[1],
        precision=measured[2],
        ndcg=measured[3] if ndcg else None,
        relevant=head[:, 0],
        first_rank=head[:, 1],
        reciprocal_rank=head[:, 2],
        interpolated=curve[0] if curve else None,
        raw=curve[1] if curve else None,
    )


def _check_cutoffs(ks: Any) -> tuple[int | None, ...]:
    if not isinstance(ks, (Sequence, np.ndarray)) or isinstance(ks, str):
        raise ValueError(f"ks: expected a sequence of cut-offs, got {ks!r}")
    return tuple(check_cutoff(k) for k in ks)


def _rank(
    task: _Task,
    rows: Tensor,
    items: Tensor,
    request: Request,
    metric: str,
    precision: str,
    memory: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of these queries, and the op's table for them, on the CPU."""
    device, group = task.query.device, task.process_group
    backend = choose("average_precision" if group is None else "sharded_ranking", device)
    # Places, lists and lengths of a large gallery's items leave less for the scores.
    memory = max(memory - 32 * len(items), memory // 4)
    with together(group):
        scorer = Scorer(
            task.query,
            task.gallery,
            None if len(items) == len(task.gallery) else items,
            metric,
            precision,
            # A sort needs the order, the relevance and sums in float64 beside the scores.
            memory if backend == "native" else memory // 24,
            queries_per_block(device),
        )
        most, find = task.relevance(rows, items)
    if request.discounts is not None:
        request = replace(request, discounts=request.discounts.to(device))
    size, dtype = scorer.rows_per_block, scorer.dtype
    if group is not None:
        size, dtype = _agreed(task, size, dtype, len(items), most, memory)

    def ranked(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = rows[start:stop]
        with together(group):
            scores, relevant = scorer.block(part), find(start, part)
            left_out = _own(part - task.offset, items, device) if task.exclude_self else None
            if group is not None:
                piece = sharded_ranking.sort_piece(
                    scores.to(dtype), relevant, scorer.scale, scorer.bias, left_out
                )
        if group is not None:
            return part, sharded_ranking.rank(piece, request, group).cpu()
        found = rank_block(
            scores,
            relevant,
            request,
            scale=scorer.scale,
            bias=scorer.bias,
            left_out=left_out,
            memory=memory // 4,  # scores and, where it fits, the gallery take the rest
            backend=backend,
        )
        return part, found.cpu()

    if group is None:
        yield from in_pieces(ranked, len(rows), size)
    else:  # the size of a block is agreed on
        for start in range(0, len(rows), size):
            yield ranked(start, min(start + size, len(rows)))


def _agreed(
    task: _Task, size: int, dtype: torch.dtype, items: int, most: int, memory: int
) -> tuple[int, torch.dtype]:
    """The rows of a block that every rank has memory for, and the widest dtype of its scores."""
    per_query = sharded_ranking.BYTES_PER_ITEM * items
    per_query += sharded_ranking.BYTES_PER_THRESHOLD * max(task.everywhere(most)) * task.world
    sizes = task.everywhere(min(size, max(1, memory // 2 // max(per_query, 1))))
    double = torch.float64.itemsize in task.everywhere(dtype.itemsize)
    return min(sizes), torch.float64 if double else dtype


def average_precision(
    query: Array,
    gallery: Rows,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int | None = None,
    **options: Any,
) -> Tensor:
    """Average precision of each query: that of :func:`retrieval_metrics`, whose options it takes.

    ``AP@k = Σ_j precision(rank of hit j) / hits`` over the hits among the first k of the cosine
    ranking; k = None is the whole gallery.

    Returns (Q,) float64; NaN for queries labelled −1, and with ``no_relevant="skip"`` for those
    with nothing relevant. Source: the field's definition, see the paper's evaluation; the divisor
    is the number of hits found in the first k unless ``divisor`` says otherwise.

    >>> average_precision(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    tensor([1., 1.], dtype=torch.float64)
    """
    found = retrieval_metrics(query, gallery, query_labels, gallery_labels, ks=(k,), **options)
    return found.average_precision[:, 0]


def mean_average_precision(
    query: Array,
    gallery: Rows,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int | None = None,
    **options: Any,
) -> float:
    """mAP: the mean of :func:`average_precision` over the queries that count.

    Takes the options of :func:`retrieval_metrics`. Raises ValueError when no query counts (all
    labelled −1, or all skipped).

    >>> mean_average_precision(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
    1.0
    """
    found = retrieval_metrics(query, gallery, query_labels, gallery_labels, ks=(k,), **options)
    return found.summary()[f"mAP@{'all' if k is None else k}"]


def precision_recall_curve(
    query: Array,
    gallery: Rows,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    points: int = 101,
    interpolated: bool = True,
    **options: Any,
) -> PrecisionRecall:
    """Precision at ``points`` recall levels from 0 to 1, mean over queries.

    Interpolated precision at recall r is the highest precision at any recall >= r; otherwise it is
    the precision at the rank where recall r is first reached. Queries with nothing relevant in the
    gallery are left out. Takes the options of :func:`retrieval_metrics`, but neither
    ``no_relevant`` nor ``ties="average"``, and raises what it raises; ValueError for fewer than two
    points and where no query has a relevant item. Source: Manning, Raghavan and Schütze,
    *Introduction to Information Retrieval* (2008), section 8.4.

    >>> curve = precision_recall_curve(
    ...     torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2), points=3)
    >>> curve.precision.tolist()
    [1.0, 1.0, 1.0]
    """
    points = check_count("points", points, 2)
    _refuse_no_relevant(options, "precision_recall_curve")
    found = retrieval_metrics(
        query, gallery, query_labels, gallery_labels, levels=points, **options
    )
    curve = found.interpolated if interpolated else found.raw
    if curve is None:
        raise ValueError("query_labels: no query has a relevant item in the gallery")
    return curve


def recall_at_k(
    query: Array,
    gallery: Rows,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int,
    **options: Any,
) -> float:
    """Share of a query's relevant items among the first k, mean over queries that have any.

    With one relevant item per query this is the Recall@k of image–text retrieval. Takes the options
    of :func:`retrieval_metrics` but ``no_relevant``: recall without relevant items is not defined.
    Raises what it raises, and ValueError where no query has a relevant item.

    >>> recall_at_k(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3), k=1)
    1.0
    """
    if k is None:
        raise ValueError("k: expected an integer >= 1, got None")
    _refuse_no_relevant(options, "recall_at_k")
    found = retrieval_metrics(
        query, gallery, query_labels, gallery_labels, ks=(k,), no_relevant="skip", **options
    )
    recall = found.recall[:, 0]
    recall = recall[~recall.isnan()]
    if len(recall) == 0:
        raise ValueError("query_labels: no query has a relevant item in the gallery")
    return float(recall.mean())


def _refuse_no_relevant(options: Mapping[str, Any], name: str) -> None:
    if "no_relevant" in options:
        raise TypeError(f"no_relevant: {name} always leaves out queries without relevant items")


def retrieval_report(
    embeddings: Mapping[str, tuple[Array, Labels]],
    *,
    ks: Sequence[int] = (50,),
    no_relevant: str = "zero",
    process_group: ProcessGroup | None = None,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """mAP@all and mAP@k of every ordered pair of modalities, and their mean.

    Args:
        embeddings: modality name -> (embeddings (N, D), labels); at least two modalities.
        ks: the cut-offs beside "all".
        no_relevant, options: as in :func:`retrieval_metrics`, but neither ``ndcg`` nor ``levels``:
            the report is of mAP.
        process_group: ranks that all hold all embeddings; each ranks a share of the queries, and
            all return the same report.

    Returns ``{"mAP@all": {"image->text": …, "text->image": …, "mean": …}, "mAP@50": {…}}``.
    Raises ValueError for fewer than two modalities, ``ks`` that are no cut-offs, and what
    :func:`retrieval_metrics` refuses; TypeError for an option that it does not take.

    >>> x = (torch.eye(3), torch.arange(3))
    >>> retrieval_report({"image": x, "text": x}, ks=())
    {'mAP@all': {'image->text': 1.0, 'text->image': 1.0, 'mean': 1.0}}
    """
    check_modalities("embeddings", embeddings, "(embeddings, labels)")
    for name, part in embeddings.items():
        check_pair(f"embeddings {name}", part, "(embeddings, labels)")
    if len(embeddings) < 2:
        raise ValueError(f"embeddings: expected at least two modalities, got {list(embeddings)}")
    cutoffs = _check_cutoffs(ks)
    if None in cutoffs:
        raise ValueError(f"ks: expected cut-offs beside the whole gallery, got {ks!r}")
    for option in ("ndcg", "levels"):
        if option in options:
            raise TypeError(f"{option}: retrieval_report returns mAP alone")
    parsed = resolve(
        [
            parse_labels(labels, f"{name} labels", count=row_count(rows))
            for name, (rows, labels) in embeddings.items()
        ]
    )
    sides = {
        name: (rows, labels)
        for (name, (rows, _)), labels in zip(embeddings.items(), parsed, strict=True)
    }
    names = ["mAP@all", *(f"mAP@{k}" for k in cutoffs)]
    report: dict[str, dict[str, float]] = {name: {} for name in names}
    for source, (query, query_labels) in sides.items():
        for target, (gallery, gallery_labels) in sides.items():
            if source == target:
                continue
            found = _divided(
                process_group,
                query,
                gallery,
                query_labels,
                gallery_labels,
                ks=(None, *cutoffs),
                no_relevant=no_relevant,
                **options,
            )
            summary = found.summary()
            for name in names:
                report[name][f"{source}->{target}"] = summary[name]
    for values in report.values():
        values["mean"] = sum(values.values()) / len(values)
    return report


def _divided(
    group: ProcessGroup | None,
    query: Array,
    gallery: Array,
    query_labels: Any,
    *rest: Any,
    **options: Any,
) -> RetrievalMetrics:
    """:func:`retrieval_metrics`, of which every rank finds those of its share of the queries."""
    if group is None:
        return retrieval_metrics(query, gallery, query_labels, *rest, **options)
    if not is_mapped(query):
        query = as_features(query, "query")
    world, me = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
    mine = share(len(query), me, world)
    size = mine.stop - mine.start
    # Of fewer queries than ranks some get none; they rank one that is not counted.
    own = mine if size else slice(0, 1)
    with together(group):
        found = retrieval_metrics(query[own], gallery, query_labels[own], *rest, **options)
    device = as_tensor(query).device
    whole: dict[str, Any] = {
        name: gather_rows(value[:size].to(device), group).cpu()
        for name, value in vars(found).items()
        if isinstance(value, Tensor)
    }
    return replace(found, **whole)


class _Task:
    """Queries, gallery and relevance of one evaluation, checked."""

    def __init__(
        self,
        query: Array,
        gallery: Rows,
        query_labels: Labels | None,
        gallery_labels: Labels | None,
        relevance: Any,
        query_groups: Labels | None,
        gallery_groups: Labels | None,
        exclude_self: bool,
        process_group: ProcessGroup | None,
    ) -> None:
        self.exclude_self, self.process_group = exclude_self, process_group
        with together(process_group):
            self.query, self.gallery = Source(query, "query"), Source(gallery, "gallery")
            self._check(query_labels, gallery_labels, relevance, query_groups, gallery_groups)
        self._resolve()
        count, pieces = len(self.query), self.everywhere(len(self.gallery))
        self.world, self.offset = len(pieces), 0
        if process_group is not None:
            self.offset = sum(pieces[: torch.distributed.get_rank(process_group)])
            counts = self.everywhere(count)
            if len(set(counts)) > 1:
                raise ValueError(
                    f"query: with process_group every rank takes all queries, got {counts}"
                )
        if exclude_self and count != sum(pieces):
            raise ValueError(
                f"exclude_self: needs one set, got {count} queries and {sum(pieces)} items"
            )
        if sum(self.everywhere(len(self.items))) == 0:
            raise ValueError("gallery_labels: every gallery item is unlabelled (−1)")

    def _check(
        self,
        query_labels: Labels | None,
        gallery_labels: Labels | None,
        relevance: Any,
        query_groups: Labels | None,
        gallery_groups: Labels | None,
    ) -> None:
        """What this process can tell alone."""
        query, gallery = self.query, self.gallery
        if query.width != gallery.width:
            raise ValueError(f"query and gallery: widths differ, {query.width} and {gallery.width}")
        self.queries = torch.arange(len(query), device="cpu")
        self.items = torch.arange(len(gallery), device="cpu")
        self._labels: list[ParsedLabels] = []
        self._pairs: Pairs | None = None
        self._callback: Callback | None = None
        if relevance is not None:
            if query_labels is not None or gallery_labels is not None:
                raise ValueError("relevance: stands instead of labels; both were given")
            if callable(relevance):
                self._callback = relevance
            else:
                self._pairs = Pairs(relevance, len(query), len(gallery))
        elif query_labels is None or gallery_labels is None:
            raise ValueError("query_labels and gallery_labels: both are needed without relevance")
        else:
            self._labels = [
                parse_labels(query_labels, "query_labels", count=len(query)),
                parse_labels(gallery_labels, "gallery_labels", count=len(gallery)),
            ]
            resolve(self._labels, signs=0)
        if (query_groups is None) != (gallery_groups is None):
            raise ValueError("query_groups and gallery_groups: expected both or neither")
        self._groups = None
        if query_groups is not None and gallery_groups is not None:
            self._groups = _groups(
                parse_labels(query_groups, "query_groups", count=len(query)),
                parse_labels(gallery_groups, "gallery_groups", count=len(gallery)),
            )

    def _resolve(self) -> None:
        """What is labelled: whether −1 is a class, all pieces of a gallery together say."""
        if not self._labels:
            return
        signs = 0
        for one in self.everywhere(self._labels[0].signs | self._labels[1].signs):
            signs |= one
        self._query, self._gallery = (Known(one) for one in resolve(self._labels, signs))
        self.queries = self._query.labelled.nonzero()[:, 0]
        self.items = self._gallery.labelled.nonzero()[:, 0]

    def everywhere(self, value: int) -> list[int]:
        """The value on every rank; alone, that of this process."""
        return everywhere(value, self.process_group)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Queries and the gallery items that they rank, both rising."""
        if self._groups is None:
            yield self.queries, self.items
            return
        query_groups, gallery_groups = self._groups
        own = query_groups[self.queries]
        for group in own.unique():
            yield self.queries[own == group], self.items[gallery_groups[self.items] == group]

    def relevance(
        self, rows: Tensor, columns: Tensor
    ) -> tuple[int, Callable[[int, Tensor], Relevance]]:
        """The most relevant items of a query; each block's relevance from its start and rows.

        It is on the queries' device.
        """
        if self._callback is not None:
            callback, count = self._callback, len(self.gallery)
            return len(columns), lambda start, part: from_callback(
                callback, part, columns, count
            ).to(self.query.device)
        if self._pairs is not None:
            whole = self._pairs.relevance(rows, columns)
        else:
            whole = shared_labels(self._query, rows, self._gallery, columns)
        whole = whole.to(self.query.device)  # once, and not with every block
        return whole.most, lambda start, part: whole.queries(start, start + len(part))


def _request(
    ks: Sequence[int | None], n: int, divisor: str, ties: str, levels: int, ndcg: bool
) -> tuple[Request, list[int]]:
    """The op's request, and where the columns for ``ks`` are among its columns per cut-off."""
    wanted = [n if k is None else min(k, n) for k in ks]
    cutoffs = tuple(sorted(set(wanted)))
    depth = n if levels or not ks or None in ks else max(wanted)
    discounts = None
    if ndcg:
        discounts = 1 / torch.arange(2, n + 2, dtype=torch.float64, device="cpu").log2()
    order = [
        measure * len(cutoffs) + cutoffs.index(cutoff) for measure in range(4) for cutoff in wanted
    ]
    return Request(cutoffs, depth, divisor, ties == "average", levels, discounts), order


def _own(rows: Tensor, columns: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each query's own place among the columns as the op's ``left_out``."""
    place, present = places(columns, rows)
    offsets = torch.cat([place.new_zeros(1), present.long().cumsum(0)])
    return offsets.to(device), place[present].to(device)


def _groups(query: ParsedLabels, gallery: ParsedLabels) -> tuple[Tensor, Tensor]:
    """Groups of both sides as comparable ids; any integer is a group, and every row is in one."""
    for one in (query, gallery):
        if one.rows is not None or one.missing.any():
            raise ValueError(
                f"{one.name}: expected {len(one)} integers or names, got shape {one.shape} or NaN"
            )
    names = dict.fromkeys((*(query.names or ()), *(gallery.names or ())))
    if names and (query.names is None or gallery.names is None):
        raise ValueError(
            "query_groups and gallery_groups: expected one kind, got names and numbers"
        )
    place = {name: index for index, name in enumerate(names)}
    found = [one.ids if one.names is None else look_up(one, place, "") for one in (query, gallery)]
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="query", disable=not progress)
