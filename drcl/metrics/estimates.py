"""Intervals of the means of measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drcl.checks import check_count, check_level, check_seed
from drcl.metrics.statistics import Array, bootstrap, bounded_mean, cluster_sums, exact_share

SAMPLES = 10_000


class Estimate(NamedTuple):
    """The mean of a measure and its interval, −∞ to ∞ where that has no bounds."""

    mean: float
    low: float
    high: float


def interval_text(low: float, high: float, *, between: str = " to ", sign: str = "-") -> str:
    """An interval's ends with four decimals, or that it has none; ``sign="+"`` shows every sign.

    >>> interval_text(0.25, 0.5), interval_text(-math.inf, math.inf)
    ('0.2500 to 0.5000', 'unbounded')
    """
    if math.isinf(low) or math.isinf(high):
        return "unbounded"
    return f"{low:{sign}.4f}{between}{high:{sign}.4f}"


def estimates(
    tables: Mapping[str, Tensor],
    means: Mapping[str, float],
    level: float,
    clusters: Any,
    samples: int,
    seed: int,
) -> dict[str, Estimate]:
    """The means of measures, and their intervals from the values of all queries (Q,)."""
    level, samples = check_level("interval", level), check_count("samples", samples)
    seed = check_seed(seed)
    alike: dict[bytes, list[str]] = {}  # the measures for which the same queries count
    for name, values in tables.items():
        alike.setdefault(values.isnan().numpy().tobytes(), []).append(name)
    ends: dict[str, tuple[float, float]] = {}
    for names in alike.values():
        counted = ~tables[names[0]].isnan()
        table = torch.stack([tables[name][counted] for name in names], dim=1).numpy()
        sums, sizes = cluster_sums(table, counted.numpy(), clusters)
        drawn = zip(*bootstrap(sums, sizes, samples, seed).interval(level), strict=True)
        for name, values, parts, (low, high) in zip(names, table.T, sums.T, drawn, strict=True):
            ends[name] = float(low), float(high)
            if values.min() >= 0 and values.max() <= 1:
                ends[name] = _of_shares(values, parts, sizes, level, ends[name], clusters is None)
    return {name: Estimate(mean, *ends[name]) for name, mean in means.items()}


def _of_shares(
    values: Array,
    sums: Array,
    sizes: Array,
    level: float,
    drawn: tuple[float, float],
    alone: bool,
) -> tuple[float, float]:
    """The interval of a mean of values from 0 to 1, of which ``drawn`` is that of the bootstrap.

    Resamples say little where nearly all values are equal; a bound that always holds is then
    narrower.
    """
    if alone and np.isin(values, (0, 1)).all():
        return exact_share(int(values.sum()), len(values), level)
    low, high = max(0.0, drawn[0]), min(1.0, drawn[1])
    least, most = bounded_mean(sums, sizes, level)
    return (least, most) if most - least < high - low else (low, high)
