"""What each term of the published recipe is worth, where rows are whole, few, wrong or missing.

    DRCL_DATA=... python -m drcl.benchmarks.studies.terms --out DIR [--sets ...] [--seeds ...]
        [--noise KIND:RATE | --labels-per-class N | --missing RATE | --unseen N]

The recipe is ``drcl.compare``'s, small, its prior brought to columns of length 4.5 so that a random
one can be set beside it. Variants differ in one thing, and are ranked by cosine, as in the paper.
Results are stored as they come, in ``DIR/DAMAGE/SET.jsonl``; the same command goes on after the
last one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from drcl.benchmarks.studies import damages
from drcl.benchmarks.studies.deep_sets import load_set
from drcl.compare.fitted import Fitted, Method
from drcl.compare.methods import RELEASED
from drcl.compare.study import run_study
from drcl.data.dataset import CrossModalDataset
from drcl.estimator import DRCL

FULL = replace(RELEASED, prior_norm=4.5)
CHANGES: dict[str, dict[str, Any]] = {
    "full": {},
    "random prior": {"prior": "orthogonal"},
    "no J_D": {"alpha": 0.0},
    "no J_MSE": {"beta": 0.0},
    "neither": {"alpha": 0.0, "beta": 0.0},
    "J_D × 20": {"alpha": 2.0},
    "random prior, J_D × 20": {"prior": "orthogonal", "alpha": 2.0},
    "no mixing": {"lam": 1.0},
}


def train(data: CrossModalDataset, seed: int, *, changes: dict[str, Any]) -> Fitted:
    model = DRCL(replace(FULL, **changes), seed=seed)
    model.fit(data.train, data.validation, progress=False)

    def embed(modality: str, features: np.ndarray) -> np.ndarray:
        return model.encode(modality, features).numpy()

    return Fitted(embed, "")


VARIANTS = {name: Method(name, partial(train, changes=own)) for name, own in CHANGES.items()}


def main() -> None:
    given = damages.options(__doc__, seeds=5).parse_args()
    damage, folder = damages.asked(given)
    for name in given.sets:
        run_study(load_set(name), VARIANTS, given.seeds, folder / f"{name}.jsonl", damage=damage)


if __name__ == "__main__":
    main()
