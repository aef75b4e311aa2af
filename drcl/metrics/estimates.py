"""Intervals of the means of measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drcl.checks import check_count, check_level, check_seed
from drcl.metrics.statistics import bootstrap, cluster_sums

SAMPLES = 10_000


class Estimate(NamedTuple):
    """The mean of a measure and its interval."""

    mean: float
    low: float
    high: float


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
