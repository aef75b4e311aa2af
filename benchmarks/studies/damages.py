"""The options of a study of the real sets: which, how often, and what is done to their rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from drcl.benchmarks.studies.deep_sets import SETS
from drcl.compare.protocol import Damage, damage_of


def options(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """Those of a study of the real sets, with so many seeds unless others are named."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(seeds))
    parser.add_argument("--noise", metavar="KIND:RATE", help="as of drcl compare, like the others")
    parser.add_argument("--labels-per-class", type=int)
    parser.add_argument("--missing", type=float, metavar="RATE")
    parser.add_argument("--unseen", type=int)
    return parser


def asked(given: argparse.Namespace) -> tuple[Damage | None, Path]:
    """The damage, and the folder of its results below that of the study, which is made."""
    damage = damage_of(given.noise, given.labels_per_class, given.missing, given.unseen)
    folder: Path = given.out / ("all labels" if damage is None else damage.name)
    folder.mkdir(parents=True, exist_ok=True)
    return damage, folder
