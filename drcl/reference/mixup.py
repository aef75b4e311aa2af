"""Feature augmentation (FA): convex mixing of rows with a permutation of the batch."""

from torch import Tensor

__all__ = ["mixup"]
__dir__ = __all__.copy


def mixup(
    features: Tensor, targets: Tensor, permutation: Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """``X ← λX + (1−λ)X[π]`` and ``Y ← λY + (1−λ)Y[π]``.

    Shapes: features (B, D), targets (B, C), permutation (B,) int64. A row that mixes in an
    unlabelled row has no known target, so its target becomes zero (unlabelled). With λ = 1 nothing
    is mixed in. Source: paper, feature augmentation.

    >>> import torch
    >>> mixup(torch.tensor([[1.0], [3.0]]), torch.eye(2), torch.tensor([1, 0]), 0.5)[0]
    tensor([[2.],
            [2.]])
    """
    if lam == 1.0:
        return features, targets
    labelled = targets.sum(dim=1) != 0
    both = (labelled & labelled[permutation]).to(targets.dtype)
    mixed_targets = lam * targets + (1.0 - lam) * targets[permutation]
    return lam * features + (1.0 - lam) * features[permutation], mixed_targets * both[:, None]
