"""Losses, training and metrics on a device that is no CPU and has no float64; run by
test_other_devices.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from another_device import NAME, another_device, calls
from torch import Tensor

import drcl
from drcl import Prior, dispatch, functional, metrics, use_backend
from drcl.precision import widest

generator = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(12, 3, generator=generator)
FEATURES = torch.randn(14, 12, generator=generator)
IDS = torch.arange(14) % 3
ORDER = torch.randperm(14, generator=generator)
CPU = torch.device("cpu")


def refusals(device: torch.device) -> None:
    """What the imitation is for: it refuses what a device refuses."""
    there = torch.ones(3, device=device)
    bad: list[tuple[str, Callable[[], object]]] = [
        ("float64", lambda: torch.ones(3, device=device, dtype=torch.float64)),
        ("float64", there.double),
        ("float64", lambda: torch.ones(3, dtype=torch.float64).to(device)),
        ("of the device and of the CPU", lambda: there + torch.ones(3)),
        ("of the device and of the CPU", lambda: torch.ones(3).add_(there)),
        ("of the device and of the CPU", lambda: there[torch.tensor([0, 1])]),
        ("numpy", there.numpy),
    ]
    for said, attempt in bad:
        try:
            attempt()
        except (TypeError, RuntimeError) as error:
            assert said in str(error), error
        else:
            raise AssertionError(f"{attempt} is not refused")
    assert float((there + 1).sum() * torch.tensor(2.0)) == 12.0, "one number may be the CPU's"
    assert widest(device) == torch.float32 and widest(CPU) == torch.float64


def loss(device: torch.device, batch: int, dtype: torch.dtype, backend: str) -> list[Tensor]:
    """With mixing: the parts, and the gradient."""
    prior = Prior(WEIGHT.to(device))
    x = FEATURES[:batch].to(device, dtype).requires_grad_()
    ids, order = IDS[:batch].to(device), ORDER[batch > ORDER].to(device)
    with use_backend(backend):
        found = functional.reversible_consistency_loss(
            x, ids, prior, q=0.3, permutation=order, lam=0.7
        )
    found.total.backward()
    assert x.grad is not None and x.grad.device == found.total.device == device
    return [found.total.detach(), found.consistency.detach(), x.grad]


def functions(device: torch.device) -> None:
    """Each against the reference in float64, on the CPU; B below D, and above it."""
    for batch in (5, 14):
        exact = loss(CPU, batch, torch.float64, "reference")
        for ours, oracle in zip(loss(device, batch, torch.float32, "eager"), exact, strict=True):
            error = (ours.cpu().double() - oracle).norm() / oracle.norm()
            assert error <= 1e-5, (batch, error)
    results = []
    for where, dtype in ((CPU, torch.float64), (device, torch.float32)):
        weight = WEIGHT.to(where, dtype).requires_grad_()
        similar = functional.prior_similarity(
            FEATURES.to(where, dtype), weight, IDS.to(where), q=0.5
        )
        similar.loss.backward()
        entropy = functional.generalized_cross_entropy(
            FEATURES[:, :3].to(where, dtype), IDS.to(where), q=0.3
        )
        assert weight.grad is not None
        results.append([similar.loss.detach(), weight.grad, entropy])
    for exact_one, ours in zip(*results, strict=True):
        assert ours.device == device
        torch.testing.assert_close(ours.cpu().double(), exact_one, rtol=1e-5, atol=1e-6)


def large_rows(device: torch.device) -> None:
    """Their squares leave the range of float32, which float64 would hold."""
    for scale in (1e-30, 1e30):
        found = functional.reversible_consistency_loss(
            (scale * FEATURES).to(device), IDS.to(device), Prior(WEIGHT).to(device), q=0.3
        )
        exact = functional.reversible_consistency_loss(
            scale * FEATURES.double(), IDS, Prior(WEIGHT.double()), q=0.3
        )
        assert math.isclose(float(found.consistency), float(exact.consistency), rel_tol=1e-5)


def rankings(device: torch.device) -> None:
    """The CPU's own numbers: that is where they are ranked."""
    features, ids = FEATURES.to(device), IDS.to(device)
    arguments = (features, features.flip(0), ids, ids.flip(0))
    cpus = (FEATURES, FEATURES.flip(0), IDS, IDS.flip(0))
    assert str(metrics.retrieval_metrics(*arguments)) == str(metrics.retrieval_metrics(*cpus))
    ours, cpu = (metrics.nearest(a[0], a[1], k=3) for a in (arguments, cpus))
    assert torch.equal(ours.indices, cpu.indices) and torch.equal(ours.scores, cpu.scores)
    relevant = IDS[:, None] == IDS
    scores = FEATURES @ FEATURES.T
    ours = functional.average_precision(scores.to(device), relevant.to(device))
    assert torch.equal(ours, functional.average_precision(scores, relevant))


def training(device: torch.device) -> None:
    data = {"image": (FEATURES, IDS), "text": (2 * FEATURES + 1, IDS)}
    settings = {"dim": 8, "hidden": (16,), "epochs": 3, "prior_epochs": 2, "batch_size": 7}
    scores, weights = [], []
    for where in (CPU, device):
        torch.manual_seed(5)
        model = drcl.DRCL(**settings, device=str(where))
        model.fit(data, data, progress=False)
        scores.append(model.evaluate(data)["mAP@all"])
        weights.append(
            torch.cat([p.detach().cpu().flatten() for p in model.encoders["image"].parameters()])
        )
        assert {p.device for p in model.encoders["image"].parameters()} <= {where, CPU}
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    for pair, value in scores[0].items():
        assert math.isclose(value, scores[1][pair], abs_tol=0.02), scores
    assert calls["manual_seed"], "a network's own random numbers are the epoch's"


PARTS = {part.__name__: part for part in (functions, large_rows, rankings, training)}

with another_device() as device:
    assert set(dispatch.explain(device).values()) == {"eager"}
    refusals(device)
    for name in sys.argv[1:]:
        before = calls.total()
        PARTS[name](device)
        print(f"{name}: {calls.total() - before} operations on {NAME}")
