"""What the metrics return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl.checks import check_option
from drcl.labels import parse_labels, resolve
from drcl.metrics.measures import label
from drcl.metrics.options import ON_EMPTY
from drcl.ranking import PER_CUTOFF, PER_QUERY, Measures


class PrecisionRecall(NamedTuple):
    """Mean precision at equally spaced recall levels, each (P,) float64."""

    recall: Tensor
    precision: Tensor


@dataclass(frozen=True, repr=False)
class RetrievalMetrics(Measures):
    """What :func:`retrieval_metrics` returns; float64, NaN for the queries that do not count.

    Printed, it is its :meth:`summary` and not its tables.

    ``average_precision``, ``recall``, ``precision`` and ``ndcg`` (None unless asked for) are
    (Q, K), a column for each of ``ks``. ``relevant``, ``first_rank`` (0: none within the ranks
    asked for) and ``reciprocal_rank`` are (Q,). ``interpolated`` and ``raw`` are None without
    recall levels. ``measures`` holds the tables of those that were asked for by name: (Q, K) where
    they depend on a cut-off, else (Q,). ``on_empty`` is that option.
    """

    ks: tuple[int | None, ...]
    interpolated: PrecisionRecall | None
    raw: PrecisionRecall | None
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    on_empty: str = "error"

    def __repr__(self) -> str:
        counted = int((~self.reciprocal_rank.isnan()).sum())
        means = self.summary().items() if counted else ()
        numbers = "".join(f", {name} {mean:.4f}" for name, mean in means)
        return f"RetrievalMetrics({counted} of {len(self.reciprocal_rank)} queries{numbers})"

    def tables(self) -> dict[str, Tensor]:
        """Every query's value (Q,) of each measure that has a mean, under its name in the summary.

        >>> from drcl.metrics import retrieval_metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> retrieval_metrics(x, x, labels, labels, ks=(1,), measures=("hit",)).tables()["hit@1"]
        tensor([1., 1.], dtype=torch.float64)
        """
        given = [(named, getattr(self, name)) for name, named in PER_CUTOFF.items()]
        given += [(named, getattr(self, name)) for name, named in PER_QUERY.items() if named]
        given += [(label(name), table) for name, table in self.measures.items()]
        found: dict[str, Tensor] = {}
        for named, table in given:
            if table is not None and table.ndim == 2:
                for k, column in zip(self.ks, table.T, strict=True):
                    found[f"{named}@{'all' if k is None else k}"] = column
            elif table is not None:
                found[named] = table
        return found

    def summary(self, average: str = "mean", *, classes: Any = None) -> dict[str, float]:
        """Averages over the queries that count: ``{"mAP@all": …, "recall@10": …, …, "MRR": …}``.

        ``average`` is ``"mean"``, ``"median"``, or ``"class_mean"``: the mean over the classes of
        :meth:`by_class`, in which a class of few queries counts as much as any other.

        ``recall@k`` is the share of a query's *relevant items* among the first k: hits over R. With
        R items of the query's class it is k/R at best, and not the share of queries with a hit
        among the first k, which other libraries call recall@k or R@k too: that is ``hit@k``.

        Raises ValueError when no query counts, unless ``on_empty`` was ``"zero"`` or ``"nan"``.

        >>> from drcl.metrics import retrieval_metrics
        >>> x, labels = torch.eye(3), torch.tensor([0, 0, 1])
        >>> found = retrieval_metrics(x, x, labels, labels, ks=(1,))
        >>> found.summary()["recall@1"], found.summary("median")["recall@1"]
        (0.6666666666666666, 0.5)
        >>> found.summary("class_mean", classes=labels)["recall@1"]
        0.75
        """
        check_option("average", average, ("mean", "median", "class_mean"))
        if (classes is None) == (average == "class_mean"):
            raise ValueError(f'classes: expected with average="class_mean" alone, got {average!r}')
        if average == "class_mean":
            each = list(self.by_class(classes).values())
            if each:
                return {
                    name: _mean(self.relevant.new_tensor([one[name] for one in each]))
                    for name in each[0]
                }
        counted = int((~self.reciprocal_rank.isnan()).sum())
        if counted == 0:
            empty = ON_EMPTY[self.on_empty]
            if empty is None:
                raise ValueError(
                    "query_labels: expected a labelled query with relevant items, got none of "
                    f"{len(self.reciprocal_rank)} queries"
                )
            return dict.fromkeys(self.tables(), empty)
        of = _median if average == "median" else _mean
        return {name: of(column) for name, column in self.tables().items()}

    def by_class(self, classes: Any) -> dict[int | str, dict[str, float]]:
        """The means of :meth:`summary` for the queries of each class that has any that count.

        ``classes`` are labels of the queries of any kind that :mod:`drcl.labels` reads; of several
        labels, a query counts in each. Keys are ids, names, or the columns of multi-hot rows.

        Raises ValueError for labels of another number of rows.

        >>> from drcl.metrics import retrieval_metrics
        >>> x, labels = torch.eye(3), ["ant", "ant", "bee"]
        >>> found = retrieval_metrics(x, x, labels, labels, ks=(1,))
        >>> {name: means["recall@1"] for name, means in found.by_class(labels).items()}
        {'ant': 0.5, 'bee': 1.0}
        """
        (parsed,) = resolve([parse_labels(classes, "classes", count=len(self.reciprocal_rank))])
        tables, counted = self.tables(), ~self.reciprocal_rank.isnan()
        members: dict[int | str, Tensor] = {}
        if parsed.rows is not None:
            members = {c: column.cpu() > 0 for c, column in enumerate(parsed.rows.T)}
        else:
            ids = torch.from_numpy(parsed.ids)
            for one in ids[torch.from_numpy(~parsed.missing)].unique().tolist():
                members[one if parsed.names is None else parsed.names[one]] = ids == one
        return {
            one: {name: _mean(column[rows]) for name, column in tables.items()}
            for one, rows in members.items()
            if bool((rows & counted).any())
        }


def _mean(column: Tensor) -> float:
    # A copy is contiguous: a sum's last bit depends on the layout, so on the other cut-offs.
    return float(column[~column.isnan()].mean())


def _median(column: Tensor) -> float:
    return float(column.nanquantile(0.5))
