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
from drcl.figures import plain
from drcl.labels import parse_labels, resolve
from drcl.metrics import plots
from drcl.metrics.embeddings import Array
from drcl.metrics.options import RetrievalOptions, check_cutoffs, refuse, shows_options
from drcl.metrics.relevance import Labels
from drcl.metrics.renamed import takes_old_names
from drcl.metrics.results import RetrievalMetrics, needs_pandas
from drcl.metrics.retrieval import measured
from drcl.storage.mmap import is_mapped
from drcl.tables import columns, json_text, latex, markdown, shortened
from drcl.tensors import as_features, as_tensor, row_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from typing_extensions import Unpack


_NAME, _DIGITS = 45, 6  # letters of a pair's name and of a value in a table that is printed


class RetrievalReport(dict[str, dict[str, float]]):
    """Measures of the ordered pairs of modalities, and their means: a dict that prints as a table.

    It is equal to a plain dict of the same values, and is saved as JSON like one.

    >>> values = {"image->text": 0.5, "text->image": 0.25, "mean": 0.375}
    >>> report = RetrievalReport({"mAP@all": values, "mAP@50": values})
    >>> print(report)
    query → gallery  mAP@all  mAP@50
    image → text      0.5000  0.5000
    text → image      0.2500  0.2500
    mean              0.3750  0.3750
    >>> report == {"mAP@all": values, "mAP@50": values}
    True
    """

    def __str__(self) -> str:
        """At most 80 columns: long names are cut, and many measures are tables below each other."""
        rows = [[shortened(row[0], _NAME), *row[1:]] for row in self._rows()]
        room = 80 - max((len(row[0]) for row in rows), default=0)
        blocks: list[list[int]] = []
        left = 0
        for column, name in enumerate(rows[0][1:], start=1):
            width = 2 + max(len(name), _DIGITS)
            if not blocks or width > left:
                blocks.append([])
                left = room
            blocks[-1].append(column)
            left -= width
        return "\n\n".join(
            columns([[row[0], *(row[column] for column in block)] for row in rows])
            for block in blocks
        )

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each ordered pair and the mean, a column for each measure; float64.

        Raises ImportError without pandas.

        >>> RetrievalReport({"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}}).to_dataframe()
              mAP@all
        pair
        a->b    0.500
        b->a    0.250
        mean    0.375
        """
        return needs_pandas().DataFrame(dict(self)).rename_axis(index="pair")

    def to_markdown(self) -> str:
        """A table in Markdown, a row for each ordered pair and the mean.

        >>> report = RetrievalReport({"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}})
        >>> print(report.to_markdown())
        | query → gallery | mAP@all |
        |---|--:|
        | a → b | 0.5000 |
        | b → a | 0.2500 |
        | mean | 0.3750 |
        """
        return markdown(self._rows())

    def to_latex(self) -> str:
        r"""The same as a LaTeX ``tabular``, which needs the package booktabs.

        >>> report = RetrievalReport({"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}})
        >>> print(report.to_latex())
        \begin{tabular}{lr}
        \toprule
        query $\to$ gallery & mAP@all \\
        ...
        \end{tabular}
        """
        return latex(self._rows())

    def to_json(self) -> str:
        """The dict as JSON, null for NaN.

        >>> RetrievalReport({"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}}).to_json()
        '{"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}}'
        """
        return json_text(self)

    def plot_map_matrix(self, ax: Axes | None = None, *, measure: str = "mAP@all") -> Axes:
        """Draw a measure as a matrix of queries and galleries, or two bars for two modalities.

        Args:
            ax: axes to draw on; by default those of a new figure.
            measure: a key of the report.

        Returns the axes. Raises ValueError for another measure; ImportError without matplotlib.

        >>> from matplotlib.figure import Figure
        >>> report = RetrievalReport({"mAP@all": {"a->b": 0.5, "b->a": 0.25, "mean": 0.375}})
        >>> report.plot_map_matrix(Figure().subplots()).get_title()
        'mAP@all · mean 0.375'
        """
        if measure not in self:
            raise ValueError(f"measure: expected one of {', '.join(self)}, got {measure!r}")
        pairs = {pair: value for pair, value in self[measure].items() if pair != "mean"}
        modalities = list(dict.fromkeys(pair.split("->")[0] for pair in pairs))
        axes = plots.axes_for(ax, *plots.map_size(len(modalities)))
        plots.draw_map(axes, modalities, pairs.values())
        axes.set_title(f"{plain(measure)} · mean {plots.in_figure(self[measure]['mean'])}")
        return axes

    def _rows(self) -> list[list[str]]:
        pairs = dict.fromkeys(pair for values in self.values() for pair in values)
        rows = [["query → gallery", *self]]
        for pair in pairs:
            numbers = (values[pair] for values in self.values())
            cells = ("–" if number != number else f"{number:.4f}" for number in numbers)
            rows.append([pair.replace("->", " → "), *cells])
        return rows


@takes_old_names
@shows_options("ndcg", "recall_levels")
def retrieval_report(
    embeddings: Mapping[str, tuple[Array, Labels]],
    *,
    ks: Sequence[int] = (50,),
    **options: Unpack[RetrievalOptions],
) -> RetrievalReport:
    """mAP@all and mAP@k of every ordered pair of modalities, and their mean.

    Args:
        embeddings: modality name -> (embeddings (N, D), labels); at least two modalities.
        ks: the cut-offs beside "all".
        options: those of :func:`retrieval_metrics`, but neither ``ndcg`` nor ``recall_levels``: the
            report is of mAP. The ranks of a ``process_group`` all hold all embeddings; each ranks a
            share of the queries, and all return the same report.

    Returns ``{"mAP@all": {"image->text": …, "text->image": …, "mean": …}, "mAP@50": {…}}``, which
    prints as a table; see :class:`RetrievalReport`.
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
    cutoffs = check_report(ks, options)
    ranking: dict[str, Any] = dict(options)
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
    report = RetrievalReport({name: {} for name in names})
    for source, (query, query_labels) in sides.items():
        for target, (gallery, gallery_labels) in sides.items():
            if source == target:
                continue
            both = query, gallery, query_labels, gallery_labels
            summary = _divided(group, *both, ranking, (None, *cutoffs)).summary()
            for name in names:
                report[name][f"{source}->{target}"] = summary[name]
    for values in report.values():
        values["mean"] = sum(values.values()) / len(values)
    return report


def check_report(ks: Any, options: Mapping[str, Any]) -> tuple[int, ...]:
    """The cut-offs of a report; refuses those and options that it does not take."""
    cutoffs = check_cutoffs(ks)
    refuse(options, "ndcg", "recall_levels")
    if None in cutoffs:
        raise ValueError(f"ks: expected cut-offs beside the whole gallery, got {ks!r}")
    return tuple(k for k in cutoffs if k is not None)


def _divided(
    group: ProcessGroup | None,
    query: Array,
    gallery: Array,
    query_labels: Any,
    gallery_labels: Any,
    options: Mapping[str, Any],
    ks: Sequence[int | None],
) -> RetrievalMetrics:
    """:func:`retrieval_metrics`, of which every rank finds those of its share of the queries."""
    if group is None:
        return measured(query, gallery, query_labels, gallery_labels, options, ks=ks)
    if not is_mapped(query):
        query = as_features(query, "query")
    world, me = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
    mine = shard(len(query), me, world)
    size = mine.stop - mine.start
    # Of fewer queries than ranks some get none; they rank one that is not counted.
    own = mine if size else slice(0, 1)
    with raise_together(group):
        found = measured(query[own], gallery, query_labels[own], gallery_labels, options, ks=ks)
    device = as_tensor(query).device
    whole: dict[str, Any] = {
        name: gather_rows(value[:size].to(device), group).cpu()
        for name, value in vars(found).items()
        if isinstance(value, Tensor)
    }
    return replace(found, **whole)
