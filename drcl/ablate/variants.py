"""The variants of the method: which prior they train against, and which settings they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from drcl.data import CrossModalDataset
from drcl.estimator import DRCL
from drcl.prior import Prior
from drcl.run.evaluation import Metrics, embed, measure, measured_split
from drcl.train.config import Config, stream_seed
from drcl.train.context import Context
from drcl.train.prepare import prepare_training
from drcl.train.prior_learning import best_prior, learn_priors


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    ``prior`` is the best learned one (the method's), the one with the lowest score, every
    modality's own, a random orthogonal one with columns of unit norm or scaled to the mean column
    norm of the best one, or one learned anew under the changed settings.
    """

    name: str
    prior: Literal["best", "lowest", "own", "random", "random scaled", "anew"] = "best"
    changes: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("full"),
    Variant("random prior, unit columns", prior="random"),
    Variant("random prior, learned norm", prior="random scaled"),
    Variant("each modality's own prior", prior="own"),
    Variant("prior with the lowest score", prior="lowest"),
    Variant("no recasting terms (α = β = 0)", changes={"alpha": 0.0, "beta": 0.0}),
    Variant("no augmentation (λ = 1)", changes={"lam": 1.0}),
    Variant("no label loss (η = 0)", changes={"eta": 0.0}),
    # The released code does not rescale its prior.
    Variant("paper_compat", prior="anew", changes={"paper_compat": True, "prior_norm": None}),
)


def learn_all_priors(data: CrossModalDataset, config: Config) -> dict[str, Prior]:
    """The prior of every modality, as :meth:`drcl.DRCL.fit` learns them before it selects one."""
    prepared = prepare_training(data.train, data.validation, None, config, {})
    return learn_priors(prepared, config, Context(progress=False))[0]


def train_variant(
    variant: Variant, data: CrossModalDataset, config: Config, priors: Mapping[str, Prior]
) -> Metrics:
    """Train one variant with ``config.seed`` and measure its mAP.

    Raises:
        ValueError: no split holds labelled rows of two modalities.
    """
    split = measured_split(data)
    config = replace(config, **variant.changes)
    embeddings: dict[str, np.ndarray] = {}
    for modalities, prior in _trainings(variant, config, priors):
        part = config if len(modalities) > 1 else config.for_modality(modalities[0])
        model = DRCL(part).fit(
            {name: data.train[name] for name in modalities},
            {name: data.validation[name] for name in modalities if name in data.validation},
            prior=prior,
            progress=False,
        )
        embeddings |= embed(model, data.splits[split])
    return measure(embeddings, data.splits[split])


def _trainings(
    variant: Variant, config: Config, priors: Mapping[str, Prior]
) -> list[tuple[list[str], Prior | None]]:
    """Which modalities are trained against which prior; None learns one."""
    everything = list(priors)
    if variant.prior == "anew":
        return [(everything, None)]
    if variant.prior == "own":
        return [([name], _rescaled(prior, config)) for name, prior in priors.items()]
    if variant.prior == "lowest":
        lowest = min(priors.values(), key=lambda prior: prior.score or 0.0)
        return [(everything, _rescaled(lowest, config))]
    best = best_prior(priors, config)
    if variant.prior == "best":
        return [(everything, best)]
    norm = 1.0 if variant.prior == "random" else float(best.column_norm)
    seed = stream_seed(config.seed, "prior")
    start = Prior.orthogonal(config.dim, len(best.classes), seed=seed, norm=norm)
    return [(everything, Prior(start.weight, classes=best.classes))]


def _rescaled(prior: Prior, config: Config) -> Prior:
    return best_prior({"": prior}, config)
