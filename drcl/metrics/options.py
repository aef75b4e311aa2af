"""What the metrics can be told: the options, their defaults and their checks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

import numpy as np
from torch.distributed import ProcessGroup

from drcl.checks import check_count, check_cutoff, check_option
from drcl.metrics.relevance import Callback, Labels
from drcl.metrics.scores import METRICS, PRECISIONS
from drcl.ranking import DIVISORS

MAX_BYTES = 256 * 2**20
NO_RELEVANT = ("zero", "skip", "one", "error")
# A mean over no query.
ON_EMPTY = {"error": None, "zero": 0.0, "nan": math.nan}
F = TypeVar("F", bound=Callable[..., Any])


class RetrievalOptions(TypedDict, total=False):
    """The options that every metric takes, for type checkers; :func:`retrieval_metrics` says what
    they mean.

    >>> from drcl.metrics import RetrievalOptions
    >>> RetrievalOptions(metric="dot", ties="average")
    {'metric': 'dot', 'ties': 'average'}
    """

    relevance: Callback | Any | None
    exclude_self: bool | Any
    excluded: Callback | Any | None
    excluded_groups: tuple[Labels, Labels] | None
    query_groups: Labels | None
    gallery_groups: Labels | None
    metric: str
    divisor: str
    ties: str
    no_relevant: str
    on_empty: str
    adaptive_k: bool
    ndcg: bool
    recall_levels: int
    precision: str
    max_bytes: int
    progress: bool
    process_group: ProcessGroup | None


@dataclass(frozen=True)
class Settings:
    """:class:`RetrievalOptions` with their defaults, checked."""

    relevance: Callback | Any | None = None
    exclude_self: bool | Any = False
    excluded: Callback | Any | None = None
    excluded_groups: tuple[Labels, Labels] | None = None
    query_groups: Labels | None = None
    gallery_groups: Labels | None = None
    metric: str = "cosine"
    divisor: str = "hits"
    ties: str = "index"
    no_relevant: str = "zero"
    on_empty: str = "error"
    adaptive_k: bool = True
    ndcg: bool = False
    recall_levels: int = 0
    precision: str = "highest"
    max_bytes: int = MAX_BYTES
    progress: bool = False
    process_group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        check_option("metric", self.metric, METRICS)
        check_option("divisor", self.divisor, DIVISORS)
        check_option("ties", self.ties, ("index", "average"))
        check_option("no_relevant", self.no_relevant, NO_RELEVANT)
        check_option("on_empty", self.on_empty, tuple(ON_EMPTY))
        check_option("precision", self.precision, PRECISIONS)
        levels = check_count("recall_levels", self.recall_levels, 0)
        if levels == 1:
            raise ValueError("recall_levels: expected 0 or at least 2, got 1")
        if levels and self.ties == "average":
            raise ValueError(f'recall_levels: expected 0 with ties="average", got {levels}')
        check_count("max_bytes", self.max_bytes, 2**20)

    @staticmethod
    def of(options: Mapping[str, Any]) -> Settings:
        """Refuses options that there are not."""
        refuse(options)
        return Settings(**options)


def shows_options(*refused: str) -> Callable[[F], F]:
    """A function whose signature lists the options and their defaults, but for those it refuses."""

    def show(function: F) -> F:
        own = inspect.signature(function)
        parameters = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        parameters += [
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=option.type,
            )
            for option in fields(Settings)
            if option.name not in refused
        ]
        function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return show


def check_cutoffs(ks: Any) -> tuple[int | None, ...]:
    """A sequence of cut-offs, None among them for the whole gallery."""
    if not isinstance(ks, (Sequence, np.ndarray)) or isinstance(ks, str):
        raise ValueError(f"ks: expected a sequence of cut-offs, got {ks!r}")
    return tuple(check_cutoff(k) for k in ks)


def refuse(options: Mapping[str, Any], *names: str) -> None:
    """Refuse options that there are not, and those that a function does not take."""
    for name, value in options.items():
        if name in names:
            raise TypeError(f"{name}: expected no such option here, got {value!r}")
        if name not in Settings.__dataclass_fields__:
            taken = [field.name for field in fields(Settings) if field.name not in names]
            raise TypeError(f"{name}: expected one of the options {', '.join(taken)}")
