"""Training the members of an ensemble side by side, each without the rows held out of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drcl.encoder import normalize
from drcl.ensemble.network import Members
from drcl.precision import network_precision
from drcl.prior import Prior
from drcl.seeding import seeded

BATCH = 128
WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclass(frozen=True)
class Recipe:
    """How a group of members is built and trained.

    Attributes:
        name: for the record of what was tried.
        hidden, dim, dropout, input_dropout: of :class:`Members`.
        norm: length of the prior's columns, for members with ``dim``.
        alpha: weight of J_D, for members with ``dim``.
        mix: a of λ ~ Beta(a, a), with which inputs are mixed; 0 mixes none.
        penalty: weight decay.
        lr, epochs: of AdamW, the rate falling along a cosine.
    """

    name: str
    hidden: int = 0
    dim: int = 0
    dropout: float = 0.0
    input_dropout: float = 0.0
    norm: float = 4.5
    alpha: float = 0.0
    mix: float = 0.0
    penalty: float = 0.01
    lr: float = 1e-3
    epochs: int = 60


@dataclass(frozen=True)
class Rows:
    """Features (N, d), target rows (N, C), and (K, N) bool, which rows each member goes without."""

    features: Tensor
    targets: Tensor
    held_out: Tensor


@torch.inference_mode(False)
def train_members(
    recipe: Recipe,
    rows: Rows,
    seed: int,
    *,
    seconds: float = math.inf,
    tick: Callable[[], object] = lambda: None,
) -> Members:
    """K trained members, in evaluation mode.

    With ``seconds`` the epochs become as few as fit in, measured on the first steps, and at least
    one. ``tick`` is called once an epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    # A direction of its own for each class.
    dim = recipe.dim and max(recipe.dim, rows.targets.shape[1])
    members = Members(
        rows.features.shape[1],
        rows.targets.shape[1],
        count=len(rows.held_out),
        hidden=recipe.hidden,
        dim=dim,
        dropout=recipe.dropout,
        input_dropout=recipe.input_dropout,
        generator=generator,
    )
    if recipe.dim:
        start = Prior.orthogonal(dim, members.classes, seed=seed).weight
        members.prior = start * recipe.norm
    members.to(rows.features.device)
    # Dropout and λ draw from torch's own generator.
    with network_precision("highest"), seeded(rows.features.device, seed):
        _descend(members, recipe, rows, generator, seconds, tick)
    for parameter in members.parameters():
        parameter.grad = None
    return members.eval()


def _descend(
    members: Members,
    recipe: Recipe,
    rows: Rows,
    generator: torch.Generator,
    seconds: float,
    tick: Callable[[], object],
) -> None:
    """By AdamW; each batch holds as many rows of every member's own."""
    own = [(~out).nonzero()[:, 0] for out in rows.held_out]
    fewest = min(map(len, own))
    steps = max(1, round(fewest / BATCH))
    size = fewest // steps
    optimizer = torch.optim.AdamW(
        members.parameters(), lr=recipe.lr, weight_decay=recipe.penalty, fused=True
    )
    loss = loss_of(members, recipe)
    members.train()
    epochs, epoch, begin = recipe.epochs, 0, time.perf_counter()
    while epoch < epochs:
        order = torch.stack(
            [part[torch.randperm(len(part), generator=generator)[: steps * size]] for part in own]
        )
        for step, batch in enumerate(order.split(size, dim=1)):
            x, y = rows.features[batch], rows.targets[batch]
            if recipe.mix:
                x, y = _mixed(x, y, recipe.mix)
            done = (epoch * steps + step) / (epochs * steps)
            rate = min(1.0, (done + 1 / (epochs * steps)) / WARM_UP)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate * (0.5 + 0.5 * math.cos(math.pi * done))
            optimizer.zero_grad()
            loss(x, y).backward()
            optimizer.step()
        epoch += 1
        tick()
        # The rate follows the epochs that are left, so their number is settled early.
        if epoch == 1 and math.isfinite(seconds):
            spent = time.perf_counter() - begin
            epochs = max(1, min(epochs, int(seconds / spent)))


def _mixed(x: Tensor, y: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Inputs mixed with those of another row. Source: Zhang et al., *mixup: Beyond Empirical Risk
    Minimization* (ICLR 2018)."""
    beta = torch.tensor(a, device=x.device)
    lam = torch.distributions.Beta(beta, beta).sample((*x.shape[:2], 1))  # type: ignore[no-untyped-call]
    other = torch.randperm(x.shape[1], device=x.device)
    return (
        lam * x + (1 - lam) * x[:, other],
        lam * y + (1 - lam) * y[:, other],
    )


def loss_of(members: Members, recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean over each member's rows, summed over the members."""

    def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
        logits = members(x).flatten(0, 1)
        return nnf.cross_entropy(logits, y.flatten(0, 1)) * members.count

    if members.prior is None:
        return cross_entropy
    inverse = Prior(members.prior).inverse

    def consistency(x: Tensor, y: Tensor) -> Tensor:
        embeddings = members.embed(x)
        label = nnf.cross_entropy(members.logits(embeddings).flatten(0, 1), y.flatten(0, 1))
        j_d = _similarity_consistency(normalize(y @ inverse), embeddings)
        return members.count * label + recipe.alpha * j_d.sum()

    return consistency if recipe.alpha else cross_entropy


def _similarity_consistency(recasting: Tensor, embeddings: Tensor) -> Tensor:
    """J_D of every member (K,), for unit rows (K, B, D). At 128 rows a batch the literal form is
    the quickest: three products for all members at once."""
    own = recasting @ recasting.mT - embeddings @ embeddings.mT
    cross = recasting @ embeddings.mT
    return 4 * (own.square() + (cross - cross.mT).square()).mean(dim=(1, 2))
