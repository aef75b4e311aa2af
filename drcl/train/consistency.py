"""Reversible semantic consistency (RSC): encoders trained against the frozen prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from drcl.errors import NonFiniteLoss
from drcl.losses import ReversibleConsistencyLoss
from drcl.metrics import mean_average_precision
from drcl.prior import Prior
from drcl.train.config import Config, setting
from drcl.train.embedding import apply_in_chunks, chunk_rows, collect
from drcl.train.loop import Embed, Log, Outcome, Phase, diverged, stream_seed, train
from drcl.train.networks import averaging, fewest_rows, pick_device, wrapped_like
from drcl.train.parallel import ALONE, Parallel, spread
from drcl.train.ranks import Ranks
from drcl.train.samples import Modality
from drcl.train.source import Source, make_source
from drcl.train.step import Loss, LossFunction


def train_encoders(
    encoders: Mapping[str, nn.Module],
    samples: Mapping[str, Modality],
    validation: Mapping[str, Modality],
    prior: Prior,
    config: Config,
    *,
    networks: Mapping[str, nn.Module] | None = None,
    checkpoints: Path | None = None,
    progress: bool = True,
    log: Log | None = None,
    parallel: Parallel = ALONE,
) -> dict[str, Outcome]:
    """Train the encoders in place and return, for each, the kept parameters with the history.

    A modality without validation samples keeps its last epoch, whatever ``config.selection`` says.
    ``networks`` are the user's own, of which ``encoders`` are copies.
    """

    def learn(modalities: list[str]) -> dict[str, Outcome]:
        phases = [
            encoder_phase(
                modality,
                encoders[modality],
                samples[modality],
                validation.get(modality),
                prior,
                config,
                template=(networks or {}).get(modality),
                ranks=parallel.batches,
            )
            for modality in modalities
        ]
        outcomes = train(phases, checkpoints, progress, log)
        for phase in phases:
            # No loss sees what the last step did; with validation samples the last judgement does.
            if phase.modality not in validation:
                _check_output(phase)
        return dict(zip(modalities, outcomes, strict=True))

    costs = {name: len(samples[name].targets) * setting(config.epochs, name) for name in encoders}
    return spread(costs, learn, parallel.modalities)


def encoder_phase(
    modality: str,
    encoder: nn.Module,
    samples: Modality,
    validation: Modality | None,
    prior: Prior,
    config: Config,
    *,
    template: nn.Module | None = None,
    ranks: Ranks | None = None,
) -> Phase:
    """The training of one encoder; ``template`` is the user's network that it is a copy of."""
    device = pick_device(config.device)
    network = wrapped_like(template, encoder.to(device))
    criterion = ReversibleConsistencyLoss(
        prior.by_column(),
        alpha=config.alpha,
        beta=config.beta,
        eta=config.eta,
        temperature=config.temperature,
        # Across ranks rows are mixed before the loss: it would look for partners on its own rank.
        lam=config.lam if ranks is None else 1.0,
        process_group=None if ranks is None else ranks.group,
    ).to(device)
    judged = None if validation is None else make_source(validation.labelled(), device, ranks)
    selection = "loss" if config.paper_compat else config.selection
    return Phase(
        name="encoder",
        modality=modality,
        network=network,
        module=encoder,
        source=make_source(samples.labelled(), device, ranks),
        loss=_loss(criterion, config, ranks),
        judge=_judge(judged, criterion, selection, config, ranks),
        criterion=None if judged is None or selection == "last" else f"validation_{selection}",
        maximize=selection == "map",
        epochs=setting(config.epochs, modality),
        batch_size=setting(config.batch_size, modality),
        lr=setting(config.lr, modality),
        seed=stream_seed(config.seed, "encoder", modality),
        drop_last=config.paper_compat,
        settings=config.to_dict(),
        precision=config.precision,
        mixes=config.lam < 1.0,
        inputs=(prior.weight, *(() if judged is None else (judged,))),
        average=averaging(network),
        ranks=ranks,
        least=fewest_rows(encoder, modality, samples, setting(config.batch_size, modality), ranks),
        # The released code calls this loss with epoch + 1, and that of prior learning with epoch.
        first_epoch=1 if config.paper_compat else 0,
    )


def _check_output(phase: Phase) -> None:
    with torch.random.fork_rng(devices=[]):  # a user's loader may draw from it
        features, _ = next(iter(phase.source.chunks(chunk_rows(phase.source.device))))
    if not bool(apply_in_chunks(phase.module, features).isfinite().all()):
        raise NonFiniteLoss(diverged(phase, "NaN embeddings after the last epoch"))


def _loss(
    criterion: ReversibleConsistencyLoss, config: Config, ranks: Ranks | None
) -> LossFunction:
    classes = criterion.prior.weight.shape[1]

    def loss(x: Tensor, y: Tensor, q: Tensor, permutation: Tensor | None) -> Loss:
        if ranks is not None and permutation is not None:
            x, y = ranks.mix(x, y, permutation, classes, config.lam)
        found = criterion.parts(x, y, q=q, permutation=permutation)
        parts = {"J_L": found.label, "J_D": found.consistency, "J_MSE": found.recasting}
        return Loss(found.total, parts)

    return loss


def _judge(
    validation: Source | None,
    criterion: ReversibleConsistencyLoss,
    selection: str,
    config: Config,
    ranks: Ranks | None,
) -> Callable[[float, Embed], dict[str, float]]:
    def judge(q: float, embed: Embed) -> dict[str, float]:
        if validation is None:
            return {}
        with nullcontext() if ranks is None else ranks.raise_together():
            embeddings, targets = collect(embed(validation), validation.count)
        labels = targets if ranks is None else ranks.targets(targets, validation.count)
        criterion.eval()
        loss = float(criterion(embeddings, labels, q=q if config.paper_compat else 1.0))
        criterion.train()
        values = {"validation_loss": loss}
        if selection == "map" and math.isfinite(loss):
            if ranks is None:
                found = mean_average_precision(
                    embeddings, embeddings, targets, targets, exclude_self=True
                )
            else:
                found = ranks.mean_average_precision(
                    *(ranks.gather(part, validation.count) for part in (embeddings, targets))
                )
            values["validation_map"] = found
        return values

    return judge
