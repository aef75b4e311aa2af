"""The reversible consistency loss, as a function and as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from drcl import checks, reference
from drcl.dispatch import choose, kernels_take
from drcl.eager.reversible_consistency import PARTS, ReversibleConsistency, Settings
from drcl.labels import check_targets, target_rows
from drcl.ops import reversible_consistency as op
from drcl.ops.inputs import as_tensor, full_precision
from drcl.prior import Prior, rank_cutoff

__all__ = ["ReversibleConsistency", "ReversibleConsistencyLoss", "reversible_consistency_loss"]
__dir__ = __all__.copy


def reversible_consistency_loss(
    features: Tensor,
    targets: Tensor,
    prior: Prior | Tensor,
    *,
    q: Tensor | float = 1.0,
    alpha: float = 0.1,
    beta: float = 0.1,
    eta: float = 1.0,
    temperature: float = 1.0,
    permutation: Tensor | None = None,
    lam: float = 1.0,
    process_group: ProcessGroup | None = None,
) -> ReversibleConsistency:
    """``α·J_D + β·J_MSE + η·J_L`` against a frozen prior, with all its parts.

    With ``R = Y W⁺`` and ``θ(A, B) = 2 cos(rows of A, rows of B)``:
    ``J_D = mean((θ(R,R) − θ(X,X))²) + mean((θ(R,X) − θ(R,X)ᵀ)²)``, ``J_MSE = mean((R − X)²)``,
    ``J_L = GCE(softmax(XW/τ), Y, q)``. With ``lam`` below 1 features and targets are first mixed
    with ``permutation``.

    Args:
        features: (B, D) float, usually rows of unit length; the only argument that gets a gradient.
        targets: ids (B,) or rows (B, C).
        prior: a :class:`drcl.Prior` (its inverse is kept), or W (D, C) (the inverse is found anew).
        q, alpha, beta, eta: as in the formula.
        temperature: τ > 0, a normal number of the dtype that the loss is computed in. XW and X/τ
            have to be finite there.
        lam, permutation: λ and π of :func:`mixup`; λ = 1 is no mixing.
        process_group: ranks that each hold some rows of one batch; the loss on every rank is then
            that of the whole batch, and the gradient that of the rank's own rows (mixing stays
            within the rank). A rank may have none: features (0, D). No features travel, only sums
            of C×C, C×D and D×D.

    Returns :class:`ReversibleConsistency`, in float64 for float64 features and in float32 for all
    others; call ``.total.backward()``. The cosine with a zero row is 0.

    Range: rows may have any length that float32 holds. Squared errors are what they are: where
    their sum over the batch passes 3.4e38 in float32, as with entries of 1e19, or of 1e16 in a
    large batch, ``recasting`` and with it ``total`` are infinite, while their gradients stay
    finite. Logits XW/τ beyond float32 make ``label`` and ``total`` NaN.
    :meth:`drcl.DRCL.fit` stops with an error at either.

    Source: paper, reversible semantic consistency.

    >>> prior = Prior.orthogonal(dim=16, classes=4)
    >>> x = prior.inverse[torch.tensor([0, 1, 2, 3])].requires_grad_()
    >>> loss = reversible_consistency_loss(x, torch.tensor([0, 1, 2, 3]), prior)
    >>> loss.total.backward()
    >>> loss.consistency.item() < 1e-10, loss.recasting.item() < 1e-10
    (True, True)
    """
    settings = _settings(alpha, beta, eta, temperature, lam)
    return _loss(features, targets, prior, q, settings, permutation, process_group)


class ReversibleConsistencyLoss(nn.Module):
    """The reversible consistency loss ``α·J_D + β·J_MSE + η·J_L`` against a frozen prior.

    The formula, and what features, targets and q may be, are those of
    :func:`drcl.functional.reversible_consistency_loss`.

    Args:
        prior: a :class:`drcl.Prior` or W (D, C).
        alpha, beta, eta: weights of the parts; the paper's 0.1, 0.1, 1.
        temperature: τ of ``softmax(XW/τ)``, a normal number of the dtype of the loss.
        lam: λ of the feature augmentation applied in training mode; 1 is none, the paper's is 0.9.
        process_group: ranks that each hold some rows of one batch; the loss is then that of the
            whole batch.

    Called as ``loss(features, targets, q=1.0)``, the paper's q being min(1, epoch/100). Returns a
    scalar, float64 for float64 features and float32 for all others, also under autocast.
    Source: paper, reversible semantic consistency.

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
        self.alpha, self.beta, self.eta, self.temperature, self.lam = _settings(
            alpha, beta, eta, temperature, lam
        )
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
    ) -> ReversibleConsistency:
        """The loss and its parts, named as in :class:`ReversibleConsistency`.

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
        lam = self.lam if mixing else 1.0
        settings = Settings(self.alpha, self.beta, self.eta, self.temperature, lam)
        return _loss(features, targets, self.prior, q, settings, permutation, self.process_group)

    def extra_repr(self) -> str:
        return (
            f"alpha={self.alpha}, beta={self.beta}, eta={self.eta}, "
            f"temperature={self.temperature}, lam={self.lam}"
        )


def _settings(alpha: float, beta: float, eta: float, temperature: float, lam: float) -> Settings:
    """The settings, checked, as plain numbers."""
    return Settings(
        checks.check_weight("alpha", alpha),
        checks.check_weight("beta", beta),
        checks.check_weight("eta", eta),
        checks.check_temperature(temperature),
        checks.check_lam(lam),
    )


def _loss(
    features: Tensor,
    targets: Tensor,
    prior: Prior | Tensor,
    q: Tensor | float,
    settings: Settings,
    permutation: Tensor | None,
    process_group: ProcessGroup | None,
) -> ReversibleConsistency:
    if process_group is not None:
        features, targets, permutation = _with_a_row(features, targets, permutation)
    checks.check_matrix("features", features)
    checks.check_temperature(settings.temperature, features.dtype)
    checks.check_q(q)
    weight = prior.weight if isinstance(prior, Prior) else prior
    checks.check_prior(weight, features)
    (batch, width), classes = features.shape, weight.shape[1]
    prior = prior if isinstance(prior, Prior) else Prior(prior.detach())
    targets = check_targets(targets, features, classes, prior)
    if settings.lam == 1.0:
        permutation = None
    elif permutation is None:
        raise ValueError(f"permutation: expected one to mix with lam={settings.lam}, got None")
    else:
        checks.check_permutation(permutation, features)
    group = "" if process_group is None else process_group.group_name
    backend = choose(
        "reversible_consistency",
        features.device,
        kernels=kernels_take("reversible_consistency", features),
        native=not torch.compiler.is_exporting(),
    )
    if backend == "reference":
        if process_group is not None:
            raise ValueError("process_group: expected None for the reference backend, got a group")
        return _literal(features, targets, prior, q, settings, permutation)
    by_rows = op.prefers_rows(batch, width, classes, group, backend)
    # Below float32 the features are widened, never the sums narrowed.
    dtype = torch.promote_types(features.dtype, torch.float32)
    space = [prior.basis, prior.recast_coordinates, prior.weight_coordinates]
    shape = targets.shape if permutation is None else (batch, classes)
    if op.prefers_whole(batch, width, classes, shape, by_rows=by_rows, backend=backend):
        space = [weight.new_empty(width, 0), prior.inverse, prior.weight]
    found = op.loss(
        features,
        targets,
        permutation,
        as_tensor(q, features),
        [one if one.dtype == dtype else one.to(dtype) for one in space],
        tuple(settings),
        group,
        by_rows,
        backend,
    )
    return ReversibleConsistency._make(found[:PARTS])


def _literal(
    features: Tensor,
    targets: Tensor,
    prior: Prior,
    q: Tensor | float,
    settings: Settings,
    permutation: Tensor | None,
) -> ReversibleConsistency:
    """By the reference, in the wider of the features' and the prior's dtypes."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    # The rank of a prior is a matter of its own resolution.
    wide = torch.promote_types(dtype, prior.weight.dtype)
    features, rows = features.to(wide), target_rows(targets, prior.weight.shape[1], wide)
    weights = settings._asdict()
    lam = weights.pop("lam")
    if permutation is not None:
        features, rows = reference.mixup(features, rows, permutation, lam)
    with full_precision(features):
        found = reference.reversible_consistency(
            features, rows, prior.weight.to(wide), q=q, rtol=rank_cutoff(prior.weight), **weights
        )
    return ReversibleConsistency(*(part.to(dtype) for part in found))


def _with_a_row(
    features: Tensor, targets: Tensor, permutation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One row without a label for a rank that has none: it has a part in every exchange."""
    for name, value in (("features", features), ("targets", targets)):
        checks.check_tensor(name, value)
        if value.ndim == 0 or value.shape[0] > 0:
            return features, targets, permutation
    row = features.new_zeros((1, *features.shape[1:]))
    if targets.ndim == 2 and targets.shape[1] > 1:
        hidden = targets.new_zeros((1, targets.shape[1]))
    else:  # ids, which may be of a dtype without −1
        hidden = torch.full((1,), -1, dtype=torch.int64, device=targets.device)
    alone = None if permutation is None else torch.zeros(1, dtype=torch.int64, device=row.device)
    return torch.cat([features, row]), hidden, alone
