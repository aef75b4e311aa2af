"""The fuzz harness: what a case draws, how it is judged, how many are run.

A target is one public function with a generator of cases. A case is either valid, and its result
is held to a float64 oracle or to a property that must hold; or it has one fault, and must be
refused with a ValueError or TypeError whose message names the argument. Anything else — another
exception, an accepted fault, NaN out of finite numbers, a wrong number — fails.

The structure of a case (shapes, dtypes, strides, options, faults) is drawn by hypothesis, which
shrinks it and prints it on failure; the numbers come from a seed that it draws too. After the first
two thousand cases NumPy draws the structure, at a fraction of the cost.
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

# Cases of a target that hypothesis draws.
BY_HYPOTHESIS = 2000
# It keeps a tree of all examples of a run: many short runs need little memory.
ROUND = 1000


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
    """What a case is made of: choices from ``draw(low, high)``, numbers from a drawn seed."""

    def __init__(self, draw: Callable[[int, int], int], note: Callable[[str], None]) -> None:
        self._draw, self._note = draw, note
        self.seed = self.integer("seed", 0, 2**31 - 1)
        self.random = np.random.default_rng(self.seed)

    def integer(self, label: str, low: int, high: int) -> int:
        value = self._draw(low, high)
        self._note(f"{label} = {value}")
        return value

    def choose(self, label: str, *options: T) -> T:
        """One of the options; a failing case shrinks towards the first."""
        value = options[self._draw(0, len(options) - 1)]
        self._note(f"{label} = {value!r}")
        return value

    def fault(self, *names: str) -> str:
        """The name of a fault, in about one case of three, else an empty string."""
        return "" if self._draw(0, 2) < 2 else self.choose("fault", *names)


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
    if not good.all():
        place = np.unravel_index(np.argmin(good), good.shape)
        least = np.broadcast_to(bound, good.shape)[place]
        raise AssertionError(
            f"{what}: {(~good).sum()} of {good.size} are off, one at {tuple(map(int, place))}: "
            f"got {found[place]!r}, expected {expected[place]!r} within {least!r}"
        )


def array(values: Any) -> np.ndarray:
    """Anything as a float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64)


def run(chosen: Target, cases: int) -> None:
    """Run so many cases of a target; the same in every run."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        warnings.filterwarnings("ignore", message="the prior has rank")
        first = min(cases, BY_HYPOTHESIS)
        for start in range(0, first, ROUND):
            _by_hypothesis(chosen, min(ROUND, first - start), number=start // ROUND)
        for number in range(first, cases):
            _by_numpy(chosen, number)


def _by_hypothesis(chosen: Target, count: int, number: int) -> None:
    ran = 0

    # Different cases in every round; @seed also holds where CI derandomizes.
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
        chosen.case(Draw(lambda low, high: data.draw(_integers(low, high)), note))

    examples()
    assert ran >= count, f"{chosen}: only {ran} of {count} cases ran"


def _by_numpy(chosen: Target, number: int) -> None:
    random = np.random.default_rng(number)
    notes: list[str] = []
    try:
        chosen.case(Draw(lambda low, high: int(random.integers(low, high + 1)), notes.append))
    except Exception as error:
        raise AssertionError(f"{chosen}, case {number}: " + ", ".join(notes)) from error
