"""What the metrics return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, overload

import torch
from torch import Tensor

from drcl.checks import check_count, check_installed, check_option
from drcl.labels import parse_labels, resolve
from drcl.metrics import plots
from drcl.metrics.estimates import SAMPLES, Estimate, estimates, interval_text
from drcl.metrics.names import label
from drcl.metrics.options import ON_EMPTY
from drcl.ranking import PER_CUTOFF, PER_QUERY, Measures
from drcl.tables import counted, json_text, latex, markdown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Average: TypeAlias = str | Callable[[Tensor], float | Tensor]


class PrecisionRecall(NamedTuple):
    """Mean precision at equally spaced recall levels, each (P,) float64."""

    recall: Tensor
    precision: Tensor


@dataclass(frozen=True, repr=False)
class RetrievalMetrics(Measures):
    """What :func:`retrieval_metrics` returns; float64, NaN for the queries that do not count.

    Printed, it is its :meth:`summary` and not its tables.

    ``average_precision``, ``recall``, ``precision`` and ``ndcg`` (None unless asked for) are
    (Q, K), a column for each of ``ks``. ``relevant``, ``first_rank`` (0: nothing is relevant) and
    ``reciprocal_rank``, which no cut-off bounds, are (Q,). ``interpolated`` and ``raw`` are None
    without recall levels. ``measures`` holds the tables of those that were asked for by name:
    (Q, K) where they depend on a cut-off, else (Q,). ``on_empty`` is that option.
    """

    ks: tuple[int | None, ...]
    interpolated: PrecisionRecall | None
    raw: PrecisionRecall | None
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    on_empty: str = "error"
    _none_counts: ClassVar[str] = "query_labels: expected a labelled query with relevant items"

    def __repr__(self) -> str:
        number = int(self._counted.sum())
        means = self.summary().items() if number else ()
        numbers = "".join(f", {name} {mean:.4f}" for name, mean in means)
        queries = counted(len(self.reciprocal_rank), "query", "queries")
        return f"RetrievalMetrics({number} of {queries}{numbers})"

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

    @overload
    def summary(
        self, average: Average = "mean", *, classes: Any = None, interval: None = None
    ) -> dict[str, float]: ...

    @overload
    def summary(
        self, *, interval: float, clusters: Any = None, samples: int = SAMPLES, seed: int = 0
    ) -> dict[str, Estimate]: ...

    def summary(
        self,
        average: Average = "mean",
        *,
        classes: Any = None,
        interval: float | None = None,
        clusters: Any = None,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> dict[str, float] | dict[str, Estimate]:
        """Averages over the queries that count: ``{"mAP@all": …, "recall@10": …, …, "MRR": …}``.

        ``recall@k`` is the share of a query's *relevant items* among the first k: hits over R. With
        R items of the query's class it is k/R at best, and not the share of queries with a hit
        among the first k, which other libraries call recall@k or R@k too: that is ``hit@k``.

        Args:
            average: ``"mean"``, ``"median"``, or ``"class_mean"``: the mean over the classes of
                :meth:`by_class`, in which a class of few queries counts as much as any other. Or a
                function from the values (n,) of the queries that count: ``torch.amin``,
                ``torch.std``.
            classes: labels of the queries, for ``"class_mean"``.
            interval: a level like 0.95: each mean is an :class:`Estimate`, with its interval. The
                queries are taken as a sample of those that could be asked; the gallery is fixed.
            clusters: integers or names (Q,) of what the queries were sampled by, classes or
                items; by default each was sampled on its own.
            samples, seed: of the bootstrap, which is studentised: the interval is
                ``mean ± t·error``, with the ``interval``-quantile t of ``|mean* − mean| / error*``
                over the resamples. It is unbounded, −∞ to ∞, where more than 1 − ``interval`` of
                the resamples repeat one value: of two or three queries, or where nearly all have
                the same value. For a measure from 0 to 1 it ends there, and Bentkus's bound, which
                holds for any number of queries or clusters, replaces it where that is narrower.
                Where all values are 0 or 1, as of hit@k, and there are no clusters, the interval
                is that of Clopper and Pearson, without resamples.

        Raises ValueError when no query counts, unless ``on_empty`` was ``"zero"`` or ``"nan"``;
        for intervals, where they are of fewer than two clusters or of another average than the
        mean. Sources: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), ch. 12;
        Clopper and Pearson, *The use of confidence or fiducial limits illustrated in the case of
        the binomial* (1934); Bentkus, *On Hoeffding's inequalities* (2004).

        >>> from drcl import metrics
        >>> x, labels = torch.eye(3), torch.tensor([0, 0, 1])
        >>> found = metrics.retrieval_metrics(x, x, labels, labels, ks=(1,))
        >>> found.summary()["recall@1"], found.summary("median")["recall@1"]
        (0.6666666666666666, 0.5)
        >>> found.summary("class_mean", classes=labels)["recall@1"]
        0.75
        >>> x, labels = torch.eye(4)[torch.arange(40) % 4], torch.arange(40) // 8 % 4
        >>> found = metrics.retrieval_metrics(x, x, labels, labels, exclude_self=True)
        >>> estimate = found.summary(interval=0.95)["mAP@all"]
        >>> estimate.low < estimate.mean < estimate.high
        True
        """
        if not callable(average):
            check_option("average", average, ("mean", "median", "class_mean"))
        if average == "class_mean" and classes is None:
            raise ValueError('classes: expected labels of the queries with "class_mean", got None')
        if average != "class_mean" and classes is not None:
            raise ValueError(f'average: expected "class_mean" with classes, got {average!r}')
        if interval is not None and average != "mean":
            raise ValueError(f'average: expected "mean" with an interval, got {average!r}')
        if ON_EMPTY[self.on_empty] is None:
            self._refuse_none()
        means = self._averages(average, classes)
        if interval is None:
            return means
        return estimates(self.tables(), means, interval, clusters, samples, seed)

    def first_mean(self) -> float:
        """:meth:`summary`'s mAP at the first cut-off, without the other means.

        >>> from drcl.metrics import retrieval_metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> retrieval_metrics(x, x, labels, labels).first_mean()
        1.0
        """
        mean, k = _mean(self.average_precision[:, 0]), self.ks[0]
        return mean if mean == mean else self.summary()[f"mAP@{'all' if k is None else k}"]

    def _averages(self, average: Average, classes: Any) -> dict[str, float]:
        each = list(self.by_class(classes).values()) if average == "class_mean" else []
        if not bool(self._counted.any()):
            empty = ON_EMPTY[self.on_empty]
            assert empty is not None  # else refused
            return dict.fromkeys(self.tables(), empty)
        if each:
            return {
                name: _mean(self.relevant.new_tensor([one[name] for one in each]))
                for name in each[0]
            }
        if callable(average):
            return {
                name: float(average(column[~column.isnan()]))
                for name, column in self.tables().items()
            }
        of = _median if average == "median" else _mean
        return {name: of(column) for name, column in self.tables().items()}

    def _refuse_none(self) -> None:
        if not bool(self._counted.any()):
            raise ValueError(
                f"{self._none_counts}, got none of "
                f"{counted(len(self.reciprocal_rank), 'query', 'queries')}"
            )

    @property
    def _counted(self) -> Tensor:
        """(Q,) bool: the queries that count."""
        return ~self.reciprocal_rank.isnan()

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
        tables = self.tables()
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
            if bool((rows & self._counted).any())
        }

    def recall_at_precision(self, least: float) -> tuple[float, int | None]:
        """The greatest mean recall@k where the mean precision@k is ``least`` or more, and its k.

        Of the cut-offs ``ks``, None being the whole gallery; of equal ones the largest. Where no
        recall above 0 has that precision, it is 0 and k the largest of all. Raises ValueError
        without cut-offs, and what :meth:`summary` raises. Source: torchmetrics'
        RetrievalRecallAtFixedPrecision.

        >>> from drcl.metrics import retrieval_metrics
        >>> x, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> found = retrieval_metrics(x, x, labels, labels, ks=(1, 2, 3))
        >>> found.recall_at_precision(0.5)
        (1.0, 3)
        >>> found.recall_at_precision(1.0)
        (0.6666666666666666, 1)
        """
        if not self.ks:
            raise ValueError("ks: expected cut-offs for recall at a precision, got none")
        means = self.summary()
        recalls = []
        for k in self.ks:
            name = "all" if k is None else k
            enough = means[f"precision@{name}"] >= least
            recalls.append(
                (means[f"recall@{name}"] if enough else 0.0, math.inf if k is None else k)
            )
        most, largest = max(recalls)
        if most == 0:
            largest = max(recall[1] for recall in recalls)
        return most, None if largest == math.inf else int(largest)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each query, a column for each measure, and ``relevant`` and ``first_rank``.

        Columns are called as in :meth:`summary`; float64, NaN for queries that do not count. Raises
        ImportError without pandas.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> metrics.retrieval_metrics(x, x, labels, labels, ks=(1,)).to_dataframe()
               mAP@1  recall@1  precision@1  MRR  relevant  first_rank
        query
        0        1.0       1.0          1.0  1.0       1.0         1.0
        1        1.0       1.0          1.0  1.0       1.0         1.0
        """
        pandas = needs_pandas()
        hidden = {name: getattr(self, name) for name, label in PER_QUERY.items() if not label}
        columns = {name: column.numpy() for name, column in (self.tables() | hidden).items()}
        frame = pandas.DataFrame(columns)
        return frame.rename_axis(index="query")

    def to_markdown(self, interval: float | None = None, **options: Any) -> str:
        """:meth:`summary`, with what it takes, as a table in Markdown: a row for each measure.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> print(metrics.retrieval_metrics(x, x, labels, labels, ks=(1,)).to_markdown())
        | measure | mean |
        |---|--:|
        | mAP@1 | 1.0000 |
        | recall@1 | 1.0000 |
        | precision@1 | 1.0000 |
        | MRR | 1.0000 |
        """
        return markdown(self._rows(interval, options))

    def to_latex(self, interval: float | None = None, **options: Any) -> str:
        r"""The same as a LaTeX ``tabular``, which needs the package booktabs.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> print(metrics.retrieval_metrics(x, x, labels, labels, ks=(1,)).to_latex())
        \begin{tabular}{lr}
        \toprule
        measure & mean \\
        ...
        \end{tabular}
        """
        return latex(self._rows(interval, options))

    def to_json(self, interval: float | None = None, **options: Any) -> str:
        """``{"queries": Q, "counted": …, "measures": …}`` with :meth:`summary` as the measures.

        With an ``interval``, each of them is ``{"mean": …, "low": …, "high": …}``.
        Numbers that are not finite are null.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> metrics.retrieval_metrics(x, x, labels, labels, ks=()).to_json()
        '{"queries": 2, "counted": 2, "measures": {"MRR": 1.0}}'
        """
        # Which overload it is depends on the interval.
        means: dict[str, Any] = dict(self.summary(interval=interval, **options))  # type: ignore[call-overload]
        if interval is not None:
            means = {name: estimate._asdict() for name, estimate in means.items()}
        number = int(self._counted.sum())
        return json_text(
            {"queries": len(self.reciprocal_rank), "counted": number, "measures": means}
        )

    def _rows(self, interval: float | None, options: dict[str, Any]) -> list[list[str]]:
        if interval is None:
            means = self.summary(**options)
            return [["measure", "mean"], *([name, f"{x:.4f}"] for name, x in means.items())]
        rows = [["measure", "mean", f"{100 * interval:.4g} % interval"]]
        for name, one in self.summary(interval=interval, **options).items():
            rows.append([name, f"{one.mean:.4f}", interval_text(one.low, one.high)])
        return rows

    def plot_precision_recall(
        self, ax: Axes | None = None, *, interpolated: bool = True, label: str | None = None
    ) -> Axes:
        """Draw mean precision against recall; see :func:`drcl.metrics.precision_recall_curve`.

        Args:
            ax: axes to draw on, which may hold another curve; by default those of a new figure.
            interpolated: as of the curve.
            label: of the curve, in a legend.

        Returns the axes. Raises ValueError without recall levels or without a query that has a
        relevant item; ImportError without matplotlib.

        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from drcl import metrics
        >>> x, labels = torch.eye(2), torch.arange(2)
        >>> found = metrics.retrieval_metrics(x, x, labels, labels, recall_levels=11)
        >>> found.plot_precision_recall(Figure().subplots()).get_ylabel()
        'precision'
        """
        curve = self.interpolated if interpolated else self.raw
        if curve is None:
            raise ValueError(
                "recall_levels: expected levels >= 2 and a query with a relevant item, got neither "
                "curve nor points"
            )
        axes = plots.axes_for(ax)
        plots.draw_curve(axes, (curve.recall.numpy(), curve.precision.numpy()), label)
        return axes

    def plot_cmc(
        self, ax: Axes | None = None, *, ranks: int | None = None, label: str | None = None
    ) -> Axes:
        """Draw the share of queries with a relevant item among the first k, against k.

        ``CMC(k) = |{q: first_rank(q) <= k}| / Q`` over the queries that count.

        Args:
            ax, label: as of :meth:`plot_precision_recall`.
            ranks: the largest k; by default 50.

        Returns the axes. Raises ValueError when no query counts, for ranks below 1, and for
        ``ties="average"``, which has no single first rank; ImportError without matplotlib.
        Source: the cumulative match characteristic of person re-identification.

        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from drcl import metrics
        >>> x, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> found = metrics.retrieval_metrics(x, x, labels, labels, exclude_self=True)
        >>> axes = found.plot_cmc(Figure().subplots(), ranks=2)
        >>> axes.lines[0].get_ydata().round(2).tolist()
        [0.33, 0.67]
        """
        self._refuse_none()
        first = self.first_rank[self._counted]
        if bool((first != first.round()).any()):
            raise ValueError('ties: expected "index" for a CMC curve, got "average"')
        last = 50 if ranks is None else check_count("ranks", ranks)
        axes = plots.axes_for(ax)
        share = ((first > 0) & (first <= torch.arange(1, last + 1)[:, None])).double().mean(dim=1)
        plots.draw_cmc(axes, share.numpy(), label)
        return axes


def _mean(column: Tensor) -> float:
    # A copy is contiguous: a sum's last bit depends on the layout, so on the other cut-offs.
    return float(column[~column.isnan()].mean())


def _median(column: Tensor) -> float:
    return float(column.nanquantile(0.5))


def needs_pandas() -> Any:
    """The module, or an ImportError that says how to install it."""
    check_installed("to_dataframe needs {}; install it with: pip install pandas", "pandas")
    import pandas

    return pandas
