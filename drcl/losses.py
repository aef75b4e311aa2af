"""The losses as modules, for use in any training loop.

They have no parameters. As in :mod:`drcl.functional`, bad input is a TypeError or ValueError that
names the argument.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from drcl import functional
from drcl.checks import check_count, check_lam, check_positive, check_weight
from drcl.prior import Prior


class ReversibleConsistencyLoss(nn.Module):
    """The reversible consistency loss ``α·J_D + β·J_MSE + η·J_L`` against a frozen prior.

    With ``R = Y W⁺`` and ``θ(A, B) = 2 cos(rows of A, rows of B)``:
    ``J_D = mean((θ(R,R) − θ(X,X))²) + mean((θ(R,X) − θ(R,X)ᵀ)²)``, ``J_MSE = mean((R − X)²)``,
    ``J_L = GCE(softmax(XW/τ), Y, q)``.

    Args:
        prior: a :class:`drcl.Prior` or W (D, C).
        alpha, beta, eta: weights of the parts; the paper's 0.1, 0.1, 1.
        temperature: τ of ``softmax(XW/τ)``.
        lam: λ of the feature augmentation applied in training mode; 1 is none, the paper's is 0.9.
        process_group: ranks that each hold some rows of one batch; the loss is then that of the
            whole batch, see :func:`functional.reversible_consistency_loss`.

    Called as ``loss(features, targets, q=1.0)``: features (B, D), best with rows of unit length;
    targets ids (B,) int64 or rows (B, C); q in [0, 1], the paper's min(1, epoch/100). Returns a
    scalar, float64 for float64 features and float32 for all others, also under autocast.
    Source: paper, reversible semantic consistency; see
    :func:`functional.reversible_consistency_loss`.

    >>> loss = ReversibleConsistencyLoss(Prior.orthogonal(dim=16, classes=4))
    >>> x = nn.functional.normalize(torch.randn(8, 16)).requires_grad_()
    >>> loss(x, torch.arange(8) % 4).backward()
    >>> x.grad.shape
    torch.Size([8, 16])
    """

    def __init__(
        self,
        prior: Prior | Tensor,
        *,
        alpha: float = 0.1,
        beta: float = 0.1,
        eta: float = 1.0,
        temperature: float = 1.0,
        lam: float = 1.0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior if isinstance(prior, Prior) else Prior(prior)
        self.alpha, self.beta = check_weight("alpha", alpha), check_weight("beta", beta)
        self.eta, self.lam = check_weight("eta", eta), check_lam(lam)
        self.temperature = check_positive("temperature", temperature)
        self.process_group = process_group

    def forward(self, features: Tensor, targets: Tensor, *, q: Tensor | float = 1.0) -> Tensor:
        return self.parts(features, targets, q=q).total

    def parts(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        q: Tensor | float = 1.0,
        permutation: Tensor | None = None,
    ) -> functional.ReversibleConsistency:
        """The loss and its parts, named as in :class:`functional.ReversibleConsistency`.

        ``permutation`` (B,) int64 fixes the mixing in training mode instead of drawing it.

        >>> loss = ReversibleConsistencyLoss(Prior.orthogonal(dim=16, classes=4))
        >>> parts = loss.parts(torch.eye(4, 16), torch.arange(4), q=0.5)
        >>> whole = 0.1 * parts.consistency + 0.1 * parts.recasting + parts.label
        >>> bool(torch.isclose(parts.total, whole))
        True
        """
        mixing = self.training and self.lam < 1.0
        if mixing and permutation is None:
            permutation = torch.randperm(features.shape[0], device=features.device)
        return functional.reversible_consistency_loss(
            features,
            targets,
            self.prior,
            q=q,
            alpha=self.alpha,
            beta=self.beta,
            eta=self.eta,
            temperature=self.temperature,
            lam=self.lam if mixing else 1.0,
            permutation=permutation,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        return (
            f"alpha={self.alpha}, beta={self.beta}, eta={self.eta}, "
            f"temperature={self.temperature}, lam={self.lam}"
        )


class GeneralizedCrossEntropy(nn.Module):
    """``loss(logits, targets, q=1.0)``: ``mean_i (1 − s_i^q)/q``, cross-entropy at q = 0.

    ``s_i`` is the probability of the true class, or ``Σ_c Y_ic softmax(logits)_ic`` for rows.
    Logits (B, C), targets ids (B,) int64 or rows (B, C); see
    :func:`functional.generalized_cross_entropy`. Source: paper, label loss; Zhang and Sabuncu,
    *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels* (2018).

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
