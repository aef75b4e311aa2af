"""The metrics' options: their names, old and new, and what the package shows of itself."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, get_type_hints

import pytest
import torch

from drcl import metrics
from drcl.metrics.options import RetrievalOptions, Settings

X, LABELS = torch.eye(4), torch.tensor([0, 1, 0, 1])
SIDES = (X, X, LABELS, LABELS)

CALLS: dict[str, Callable[..., Any]] = {
    "retrieval_metrics": lambda **options: metrics.retrieval_metrics(*SIDES, **options).summary(),
    "average_precision": lambda **options: metrics.average_precision(*SIDES, **options).tolist(),
    "mean_average_precision": lambda **options: metrics.mean_average_precision(*SIDES, **options),
    "recall_at_k": lambda **options: metrics.recall_at_k(*SIDES, k=1, **options),
    "precision_recall_curve": lambda **options: metrics.precision_recall_curve(
        *SIDES, points=3, **options
    ).precision.tolist(),
    "retrieval_report": lambda **options: metrics.retrieval_report(
        {"a": (X, LABELS), "b": (X, LABELS)}, **options
    ),
}


CODES = torch.tensor([[0], [3], [7], [255]], dtype=torch.uint8)
# These never had options under other names.
EVERY_CALL = CALLS | {
    "hit_at_k": lambda **options: metrics.hit_at_k(*SIDES, k=1, **options),
    "cmc_curve": lambda **options: metrics.cmc_curve(*SIDES, k=1, **options).tolist(),
    "hamming_metrics": lambda **options: metrics.hamming_metrics(
        CODES, CODES, LABELS, LABELS, **options
    ),
    "score_metrics": lambda **options: metrics.score_metrics(X, LABELS, LABELS, **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_old_name_of_max_bytes_works_with_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = CALLS[name](max_bytes=2**20)
    with pytest.warns(DeprecationWarning, match="memory: is now called max_bytes") as caught:
        assert CALLS[name](memory=2**20) == expected
    assert [warning.filename for warning in caught] == [__file__]  # once, where the call is
    with pytest.raises(ValueError, match="max_bytes"), pytest.warns(DeprecationWarning):
        CALLS[name](memory=1)


def test_the_old_name_of_recall_levels_works_with_a_warning() -> None:
    expected = metrics.retrieval_metrics(*SIDES, recall_levels=5).interpolated
    with pytest.warns(DeprecationWarning, match="levels: is now called recall_levels"):
        found = metrics.retrieval_metrics(*SIDES, levels=5).interpolated  # type: ignore[call-arg]
    assert expected is not None and found is not None
    assert len(found.recall) == 5 and torch.equal(found.precision, expected.precision)


def test_an_option_by_both_of_its_names_is_refused() -> None:
    with pytest.raises(TypeError, match="levels: expected recall_levels alone, its new name"):
        CALLS["retrieval_metrics"](levels=5, recall_levels=5)


@pytest.mark.parametrize("name", EVERY_CALL)
def test_an_unknown_option_is_named_beside_those_that_there_are(name: str) -> None:
    with pytest.raises(TypeError, match=r"colour: expected one of the options .*max_bytes") as info:
        EVERY_CALL[name](colour="red")
    listed = str(info.value).partition("options ")[2].split(", ")
    refused = {next(iter(option)) for function, option in REFUSED if function == name}
    assert set(listed) == {field.name for field in fields(Settings)} - refused


@pytest.mark.parametrize("name", sorted(EVERY_CALL.keys() - {"retrieval_metrics", "score_metrics"}))
def test_measures_are_not_taken_where_they_would_be_dropped(name: str) -> None:
    with pytest.raises(TypeError, match="measures: expected one of the options"):
        EVERY_CALL[name](measures=("hit",))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("recall_at_k", {"no_relevant": "skip"}),
    ("precision_recall_curve", {"no_relevant": "skip"}),
    ("precision_recall_curve", {"recall_levels": 5}),
    ("retrieval_report", {"ndcg": True}),
    ("retrieval_report", {"recall_levels": 5}),
    ("cmc_curve", {"no_relevant": "skip"}),
    ("score_metrics", {"metric": "dot"}),
    ("score_metrics", {"precision": "high"}),
    *(
        ("hamming_metrics", {name: getattr(Settings(), name)})
        for name in (
            *("metric", "divisor", "ties", "ndcg", "recall_levels", "precision", "adaptive_k"),
        )
    ),
    *(
        ("hamming_metrics", {name: None})
        for name in ("process_group", "query_groups", "gallery_groups")
    ),
]


@pytest.mark.parametrize("name, option", REFUSED)
def test_an_option_that_a_function_decides_itself_is_refused(name: str, option: Any) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(option))}: expected no such option here"):
        EVERY_CALL[name](**option)


@pytest.mark.parametrize("name", EVERY_CALL)
def test_the_signature_shows_the_options_that_are_taken_with_their_defaults(name: str) -> None:
    shown = inspect.signature(getattr(metrics, name)).parameters
    refused = {option for function, options in REFUSED if function == name for option in options}
    wanted = {
        option: value for option, value in asdict(Settings()).items() if option not in refused
    }
    assert wanted.items() <= {option: one.default for option, one in shown.items()}.items()
    assert refused.isdisjoint(shown)
    assert all(one.kind is not one.VAR_KEYWORD for one in shown.values())


def test_type_checkers_know_every_option_and_no_other() -> None:
    assert list(get_type_hints(RetrievalOptions)) == [field.name for field in fields(Settings)]
    defaults = CALLS["retrieval_metrics"](**asdict(Settings()))
    assert defaults == CALLS["retrieval_metrics"]()


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(metrics) == sorted(metrics.__all__)
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__ if name.islower())
    with pytest.raises(AttributeError, match="no attribute 'precisely'"):
        _ = metrics.precisely
