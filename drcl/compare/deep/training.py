"""The loop that trains every deep method, and chooses among what it passes on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from drcl.compare.fitted import Embed, Fitted, best
from drcl.compare.linear import standardizer
from drcl.data.dataset import CrossModalDataset
from drcl.ensemble.calibration import fit_temperature
from drcl.labels import is_labelled
from drcl.labels.encoded import target_rows
from drcl.seeding import seeded

__all__ = ["Peer", "train"]
__dir__ = __all__.copy

HIDDEN = 512
DIM = 128
BATCH = 128
EPOCHS = 40
LEAST_STEPS = 400  # a few hundred rows take more epochs
CHECKPOINTS = 10
RATES = (1e-4, 1e-3)


class Peer(nn.Module):
    """The networks of all modalities; a modality is named by its place in the training split."""

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        """Of a batch: features (B, d) and label rows (B, C), all zero where unlabelled, of each
        modality, at a share of the training from 0 to 1."""
        raise NotImplementedError

    def embed(self, place: int, x: Tensor) -> Tensor:
        """(N, d) -> (N, D)."""
        raise NotImplementedError

    def scores(self, embeddings: Tensor) -> Tensor:
        """How much each class is predicted: (N, D) -> (N, C)."""
        raise NotImplementedError


Build: TypeAlias = Callable[[list[int], int], Peer]
"""(width of each modality, number of classes) -> networks, drawn with torch's own generator."""


def train(build: Build, data: CrossModalDataset, seed: int, *, pairs: bool = False) -> Fitted:
    """Train on standardised rows; the best of all checkpoints by validation mAP@all.

    Adam (betas 0.5 and 0.999) with each rate of :data:`RATES`, batches of at most 128 rows, 40
    epochs or more. At each of 10 checkpoints two rankings are candidates: of the embeddings, and of
    the posteriors ``softmax(scores/τ)`` with τ fitted to a modality's validation rows; both by
    inner product and by cosine. The checkpoint is one for all modalities.

    Args:
        pairs: row i of a batch is the same sample in all modalities; else each modality is shuffled
            on its own, and rows of a shorter one come again.

    Raises ValueError for pairs of modalities that differ in their number of rows.

    >>> from drcl.data import Labelled
    >>> image, text = (Labelled(np.zeros((n, 4), np.float32), np.zeros(n, int)) for n in (3, 5))
    >>> data = CrossModalDataset("pets", ("cat",), {"image": image, "text": text}, {}, {})
    >>> train(Peer, data, seed=0, pairs=True)
    Traceback (most recent call last):
    ...
    ValueError: train: expected pairs, row i with row i, got numbers of rows {'image': 3, 'text': 5}
    """
    rows = {name: len(part.labels) for name, part in data.train.items()}
    if pairs and len(set(rows.values())) > 1:
        raise ValueError(f"train: expected pairs, row i with row i, got numbers of rows {rows}")
    return best(_candidates(build, data, seed, pairs), data)


def _candidates(
    build: Build, data: CrossModalDataset, seed: int, pairs: bool
) -> Iterator[tuple[str, Embed]]:
    inputs = _inputs(data)
    x = [inputs[name](part.features) for name, part in data.train.items()]
    y = [_label_rows(part.labels, data) for part in data.train.values()]
    steps = math.ceil(max(map(len, x)) / BATCH)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / steps))
    marks = {round(epochs * mark / CHECKPOINTS) for mark in range(1, CHECKPOINTS + 1)}
    for rate in RATES:
        with seeded(torch.device("cpu"), seed):
            peer = build([part.shape[1] for part in x], len(data.classes))
        optimizer = torch.optim.Adam(peer.parameters(), rate, betas=(0.5, 0.999), fused=True)
        draw = np.random.default_rng(seed)
        for epoch in range(1, epochs + 1):
            for batch in _batches(list(map(len, x)), steps, pairs, draw):
                optimizer.zero_grad()
                peer.loss(
                    [part[rows] for part, rows in zip(x, batch, strict=True)],
                    [part[rows] for part, rows in zip(y, batch, strict=True)],
                    epoch / epochs,
                ).backward()
                optimizer.step()
            if epoch in marks:
                about = f"rate {rate:g}, epoch {epoch} of {epochs}"
                kept = copy.deepcopy(peer)
                yield f"{about}, embeddings", _embeddings(kept, inputs)
                yield f"{about}, posteriors", _posteriors(kept, inputs, data)


def _batches(
    lengths: list[int], steps: int, pairs: bool, draw: np.random.Generator
) -> Iterator[tuple[Tensor, ...]]:
    longest = max(lengths)
    if pairs:
        orders = [draw.permutation(longest)] * len(lengths)
    else:
        orders = [np.resize(draw.permutation(length), longest) for length in lengths]
    parts = ([torch.from_numpy(rows) for rows in np.array_split(o, steps)] for o in orders)
    return zip(*parts, strict=True)


def _inputs(data: CrossModalDataset) -> dict[str, Callable[[np.ndarray], Tensor]]:
    def of(scale: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Tensor]:
        return lambda features: torch.from_numpy(scale(features)).float()

    return {name: of(standardizer(part)) for name, part in data.train.items()}


def _label_rows(labels: np.ndarray, data: CrossModalDataset) -> Tensor:
    return target_rows(torch.from_numpy(labels), len(data.classes), torch.float32)


def _embeddings(peer: Peer, inputs: dict[str, Callable[[np.ndarray], Tensor]]) -> Embed:
    places = {name: place for place, name in enumerate(inputs)}

    @torch.no_grad()
    def embed(modality: str, features: np.ndarray) -> np.ndarray:
        return peer.embed(places[modality], inputs[modality](features)).double().numpy()

    return embed


def _posteriors(
    peer: Peer, inputs: dict[str, Callable[[np.ndarray], Tensor]], data: CrossModalDataset
) -> Embed:
    places = {name: place for place, name in enumerate(inputs)}

    @torch.no_grad()
    def scores(modality: str, features: np.ndarray) -> Tensor:
        return peer.scores(peer.embed(places[modality], inputs[modality](features)))

    temperatures = {}
    for name, part in data.validation.items():
        known = is_labelled(part.labels)
        rows = _label_rows(part.labels[known], data)
        rows = rows / rows.sum(dim=1, keepdim=True)
        temperatures[name] = fit_temperature(scores(name, part.features[known]), rows)

    def posterior(modality: str, features: np.ndarray) -> np.ndarray:
        logits = scores(modality, features).double() / temperatures[modality]
        return logits.softmax(dim=1).numpy()

    return posterior
