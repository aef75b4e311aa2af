"""The fast training loop against one written out from the formulas, both in float64.

Training is chaotic: what differs by a rounding in the first epoch differs in every digit after a
hundred. In float64 the two can be compared for longer than in float32, epoch by epoch: batches,
permutations, passes without autograd, judgements that share a forward pass, the fused optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from drcl import DRCL, Prior, metrics, reference
from drcl.encoder import Encoder
from drcl.train import step
from drcl.train.loop import schedule_q, stream_seed
from drcl.train.source import Resident

EPOCHS = 30
SETTINGS = {**tiny.SETTINGS, "dim": 12, "hidden": (24,), "epochs": EPOCHS, "lam": 0.8, "lr": 2e-3}


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, in the loop's own passes, too."""
    load, chunks = Resident.load, Resident.chunks
    monkeypatch.setattr(
        Resident, "load", lambda self, rows: (load(self, rows)[0].double(), load(self, rows)[1])
    )
    monkeypatch.setattr(
        Resident, "chunks", lambda *a, **k: ((x.double(), y) for x, y in chunks(*a, **k))
    )
    monkeypatch.setattr(step, "suits", lambda network: True)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def literal(network: Encoder, prior: Prior) -> list[tuple[float, float]]:
    """Mean loss and validation mAP of every epoch, and the parameters left in ``network``."""
    x, ids = (torch.from_numpy(part) for part in tiny.split(image=43)["image"])
    held_out, targets = (torch.from_numpy(part) for part in tiny.split(seed=1, image=18)["image"])
    x, y = x.double(), one_hot(ids, 4).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS["lr"], betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(stream_seed(0, "encoder", "image"))
    lam, found = SETTINGS["lam"], []
    for epoch in range(EPOCHS):
        losses: list[Tensor] = []
        for rows in torch.randperm(len(x), generator=generator).split(SETTINGS["batch_size"]):
            partner = torch.randperm(len(rows), generator=generator)
            z, t = network(x[rows]), y[rows]
            mixed = lam * z + (1 - lam) * z[partner]
            t = lam * t + (1 - lam) * t[partner]
            loss, *_ = reference.reversible_consistency(
                mixed, t, prior.weight, q=schedule_q(epoch), alpha=0.1, beta=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            z = network(held_out.double())
        score = metrics.mean_average_precision(z, z, targets, targets, exclude_self=True)
        found.append((float(torch.stack(losses).mean()), score))
    return found


def test_the_fast_loop_is_the_literal_one(float64: None) -> None:
    prior = Prior(Prior.orthogonal(12, 4, norm=2.0).weight.double())
    network = Encoder(tiny.WIDTHS["image"], dim=12, hidden=(24,))
    model = DRCL(networks={"image": copy.deepcopy(network)}, **SETTINGS)
    model.fit(tiny.split(image=43), tiny.split(seed=1, image=18), prior=prior, progress=False)
    expected = literal(network, prior)
    losses = [record["loss"] for record in model.history]
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-10)
    scores = [record["validation_map"] for record in model.history]
    assert scores == pytest.approx([score for _, score in expected], rel=1e-12)
    assert losses[-1] < 0.9 * losses[0] and len(set(scores)) > 2
