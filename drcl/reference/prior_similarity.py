"""Similarity of features to the prior's class columns."""

from torch import Tensor

__all__ = ["prior_similarity"]
__dir__ = __all__.copy


def prior_similarity(
    features: Tensor, prior: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logits ``XW/τ`` and class probabilities ``softmax(XW/τ)``, both (B, C).

    Shapes: features X (B, D), prior W (D, C). Source: paper, selective prior learning.

    >>> import torch
    >>> prior_similarity(torch.tensor([[1.0, 1.0]]), torch.eye(2))
    (tensor([[1., 1.]]), tensor([[0.5000, 0.5000]]))
    """
    logits = features @ prior / temperature
    return logits, logits.softmax(dim=1)
