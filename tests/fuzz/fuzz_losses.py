"""Targets: the modules of :mod:`drcl.losses`, judged as the functions they call."""

from __future__ import annotations

import torch
from arrays import TAME
from bad_arguments import of_count, of_share, refuses
from fuzz_functional import consistency, cross_entropy, draw_batch, eps
from fuzzing import Draw, target, within

from drcl import losses, reference


@target("drcl.losses.ReversibleConsistencyLoss")
def reversible_consistency_loss(draw: Draw) -> None:
    consistency(draw, as_module=True)


@target("drcl.losses.GeneralizedCrossEntropy")
def generalized_cross_entropy(draw: Draw) -> None:
    cross_entropy(draw, losses.GeneralizedCrossEntropy())


@target("drcl.losses.FeatureMixup")
def feature_mixup(draw: Draw) -> None:
    batch = draw_batch(draw, "features", *TAME)
    settings = {"classes": batch.classes, "lam": draw.choose("lam", 0.9, 1.0, 0.5, 0.0)}
    if refuses(draw, losses.FeatureMixup, settings, {**of_count("classes"), **of_share("lam")}):
        return
    module = losses.FeatureMixup(**settings).train(draw.choose("training", True, False))
    torch.manual_seed(draw.seed)
    x, y = module(batch.features, batch.targets)
    torch.manual_seed(draw.seed)
    permutation = torch.randperm(len(batch.x))
    lam = settings["lam"] if module.training else 1.0
    exact_x, exact_y = reference.mixup(batch.x, batch.y, permutation, lam)
    dtype = batch.features.dtype
    assert x.dtype == y.dtype == dtype
    largest = float(batch.x.abs().max())
    within(x, exact_x, 4 * eps(dtype) * largest, "X")
    within(y, exact_y, 4 * eps(dtype), "Y")
