"""DSCMR: labels and pairs joined in one space, with shared last layers."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

from torch import Tensor, nn

from drcl.compare.deep.terms import distance, label_distance, pair_likelihood, total
from drcl.compare.deep.training import DIM, HIDDEN, Peer, train
from drcl.compare.fitted import Fitted
from drcl.data.dataset import CrossModalDataset

__all__ = ["dscmr"]
__dir__ = __all__.copy

LAMBDA, ETA = 1e-3, 1e-1


def dscmr(data: CrossModalDataset, seed: int) -> Fitted:
    """Deep supervised cross-modal retrieval: ``J1 + λ J2 + η J3``, with λ = 0.001 and η = 0.1.

    J1 is the distance of the class scores from the labels, J2 the likelihood of pairs within and
    across modalities, J3 the distance between the embeddings of a pair: :func:`dscmr_loss`. A layer
    for each modality, then a linear layer and a linear classifier that all share. Row i of all
    modalities must be one sample. One class or several.

    Source: Zhen et al., *Deep Supervised Cross-Modal Retrieval* (CVPR 2019). J1 and J3 are mean
    distances of rows, as in the authors' code; the paper has the Frobenius norm over n. λ and η are
    the code's. The paper has two modalities: of more, J1 is summed over modalities, J2 over all
    pairs and each with itself, J3 over all pairs. Smaller than theirs (hidden 2,048, D = 1,024, 500
    epochs at a rate of 1e-4).

    >>> import numpy as np
    >>> from drcl.data import Labelled
    >>> image, text = (Labelled(np.zeros((n, 4), np.float32), np.zeros(n, int)) for n in (3, 5))
    >>> dscmr(CrossModalDataset("pets", ("cat",), {"image": image, "text": text}, {}, {}), seed=0)
    Traceback (most recent call last):
    ...
    ValueError: train: expected pairs, row i with row i, got numbers of rows {'image': 3, 'text': 5}
    """
    return train(Dscmr, data, seed, pairs=True)


def dscmr_loss(
    embeddings: list[Tensor],
    scores: list[Tensor],
    y: list[Tensor],
    weights: tuple[float, float] = (LAMBDA, ETA),
) -> Tensor:
    """Of embeddings (B, D), class scores (B, C) and labels (B, C) of each modality.

    ``J1 = Σ_m mean_i |s_i^m − y_i^m|``; ``J2 = Σ_{m ≤ n} mean_ij log(1 + e^Γ) − S Γ`` with
    ``Γ = ½ cos(f_i^m, f_j^n)`` and S = 1 for a shared class; ``J3 = Σ_{m < n} mean_i |f_i^m −
    f_i^n|``. Unlabelled rows count in J3 alone.
    """
    label = [label_distance(rows, labels) for rows, labels in zip(scores, y, strict=True)]
    alike = [
        pair_likelihood(embeddings[m], embeddings[n], y[m], y[n], 0.5)
        for m, n in combinations_with_replacement(range(len(y)), 2)
    ]
    apart = [distance(a, b) for a, b in combinations(embeddings, 2)]
    return total(label) + weights[0] * total(alike) + weights[1] * total(apart)


class Dscmr(Peer):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU()) for width in widths
        )
        self.shared = nn.Linear(HIDDEN, DIM)
        self.classifier = nn.Linear(DIM, classes)

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        embeddings = [self.embed(place, rows) for place, rows in enumerate(x)]
        return dscmr_loss(embeddings, [self.scores(rows) for rows in embeddings], y)

    def embed(self, place: int, x: Tensor) -> Tensor:
        embeddings: Tensor = self.shared(self.layers[place](x))
        return embeddings

    def scores(self, embeddings: Tensor) -> Tensor:
        scores: Tensor = self.classifier(embeddings)
        return scores
