"""Intervals of the means of measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drcl.checks import check_count, check_level, check_seed
from drcl.metrics.statistics import bootstrap, cluster_sums

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
        lows, highs = bootstrap(
            *cluster_sums(table, counted.numpy(), clusters), samples, seed
        ).interval(level)
        shares = (table >= 0).all(axis=0) & (table <= 1).all(axis=0)
        lows = np.where(shares, lows.clip(0, 1), lows)
        highs = np.where(shares, highs.clip(0, 1), highs)
        ends.update(zip(names, zip(lows.tolist(), highs.tolist(), strict=True), strict=True))
    return {name: Estimate(mean, *ends[name]) for name, mean in means.items()}
