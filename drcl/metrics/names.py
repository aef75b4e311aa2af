"""Measures by name: what ``measures=`` takes, and what a summary calls their means."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from drcl.metrics import lists, measures, user_models
from drcl.metrics.measures import Measure, at_cutoffs
from drcl.ranking import PER_CUTOFF

MEASURES = measures.MEASURES | lists.MEASURES | user_models.MEASURES


def named(asked: Any) -> dict[str, Measure]:
    """Measures by name: ``measures=`` of :func:`drcl.metrics.retrieval_metrics`, checked."""
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise TypeError(f"measures: expected a sequence of names or functions, got {asked!r}")
    found = {}
    for one in asked:
        if isinstance(one, str) and one in MEASURES:
            found[one] = MEASURES[one][0]
        elif callable(one):
            found[_name(one)] = one
        else:
            names = ", ".join(MEASURES)
            raise ValueError(
                f"measures: expected functions or names of {names}, got {one!r}{_hint(one)}"
            )
    return found


def _hint(one: Any) -> str:
    """Where what a summary calls a mean is taken for a measure's name: how to ask for it.

    Of other words, the names that are spelled nearly so.
    """
    plain, _, cutoff = str(one).rpartition("@") if "@" in str(one) else (str(one), "", "")
    for name, (measure, called) in MEASURES.items():
        if str(one).casefold() == called.casefold() != name:
            return f"; {called} is {name!r}"
        if at_cutoffs(measure) and cutoff and plain.casefold() in (name, called.casefold()):
            return f"; {one} is {name!r}, with its cut-off among ks"
    if plain.casefold() == PER_CUTOFF["ndcg"].casefold():
        return (
            f"; {one} is found with ndcg=True, of runs and by drcl score always, with its cut-off "
            "among ks"
        )
    if plain.casefold() in map(str.casefold, PER_CUTOFF.values()):
        return f"; {one} is found without being asked for, with its cut-off among ks"
    near = " or ".join(map(repr, get_close_matches(plain.casefold(), MEASURES, n=2)))
    return near and f"; did you mean {near}?"


def label(name: str) -> str:
    """What a summary calls the mean."""
    return MEASURES[name][1] if name in MEASURES else name


def _name(measure: Measure) -> str:
    if isinstance(measure, partial):
        settings = ", ".join(f"{key}={value}" for key, value in measure.keywords.items())
        return f"{label(_name(measure.func))}({settings})"
    return getattr(measure, "__name__", type(measure).__name__)
