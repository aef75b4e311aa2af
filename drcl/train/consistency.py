"""Reversible semantic consistency (RSC): one modality's encoder against the frozen prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from drcl.losses import ReversibleConsistencyLoss
from drcl.metrics import mean_average_precision
from drcl.prior import Prior
from drcl.train.config import Config, setting
from drcl.train.loop import NonFiniteLoss, Outcome, Phase, diverged, run, stream_seed
from drcl.train.networks import CHUNK_ROWS, apply_in_chunks, pick_device
from drcl.train.samples import Samples


def train_encoder(
    modality: str,
    network: nn.Module,
    train: Samples,
    validation: Samples | None,
    prior: Prior,
    config: Config,
    *,
    checkpoints: Path | None = None,
    progress: bool = True,
) -> Outcome:
    """Train ``network`` in place and return the kept parameters with the history.

    Without validation samples the last epoch is kept, whatever ``config.selection`` says.
    """
    device = pick_device(config.device)
    network.to(device)
    train = train.labelled()
    criterion = _Loss(prior, config).to(device)
    judged = None if validation is None else validation.labelled()
    selection = "loss" if config.paper_compat else config.selection
    phase = Phase(
        name="encoder",
        modality=modality,
        module=network,
        samples=Samples(train.features.to(device), train.targets.to(device)),
        loss=lambda x, y, q, generator: criterion(network(x), y, q, generator),
        judge=_judge(network, judged, criterion, selection, config),
        criterion=None if judged is None or selection == "last" else f"validation_{selection}",
        maximize=selection == "map",
        epochs=setting(config.epochs, modality),
        batch_size=setting(config.batch_size, modality),
        lr=setting(config.lr, modality),
        seed=stream_seed(config.seed, "encoder", modality),
        drop_last=config.paper_compat,
        settings=config.to_dict(),
        inputs=(prior.weight, *(judged or ())),
    )
    file = None if checkpoints is None else checkpoints / f"encoder-{modality}.safetensors"
    outcome = run(phase, file, progress)
    # No loss sees what the last step did; with validation samples the last judgement does.
    if judged is None:
        rows = apply_in_chunks(network, phase.samples.features[:CHUNK_ROWS])
        if not bool(rows.isfinite().all()):
            raise NonFiniteLoss(diverged(phase, "NaN embeddings after the last epoch"))
    return outcome


class _Loss(nn.Module):
    """The training loss, with permutations from the phase's own stream."""

    def __init__(self, prior: Prior, config: Config) -> None:
        super().__init__()
        self.loss = ReversibleConsistencyLoss(
            prior,
            alpha=config.alpha,
            beta=config.beta,
            eta=config.eta,
            temperature=config.temperature,
            lam=config.lam,
        )
        self.paper_compat = config.paper_compat

    def forward(self, x: Tensor, y: Tensor, q: float, generator: torch.Generator) -> Tensor:
        permutation = torch.randperm(len(x), generator=generator, device=x.device)
        parts = self.loss.parts(x, y, q=q, permutation=permutation)
        if self.paper_compat and q == 0.0:
            # The released loss is NaN here and its label part has a gradient of zero.
            return self.loss.alpha * parts.consistency + self.loss.beta * parts.recasting
        return parts.total


def _judge(
    network: nn.Module, validation: Samples | None, criterion: _Loss, selection: str, config: Config
) -> Callable[[float], dict[str, float]]:
    def judge(q: float) -> dict[str, float]:
        # The released validation loss is NaN at q = 0, and no epoch is kept for it: there is none.
        if validation is None or (config.paper_compat and q == 0.0):
            return {}
        features, targets = (part.to(criterion.loss.prior.weight.device) for part in validation)
        embeddings = apply_in_chunks(network, features)
        criterion.eval()
        loss = float(criterion.loss(embeddings, targets, q=q if config.paper_compat else 1.0))
        criterion.train()
        values = {"validation_loss": loss}
        if selection == "map" and math.isfinite(loss):
            values["validation_map"] = mean_average_precision(
                embeddings, embeddings, targets, targets, exclude_self=True
            )
        return values

    return judge
