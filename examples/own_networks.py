"""Networks of your own, trained end to end: a CNN for pictures, an embedding bag for captions.

    python examples/own_networks.py

The pictures are scikit-learn's handwritten digits, 8 × 8 grey values. They have no captions, so
captions are made up here: a few words, some of which belong to the digit. The two sets are not
paired and differ in size. First ``DRCL.fit`` does everything; then the loss alone is used in a
training loop of its own, in mixed precision.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import drcl

OF_A_DIGIT = (
    "zero nought nil empty",
    "one single lone unit",
    "two pair couple twin",
    "three trio triple triad",
    "four quartet square quad",
    "five quintet hand pentad",
    "six sextet hexad dice",
    "seven septet week heptad",
    "eight octet byte octopus",
    "nine nonet cat muses",
)
OF_NONE = "a the this of written drawn small neat ink paper number figure"
WORDS = " ".join((*OF_A_DIGIT, OF_NONE)).split()
LENGTH = 6  # words in a caption


class PictureNetwork(nn.Module):
    """Pictures (B, 1, 8, 8) to rows (B, dim) of unit length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, dim, bias=False),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(pictures))


class CaptionNetwork(nn.Module):
    """Word numbers (B, LENGTH) to rows (B, dim) of unit length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(len(WORDS), 64)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(64, dim, bias=False))

    def forward(self, words: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(self.words(words)))


def captions(count: int, seed: int) -> TensorDataset:
    """Random captions: two words of the digit, one of another digit, the rest filler."""
    draw, telling = np.random.default_rng(seed), 4 * len(OF_A_DIGIT)
    labels = draw.integers(0, 10, count)
    own = 4 * labels[:, None] + draw.integers(0, 4, (count, 2))
    stray = draw.integers(0, telling, (count, 1))
    filler = draw.integers(telling, len(WORDS), (count, LENGTH - 3))
    words = draw.permuted(np.concatenate([own, stray, filler], axis=1), axis=1)
    return TensorDataset(torch.from_numpy(words), torch.from_numpy(labels))


def pictures() -> list[TensorDataset]:
    """Digits for training, validation and test."""
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([1200, 200, len(x) - 1400])
    return [TensorDataset(x[rows], y[rows]) for rows in (train, validation, test)]


def with_the_estimator(
    train: dict[str, TensorDataset], validation: dict[str, TensorDataset], dim: int
) -> drcl.DRCL:
    """Prior, training and selection by ``DRCL``, from any Dataset or DataLoader and any module."""
    networks = {"picture": PictureNetwork(dim), "caption": CaptionNetwork(dim)}
    model = drcl.DRCL(
        networks=networks,
        dim=dim,
        epochs=10,
        prior_epochs=4,
        batch_size=128,
        lr=3e-3,
        prior_lr=3e-3,
    )
    return model.fit(train, validation)


def with_your_own_loop(train: dict[str, TensorDataset], dim: int) -> dict[str, nn.Module]:
    """Only the loss comes from the package; loop, optimiser and precision are yours."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {"picture": PictureNetwork(dim), "caption": CaptionNetwork(dim)}
    # The prior alone ties the modalities together.
    prior = drcl.Prior.orthogonal(dim=dim, classes=10, norm=3.0, seed=0)
    criterion = drcl.losses.ReversibleConsistencyLoss(prior, lam=0.9).to(device)
    for name, network in networks.items():
        network.to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        loader = DataLoader(train[name], batch_size=128, shuffle=True)
        for epoch in range(10):
            for inputs, labels in loader:
                with torch.autocast(device, dtype=torch.bfloat16):
                    embeddings = network(inputs.to(device))
                loss = criterion(embeddings.float(), labels.to(device), q=min(1.0, 0.1 * epoch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
    return networks


def main() -> None:
    torch.manual_seed(0)
    train, validation, test = (
        {"picture": digits, "caption": captions(count, seed)}
        for seed, (digits, count) in enumerate(zip(pictures(), (900, 150, 300), strict=True))
    )

    model = with_the_estimator(train, validation, dim=64)
    found = model.evaluate(test)["mAP@all"]
    print("DRCL.fit:      ", {pair: round(value, 3) for pair, value in found.items()})

    networks = with_your_own_loop(train, dim=64)
    embeddings = {}
    with torch.inference_mode():
        for name, network in networks.items():
            inputs, labels = test[name].tensors
            device = next(network.parameters()).device
            embeddings[name] = network(inputs.to(device)).cpu(), labels
    found = drcl.metrics.retrieval_report(embeddings)["mAP@all"]
    print("your own loop: ", {pair: round(value, 3) for pair, value in found.items()})


if __name__ == "__main__":
    main()
