"""The losses as modules, for use in any training loop.

They have no parameters. As in :mod:`drcl.functional`, bad input is a TypeError or ValueError that
names the argument.
"""

from __future__ import annotations

from torch import Tensor, nn

from drcl import functional
from drcl.checks import check_count, check_lam
from drcl.reversible_consistency import ReversibleConsistencyLoss

__all__ = ["ReversibleConsistencyLoss", "GeneralizedCrossEntropy", "FeatureMixup"]
__dir__ = __all__.copy


class GeneralizedCrossEntropy(nn.Module):
    """``loss(logits, targets, q=1.0)``: ``mean_i (1 − s_i^q)/q``, cross-entropy at q = 0.

    ``s_i`` is the probability of the true class, or ``Σ_c Y_ic softmax(logits)_ic`` for rows.
    Logits (B, C), targets ids (B,) int64 or rows (B, C); see
    :func:`functional.generalized_cross_entropy`. Source: paper, label loss; Zhang and Sabuncu,
    *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels* (2018).

    >>> import torch
    >>> float(GeneralizedCrossEntropy()(torch.zeros(1, 4), torch.tensor([2]), q=1.0))
    0.75
    """

    def forward(self, logits: Tensor, targets: Tensor, *, q: Tensor | float = 1.0) -> Tensor:
        return functional.generalized_cross_entropy(logits, targets, q=q)


class FeatureMixup(nn.Module):
    """Feature mixing, ``X ← λX + (1−λ)X[π]`` and ``Y ← λY + (1−λ)Y[π]``, with a new π each call.

    Called as ``mix(features, targets)`` with features (B, D) and ids (B,) or rows (B, C); returns
    both mixed, targets as rows. Evaluation mode mixes nothing. See :func:`functional.mixup`.
    Source: paper, feature augmentation.

    Args:
        classes: C, the width of the target rows it returns.
        lam: λ in [0, 1].

    >>> import torch
    >>> x, y = FeatureMixup(classes=3)(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
    >>> x.shape, y.shape
    (torch.Size([4, 8]), torch.Size([4, 3]))
    """

    def __init__(self, classes: int, lam: float = 0.9) -> None:
        super().__init__()
        self.classes, self.lam = check_count("classes", classes), check_lam(lam)

    def forward(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return functional.mixup(
            features, targets, classes=self.classes, lam=self.lam if self.training else 1.0
        )
