"""What a study does to the labels, as options of its command."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from drcl.compare.protocol import with_few_labels, with_noise
from drcl.compare.study import Damage


def add_options(parser: argparse.ArgumentParser) -> None:
    damages = parser.add_mutually_exclusive_group()
    damages.add_argument("--noise", type=float, help="share of wrong labels")
    damages.add_argument("--asymmetric", type=float, help="share of labels that are the next class")
    damages.add_argument("--labels-per-class", type=int)


def damage_of(given: argparse.Namespace) -> tuple[Damage | None, Path]:
    """The damage, and the folder of its results under that of the study."""
    for kind, rate in (("symmetric", given.noise), ("asymmetric", given.asymmetric)):
        if rate is not None:
            name = f"noise {rate:g}" if kind == "symmetric" else f"{kind} noise {rate:g}"
            return partial(with_noise, kind=kind, rate=rate), Path(name)
    if given.labels_per_class is not None:
        few = partial(with_few_labels, per_class=given.labels_per_class)
        return few, Path(f"{given.labels_per_class} a class")
    return None, Path("all labels")
