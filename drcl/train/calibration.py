"""From embeddings to class posteriors: temperatures, and the space that pairs are ranked in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drcl.encoder import normalize
from drcl.ensemble.calibration import fit_temperature
from drcl.labels.encoded import target_rows
from drcl.metrics import retrieval_report
from drcl.prior import Prior
from drcl.train.config import SPACES, Config
from drcl.train.context import Context
from drcl.train.embedding import apply_in_chunks, chunk_rows
from drcl.train.networks import averaging, pick_device
from drcl.train.prepare import Prepared
from drcl.train.source import make_source


def posteriors(embeddings: Tensor, prior: Prior, temperature: float) -> Tensor:
    """``softmax(xW/τ)`` (N, C) of a network's output (N, D)."""
    weight = prior.weight.to(embeddings)
    return (embeddings @ weight / temperature).softmax(dim=1)


def ranking(space: str) -> str:
    """The ``metric`` by which :mod:`drcl.metrics` ranks what is encoded in a space."""
    return "cosine" if space == "cosine" else "dot"


def check_output(embeddings: Tensor, modality: str) -> None:
    """Refuse rows that are not finite: a network may overflow where the features do not."""
    finite = embeddings.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(
            f"{modality} features: expected finite embeddings, got NaN or infinity in row {row}"
        )


def calibrate(
    encoders: Mapping[str, nn.Module],
    data: Prepared,
    prior: Prior,
    config: Config,
    context: Context,
) -> tuple[dict[str, float], str]:
    """τ of every modality, and the space to rank in.

    τ is fitted to the labelled validation rows, or the setting where there are none. Of processes
    that train one network on samples of their own, it is the geometric mean.
    """
    found, temperatures = {}, {}
    for name, encoder in encoders.items():
        if name not in data.validation:
            temperatures[name] = config.temperature
            continue
        embeddings, targets = _held_out(encoder, data, name, config)
        check_output(embeddings, name)
        rows = target_rows(targets, len(data.classes), torch.float32)
        logits = embeddings @ prior.weight.to(embeddings)
        tau = torch.tensor(fit_temperature(logits, rows / rows.sum(dim=1, keepdim=True)))
        average = averaging(context.networks[name]) if name in context.networks else None
        if average is not None:
            logs = [tau.log().to(pick_device(config.device))]
            average(logs)
            tau = logs[0].exp()
        temperatures[name] = float(tau)
        found[name] = embeddings, targets
    if config.space != "auto":
        return temperatures, config.space
    if len(found) < 2:
        raise ValueError(
            'space: expected validation rows of two modalities for "auto", got those of '
            f"{sorted(found)}"
        )
    ranked = {
        "cosine": {name: (normalize(x), y) for name, (x, y) in found.items()},
        "posterior": {
            name: (posteriors(x, prior, temperatures[name]), y) for name, (x, y) in found.items()
        },
    }

    def quality(space: str) -> float:
        return retrieval_report(ranked[space], ks=(), metric="dot")["mAP@all"]["mean"]

    return temperatures, max(SPACES, key=quality)


def _held_out(
    encoder: nn.Module, data: Prepared, modality: str, config: Config
) -> tuple[Tensor, Tensor]:
    """Embeddings and targets of the labelled validation rows, on the CPU."""
    device = pick_device(config.device)
    encoder.to(device)
    with torch.random.fork_rng(devices=[]):  # a loader may draw from it
        source = make_source(data.validation[modality].labelled(), device, None)
        pairs = [
            (apply_in_chunks(encoder, features).float().cpu(), targets.cpu())
            for features, targets in source.chunks(chunk_rows(device))
        ]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
