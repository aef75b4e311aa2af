"""Reversible semantic consistency (RSC): encoders trained against the frozen prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from drcl.distributed import raise_together
from drcl.errors import NonFiniteLoss
from drcl.losses import ReversibleConsistencyLoss
from drcl.metrics import mean_average_precision
from drcl.prior import Prior
from drcl.train.config import Config
from drcl.train.context import Context
from drcl.train.embedding import apply_in_chunks, chunk_rows, collect
from drcl.train.loop import train_modalities
from drcl.train.networks import (
    averaging,
    build_network,
    fewest_rows,
    pick_device,
    wrapped_like,
)
from drcl.train.phase import Embed, Loss, LossFunction, Outcome, Phase, Record, Validate
from drcl.train.prepare import Prepared
from drcl.train.ranks import Ranks
from drcl.train.source import SampleSource, make_source


def train_encoders(
    data: Prepared, prior: Prior, config: Config, context: Context
) -> tuple[dict[str, nn.Module], list[Record]]:
    """Train an encoder for every modality; returns them with the parameters kept, and the history.

    A modality without validation samples keeps its last epoch, whatever ``config.selection`` says.
    ``context.networks`` are the user's own, of which copies are trained.
    """
    encoders = {
        name: build_network(name, part, context.networks, config, "encoder")
        for name, part in data.train.items()
    }

    def make_phase(modality: str) -> Phase:
        return encoder_phase(modality, encoders[modality], data, prior, config, context)

    def finish(phase: Phase, outcome: Outcome) -> Outcome:
        # No loss sees what the last step did; with validation samples the last epoch's does.
        if phase.modality not in data.validation:
            _check_output(phase)
        return outcome

    outcomes = train_modalities(data.costs("encoder", config), make_phase, finish, context)
    for name, outcome in outcomes.items():
        encoders[name].load_state_dict(outcome.state)
        encoders[name].eval()
    return encoders, [record for outcome in outcomes.values() for record in outcome.history]


def encoder_phase(
    modality: str,
    encoder: nn.Module,
    data: Prepared,
    prior: Prior,
    config: Config,
    context: Context,
) -> Phase:
    """The training of one encoder, a copy of the user's network where there is one."""
    device, ranks = pick_device(config.device), context.parallel.batches
    network = wrapped_like(context.networks.get(modality), encoder.to(device))
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
    samples, held_out = data.train[modality], data.validation.get(modality)
    validation = None if held_out is None else make_source(held_out.labelled(), device, ranks)
    selection = "loss" if config.paper_compat else config.selection
    return Phase(
        name="encoder",
        modality=modality,
        config=config,
        network=network,
        module=encoder,
        source=make_source(samples.labelled(), device, ranks),
        loss=_loss(criterion, config, ranks),
        validate=_validate(validation, criterion, selection, config, ranks),
        criterion=None if validation is None or selection == "last" else f"validation_{selection}",
        maximize=selection == "map",
        mixes=config.lam < 1.0,
        inputs=(prior.weight, *(() if validation is None else (validation,))),
        average=averaging(network),
        ranks=ranks,
        least=fewest_rows(encoder, modality, samples, config, ranks),
    )


def _check_output(phase: Phase) -> None:
    with torch.random.fork_rng(devices=[]):  # a user's loader may draw from it
        features, _ = next(iter(phase.source.chunks(chunk_rows(phase.source.device))))
    if not bool(apply_in_chunks(phase.module, features).isfinite().all()):
        raise NonFiniteLoss(phase.diverged("NaN embeddings after the last epoch"))


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


def _validate(
    validation: SampleSource | None,
    criterion: ReversibleConsistencyLoss,
    selection: str,
    config: Config,
    ranks: Ranks | None,
) -> Validate:
    def validate(q: float, embed: Embed) -> dict[str, float]:
        if validation is None:
            return {}
        with raise_together(None if ranks is None else ranks.group):
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

    return validate
