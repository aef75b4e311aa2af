"""The options of a study of the real sets: which, how often, and what is done to their labels."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from drcl.benchmarks.studies.deep_sets import SETS
from drcl.compare.protocol import with_few_labels, with_noise
from drcl.compare.study import Damage


def options(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """Those of a study of the real sets, with so many seeds unless others are named."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(seeds))
    damages = parser.add_mutually_exclusive_group()
    damages.add_argument("--noise", type=float, help="share of wrong labels")
    damages.add_argument("--asymmetric", type=float, help="share of labels that are the next class")
    damages.add_argument("--labels-per-class", type=int)
    return parser


def damage_of(given: argparse.Namespace) -> tuple[Damage | None, Path]:
    """The damage, and the folder of its results below that of the study, which is made."""
    damage, labels = _named(given)
    folder: Path = given.out / labels
    folder.mkdir(parents=True, exist_ok=True)
    return damage, folder


def _named(given: argparse.Namespace) -> tuple[Damage | None, str]:
    for kind, rate in (("symmetric", given.noise), ("asymmetric", given.asymmetric)):
        if rate is not None:
            name = f"noise {rate:g}" if kind == "symmetric" else f"{kind} noise {rate:g}"
            return partial(with_noise, kind=kind, rate=rate), name
    if given.labels_per_class is not None:
        few = partial(with_few_labels, per_class=given.labels_per_class)
        return few, f"{given.labels_per_class} a class"
    return None, "all labels"
