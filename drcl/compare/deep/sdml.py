"""SDML: every modality alone into a common space that is fixed before."""

from __future__ import annotations

import math

from torch import Tensor, nn

from drcl.compare.deep.terms import distance, label_distance, orthogonal, total
from drcl.compare.deep.training import DIM, HIDDEN, Peer, train
from drcl.compare.fitted import Fitted
from drcl.data.dataset import CrossModalDataset
from drcl.encoder import Encoder

__all__ = ["sdml"]
__dir__ = __all__.copy

ALPHA = 0.5


def sdml(data: CrossModalDataset, seed: int) -> Fitted:
    """Scalable deep multimodal learning: encoders into a random orthogonal space.

    ``α · mean |x/√d − D(f(x))| + (1 − α) · mean |f(x) W − y|`` of each modality, with unit
    embeddings ``f(x)``, a decoder D, orthonormal columns W that are drawn once and never learned,
    and α = 0.5.
    Unlabelled rows have the first term alone. No term joins two modalities: their sum trains each
    as if alone, and no pairs are needed. One class or several.

    Source: Hu et al., *Scalable Deep Multimodal Learning for Cross-Modal Retrieval* (SIGIR 2019);
    distances are not squared, as in the authors' code. Smaller than theirs (two hidden layers of
    1,024, D = 512, 200 epochs). There the decoder's rows are scaled to unit length; here it ends in
    a linear layer, and standardised features are divided by √d, which makes them about as long.
    Here one checkpoint is chosen for all modalities by mAP, there each one's by its label loss.

    >>> import torch
    >>> x, y = torch.zeros(2, 2), torch.eye(2)
    >>> float(sdml_loss(x, x + torch.tensor([3.0, 4.0]), predicted=y, y=y))  # half of 5
    2.5
    """
    return train(Sdml, data, seed)


def sdml_loss(
    x: Tensor, decoded: Tensor, predicted: Tensor, y: Tensor, alpha: float = ALPHA
) -> Tensor:
    """Of one modality: features and their reconstruction (B, d), ``f(x) W`` and labels (B, C)."""
    return alpha * distance(decoded, x) + (1 - alpha) * label_distance(predicted, y)


class Sdml(Peer):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        dim = max(DIM, classes)
        self.encoders = nn.ModuleList(Encoder(width, dim=dim, hidden=(HIDDEN,)) for width in widths)
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))
            for width in widths
        )
        self.register_buffer("space", orthogonal(dim, classes))

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        terms = []
        for place, rows in enumerate(x):
            embeddings = self.embed(place, rows)
            decoded = self.decoders[place](embeddings)
            # Standardised rows are √d long: as they are, they would drown the labels.
            features = rows / math.sqrt(rows.shape[1])
            terms.append(sdml_loss(features, decoded, self.scores(embeddings), y[place]))
        return total(terms)

    def embed(self, place: int, x: Tensor) -> Tensor:
        embeddings: Tensor = self.encoders[place](x)
        return embeddings

    def scores(self, embeddings: Tensor) -> Tensor:
        return embeddings @ self.get_buffer("space")
