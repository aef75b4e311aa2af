"""The report of every ordered pair of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.checks import check_modalities, check_pair
from drcl.distributed import gather_rows, raise_together, shard
from drcl.labels import parse_labels, resolve
from drcl.metrics.embeddings import Array
from drcl.metrics.options import RetrievalOptions, check_cutoffs, refuse, shows_options
from drcl.metrics.relevance import Labels
from drcl.metrics.renamed import takes_old_names
from drcl.metrics.results import RetrievalMetrics
from drcl.metrics.retrieval import retrieval_metrics
from drcl.storage.mmap import is_mapped
from drcl.tensors import as_features, as_tensor, row_count

if TYPE_CHECKING:
    from typing_extensions import Unpack


@takes_old_names
@shows_options("ndcg", "recall_levels")
def retrieval_report(
    embeddings: Mapping[str, tuple[Array, Labels]],
    *,
    ks: Sequence[int] = (50,),
    **options: Unpack[RetrievalOptions],
) -> dict[str, dict[str, float]]:
    """mAP@all and mAP@k of every ordered pair of modalities, and their mean.

    Args:
        embeddings: modality name -> (embeddings (N, D), labels); at least two modalities.
        ks: the cut-offs beside "all".
        options: those of :func:`retrieval_metrics`, but neither ``ndcg`` nor ``recall_levels``: the
            report is of mAP. The ranks of a ``process_group`` all hold all embeddings; each ranks a
            share of the queries, and all return the same report.

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
    cutoffs = check_cutoffs(ks)
    if None in cutoffs:
        raise ValueError(f"ks: expected cut-offs beside the whole gallery, got {ks!r}")
    refuse(options, "ndcg", "recall_levels")
    ranking: dict[str, Any] = {**options, "ks": (None, *cutoffs)}
    group = ranking.pop("process_group", None)
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
            both = query, gallery, query_labels, gallery_labels
            summary = _divided(group, *both, **ranking).summary()
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
    mine = shard(len(query), me, world)
    size = mine.stop - mine.start
    # Of fewer queries than ranks some get none; they rank one that is not counted.
    own = mine if size else slice(0, 1)
    with raise_together(group):
        found = retrieval_metrics(query[own], gallery, query_labels[own], *rest, **options)
    device = as_tensor(query).device
    whole: dict[str, Any] = {
        name: gather_rows(value[:size].to(device), group).cpu()
        for name, value in vars(found).items()
        if isinstance(value, Tensor)
    }
    return replace(found, **whole)
