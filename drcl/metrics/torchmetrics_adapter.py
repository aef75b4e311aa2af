"""A :class:`drcl.metrics.RetrievalMetric` as a metric of torchmetrics, for Lightning's ``log``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drcl.checks import check_installed
from drcl.metrics.report import RetrievalReport

if TYPE_CHECKING:
    from torchmetrics import Metric

    from drcl.metrics.streaming import RetrievalMetric


def adapted(metric: RetrievalMetric, measure: str | None) -> Metric:
    """What :meth:`drcl.metrics.RetrievalMetric.as_torchmetrics` returns."""
    check_installed(
        "as_torchmetrics needs {}; install it with: pip install torchmetrics", "torchmetrics"
    )
    from torchmetrics import Metric

    class Adapter(Metric):
        """Its rows are no states of torchmetrics, which would gather them all in memory."""

        full_state_update = False

        def __init__(self) -> None:
            super().__init__(sync_on_compute=False)
            self.metric = metric

        def update(self, *args: Any, **options: Any) -> None:
            self.metric.update(*args, **options)

        def compute(self) -> Tensor | dict[str, Tensor]:
            found = self.metric.compute()
            if isinstance(found, RetrievalReport):
                means = {name: values["mean"] for name, values in found.items()}
            else:
                means = found.summary()
            if measure is None:
                return {name: _scalar(mean) for name, mean in means.items()}
            if measure not in means:
                raise ValueError(f"measure: expected one of {', '.join(means)}, got {measure!r}")
            return _scalar(means[measure])

        def forward(self, *args: Any, **options: Any) -> None:
            raise TypeError(
                "as_torchmetrics: expected update(…), got a call: a batch alone is no set"
            )

        def reset(self) -> None:
            super().reset()
            self.metric.reset()

    return Adapter()


def _scalar(mean: float) -> Tensor:
    return torch.tensor(mean, dtype=torch.float64, device="cpu")
