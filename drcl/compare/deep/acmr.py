"""ACMR: embeddings that predict the class and hide the modality."""

from __future__ import annotations

import math
from itertools import permutations

import torch
from torch import Tensor, nn

from drcl.compare.deep.terms import cross_entropy, shares_class, total
from drcl.compare.deep.training import DIM, HIDDEN, Peer, train
from drcl.compare.fitted import Fitted
from drcl.data.dataset import CrossModalDataset
from drcl.labels import is_labelled

__all__ = ["acmr"]
__dir__ = __all__.copy

ALPHA = 0.1
LAMBDA, MARGIN = 1.0, 1.0


def acmr(data: CrossModalDataset, seed: int) -> Fitted:
    """Adversarial cross-modal retrieval: encoders against a classifier of modalities.

    The encoders minimise ``L_imd + α L_imi − w L_adv``, the network that tells the modalities apart
    minimises L_adv, its :func:`modality_loss`. L_imd is the cross-entropy of a linear classifier
    that all share, L_imi the sum of :func:`triplets` of each modality against each other one.
    Triplets are found by label: no pairs are needed. One class or several; unlabelled rows count in
    L_adv alone.

    Source: Wang et al., *Adversarial Cross-Modal Retrieval* (ACM Multimedia 2017). Both sides learn
    in one step by gradient reversal, with ``w = 2 / (1 + e^(−10 p)) − 1`` at the share p of the
    training. Without the paper's penalty on weights; α = 0.1, λ = 1 and μ = 1 are chosen here; the
    encoders have one hidden layer. Of two modalities L_adv is the paper's; of more, a softmax.

    >>> unknowing = torch.zeros(4, 2)  # scores that say nothing of two modalities
    >>> round(float(modality_loss([unknowing, unknowing])), 4)  # 2 log 2
    1.3863
    """
    return train(Acmr, data, seed)


def triplets(a: Tensor, b: Tensor, ya: Tensor, yb: Tensor) -> Tensor:
    """``mean_i (mean_j |a_i − b_j| + λ max(0, μ − min_k |a_i − b_k|))`` of anchors (N, D).

    Of the other rows (M, D) j are those that share a class with the anchor, k those that share
    none; without such rows a term is 0. Labelled rows only.
    """
    known_a, known_b = is_labelled(ya), is_labelled(yb)
    same = shares_class(ya[known_a], yb[known_b])
    # Not by products of matrices, which lose the digits of small distances.
    gaps = torch.cdist(a[known_a], b[known_b], compute_mode="donot_use_mm_for_euclid_dist")
    near = (gaps * same).sum(dim=1) / same.sum(dim=1).clamp(min=1)
    farther = (MARGIN - gaps).relu().masked_fill(same, 0)
    if gaps.shape[1] == 0:
        return near.sum()
    return (near + LAMBDA * farther.amax(dim=1)).sum() / max(1, len(gaps))


def modality_loss(scores: list[Tensor]) -> Tensor:
    """``−Σ_m mean_i log softmax(t_i^m)_m`` of scores (B, M): ``t^m`` are those of modality m."""
    return total([-rows.log_softmax(dim=1)[:, m].mean() for m, rows in enumerate(scores)])


def reverse(x: Tensor, weight: float) -> Tensor:
    """x, with a gradient that is multiplied by ``−weight``."""
    return x.detach() * (1 + weight) - x * weight


class Acmr(Peer):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, DIM), nn.Tanh())
            for width in widths
        )
        self.classifier = nn.Linear(DIM, classes)
        self.adversary = nn.Sequential(
            nn.Linear(DIM, DIM // 2), nn.ReLU(), nn.Linear(DIM // 2, len(widths))
        )

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        embeddings = [self.embed(place, rows) for place, rows in enumerate(x)]
        weight = 2 / (1 + math.exp(-10 * progress)) - 1
        terms = [modality_loss([self.adversary(reverse(rows, weight)) for rows in embeddings])]
        for rows, labels in zip(embeddings, y, strict=True):
            terms.append(cross_entropy(self.scores(rows), labels))
        for m, n in permutations(range(len(x)), 2):
            terms.append(ALPHA * triplets(embeddings[m], embeddings[n], y[m], y[n]))
        return total(terms)

    def embed(self, place: int, x: Tensor) -> Tensor:
        embeddings: Tensor = self.encoders[place](x)
        return embeddings

    def scores(self, embeddings: Tensor) -> Tensor:
        scores: Tensor = self.classifier(embeddings)
        return scores
