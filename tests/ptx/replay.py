"""Launches that are kept, so that a faulty kernel runs alone, on the arguments that it had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from .launch import Gpu, code_of, copied
from .memory import Fault
from .mutants import Edit, Mutant

Check = Callable[[Gpu], None]  # raises Fault, or AssertionError where a result is wrong


class Replay:
    """A check that passes, and its launches."""

    def __init__(self, check: Check) -> None:
        self.check = check
        gpu = Gpu(keeps=True)
        check(gpu)
        self.launches = gpu.launches

    def found(self, mutant: Mutant) -> str:
        """The kind of fault, "wrong" for a wrong result, "" where nothing shows.

        As if the whole check ran with the faulty kernels. It does where one of their launches
        writes something else than before; where none does, everything is as it was.
        """
        differs = False
        for launch in self.launches:
            assert launch.source is not None
            kernel = mutant.edited(*launch.source)
            if kernel is None:
                continue
            compiled = mutant(*launch.source)
            values = copied(launch.before)
            try:
                Gpu().run(
                    dataclasses.replace(
                        launch, compiled=compiled, code=code_of(compiled), values=values
                    )
                )
            except Fault as fault:
                return fault.kind
            differs = differs or not same(values, launch.after)
        if differs:
            try:
                self.check(Gpu(compile=mutant))
            except Fault as fault:
                return fault.kind
            except AssertionError:
                return "wrong"
        return ""


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether all tensors have the same bits."""
    tensors = [(one[n], two[n]) for n in one if isinstance(one[n], torch.Tensor)]
    bits = [[t.contiguous().view(-1).view(torch.uint8) for t in pair] for pair in tensors]
    return all(torch.equal(a, b) for a, b in bits)


def how_it_is_found(edit: Edit, folder: Path, replays: Iterable[Replay]) -> str:
    """What the first check finds that finds something; "" where none does."""
    mutant = Mutant(edit, folder)
    return next(filter(None, (replay.found(mutant) for replay in replays)), "")
