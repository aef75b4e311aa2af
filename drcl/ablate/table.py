"""Mean, spread and comparison of the variants, in memory and as CSV, JSON and PNG."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from drcl.run.evaluation import Metrics
from drcl.storage.files import write_bytes
from drcl.storage.sealed import write_json


@dataclass(frozen=True)
class Row:
    """One variant or baseline: its metrics, one per seed; a baseline has no seed and one value."""

    name: str
    runs: list[Metrics]
    baseline: bool

    def values(self, metric: str, pair: str = "mean") -> list[float]:
        """One value per seed."""
        return [run[metric][pair] for run in self.runs]

    def mean(self, metric: str, pair: str = "mean") -> float:
        """Mean over the seeds."""
        return fmean(self.values(metric, pair))

    def sd(self, metric: str, pair: str = "mean") -> float | None:
        """Sample standard deviation over the seeds (n − 1); None with fewer than two."""
        values = self.values(metric, pair)
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Table:
    """A finished study; the first row is the reference of the others."""

    dataset: str
    seeds: list[int]
    rows: list[Row]
    skipped: dict[str, str]
    chosen: dict[str, dict[str, str]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that all rows have, ``mAP@all`` first."""
        return tuple(self.rows[0].runs[0])

    @property
    def pairs(self) -> tuple[str, ...]:
        """The ordered pairs of modalities, and ``mean``."""
        return tuple(self.rows[0].runs[0][self.metrics[0]])

    def verdict(self, row: Row, metric: str = "mAP@all", pair: str = "mean") -> str:
        """``"higher"``, ``"lower"`` or ``"within noise"`` of the first row.

        Within noise means ``|difference of means| < 2·√(s₁²/n₁ + s₂²/n₂)``, twice its standard
        error, with the sample standard deviations s over n seeds. A baseline is deterministic: its
        s is 0. With one seed there is no estimate, and the verdict is empty.
        """
        error = self.standard_error(row, metric, pair)
        if row is self.rows[0] or error is None:
            return ""
        difference = self.difference(row, metric, pair)
        if abs(difference) < 2 * error:
            return "within noise"
        return "higher" if difference > 0 else "lower"

    def difference(self, row: Row, metric: str = "mAP@all", pair: str = "mean") -> float:
        """Mean of the row minus mean of the first row."""
        return row.mean(metric, pair) - self.rows[0].mean(metric, pair)

    def standard_error(self, row: Row, metric: str = "mAP@all", pair: str = "mean") -> float | None:
        """Of :meth:`difference`; None with one seed."""
        variance = 0.0
        for one in (self.rows[0], row):
            sd = 0.0 if one.baseline else one.sd(metric, pair)
            if sd is None:
                return None
            variance += sd**2 / len(one.runs)
        return math.sqrt(variance)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "dataset": self.dataset,
            "seeds": self.seeds,
            "rows": [
                {
                    "name": row.name,
                    "baseline": row.baseline,
                    "against the first": self.verdict(row),
                    "runs": row.runs,
                    **{
                        metric: {
                            pair: {"mean": row.mean(metric, pair), "sd": row.sd(metric, pair)}
                            for pair in self.pairs
                        }
                        for metric in self.metrics
                    },
                }
                for row in self.rows
            ],
            "skipped": self.skipped,
            "chosen": self.chosen,
        }


def write_table(table: Table, folder: Path) -> None:
    """Write ``table.csv``, ``table.json`` and ``table.png``."""
    write_bytes(folder / "table.csv", _csv(table).encode())
    write_json(folder / "table.json", table.to_dict())
    write_bytes(folder / "table.png", draw(table))


def draw(table: Table) -> bytes:
    """A bar per row, mean mAP@all with its standard deviation, as PNG."""
    from drcl.figures import MUTED, QUERY, canvas, plain, png

    with canvas(8.0, 0.8 + 0.38 * len(table.rows)) as figure:
        axes = figure.add_subplot()
        names = [plain(row.name) for row in table.rows]
        means = [row.mean("mAP@all") for row in table.rows]
        spread = [row.sd("mAP@all") or 0.0 for row in table.rows]
        colours = [MUTED if row.baseline else QUERY for row in table.rows]
        axes.barh(names, means, xerr=spread, color=colours, height=0.62, capsize=3)
        for position, (mean, sd) in enumerate(zip(means, spread, strict=True)):
            axes.annotate(
                f"{mean:.3f}",
                (mean + sd, position),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.14)
        axes.set_title(plain(f"{table.dataset}: mean mAP@all over the pairs", 70))
        axes.set_xlabel(f"mean of {len(table.seeds)} seeds ± standard deviation; baselines in grey")
        return png(figure)


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "metric", "pair", "mean", "sd", "runs", "against the first"])
    for row in table.rows:
        for metric in table.metrics:
            for pair in table.pairs:
                mean, sd = f"{row.mean(metric, pair):.6f}", row.sd(metric, pair)
                spread = "" if sd is None else f"{sd:.6f}"
                verdict = table.verdict(row, metric, pair)
                writer.writerow([row.name, metric, pair, mean, spread, len(row.runs), verdict])
    return text.getvalue()
