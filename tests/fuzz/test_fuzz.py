"""Fuzzing of every public function, and the proof that none is left out.

The normal suite runs a few cases of each; ``make test-long`` runs 100,000 of each, which takes
minutes for an op or a measure and up to an hour for what trains and for a command, on one core.
Where a case takes most of a second (``drcl report``, ``drcl ablate``) it runs a hundredth.
``DRCL_FUZZ_CASES`` sets the number. A target alone:
``pytest -m long -k functional.mixup tests/fuzz``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from types import ModuleType

import fuzz_cli
import fuzz_data
import fuzz_encoder
import fuzz_functional
import fuzz_index
import fuzz_losses
import fuzz_metrics
import fuzz_prior
import fuzz_reference
import fuzz_serve
import fuzz_training
import pytest
from fuzzing import TARGETS, Target, run

import drcl
from drcl import baselines, data, functional, losses, metrics, reference, serve
from drcl.cli import main

TARGET_FILES = (
    fuzz_cli,
    fuzz_data,
    fuzz_encoder,
    fuzz_functional,
    fuzz_index,
    fuzz_losses,
    fuzz_metrics,
    fuzz_prior,
    fuzz_reference,
    fuzz_serve,
    fuzz_training,
)

every_target = pytest.mark.parametrize("chosen", TARGETS.values(), ids=str)


@every_target
def test_a_few_cases(chosen: Target) -> None:
    given = os.environ.get("DRCL_FUZZ_CASES")
    cases = chosen.few if given is None else int(given)
    if cases == 0:
        pytest.skip("a case takes seconds: make test-long runs them")
    run(chosen, cases)


@pytest.mark.long
@every_target
def test_many_cases(chosen: Target) -> None:
    cases = int(os.environ.get("DRCL_FUZZ_CASES", "100000"))
    run(chosen, cases if chosen.few else cases // 100)


def public_functions() -> Iterator[str]:
    """Every function, class and method that the documentation lists, by its full name."""
    for name in drcl.__all__:
        item = getattr(drcl, name)
        if not isinstance(item, (ModuleType, str)):
            yield from with_methods(f"drcl.{name}", item)
    for module in (functional, losses, metrics, data, baselines, reference, serve):
        exported = getattr(module, "__all__", vars(module))
        for name in exported:
            item = getattr(module, name)
            named = "__all__" in vars(module)
            own = named or getattr(item, "__module__", "").startswith(module.__name__)
            if own and not name.startswith("_") and (inspect.isroutine(item) or is_called(item)):
                yield f"{module.__name__}.{name}"
    yield from (f"drcl {name}" for name in main.commands)


def with_methods(name: str, item: object) -> Iterator[str]:
    yield name
    if inspect.isclass(item):
        for method, value in vars(item).items():
            # Of a module, `forward` is the call and `extra_repr` its print.
            hidden = method.startswith("_") or method in ("forward", "extra_repr")
            if not hidden and inspect.isroutine(getattr(item, method)):
                assert value is not None
                yield f"{name}.{method}"


def is_called(item: object) -> bool:
    """Whether this is a class that users make objects of: not a result that a function returns."""
    if not inspect.isclass(item):
        return False
    results = metrics.RetrievalMetrics, metrics.HammingMetrics, metrics.Ranks
    return not issubclass(item, (tuple, dict)) and item not in results


# Read from files: fuzzed where the files are.
OF_FILES = {"drcl.data.load_manifest"}


def test_every_public_function_has_a_target() -> None:
    # a command with options that make another of it has a target for each
    functions = {target.split(" --")[0] for target in TARGETS}
    assert set(public_functions()) - OF_FILES == functions
