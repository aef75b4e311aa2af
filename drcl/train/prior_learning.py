"""Selective prior learning (SPL): every modality learns a W, the best one becomes the prior."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drcl import functional
from drcl.labels import find_classes
from drcl.prior import Prior
from drcl.train.config import Config, setting
from drcl.train.loop import Phase, run, stream_seed
from drcl.train.networks import apply_in_chunks, build_network, pick_device
from drcl.train.samples import Arrays, Samples, fit_standardizers, prepare, standardize

Networks = Mapping[str, nn.Module]


class _Classifier(nn.Module):
    """An encoder and the class columns W that are trained with it."""

    def __init__(self, encoder: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = nn.Parameter(weight.clone())


def select_prior(
    train: Mapping[str, Arrays],
    validation: Mapping[str, Arrays] | None = None,
    config: Config | None = None,
    *,
    networks: Networks | None = None,
    progress: bool = True,
) -> Prior:
    """Learn a prior in each modality and return the one with the best quality score.

    Args:
        train, validation: modality -> (features (N, d), labels).
        config: settings; the default is the paper's.
        networks: modality -> ``nn.Module`` to use instead of the perceptron encoder.
        progress: show a bar per modality.

    The quality score is the mean probability ``softmax(XW)`` gives the true class, over the
    training set, or over the validation set with ``prior_selection="validation"``. Source: paper,
    selective prior learning.

    >>> x, y = np.random.default_rng(0).normal(size=(40, 8)), np.arange(40) % 4
    >>> config = Config(dim=16, hidden=(32,), prior_epochs=2)
    >>> select_prior({"a": (x, y), "b": (x[:20], y[:20])}, config=config, progress=False).dim
    16
    """
    config = config or Config()
    if not train:
        raise ValueError("train: no modality given")
    config.check_modalities(train)
    classes = find_classes([np.asarray(labels) for _, labels in train.values()])
    if len(classes) < 2:
        raise ValueError(f"train: needs at least two classes, got {list(classes)}")
    samples = prepare(train, classes, "train")
    standardizers = fit_standardizers(samples, config)
    priors, _ = learn_priors(
        standardize(samples, standardizers),
        standardize(prepare(validation or {}, classes, "validation"), standardizers),
        classes,
        config,
        networks=networks or {},
        progress=progress,
    )
    return best_prior(priors, config)


def best_prior(priors: Mapping[str, Prior], config: Config) -> Prior:
    """The prior with the highest score, rescaled to ``config.prior_norm`` if that is set."""
    best = max(priors.values(), key=lambda prior: prior.score or 0.0)
    return best if config.prior_norm is None else best.scaled(config.prior_norm)


def learn_priors(
    train: Mapping[str, Samples],
    validation: Mapping[str, Samples],
    classes: tuple[int, ...],
    config: Config,
    *,
    networks: Networks,
    checkpoints: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, Prior], list[dict[str, Any]]]:
    """A prior per modality, all from one random orthogonal start, and their training's history."""
    missing = sorted(set(train) - set(validation))
    if config.prior_selection == "validation" and missing:
        raise ValueError(f'prior_selection="validation" needs validation samples for {missing}')
    device = pick_device(config.device)
    start = Prior.orthogonal(config.dim, len(classes), seed=stream_seed(config.seed, "prior"))
    priors, history = {}, []
    for modality, samples in train.items():
        judged_on = validation[modality] if config.prior_selection == "validation" else samples
        encoder = build_network(modality, samples, networks, config, "prior")
        phase = _phase(
            modality,
            _Classifier(encoder, start.weight).to(device),
            _move(samples.labelled(), device),
            _move(judged_on.labelled(), device),
            config,
        )
        file = None if checkpoints is None else checkpoints / f"prior-{modality}.safetensors"
        outcome = run(phase, file, progress)
        priors[modality] = Prior(
            outcome.state["weight"].cpu(), classes=classes, modality=modality, score=outcome.best
        )
        history += outcome.history
    return priors, history


def _move(samples: Samples, device: torch.device) -> Samples:
    return Samples(samples.features.to(device), samples.targets.to(device))


def _phase(
    modality: str, module: _Classifier, samples: Samples, judged_on: Samples, config: Config
) -> Phase:
    def loss(features: Tensor, targets: Tensor, q: float, generator: torch.Generator) -> Tensor:
        out = functional.prior_similarity(
            module.encoder(features), module.weight, targets, q=q, temperature=config.temperature
        )
        assert out.loss is not None
        # The released loss is (1 − s^0)/0 in its first epoch: NaN, but with a gradient of zero.
        return out.loss * 0.0 if config.paper_compat and q == 0.0 else out.loss

    def judge(q: float) -> dict[str, float]:
        embeddings = apply_in_chunks(module.encoder, judged_on.features)
        out = functional.prior_similarity(
            embeddings, module.weight.detach(), judged_on.targets, temperature=config.temperature
        )
        assert out.score is not None
        return {"score": float(out.score)}

    return Phase(
        name="prior",
        modality=modality,
        module=module,
        samples=samples,
        loss=loss,
        judge=judge,
        criterion="score",
        maximize=True,
        epochs=setting(config.prior_epochs, modality),
        batch_size=setting(config.batch_size, modality),
        lr=setting(config.prior_lr, modality),
        seed=stream_seed(config.seed, "prior", modality),
        drop_last=config.paper_compat,
        settings=config.to_dict(),
        inputs=judged_on,
        keep_last=config.paper_compat,
    )
