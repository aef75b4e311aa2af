"""The fuzz harness: what a case draws, how it is judged, how many are run.

A target is one public function with a generator of cases. A case is either valid, and its result
is held to a float64 oracle or to a property that must hold; or it has one fault, and must be
refused with a ValueError or TypeError whose message names the argument. Anything else — another
exception, an accepted fault, NaN out of finite numbers, a wrong number — fails.

The structure of a case (shapes, dtypes, strides, options, faults) is drawn by hypothesis, which
shrinks it and prints it on failure; the numbers come from a seed that it draws too.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")

# Hypothesis keeps a tree of all examples of a run: many short runs need little memory.
ROUND = 2000


@dataclass(frozen=True)
class Target:
    """A public function under its full name, and what draws and judges one case of it.

    ``few`` is the number of cases in the normal suite, less than usual where a case is slow.
    """

    name: str
    case: Callable[[Draw], None]
    few: int

    def __str__(self) -> str:
        return self.name


TARGETS: dict[str, Target] = {}


def target(name: str, few: int = 25) -> Callable[[Callable[[Draw], None]], Callable[[Draw], None]]:
    """Register a generator of cases for the public function ``name``."""

    def register(case: Callable[[Draw], None]) -> Callable[[Draw], None]:
        assert name not in TARGETS
        TARGETS[name] = Target(name, case, few)
        return case

    return register


class Draw:
    """What a case is made of: choices through hypothesis, numbers from a drawn seed."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.seed = self.integer("seed", 0, 2**31 - 1)
        self.random = np.random.default_rng(self.seed)

    def integer(self, label: str, low: int, high: int) -> int:
        value = self._data.draw(_integers(low, high))
        note(f"{label} = {value}")
        return value

    def choose(self, label: str, *options: T) -> T:
        """One of the options; a failing case shrinks towards the first."""
        value = options[self._data.draw(_integers(0, len(options) - 1))]
        note(f"{label} = {value!r}")
        return value

    def fault(self, *names: str) -> str:
        """The name of a fault, in about one case of three, else an empty string."""
        if self._data.draw(_integers(0, 2)) < 2:
            return ""
        return self.choose("fault", *names)


@functools.cache
def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@contextlib.contextmanager
def refused(*names: str) -> Iterator[None]:
    """The block must raise a ValueError or TypeError whose message has one of the names in it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        words = re.findall(r"[\w@.]+", str(error))
        assert set(names) & set(words), f"{error!r} names none of {names}"
    else:
        raise AssertionError(f"a fault was accepted; expected an error naming {names}")


def within(ours: Any, exact: Any, bound: Any, what: str) -> None:
    """Every entry is within its bound of the exact one, and finite."""
    found, expected = array(ours), array(exact)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    good = np.abs(found - expected) <= bound
    assert good.all(), f"{what}: got {found}, expected {expected} within {bound}"


def array(values: Any) -> np.ndarray:
    """Anything as a float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64)


def run(chosen: Target, cases: int) -> None:
    """Run so many cases of a target; the same in every run."""
    done = 0
    while done < cases:
        count = min(ROUND, cases - done)
        # Different cases in every round; @seed also holds where CI derandomizes.
        _round(chosen, count, number=done // ROUND)
        done += count


def _round(chosen: Target, count: int, number: int) -> None:
    ran = 0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
    )
    @given(st.data())
    def examples(data: st.DataObject) -> None:
        nonlocal ran
        ran += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            warnings.filterwarnings("ignore", message="the prior has rank")
            chosen.case(Draw(data))

    examples()
    assert ran >= count, f"{chosen}: only {ran} of {count} cases ran"
