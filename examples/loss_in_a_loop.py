"""The loss in a training loop of your own: two modalities, one prior, nothing paired.

    python examples/loss_in_a_loop.py

The modalities are grey values and spectra of handwritten digits; no picture is in both.
"""

from __future__ import annotations

import torch
from torch import nn

import drcl
from drcl.data import load

EPOCHS, DIM = 20, 64


def main() -> None:
    torch.manual_seed(0)
    data = load("digits")
    # The prior alone ties the modalities together: one column per class.
    prior = drcl.Prior.orthogonal(dim=DIM, classes=len(data.classes), norm=3.0, seed=0)
    criterion = drcl.losses.ReversibleConsistencyLoss(prior, lam=0.9)
    embeddings = {}
    for name in ("pixels", "spectrum"):
        features, labels = map(torch.from_numpy, data.train[name])
        network = nn.Sequential(
            nn.BatchNorm1d(features.shape[1]),
            nn.Linear(features.shape[1], 128),
            nn.ReLU(),
            nn.Linear(128, DIM, bias=False),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for epoch in range(EPOCHS):
            for rows in torch.randperm(len(features)).split(64):
                x = nn.functional.normalize(network(features[rows]))
                loss = criterion(x, labels[rows], q=epoch / EPOCHS)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        test = data.test[name]
        with torch.inference_mode():
            embeddings[name] = network.eval()(torch.from_numpy(test.features)), test.labels
    for pair, value in drcl.metrics.retrieval_report(embeddings)["mAP@all"].items():
        print(f"mAP@all {pair:<18}{value:.3f}")


if __name__ == "__main__":
    main()
