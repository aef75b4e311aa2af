"""MRL: class centres that are robust to wrong labels, and contrast between the rows of a pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from drcl.compare.deep.terms import orthogonal, total
from drcl.compare.deep.training import DIM, HIDDEN, Peer, train
from drcl.compare.fitted import Fitted
from drcl.data.dataset import CrossModalDataset
from drcl.encoder import Encoder
from drcl.labels import is_labelled

__all__ = ["mrl"]
__dir__ = __all__.copy

BETA = 0.7
TEMPERATURE = 1.0


def mrl(data: CrossModalDataset, seed: int) -> Fitted:
    """Multimodal robust learning: ``β L_r + (1 − β) L_c``, with β = 0.7 and τ = 1.

    L_r is the :func:`robust_clustering` of each modality's unit embeddings around unit class
    centres, which are learned from an orthogonal start; L_c their :func:`contrast`. Row i of all
    modalities must be one sample. One class a row.

    Source: Hu et al., *Learning Cross-Modal Retrieval with Noisy Labels* (CVPR 2021); β and τ are
    those its authors' code recommends for Wikipedia. Centres have unit length in the formula here,
    there after each step. Smaller than theirs (two hidden layers of 4,096, D = 512).

    Raises ValueError for rows of several classes.

    >>> import numpy as np
    >>> from drcl.data import Labelled
    >>> image = Labelled(np.zeros((1, 4), np.float32), np.array([[1, 1]], np.uint8))
    >>> mrl(CrossModalDataset("pets", ("cat", "dog"), {"image": image}, {}, {}), seed=0)
    Traceback (most recent call last):
    ...
    ValueError: mrl: expected one class a row, got several in image
    """
    for name, part in data.train.items():
        if part.labels.ndim == 2 and bool(((part.labels > 0).sum(axis=1) > 1).any()):
            raise ValueError(f"mrl: expected one class a row, got several in {name}")
    return train(Mrl, data, seed, pairs=True)


def robust_clustering(scores: Tensor, y: Tensor) -> Tensor:
    """``mean_i log(1 − p_i)``, with p_i the softmax of a row's own class; of labelled rows.

    Its gradient grows with p_i: rows that the network agrees with count for more than those it does
    not, as wrong labels are.
    """
    known = is_labelled(y)
    scores, own = scores[known], y[known] > 0
    others = scores.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return (others - scores.logsumexp(dim=1)).sum() / max(1, len(scores))


def contrast(embeddings: list[Tensor], temperature: float = TEMPERATURE) -> Tensor:
    """``−Σ_m mean_i log(Σ_{n ≠ m} e^(f_i^m·f_i^n/τ) / Σ_{(j, n) ≠ (i, m)} e^(f_i^m·f_j^n/τ))``.

    A row against its own sample in the other modalities, among all other rows of the batch (B, D)
    in all modalities.
    """
    count, places = len(embeddings[0]), len(embeddings)
    rows = torch.cat(embeddings)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    scores = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    same = torch.eye(count, dtype=torch.bool, device=rows.device).repeat(places, places)
    own = scores.masked_fill(~same, -torch.inf).logsumexp(dim=1)
    return (scores.logsumexp(dim=1) - own).sum() / max(1, count)


class Mrl(Peer):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        dim = max(DIM, classes)
        self.encoders = nn.ModuleList(Encoder(width, dim=dim, hidden=(HIDDEN,)) for width in widths)
        self.centres = nn.Parameter(orthogonal(dim, classes))

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        embeddings = [self.embed(place, rows) for place, rows in enumerate(x)]
        robust = [
            robust_clustering(self.scores(rows) / TEMPERATURE, labels)
            for rows, labels in zip(embeddings, y, strict=True)
        ]
        return BETA * total(robust) + (1 - BETA) * contrast(embeddings)

    def embed(self, place: int, x: Tensor) -> Tensor:
        embeddings: Tensor = self.encoders[place](x)
        return embeddings

    def scores(self, embeddings: Tensor) -> Tensor:
        return embeddings @ functional.normalize(self.centres, dim=0)
