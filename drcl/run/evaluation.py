"""Measuring a model on a split of a data set, and what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch.distributed import ProcessGroup

from drcl.data.dataset import CrossModalDataset, Split
from drcl.estimator import DRCL
from drcl.labels import is_labelled, known_ids
from drcl.metrics import precision_recall_curve, retrieval_report
from drcl.run.command import train_command
from drcl.run.record import Run, format_settings
from drcl.train.calibration import ranking
from drcl.train.networks import pick_device

if TYPE_CHECKING:
    from drcl.report import ReportData

KS = (50,)

Metrics = dict[str, dict[str, float]]
SplitName = Literal["test", "validation"]


class Measured(NamedTuple):
    """A model on a split of a data set; split and metrics are None where nothing can be measured.

    Attributes:
        data: the set, with all its splits.
        split: the one that was measured.
        embeddings: modality -> (N, D), of those that are labelled.
        ranking: the metric that they are ranked by, as :func:`drcl.metrics.retrieval_metrics`
            names it.
        metrics: measure -> ordered pair, or ``"mean"`` -> value in [0, 1].
    """

    data: CrossModalDataset
    split: SplitName | None
    embeddings: dict[str, np.ndarray]
    ranking: str
    metrics: Metrics | None


def evaluation_split(data: CrossModalDataset) -> SplitName | None:
    """The test split; where it has no two labelled modalities the validation split; else None."""
    candidates: tuple[SplitName, SplitName] = ("test", "validation")
    return next((name for name in candidates if len(_measurable(data.splits[name])) > 1), None)


def measured_split(data: CrossModalDataset, split: SplitName | None = None) -> SplitName:
    """The split asked for, or that of :func:`evaluation_split`; ValueError where there is none."""
    chosen = split or evaluation_split(data)
    if chosen is None:
        raise ValueError(
            f"{data.name}: expected a split with labelled rows of two modalities, got none"
        )
    return chosen


def embed(model: DRCL, split: Split, space: str | None = None) -> dict[str, np.ndarray]:
    """Modality -> embeddings (N, D), of those that the model knows and that are labelled."""
    return {
        name: model.encode(name, samples.features, space=space).numpy()
        for name, samples in _measurable(split).items()
        if name in model.modalities
    }


def measure(
    embeddings: Mapping[str, np.ndarray],
    split: Split,
    ks: Sequence[int] = KS,
    *,
    device: str = "cpu",
    ranking: str = "cosine",
    process_group: ProcessGroup | None = None,
) -> Metrics:
    """mAP of every ordered pair, as :func:`drcl.metrics.retrieval_report` returns it.

    ``device`` is that of :class:`drcl.Config`, ``ranking`` the report's ``metric``.
    """
    place = pick_device(device)
    rows = {name: torch.from_numpy(part).to(place) for name, part in embeddings.items()}
    return retrieval_report(
        {name: (part, known_ids(split[name].labels)) for name, part in rows.items()},
        ks=ks,
        metric=ranking,
        process_group=process_group,
    )


def measure_model(
    model: DRCL,
    data: CrossModalDataset,
    split: SplitName | None = None,
    ks: Sequence[int] = KS,
    *,
    space: str | None = None,
    process_group: ProcessGroup | None = None,
) -> Measured:
    """:func:`embed` and :func:`measure` on the device of the model's settings.

    ``split`` is by default that of :func:`evaluation_split`, ``space`` the model's own.
    """
    metric = ranking(space or model.space)
    split = split or evaluation_split(data)
    if split is None:
        return Measured(data, None, {}, metric, None)
    samples = data.splits[split]
    embeddings = embed(model, samples, space)
    metrics = measure(
        embeddings,
        samples,
        ks,
        device=model.config.device,
        ranking=metric,
        process_group=process_group,
    )
    return Measured(data, split, embeddings, metric, metrics)


def report_data(run: Run, model: DRCL, measured: Measured) -> ReportData:
    """What the report shows of a run that was measured."""
    from drcl.report import ReportData

    data, split, embeddings, metric, metrics = measured
    assert split is not None and metrics is not None
    samples = data.splits[split]
    labels = {name: samples[name].labels for name in embeddings}
    prior = model.prior
    return ReportData(
        title=f"DRCL on {data.name}",
        metrics=metrics,
        embeddings=embeddings,
        labels=labels,
        classes=data.classes,
        history=[record for record in model.history if record["modality"] in embeddings],
        curves=_curves(embeddings, labels, metric, metrics),
        pictures={m: p for m, p in data.pictures.items() if split == "test" and m in embeddings},
        summary={
            "data set": data.name,
            "measured on": f"{split} split",
            "prior": f"learned from {prior.modality}" if prior.modality else model.config.prior,
            "prior's column norm": f"{float(prior.column_norm):.3g}",
            "settings": format_settings(run.settings),
            "seconds": ", ".join(f"{phase} {value:.1f}" for phase, value in run.seconds.items()),
            "versions": ", ".join(f"{name} {value}" for name, value in run.versions.items()),
            "seed": str(model.config.seed),
            "command": train_command(
                run.dataset, run.root, run.settings, automatic=bool(model.tried)
            ),
        },
    )


def _curves(
    embeddings: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    metric: str,
    metrics: Metrics,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Precision–recall curves of the ordered pairs in which anything relevant can be found."""
    curves = {}
    for a, b in permutations(embeddings, 2):
        if metrics["mAP@all"][f"{a}->{b}"] > 0:
            sides = known_ids(labels[a]), known_ids(labels[b])
            curve = precision_recall_curve(embeddings[a], embeddings[b], *sides, metric=metric)
            curves[f"{a}->{b}"] = (curve.recall.numpy(), curve.precision.numpy())
    return curves


def _measurable(split: Split) -> Split:
    return {name: part for name, part in split.items() if is_labelled(part.labels).any()}
