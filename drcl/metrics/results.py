"""What the metrics return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from torch import Tensor

from drcl.checks import check_count, check_level, check_seed
from drcl.metrics.statistics import bootstrap, cluster_sums
from drcl.ranking import PER_CUTOFF, PER_QUERY, Measures


class PrecisionRecall(NamedTuple):
    """Mean precision at equally spaced recall levels, each (P,) float64."""

    recall: Tensor
    precision: Tensor


class Estimate(NamedTuple):
    """The mean of a measure and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, repr=False)
class RetrievalMetrics(Measures):
    """What :func:`retrieval_metrics` returns; float64, NaN for the queries that do not count.

    Printed, it is its :meth:`summary` and not its tables.

    ``average_precision``, ``recall``, ``precision`` and ``ndcg`` (None unless asked for) are
    (Q, K), a column for each of ``ks``. ``relevant``, ``first_rank`` (0: none within the ranks
    asked for) and ``reciprocal_rank`` are (Q,). ``interpolated`` and ``raw`` are None without
    recall levels.
    """

    ks: tuple[int | None, ...]
    interpolated: PrecisionRecall | None
    raw: PrecisionRecall | None

    def __repr__(self) -> str:
        counted = int((~self.reciprocal_rank.isnan()).sum())
        means = self.summary().items() if counted else ()
        numbers = "".join(f", {name} {mean:.4f}" for name, mean in means)
        return f"RetrievalMetrics({counted} of {len(self.reciprocal_rank)} queries{numbers})"

    def per_query(self, measure: str) -> Tensor:
        """Every query's value (Q,) of a measure, as :meth:`summary` calls its mean.

        NaN for the queries that do not count. Raises ValueError for a measure that is not there.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> metrics.retrieval_metrics(x, x, labels, labels, ks=(1,)).per_query("recall@1")
        tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)
        """
        values = self._per_query()
        if measure not in values:
            raise ValueError(f"measure: expected one of {', '.join(values)}, got {measure!r}")
        return values[measure]

    def _per_query(self) -> dict[str, Tensor]:
        found = {}
        for name, label in PER_CUTOFF.items():
            if (table := getattr(self, name)) is not None:
                for k, column in zip(self.ks, table.T, strict=True):
                    found[f"{label}@{'all' if k is None else k}"] = column
        return found | {label: getattr(self, name) for name, label in PER_QUERY.items() if label}

    @overload
    def summary(self, interval: None = None) -> dict[str, float]: ...

    @overload
    def summary(
        self, interval: float, *, clusters: Any = None, samples: int = 10_000, seed: int = 0
    ) -> dict[str, Estimate]: ...

    def summary(
        self,
        interval: float | None = None,
        *,
        clusters: Any = None,
        samples: int = 10_000,
        seed: int = 0,
    ) -> dict[str, float] | dict[str, Estimate]:
        """Means over the queries that count: ``{"mAP@all": …, "recall@10": …, …, "MRR": …}``.

        ``recall@k`` is the share of a query's *relevant items* among the first k: hits over R. With
        R items of the query's class it is k/R at best, and not the share of queries with a hit
        among the first k, which other libraries call recall@k or R@k too.

        Args:
            interval: a level like 0.95: each mean is an :class:`Estimate`, with its interval. The
                queries are taken as a sample of those that could be asked; the gallery is fixed.
            clusters: integers or names (Q,) of what the queries were sampled by, classes or
                items; by default each was sampled on its own.
            samples, seed: of the bootstrap, which is studentised: the interval is
                ``mean ± t·error``, with the ``interval``-quantile t of ``|mean* − mean| / error*``
                over the resamples. Where all of a measure's values are in [0, 1], it ends there.

        Raises ValueError when no query counts and, for intervals, where they are of fewer than two
        clusters. Source: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), ch. 12.

        >>> import torch
        >>> from drcl import metrics
        >>> x, labels = torch.eye(4)[torch.arange(40) % 4], torch.arange(40) // 8 % 4
        >>> found = metrics.retrieval_metrics(x, x, labels, labels, exclude_self=True)
        >>> estimate = found.summary(interval=0.95)["mAP@all"]
        >>> estimate.low < estimate.mean < estimate.high
        True
        """
        counted = ~self.reciprocal_rank.isnan()
        if not bool(counted.any()):
            raise ValueError(
                "query_labels: expected a labelled query with relevant items, got none of "
                f"{len(counted)} queries"
            )
        # Each column alone: a sum's last bit depends on the layout, so on the other cut-offs.
        columns = {name: values[counted] for name, values in self._per_query().items()}
        means = {name: float(column.mean()) for name, column in columns.items()}
        if interval is None:
            return means
        level = check_level("interval", interval)
        table = np.stack([column.numpy() for column in columns.values()], axis=1)
        sums, sizes = cluster_sums(table, counted.numpy(), clusters)
        drawn = bootstrap(sums, sizes, check_count("samples", samples), check_seed(seed))
        lows, highs = drawn.interval(level)
        shares = (table >= 0).all(axis=0) & (table <= 1).all(axis=0)
        lows = np.where(shares, lows.clip(0, 1), lows)
        highs = np.where(shares, highs.clip(0, 1), highs)
        return {
            name: Estimate(means[name], float(low), float(high))
            for name, low, high in zip(means, lows, highs, strict=True)
        }
