"""Similarity of features to the prior's class columns."""

from torch import Tensor


def prior_similarity(
    features: Tensor, prior: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logits ``XW/τ`` and class probabilities ``softmax(XW/τ)``, both (B, C)."""
    logits = features @ prior / temperature
    return logits, logits.softmax(dim=1)
