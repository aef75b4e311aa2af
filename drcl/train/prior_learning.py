"""Selective prior learning (SPL): every modality learns a W, the best one becomes the prior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from drcl import functional
from drcl.labels import Label, is_labelled
from drcl.prior import Prior
from drcl.train.config import Config, setting
from drcl.train.loop import Embed, Log, Outcome, Phase, Record, stream_seed
from drcl.train.loop import train as run_phases
from drcl.train.networks import (
    averaging,
    build_network,
    check_networks,
    fewest_rows,
    pick_device,
    wrapped_like,
)
from drcl.train.parallel import ALONE, Parallel, spread
from drcl.train.prepare import prepare_training
from drcl.train.ranks import Ranks
from drcl.train.samples import Data, Modality, check_pairs, choose_classes, with_labels
from drcl.train.source import make_source
from drcl.train.step import Loss

Networks = Mapping[str, nn.Module]


class _Classifier(nn.Module):
    """An encoder and the class columns W that are trained with it."""

    def __init__(self, encoder: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = nn.Parameter(weight.clone())


@torch.inference_mode(False)  # also where the caller has switched gradients off
def select_prior(
    train: Mapping[str, Data],
    validation: Mapping[str, Data] | None = None,
    config: Config | None = None,
    *,
    classes: Iterable[Label] | None = None,
    networks: Networks | None = None,
    progress: bool = True,
) -> Prior:
    """Learn a prior in each modality and return the one with the best quality score.

    Args:
        train, validation: modality -> (features (N, d), labels), or a Dataset or DataLoader of
            such pairs.
        config: settings; the default is the paper's.
        classes: the ids or names of all classes, in the order of W's columns; default: the sorted
            ones that occur. One that does not occur in ``train`` keeps a column: that of the random
            start, which is trained as a wrong answer only.
        networks: modality -> ``nn.Module`` to use instead of the perceptron encoder.
        progress: show a bar per modality.

    The quality score is the mean probability ``softmax(XW)`` gives the true class, over the
    training set, or over the validation set with ``prior_selection="validation"``. Source: paper,
    selective prior learning.

    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(40, 8)), np.arange(40) % 4
    >>> config = Config(dim=16, hidden=(32,), prior_epochs=2)
    >>> select_prior({"a": (x, y), "b": (x[:20], y[:20])}, config=config, progress=False).dim
    16
    """
    config = config or Config()
    networks = check_networks(networks)
    check_pairs(train, "train")
    if not train:
        raise ValueError("train: no modality given")
    config.check_modalities(train)
    pairs = with_labels(train, "train", config.standardize)
    columns = choose_classes(pairs, classes, config)
    held_out = {} if validation is None else validation
    prepared = prepare_training(pairs, held_out, columns, config, networks)
    priors, _ = learn_priors(
        prepared.train,
        prepared.validation,
        columns,
        config,
        networks=networks,
        progress=progress,
    )
    return best_prior(priors, config)


def best_prior(priors: Mapping[str, Prior], config: Config) -> Prior:
    """The prior with the highest score, rescaled to ``config.prior_norm`` if that is set."""
    best = max(priors.values(), key=lambda prior: prior.score or 0.0)
    return best if config.prior_norm is None else best.scaled(config.prior_norm)


def learn_priors(
    train: Mapping[str, Modality],
    validation: Mapping[str, Modality],
    classes: tuple[Label, ...],
    config: Config,
    *,
    networks: Networks,
    checkpoints: Path | None = None,
    progress: bool = True,
    log: Log | None = None,
    parallel: Parallel = ALONE,
) -> tuple[dict[str, Prior], list[Record]]:
    """A prior per modality, all from one random orthogonal start, and their training's history."""
    missing = sorted(set(train) - set(validation))
    if config.prior_selection == "validation" and missing:
        raise ValueError(f'prior_selection="validation" needs validation samples for {missing}')

    def learn(modalities: list[str]) -> dict[str, Outcome]:
        phases = [
            prior_phase(
                modality,
                train[modality],
                validation.get(modality),
                classes,
                config,
                networks,
                parallel.batches,
            )
            for modality in modalities
        ]
        outcomes = run_phases(phases, checkpoints, progress, log)
        # Of what was trained only W is needed further on.
        return {
            modality: replace(outcome, state={"weight": outcome.state["weight"]})
            for modality, outcome in zip(modalities, outcomes, strict=True)
        }

    costs = {
        name: len(part.targets) * setting(config.prior_epochs, name) for name, part in train.items()
    }
    outcomes = spread(costs, learn, parallel.modalities)
    priors = {
        modality: Prior(
            outcome.state["weight"].cpu(), classes=classes, modality=modality, score=outcome.best
        )
        for modality, outcome in outcomes.items()
    }
    return priors, [record for outcome in outcomes.values() for record in outcome.history]


def prior_phase(
    modality: str,
    samples: Modality,
    validation: Modality | None,
    classes: tuple[Label, ...],
    config: Config,
    networks: Networks,
    ranks: Ranks | None = None,
) -> Phase:
    """The training of one modality's encoder together with its W."""
    device = pick_device(config.device)
    start = Prior.orthogonal(config.dim, len(classes), seed=stream_seed(config.seed, "prior"))
    encoder = build_network(modality, samples, networks, config, "prior")
    module = _Classifier(encoder, start.weight).to(device)
    network = wrapped_like(networks.get(modality), encoder)
    source = judged_on = make_source(samples.labelled(), device, ranks)
    if config.prior_selection == "validation":
        assert validation is not None
        judged_on = make_source(validation.labelled(), device, ranks)

    def loss(x: Tensor, y: Tensor, q: Tensor, permutation: Tensor | None) -> Loss:
        found = functional.prior_similarity(
            x, module.weight, y, q=q, temperature=config.temperature
        ).loss
        assert found is not None
        if ranks is not None:
            found = ranks.mean(found, is_labelled(y).sum())
        # The released loss is (1 − s^0)/0 in its first epoch: NaN, but with a gradient of zero.
        return Loss(found * (q > 0) if config.paper_compat else found, {"J_L": found})

    def judge(q: float, embed: Embed) -> dict[str, float]:
        # A mean of the chunks' means, each with its number of rows: no embedding is kept.
        total, count = torch.zeros((), dtype=torch.float64, device=device), 0
        with nullcontext() if ranks is None else ranks.raise_together():
            for x, y in embed(judged_on):
                score = functional.prior_similarity(
                    x, module.weight.detach(), y, temperature=config.temperature
                ).score
                assert score is not None
                total += score * len(x)
                count += len(x)
        score = total / count
        if ranks is not None:
            score = ranks.mean(score, ranks.size(judged_on.count))
        return {"score": float(score)}

    return Phase(
        name="prior",
        modality=modality,
        network=network,
        module=module,
        source=source,
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
        precision=config.precision,
        inputs=() if judged_on is source else (judged_on,),
        keep_last=config.paper_compat,
        average=averaging(network),
        ranks=ranks,
        least=fewest_rows(encoder, modality, samples, setting(config.batch_size, modality), ranks),
    )
