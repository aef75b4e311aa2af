"""An epoch of training beside the literal loop: the contest of ``training.py`` as entries.

Each contender trains for two epochs and reports the seconds of the second, so that what a first
epoch sets up is in none. The gate is that of the contest: loss and gradient against the literal
form in float64, and a small training whose losses must be those of the literal loop.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from drcl.benchmarks.suite import registry

EPOCHS = 2
VALIDATION = 512
NAMES = (registry.OURS + "loop", "literal loop")
PHASES = {"prior learning": "SPL", "consistency": "RSC"}


def build(sizes: registry.Sizes, device: torch.device, phase: str) -> registry.Problem:
    from drcl.benchmarks.workloads import training

    widths = [sizes["d"], sizes["hidden"], sizes["hidden"], sizes["D"]]
    options = argparse.Namespace(
        batch=sizes["B"],
        rows=sizes["N"],
        validation=VALIDATION,
        widths=widths,
        epochs=EPOCHS,
        precision="float32",
        device=device.type,
    )
    contest = training.Contest(options)

    def oracle() -> registry.Outcome:
        try:
            training.check_loss(sizes["B"], sizes["D"])
            training.check_loops()
        except SystemExit as problem:
            raise registry.Wrong(str(problem)) from None
        return ()

    def last_epoch(loop: Callable[[str], dict[str, Any]]) -> registry.Contender:
        return registry.Contender(lambda: float(loop(phase)["epoch"]))

    loops = (last_epoch(contest.ours), last_epoch(contest.released))
    contenders: dict[str, registry.Contender | str] = dict(zip(NAMES, loops, strict=True))
    judged = sizes["N"] if phase == "SPL" else VALIDATION
    return registry.Problem(contenders, oracle, work(widths, sizes["B"], sizes["N"], judged))


def work(widths: list[int], batch: int, rows: int, judged: int) -> registry.Work:
    """Products of every step and of judging; parameters, their gradients and Adam's two moments.

    A layer's product is there forward and for its weights' gradient, and, but for the first, for
    its input's. An update reads four numbers a parameter and writes three.
    """
    layers = [2 * a * b for a, b in itertools.pairwise(widths)]
    steps = rows // batch
    products = (3 * sum(layers) - layers[0]) * steps * batch + sum(layers) * judged
    return registry.Work(products, sum(layers) // 2 * 28 * steps, (batch, widths[1], widths[2]))


def entry(phase: str, sizes: registry.Sizes, note: str, quick: bool = False) -> registry.Entry:
    def built(at: registry.Sizes, device: torch.device) -> registry.Problem:
        return build(at, device, PHASES[phase])

    return registry.Entry(f"training, {phase}", sizes, built, NAMES, note=note, quick=quick)


SMALL = {"B": 512, "N": 2048, "d": 300, "hidden": 512, "D": 512}
PAPER = {"B": 1024, "N": 4096, "d": 4096, "hidden": 4096, "D": 2048}
ENTRIES = (
    [
        *(entry(phase, SMALL, "a small network", quick=True) for phase in PHASES),
        *(entry(phase, PAPER, "the paper's image encoder") for phase in PHASES),
    ]
    if find_spec("drcl.benchmarks.workloads.training")
    else []
)
