"""What J_D is worth: one network and one budget, with more and with less weight on J_D.

    DRCL_DATA=... python -m drcl.benchmarks.studies.consistency --out DIR [--sets ...] [--seeds ...]
        [--noise KIND:RATE | --labels-per-class N | --missing RATE | --unseen N]

The network is the consistent recipe of ``drcl.auto``: one hidden layer with dropout, embeddings on
the unit sphere, one orthogonal prior for all modalities, mixed inputs, five members. Only α
differs, and how the embeddings are ranked. Results are stored as they come; the same command goes
on after the last one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from drcl.automatic import CONSISTENT, MEMBERS, fitted_to
from drcl.benchmarks.studies import damages
from drcl.benchmarks.studies.deep_sets import load_set
from drcl.compare.fitted import Embed, Fitted, Method, unit
from drcl.compare.study import run_study
from drcl.data.dataset import CrossModalDataset
from drcl.ensemble.calibration import fit_temperature
from drcl.ensemble.choice import held_out_logits
from drcl.ensemble.folds import held_out_rows
from drcl.ensemble.scaling import Scaling
from drcl.ensemble.training import Rows, train_members

ALPHAS = (2.0, 0.0, 0.1)  # the first is that of the recipe; the others are compared with it
SPACES = ("cosine", "posterior")


class Trained:
    """Both spaces of the last training, so that it is done once for the two."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.spaces: dict[str, Embed] = {}

    def fit(self, data: CrossModalDataset, seed: int, *, alpha: float, space: str) -> Fitted:
        key = id(data), seed, alpha
        if key != self.key:
            self.key, self.spaces = key, train(data, seed, alpha)
        return Fitted(self.spaces[space], f"α = {alpha:g}, {space}")


def train(data: CrossModalDataset, seed: int, alpha: float) -> dict[str, Embed]:
    """Every modality alone, on train and validation rows as ``drcl.auto`` uses them."""
    classes, parts = len(data.classes), {}
    for modality in data.train:
        split = data.train[modality], data.validation[modality]
        raw = torch.cat([torch.from_numpy(np.float32(part.features)) for part in split])
        ids = torch.cat([torch.from_numpy(part.labels) for part in split])
        targets = torch.nn.functional.one_hot(ids, classes).float()
        generator = torch.Generator().manual_seed(seed)
        scaling = Scaling.of(raw, root=False)
        held_out = held_out_rows(targets, MEMBERS, generator)
        rows = Rows(scaling(raw), targets, held_out)
        recipe = replace(fitted_to(CONSISTENT[0], *raw.shape), alpha=alpha)
        # One seed for all modalities: they share the prior.
        members = train_members(recipe, rows, seed)
        logits = held_out_logits(members, rows.features, rows.held_out)
        parts[modality] = scaling, members, fit_temperature(logits, targets)

    def cosine(modality: str, features: np.ndarray) -> np.ndarray:
        scaling, members, _ = parts[modality]
        with torch.inference_mode():
            return unit(members.embed(scaling(torch.from_numpy(features))).mean(dim=0).numpy())

    def posterior(modality: str, features: np.ndarray) -> np.ndarray:
        scaling, members, temperature = parts[modality]
        with torch.inference_mode():
            logits = members(scaling(torch.from_numpy(features)))
            found: np.ndarray = (logits / temperature).softmax(dim=-1).mean(dim=0).numpy()
            return found

    return {"cosine": cosine, "posterior": posterior}


def methods() -> dict[str, Method]:
    trained = Trained()
    return {
        f"{alpha:g} {space}": Method(
            f"α = {alpha:g}, {space}", partial(trained.fit, alpha=alpha, space=space)
        )
        for alpha in ALPHAS
        for space in SPACES
    }


def main() -> None:
    given = damages.options(__doc__, seeds=5).parse_args()
    damage, folder = damages.asked(given)
    for name in given.sets:
        run_study(load_set(name), methods(), given.seeds, folder / f"{name}.jsonl", damage=damage)


if __name__ == "__main__":
    main()
