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
from drcl.train.loop import stream_seed
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


def literal(
    network: Encoder, prior: Prior, first: int = 0, drop_last: bool = False
) -> list[tuple[float, float, float]]:
    """Mean loss, validation mAP and validation loss of every epoch; trains ``network``.

    The epochs count from ``first``, and the validation loss has its epoch's own q.
    """
    x, ids = (torch.from_numpy(part) for part in tiny.split(image=43)["image"])
    held_out, targets = (torch.from_numpy(part) for part in tiny.split(seed=1, image=18)["image"])
    x, y, held_out = x.double(), one_hot(ids, 4).double(), held_out.double()
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS["lr"], betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(stream_seed(0, "encoder", "image"))
    lam, found = SETTINGS["lam"], []
    for epoch in range(first, first + EPOCHS):
        q, losses = min(1.0, 0.01 * epoch), list[Tensor]()
        for rows in torch.randperm(len(x), generator=generator).split(SETTINGS["batch_size"]):
            if drop_last and len(rows) < SETTINGS["batch_size"]:
                continue
            partner = torch.randperm(len(rows), generator=generator)
            z, t = network(x[rows]), y[rows]
            mixed = lam * z + (1 - lam) * z[partner]
            t = lam * t + (1 - lam) * t[partner]
            loss, *_ = reference.reversible_consistency(
                mixed, t, prior.weight, q=q, alpha=0.1, beta=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            z = network(held_out)
        score = metrics.mean_average_precision(z, z, targets, targets, exclude_self=True)
        rows = one_hot(targets, 4).double()
        judged, *_ = reference.reversible_consistency(
            z, rows, prior.weight, q=q, alpha=0.1, beta=0.1
        )
        found.append((float(torch.stack(losses).mean()), score, float(judged)))
    return found


def test_the_fast_loop_is_the_literal_one(float64: None) -> None:
    prior = Prior(Prior.orthogonal(12, 4, norm=2.0).weight.double())
    network = Encoder(tiny.WIDTHS["image"], dim=12, hidden=(24,))
    model = DRCL(networks={"image": copy.deepcopy(network)}, **SETTINGS)
    model.fit(tiny.split(image=43), tiny.split(seed=1, image=18), prior=prior, progress=False)
    expected = literal(network, prior)
    losses = [record["loss"] for record in model.history]
    assert losses == pytest.approx([loss for loss, _, _ in expected], rel=1e-10)
    scores = [record["validation_map"] for record in model.history]
    assert scores == pytest.approx([score for _, score, _ in expected], rel=1e-12)
    assert losses[-1] < 0.9 * losses[0] and len(set(scores)) > 2


def test_paper_compat_counts_the_encoder_s_epochs_from_1(float64: None) -> None:
    """q = .01, .02, …: the first epoch has a label gradient, and every epoch is judged."""
    prior = Prior(Prior.orthogonal(12, 4, norm=2.0).weight.double())
    network = Encoder(tiny.WIDTHS["image"], dim=12, hidden=(24,))
    settings = {**SETTINGS, "paper_compat": True}
    model = DRCL(networks={"image": copy.deepcopy(network)}, **settings)
    model.fit(tiny.split(image=43), tiny.split(seed=1, image=18), prior=prior, progress=False)
    expected = literal(network, prior, first=1, drop_last=True)
    for name, values in (("loss", 0), ("validation_loss", 2)):
        found = [record[name] for record in model.history]
        assert found == pytest.approx([epoch[values] for epoch in expected], rel=1e-10), name


def test_paper_compat_counts_the_prior_s_epochs_from_0() -> None:
    """q = 0, .01, …: the first epoch changes nothing, the second has the gradient at q = .01."""
    settings = {**tiny.SETTINGS, "paper_compat": True, "batch_size": 40, "prior_epochs": 4}
    network = Encoder(tiny.WIDTHS["image"], dim=16, hidden=(24,))
    model = DRCL(networks={"image": copy.deepcopy(network)}, **settings)
    model.fit(tiny.split(image=40), progress=False)
    found = [record["score"] for record in model.history if record["phase"] == "prior"]
    x, ids = (torch.from_numpy(part) for part in tiny.split(image=40)["image"])
    weight = Prior.orthogonal(16, 4, seed=stream_seed(0, "prior")).weight.clone().requires_grad_()
    parameters = [*network.parameters(), weight]
    optimizer = torch.optim.Adam(parameters, lr=settings["prior_lr"], betas=(0.5, 0.999))

    def probability() -> Tensor:
        return (network(x) @ weight).softmax(dim=1)[torch.arange(len(ids)), ids]

    scores = []
    for q in (0.0, 0.01, 0.02, 0.03):
        optimizer.zero_grad()
        loss = (1 - probability() ** q) / q if q > 0 else 0.0 * probability()
        loss.mean().backward()
        optimizer.step()
        scores.append(float(probability().mean().detach()))
    assert found == pytest.approx(scores, rel=1e-5)
    assert scores[1] > 1.01 * scores[0]
