"""MARS: labels as a modality of their own, whose network guides all others."""

from __future__ import annotations

from torch import Tensor, nn

from drcl.compare.deep.terms import cross_entropy, orthogonal, pair_likelihood, total
from drcl.compare.deep.training import DIM, HIDDEN, Peer, train
from drcl.compare.fitted import Fitted
from drcl.data.dataset import CrossModalDataset
from drcl.encoder import Encoder, normalize
from drcl.labels import is_labelled

__all__ = ["mars"]
__dir__ = __all__.copy

ALPHA = 1.0
BETA_FIRST, BETA = 0.5, 0.2


def mars(data: CrossModalDataset, seed: int) -> Fitted:
    """Modality-agnostic representations: a network of the labels, learned with the first modality.

    Each modality has a shared and an exclusive unit embedding, and :func:`mars_loss`. The network
    of the labels is trained with the first modality of the training split, by the further term
    ``Λ(l, l)``; for the others it is fixed. So no pairs are needed. One class or several;
    unlabelled rows are not learned from.

    Source: Wang and Peng, *MARS: Learning Modality-Agnostic Representation for Scalable Cross-Media
    Retrieval* (IEEE TCSVT 2022); as in its authors' code are Γ, the fixed orthogonal classifier W
    that all modalities share, α = 1, and β = 0.5 for the first modality, 0.2 for others. Otherwise
    here: the others learn beside the first, not after it; the labels that are encoded are those of
    the batch; the networks have one hidden layer of 512 (there 2,048 and 1,024; of labels 1,024
    twice).

    >>> import torch
    >>> nothing, y = torch.zeros(2, 2), torch.eye(2)
    >>> loss = mars_loss(nothing, nothing, nothing, nothing, y, beta=1.0)
    >>> round(float(loss), 4)  # both likelihoods and H are log 2, U is −log 2
    1.3863
    """
    return train(Mars, data, seed)


def mars_loss(
    labels: Tensor, shared: Tensor, exclusive: Tensor, scores: Tensor, y: Tensor, beta: float
) -> Tensor:
    """Of one modality: what its network has to minimise.

    With Λ the likelihood of pairs, ``Γ = 2 cos``: ``Λ(l, s) + Λ(s, s) + α H(y, s W) + β U(e W)``,
    where H is cross-entropy and ``U = mean_i log max_c softmax(e_i W)_c``, lowest where the
    exclusive embedding says nothing of the class.

    Args:
        labels: l (B, D), the encoded labels of the rows.
        shared: s (B, D).
        exclusive: ``e W`` (B, C).
        scores: ``s W`` (B, C).
        y: label rows (B, C).
        beta: weight of U.
    """
    known = is_labelled(y)
    unbiased = exclusive[known].log_softmax(dim=1).amax(dim=1).sum() / max(1, int(known.sum()))
    pairs = pair_likelihood(labels, shared, y, y, 2.0) + pair_likelihood(shared, shared, y, y, 2.0)
    return pairs + ALPHA * cross_entropy(scores, y) + beta * unbiased


class Mars(Peer):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        dim = max(DIM, classes)
        self.labels = Encoder(classes, dim=dim, hidden=(HIDDEN,))
        self.trunks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU()) for width in widths
        )
        self.shared, self.exclusive = (
            nn.ModuleList(nn.Linear(HIDDEN, dim, bias=False) for _ in widths) for _ in range(2)
        )
        self.register_buffer("space", orthogonal(dim, classes))

    def loss(self, x: list[Tensor], y: list[Tensor], progress: float) -> Tensor:
        encoded = self.labels(y[0])
        terms = [pair_likelihood(encoded, encoded, y[0], y[0], 2.0)]
        for place, rows in enumerate(x):
            labels = encoded if place == 0 else self.labels(y[place]).detach()
            hidden = self.trunks[place](rows)
            shared = normalize(self.shared[place](hidden))
            exclusive = self.scores(normalize(self.exclusive[place](hidden)))
            beta = BETA_FIRST if place == 0 else BETA
            terms.append(mars_loss(labels, shared, exclusive, self.scores(shared), y[place], beta))
        return total(terms)

    def embed(self, place: int, x: Tensor) -> Tensor:
        return normalize(self.shared[place](self.trunks[place](x)))

    def scores(self, embeddings: Tensor) -> Tensor:
        return embeddings @ self.get_buffer("space")
