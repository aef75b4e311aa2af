"""The methods by name. A new one is a function (data, seed) -> Fitted and a line here."""

from __future__ import annotations

import numpy as np

from drcl.automatic import auto
from drcl.compare import linear
from drcl.compare.deep.acmr import acmr
from drcl.compare.deep.dscmr import dscmr
from drcl.compare.deep.mars import mars
from drcl.compare.deep.mrl import mrl
from drcl.compare.deep.sdml import sdml
from drcl.compare.fitted import Fitted, Method
from drcl.data.dataset import CrossModalDataset
from drcl.estimator import DRCL
from drcl.train.config import Config

RELEASED = Config(
    dim=256, hidden=(512, 512), epochs=40, prior_epochs=40, batch_size=128, standardize=True
)


def drcl_auto(data: CrossModalDataset, seed: int) -> Fitted:
    """:func:`drcl.auto`."""
    model = auto(data.train, data.validation, seed=seed, progress=False)
    used = {r["recipe"] for r in model.tried if r["share"]}
    return _embedding(model, "; ".join(sorted(used)))


def released(data: CrossModalDataset, seed: int) -> Fitted:
    """DRCL as published, at a width that trains in seconds: :data:`RELEASED`, ranked by cosine."""
    return _embedding(_released(data, seed, "cosine"), "published settings")


def released_posterior(data: CrossModalDataset, seed: int) -> Fitted:
    """:func:`released`, ranked by its calibrated posteriors."""
    return _embedding(_released(data, seed, "posterior"), "published settings")


def _released(data: CrossModalDataset, seed: int, space: str) -> DRCL:
    model = DRCL(RELEASED, seed=seed, space=space)
    return model.fit(data.train, data.validation, progress=False)


def _embedding(model: DRCL, chosen: str) -> Fitted:
    def embed(modality: str, features: np.ndarray) -> np.ndarray:
        return model.encode(modality, features).numpy()

    return Fitted(embed, chosen)


METHODS = {
    "auto": Method("drcl.auto", drcl_auto),
    "drcl": Method("DRCL as published, small", released),
    "drcl-posterior": Method("the same, posteriors", released_posterior),
    "logistic": Method("logistic regression", linear.logistic),
    "logistic-train": Method("the same, train rows only", linear.logistic_train),
    "svm": Method("support vector machine", linear.svm),
    "ridge": Method("ridge regression", linear.ridge),
    "cca": Method("regularised CCA", linear.cca, needs_pairs=True),
    "kernel-cca": Method("kernel CCA", linear.kernel_cca, needs_pairs=True),
    "sdml": Method("SDML", sdml),
    "dscmr": Method("DSCMR", dscmr, needs_pairs=True),
    "mrl": Method("MRL", mrl, needs_pairs=True),
    "mars": Method("MARS", mars),
    "acmr": Method("ACMR", acmr),
}
