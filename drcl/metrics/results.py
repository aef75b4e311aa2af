"""What the metrics return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

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
                "query_labels: expected a labelled query with relevant items, got none of "
                f"{len(counted)} queries"
            )

        def mean(column: Tensor) -> float:
            # contiguous: a sum's last bit depends on the layout, so on the other cut-offs
            return float(column.contiguous().mean())

        means = {}
        for name, label in PER_CUTOFF.items():
            if (table := getattr(self, name)) is not None:
                for k, column in zip(self.ks, table[counted].T, strict=True):
                    means[f"{label}@{'all' if k is None else k}"] = mean(column)
        for name, label in PER_QUERY.items():
            if label:
                means[label] = mean(getattr(self, name)[counted])
        return means
