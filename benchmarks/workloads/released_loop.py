"""The released training loop, written from the method and from what the released code does.

The peer of ``training.py``: a plain stack of ``nn.Linear``, the literal loss with its B×B matrices,
``torch.optim.Adam`` with its defaults (one parameter at a time on a CPU, ``foreach`` on a GPU),
features on the host and copied batch by batch, the loss read after every step, and judging under
autograd with the whole set as one batch. q is 0, .01, … in prior learning and .01, .02, … in the
training of the encoder. The flaws stay: the norm is not guarded, the label loss is NaN at q = 0, a
last partial batch is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAM, ALPHA, BETA, ETA = 0.9, 0.1, 0.1, 1.0


@dataclass(frozen=True)
class Epoch:
    """What an epoch took and told: seconds of its steps and of judging, mean loss, judgement."""

    steps: float
    judging: float
    loss: float
    judgement: float


@dataclass(frozen=True)
class Part:
    """Features (N, d) and label rows (N, C), on the host."""

    features: Tensor
    labels: Tensor


class Encoder(nn.Module):
    """Three linear layers and an unguarded division by the norm."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, dim = widths
        self.fc1 = nn.Linear(first, second)
        self.fc2 = nn.Linear(second, third)
        self.fc3 = nn.Linear(third, dim, bias=False)
        bound = 1.0 / first**0.5
        nn.init.uniform_(self.fc3.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        x = self.fc3(x)
        return x / x.norm(dim=1, keepdim=True)


def label_loss(x: Tensor, y: Tensor, weight: Tensor, q: float) -> Tensor:
    """GCE through softmax and a power; NaN at q = 0."""
    probability = ((x @ weight).softmax(dim=1) * y).sum(dim=1)
    return ((1.0 - probability**q) / q if q > 0 else (1.0 - probability**q) / 0.0).mean()


def theta(a: Tensor, b: Tensor) -> Tensor:
    """Twice the cosine of every row of ``a`` with every row of ``b``."""
    return 2.0 * (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def consistency_loss(x: Tensor, y: Tensor, weight: Tensor, inverse: Tensor, q: float) -> Tensor:
    """``α·J_D + β·J_MSE + η·J_L`` with three B×B matrices."""
    r = y @ inverse
    rr, xx, rx = theta(r, r), theta(x, x), theta(r, x)
    j_d = ((rr - xx) ** 2).mean() + ((rx - rx.T) ** 2).mean()
    j_mse = ((r - x) ** 2).mean()
    return ALPHA * j_d + BETA * j_mse + ETA * label_loss(x, y, weight, q)


def mix(x: Tensor, y: Tensor, permutation: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Feature augmentation of normalised features."""
    return lam * x + (1 - lam) * x[permutation], lam * y + (1 - lam) * y[permutation]


def learn_prior(
    encoder: Encoder, start: Tensor, train: Part, *, epochs: int, batch: int, lr: float
) -> list[Epoch]:
    """SPL: encoder and W together; the score is the mean true-class probability on all of train."""
    device = encoder.fc1.weight.device
    weight = nn.Parameter(start.to(device).clone())
    optimizer = torch.optim.Adam([*encoder.parameters(), weight], lr=lr, betas=(0.5, 0.999))
    best, best_weight, history = -1.0, weight, []
    for epoch in range(epochs):
        q, losses = min(1.0, 0.01 * epoch), []
        began = time.perf_counter()
        for features, labels in _batches(train, batch, device):
            loss = label_loss(encoder(features), labels, weight, q)
            losses.append(_update(optimizer, loss))
        trained = time.perf_counter()
        features, labels = train.features.to(device), train.labels.to(device)
        probability = ((encoder(features) @ weight).softmax(dim=1) * labels).sum(dim=1)
        score = probability.mean().item()
        if score > best:
            best, best_weight = score, weight  # an alias: the last W is always what is kept
        history.append(_epoch(began, trained, losses, score))
    assert best_weight is weight
    return history


def train_encoder(
    encoder: Encoder,
    weight: Tensor,
    train: Part,
    validation: Part,
    test: Part,
    *,
    epochs: int,
    batch: int,
    lr: float,
    lam: float = LAM,
) -> list[Epoch]:
    """RSC: the encoder against a frozen W; test features are computed when validation improves."""
    device = encoder.fc1.weight.device
    weight = weight.to(device)
    inverse = torch.linalg.pinv(weight)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr, betas=(0.5, 0.999))
    best, history = float("inf"), []
    for epoch in range(epochs):
        q, losses = min(1.0, 0.01 * (epoch + 1)), []
        began = time.perf_counter()
        for features, labels in _batches(train, batch, device):
            permutation = torch.randperm(len(features)).to(device)
            x, y = mix(encoder(features), labels, permutation, lam)
            losses.append(_update(optimizer, consistency_loss(x, y, weight, inverse, q)))
        trained = time.perf_counter()
        features, labels = validation.features.to(device), validation.labels.to(device)
        judged = consistency_loss(encoder(features), labels, weight, inverse, q).item()
        if judged < best:
            best = judged
            encoder(test.features.to(device)).detach().cpu()
        history.append(_epoch(began, trained, losses, judged))
    return history


def _batches(part: Part, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(part.features))
    for start in range(0, len(order) - batch + 1, batch):
        rows = order[start : start + batch]
        yield part.features[rows].to(device), part.labels[rows].to(device)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _epoch(began: float, trained: float, losses: list[float], judgement: float) -> Epoch:
    done = time.perf_counter()
    return Epoch(trained - began, done - trained, sum(losses) / len(losses), judgement)
