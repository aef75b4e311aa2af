"""Every measure of every query's ranking: :func:`retrieval_metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drcl.metrics import plain
from drcl.metrics.blocks import Evaluate, ranked_blocks
from drcl.metrics.embeddings import Array, Gallery
from drcl.metrics.measures import Measure, at_cutoffs, ndcg
from drcl.metrics.names import named
from drcl.metrics.options import RetrievalOptions, Settings, check_cutoffs, shows_options
from drcl.metrics.ranks import Ranks, discounts_up_to
from drcl.metrics.relevance import Labels
from drcl.metrics.renamed import takes_old_names
from drcl.metrics.results import PrecisionRecall, RetrievalMetrics
from drcl.metrics.task import Task
from drcl.metrics.tied import expectation
from drcl.out_of_memory import first_that_fits
from drcl.progress import progress_bar
from drcl.ranking import PER_CUTOFF, PER_LEVEL, PER_QUERY, Columns, Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Options whose every value leaves the ranking of plain tensors as it is.
_PLAIN = frozenset({"max_bytes", "on_empty"})
_REAL_NDCG = "nDCG of gains that are not whole"


@takes_old_names
@shows_options()
def retrieval_metrics(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    ks: Sequence[int | None] = (None,),
    measures: Sequence[str | Measure] = (),
    **options: Unpack[RetrievalOptions],
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
            the largest are looked at for the first relevant item alone, as MRR is never cut: faster
            where most queries have a hit. MRR@k is ``measures=("reciprocal_rank",)``.
        measures: more of them: names of :mod:`drcl.metrics.measures` (``"hit"``, ``"r_precision"``,
            ``"ap_at_r"``, ``"auroc"``, ``"rbp"`` and others), :mod:`drcl.metrics.lists` or
            :mod:`drcl.metrics.user_models`, or functions of the ranks of your own. They look at the
            whole ranking. With ``ties="average"`` they are exact means over the orders of equal
            scores (:mod:`drcl.metrics.tied`); those whose means are not known, your own among
            them, are refused.

    Keyword Args:
        relevance: instead of labels, pairs (P, 2) of query and item, (P, 3) with an integer gain, a
            matrix (Q, N) of bool or real gains, dense or SciPy sparse, or a function from query
            positions (q,) to bool or integer gains (q, N). Relevant is what has a gain above 0.
            Integers that fit pairs and a matrix alike (two or three items) are refused.
        metric: ``"cosine"`` (default), ``"dot"``, ``"euclidean"``, or ``"hamming"`` of binary codes
            (N, bits/8) uint8, as ``np.packbits(bits, axis=1)`` makes them. Euclidean distances are
            found by expansion: they carry the rounding of the squared lengths, in the embeddings'
            dtype.
        divisor: of AP@k: ``"hits"`` in the first k (default, the field's papers), ``"min"`` of R
            and k, or ``"relevant"``: R. All the same for the whole gallery.
        ties: equal scores are ranked by gallery ``"index"`` (default), or every measure is the
            exact ``"average"`` over all orders of equal scores; not with ``recall_levels``.
        no_relevant: a query with nothing relevant counts 0 (``"zero"``, default), 1 (``"one"``) or
            not (``"skip"``), or is a ValueError (``"error"``).
        on_empty: a mean over no query, where none is labelled, all are skipped, or the gallery has
            no labelled item, so that no query counts: ``"error"`` (default), or the mean is 0
            (``"zero"``) or NaN (``"nan"``).
        adaptive_k: precision@k with k above N is hits over N (True, default), or over k (False), as
            in trec_eval and most libraries.
        exclude_self: True where query and gallery are the same set: query i does not find item i.
            Where the queries are a part of the gallery, their positions (Q,) in it, or a bool mask
            (N,) of it.
        excluded: items that a query does not find, in any form that ``relevance`` takes: those of
            unknown relevance, for example, or all that have not been judged.
        excluded_groups: two arrays (Q,), (N,) of integers or names; a query does not find the items
            of its own group. Of integer columns (Q, C), (N, C) a group is a combination, as "same
            person, same camera".
        query_groups, gallery_groups: integers or names (Q,), (N,); a query ranks its own group's
            items only.
        ndcg: whether nDCG is wanted.
        recall_levels: number of recall levels (0, default, or at least 2) for the precision–recall
            points.
        precision: of products: ``"highest"`` (default), or ``"high"``: TF32 products where a GPU
            has them; on an x86 processor with AVX-512 it changed no bit. TF32, emulated, rounds the
            embeddings to 10 bits, which moves cosines by 1e-5, at most 7e-5 (D = 512 and 2048).
            That moved mAP by less than 3e-5 where a query's cosines had a standard deviation above
            4e-3 (mAP@50 by 1e-4 among near copies of other classes), by 1e-4 at 5e-4 and by 1e-2 at
            5e-5: centre embeddings that share most of their direction.
        max_bytes: bytes that may be used, 2²⁰ at least and 2²⁸ by default, not counting the
            inputs, the results, and C·N/8 bytes for the bits of multi-hot labels. One query at a
            time is the least, so a gallery of N items needs about 70·N bytes, or 160·N without the
            compiled library. Where less is to be had, fewer queries are ranked at a time.
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
    sides = query, gallery, query_labels, gallery_labels
    return measured(*sides, options, ks=ks, measures=measures, find_first=True)


def measured(
    query: Array,
    gallery: Gallery,
    query_labels: Labels | None,
    gallery_labels: Labels | None,
    options: Mapping[str, Any],
    *,
    ks: Sequence[int | None] = (None,),
    measures: Sequence[str | Measure] = (),
    find_first: bool = False,
    kind: Callable[..., Task] = Task,
) -> RetrievalMetrics:
    """:func:`retrieval_metrics`; without ``find_first``, whose cost it saves, first ranks and MRR
    are 0 beyond the largest of ``ks``. A ``kind`` of task makes the scores."""
    cutoffs = check_cutoffs(ks)
    settings, wanted = Settings.of(options), named(measures)
    if kind is Task and not wanted and options.keys() <= _PLAIN:
        sides = query, gallery, query_labels, gallery_labels
        known = _of_plain(sides, settings, cutoffs, find_first=find_first)
        if known is not None:
            return known
    task = kind(query, gallery, query_labels, gallery_labels, settings)
    # The table's nDCG is of whole gains.
    real_ndcg = settings.ndcg and task.gain_values is not None
    if real_ndcg:
        wanted[_REAL_NDCG] = ndcg
    count, levels = task.count, settings.recall_levels
    if settings.ties == "average":
        wanted = {name: expectation(name, measure) for name, measure in wanted.items()}
    at_all = {name: at_cutoffs(measure) for name, measure in wanted.items()}
    found = _nothing(
        dict.fromkeys(PER_QUERY, False) | dict.fromkeys(PER_CUTOFF, True), count, cutoffs
    )
    if not settings.ndcg:
        del found["ndcg"]
    extra = _nothing(at_all, count, cutoffs)
    curves = torch.zeros(len(PER_LEVEL), levels, dtype=torch.float64, device="cpu")
    with progress_bar(total=len(task.queries), unit="query", disable=not settings.progress) as bar:
        for rows, items in task.parts():
            size = sum(task.everywhere(len(items)))
            if size == 0:  # a group without items
                for values in (*found.values(), *extra.values()):
                    values[rows] = 0.0
                continue
            request, places = ranking_request(cutoffs, size, settings)
            evaluate = evaluation(wanted, cutoffs, size, settings.adaptive_k)
            for part, table, more in ranked_blocks(
                task, rows, items, request, evaluate, find_first=find_first
            ):
                for name, column in more.items():
                    extra[name][part] = column
                columns = Columns.split(table, request)
                for name, values in found.items():
                    column = getattr(columns, name)
                    values[part] = column[:, places] if name in PER_CUTOFF else column
                if levels:
                    points = torch.stack([getattr(columns, name) for name in PER_LEVEL], dim=1)
                    # One by one: the sum does not depend on where the blocks end.
                    curves = torch.cat([curves[None], points]).cumsum(dim=0)[-1]
                bar.update(len(part))
    if real_ndcg:
        found["ndcg"] = extra.pop(_REAL_NDCG)
    if not settings.adaptive_k:
        divide_by_k(found, cutoffs, whole=settings.ties == "index")
    with_relevant = int((found["relevant"] > 0).sum())
    nothing = found["relevant"] == 0
    for tables in (found, extra):  # apart: a measure of the user's may have the name of a table
        apply_no_relevant(settings.no_relevant, tables, nothing, empty=task.is_empty)
    every: dict[str, Any] = {"ndcg": None, **found, **mean_curves(curves, with_relevant)}
    return RetrievalMetrics(ks=cutoffs, measures=extra, on_empty=settings.on_empty, **every)


def _of_plain(
    sides: tuple[Any, ...],
    settings: Settings,
    cutoffs: tuple[int | None, ...],
    *,
    find_first: bool,
) -> RetrievalMetrics | None:
    """The measures of small plain tensors (:mod:`drcl.metrics.plain`), or None for others."""
    sizes = plain.sizes_of(sides)
    if sizes is None:
        return None
    request, places = ranking_request(cutoffs, sizes[1], settings)
    # Where its memory is refused, the general way takes smaller pieces.
    table = first_that_fits(
        lambda _: plain.ranked(sides, request, settings.max_bytes, find_first), 1
    )
    if table is None:
        return None
    columns = Columns.split(table, request)
    every: dict[str, Any] = {name: getattr(columns, name).contiguous() for name in PER_QUERY}
    for name in PER_CUTOFF:
        column = getattr(columns, name)
        every[name] = None if column is None else column[:, places]
    every |= {"interpolated": None, "raw": None}
    return RetrievalMetrics(ks=cutoffs, on_empty=settings.on_empty, **every)


def _nothing(names: Mapping[str, bool], count: int, ks: Sequence[int | None]) -> dict[str, Tensor]:
    """A table of NaN for each name: (Q, K) where there is a value for each cut-off, else (Q,)."""
    return {  # on the CPU, whatever torch's default device is
        name: torch.full(
            (count, len(ks)) if at_cutoffs else (count,),
            float("nan"),
            dtype=torch.float64,
            device="cpu",
        )
        for name, at_cutoffs in names.items()
    }


def mean_curves(totals: Tensor, count: int) -> dict[str, PrecisionRecall | None]:
    """The mean curves of so many queries from the sums (2, L); None without levels or queries."""
    if not totals.numel() or not count:
        return dict.fromkeys(PER_LEVEL)
    recall = torch.linspace(0, 1, totals.shape[1], dtype=torch.float64, device="cpu")
    curves = (PrecisionRecall(recall, total / count) for total in totals)
    return dict(zip(PER_LEVEL, curves, strict=True))


def evaluation(
    measures: Mapping[str, Measure], ks: Sequence[int | None], size: int, adaptive_k: bool
) -> Evaluate | None:
    """The function that finds these measures of a block's ranks; None if there are none.

    None among the cut-offs is the ``size`` of the ranking; those above it stay without
    ``adaptive_k``.
    """
    at_all = {name: at_cutoffs(measure) for name, measure in measures.items()}

    def evaluate(found: Ranks) -> dict[str, Tensor]:
        cutoffs = torch.tensor([k or size for k in ks], device=found.ranked.device)
        above = cutoffs.new_tensor([0 if adaptive_k else k or 0 for k in ks])
        k = torch.minimum(cutoffs.long(), found.ranked[:, None]).maximum(above.long())
        values = {}
        for name, measure in measures.items():
            shape = k.shape if at_all[name] else k.shape[:1]
            if 0 in shape[1:]:  # no cut-offs
                values[name] = k.double()
                continue
            values[name] = measure(found, k) if len(shape) == 2 else measure(found)
            if getattr(values[name], "shape", None) != shape:
                raise ValueError(
                    f"measures: expected {tuple(shape)} from {name}, got "
                    f"{tuple(getattr(values[name], 'shape', ()))}"
                )
        return values

    return evaluate if measures else None


def divide_by_k(tables: dict[str, Tensor], ks: Sequence[int | None], whole: bool = True) -> None:
    """Make precision@k hits over k, also where fewer items are ranked, in place.

    Hits are recall@k·R: ``whole`` numbers unless they are means over the orders of ties.
    """
    hits = tables["recall"] * tables["relevant"][:, None]
    k = hits.new_tensor([torch.nan if k is None else k for k in ks])
    found = (hits.round() if whole else hits) / k
    tables["precision"] = torch.where(k.isnan(), tables["precision"], found)


def apply_no_relevant(
    rule: str, tables: Mapping[str, Tensor], nothing: Tensor, *, empty: bool = False
) -> None:
    """What the queries with nothing relevant count, in place; none counts in an empty gallery."""
    if rule == "error" and bool(nothing.any()):
        query = int(nothing.nonzero()[0])
        raise ValueError(
            f"query_labels: expected relevant items for every query, got none for query {query}"
        )
    for name, values in tables.items():
        if rule == "skip" or empty:
            values[nothing] = float("nan")
        elif rule == "one" and name not in ("relevant", "first_rank"):
            values[nothing] = 1.0


def ranking_request(
    ks: Sequence[int | None], n: int, settings: Settings
) -> tuple[Request, list[int]]:
    """The op's request, and where the columns for ``ks`` are among those of its cut-offs."""
    wanted = [n if k is None else min(k, n) for k in ks]
    cutoffs = tuple(sorted(set(wanted)))
    levels = settings.recall_levels
    depth = n if levels or not ks or None in ks else max(wanted)
    discounts = None
    if settings.ndcg:
        discounts = discounts_up_to(n, torch.device("cpu"))
    average = settings.ties == "average"
    request = Request(cutoffs, depth, settings.divisor, average, levels, discounts)
    return request, [cutoffs.index(cutoff) for cutoff in wanted]
