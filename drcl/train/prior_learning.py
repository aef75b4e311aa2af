"""Selective prior learning (SPL): every modality learns a W, the best one becomes the prior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from drcl import functional
from drcl.distributed import raise_together
from drcl.labels import Label, is_labelled
from drcl.precision import widest
from drcl.prior import Prior
from drcl.train.config import Config, stream_seed
from drcl.train.context import Context
from drcl.train.loop import train_modalities
from drcl.train.networks import (
    averaging,
    build_network,
    check_networks,
    fewest_rows,
    pick_device,
    wrapped_like,
)
from drcl.train.phase import Embed, Loss, Outcome, Phase, Record
from drcl.train.prepare import Prepared, prepare_training
from drcl.train.samples import Data
from drcl.train.source import make_source

__all__ = ["best_prior", "check_dim", "choose_prior", "learn_priors", "prior_phase", "select_prior"]
__dir__ = __all__.copy


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
    networks: Mapping[str, nn.Module] | None = None,
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
    context = Context(networks=check_networks(networks), progress=progress)
    held_out = {} if validation is None else validation
    data = prepare_training(train, held_out, classes, config, context.networks)
    return best_prior(learn_priors(data, config, context)[0], config)


def best_prior(priors: Mapping[str, Prior], config: Config) -> Prior:
    """The prior with the highest score, rescaled to ``config.prior_norm`` if that is set."""
    best = max(priors.values(), key=lambda prior: prior.score or 0.0)
    return best if config.prior_norm is None else best.scaled(config.prior_norm)


def check_dim(prior: Prior, config: Config) -> None:
    """Refuse a prior of another dimension than the encoders'."""
    if prior.dim != config.dim:
        raise ValueError(f"prior: expected dimension {config.dim}, as dim says, got {prior.dim}")


def choose_prior(data: Prepared, config: Config, context: Context) -> tuple[Prior, list[Record]]:
    """The prior that ``config.prior`` asks for, with the history of its learning."""
    if config.prior == "orthogonal":
        seed = stream_seed(config.seed, "prior")
        start = Prior.orthogonal(config.dim, len(data.classes), seed=seed)
        return Prior(start.weight * (config.prior_norm or 1.0), classes=data.classes), []
    priors, history = learn_priors(data, config, context)
    return best_prior(priors, config), history


def learn_priors(
    data: Prepared, config: Config, context: Context
) -> tuple[dict[str, Prior], list[Record]]:
    """A prior per modality, all from one random orthogonal start, and their training's history."""
    missing = sorted(set(data.train) - set(data.validation))
    if config.prior_selection == "validation" and missing:
        raise ValueError(
            'prior_selection: with "validation", expected validation samples of every modality, '
            f"got none of {missing}"
        )

    def finish(phase: Phase, outcome: Outcome) -> Outcome:
        # Of what was trained only W is needed further on.
        return replace(outcome, state={"weight": outcome.state["weight"]})

    make_phase = partial(prior_phase, data=data, config=config, context=context)
    outcomes = train_modalities(data.costs("prior", config), make_phase, finish, context)
    priors = {
        modality: Prior(
            outcome.state["weight"].cpu(),
            classes=data.classes,
            modality=modality,
            score=outcome.best,
        )
        for modality, outcome in outcomes.items()
    }
    return priors, [record for outcome in outcomes.values() for record in outcome.history]


def prior_phase(modality: str, data: Prepared, config: Config, context: Context) -> Phase:
    """The training of one modality's encoder together with its W."""
    device, ranks = pick_device(config.device), context.parallel.batches
    samples, classes = data.train[modality], len(data.classes)
    start = Prior.orthogonal(config.dim, classes, seed=stream_seed(config.seed, "prior"))
    encoder = build_network(modality, samples, context.networks, config, "prior")
    module = _Classifier(encoder, start.weight).to(device)
    network = wrapped_like(context.networks.get(modality), encoder)
    source = scored = make_source(samples.labelled(), device, ranks)
    if config.prior_selection == "validation":
        scored = make_source(data.validation[modality].labelled(), device, ranks)

    def loss(x: Tensor, y: Tensor, q: Tensor, permutation: Tensor | None) -> Loss:
        found = functional.prior_similarity(
            x, module.weight, y, q=q, temperature=config.temperature, loss_only=True
        ).loss
        assert found is not None
        if ranks is not None:
            found = ranks.mean(found, is_labelled(y).sum())
        # The released loss is (1 − s^0)/0 in its first epoch: NaN, but with a gradient of zero.
        return Loss(found * (q > 0) if config.paper_compat else found, {"J_L": found})

    def validate(q: float, embed: Embed) -> dict[str, float]:
        # A mean of the chunks' means, each with its number of rows: no embedding is kept.
        total, count = torch.zeros((), dtype=widest(device), device=device), 0
        with raise_together(None if ranks is None else ranks.group):
            for x, y in embed(scored):
                weight, temperature = module.weight.detach(), config.temperature
                score = functional.prior_similarity(
                    x, weight, y, temperature=temperature, loss_only=True
                ).score
                assert score is not None
                total += score * len(x)
                count += len(x)
        score = total / count
        if ranks is not None:
            score = ranks.mean(score, ranks.size(scored.count))
        return {"score": float(score)}

    return Phase(
        name="prior",
        modality=modality,
        config=config,
        network=network,
        module=module,
        source=source,
        loss=loss,
        validate=validate,
        criterion="score",
        maximize=True,
        inputs=() if scored is source else (scored,),
        keep_last=config.paper_compat,
        average=averaging(network),
        ranks=ranks,
        least=fewest_rows(encoder, modality, samples, config, ranks),
    )
