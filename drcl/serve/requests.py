"""What a client may ask: the body of ``POST /search``, checked as far as it goes without the index.

{"embeddings": [[...], ...]}            rows of the width of the index, or
{"ids": ["image-3", ...]}               items of the index, or
{"features": {"image": [[...], ...]}}   what the run's encoder of that modality takes; and
"k": 10, "modality": "text" or [...], "where": {"class": "oak" or [...]}
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import check_count, check_positive
from drcl.index.adding import LONGEST
from drcl.serve.items import large_integer

_QUERIES = ("embeddings", "ids", "features")
_FILTERS = 100  # columns of a filter, and values of each
_LARGEST = float(np.finfo(np.float32).max)
_DIGITS = 400  # of a number: more are of no number that float64 has


class Refused(Exception):
    """A request that is not answered, with the status of HTTP that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The most that one client, and all of them, may ask of a server.

    Args:
        body: bytes of a request.
        rows: queries of a request.
        k: results of a query.
        waiting: requests that wait for an answer at one time; more are answered with 503.
        reading: requests whose bodies are read at one time; more are answered with 503.
        batch: queries from which on a product takes in no further request.
        wait: seconds without a further request after which a product begins; at the latest after
            ten times as long.
        patience: seconds that a client may take to send a request.
        deadline: seconds until a request that no product has taken in is answered with 503.

    >>> Limits(k=1000).k
    1000
    """

    body: int = 2**21
    rows: int = 64
    k: int = 100
    waiting: int = 128
    reading: int = 512
    batch: int = 256
    wait: float = 0.001
    patience: float = 10.0
    deadline: float = 10.0

    def __post_init__(self) -> None:
        for name in ("body", "rows", "k", "waiting", "reading", "batch"):
            check_count(name, getattr(self, name))
        for name in ("wait", "patience", "deadline"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True)
class Request:
    """One request: ``rows`` (q, D) float64, embeddings or features of the modality ``encoder``."""

    rows: Tensor | None
    encoder: str | None
    ids: tuple[int | str, ...]
    k: int
    modality: tuple[str, ...] | None
    where: dict[str, list[Any]] | None

    def __len__(self) -> int:
        return len(self.ids) if self.rows is None else len(self.rows)

    @property
    def among(self) -> str:
        """Which items it searches: requests with the same ones share a product."""
        return json.dumps([self.modality, self.where])


def parse(body: bytes, limits: Limits) -> Request:
    """A request from its body; :class:`Refused` for anything that is none.

    >>> parse(b'{"embeddings": [[1, 0.5]], "k": 3}', Limits()).rows
    tensor([[1.0000, 0.5000]], dtype=torch.float64)
    >>> parse(b'{"k": 3}', Limits())
    Traceback (most recent call last):
    drcl.serve.requests.Refused: expected one of embeddings, ids, features, got none of them
    """
    try:
        asked = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"body: expected JSON in UTF-8 ({_words(error)})") from error
    if not isinstance(asked, dict):
        raise Refused(f"body: expected a JSON object, got {_shown(asked)}")
    known = (*_QUERIES, "k", "modality", "where")
    for name in asked:
        if name not in known:
            raise Refused(f"body: expected keys of {', '.join(known)}, got {_shown(name)}")
    given = [name for name in _QUERIES if name in asked]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise Refused(f"expected one of {', '.join(_QUERIES)}, got {got}")
    rows: npt.NDArray[np.float64] | None = None
    encoder = None
    ids: tuple[int | str, ...] = ()
    if given == ["ids"]:
        ids = _ids(asked["ids"], limits)
    elif given == ["embeddings"]:
        rows = _matrix("embeddings", asked["embeddings"], limits)
        if np.linalg.norm(rows, axis=1).max() > LONGEST:
            raise Refused(f"embeddings: expected rows of length {LONGEST:.0e} at most")
    else:
        features = asked["features"]
        if not isinstance(features, dict) or len(features) != 1:
            raise Refused(f"features: expected an object of one modality, got {_shown(features)}")
        encoder, matrix = next(iter(features.items()))
        rows = _matrix("features", matrix, limits)
    return Request(
        None if rows is None else torch.from_numpy(rows),
        encoder,
        ids,
        _k(asked.get("k", min(10, limits.k)), limits),
        _modality(asked.get("modality")),
        _where(asked.get("where")),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


class _AsJSON(reprlib.Repr):
    """Values shortened, with the words of JSON for those that Python spells differently."""

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


_shown = _AsJSON().repr


def _k(k: Any, limits: Limits) -> int:
    if type(k) is not int or not 1 <= k <= limits.k:
        raise Refused(f"k: expected an integer of 1 to {limits.k}, got {_shown(k)}")
    return k


def _listed(name: str, value: Any, limits: Limits) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= limits.rows:
        got = f"a list of {len(value)}" if isinstance(value, list) else _shown(value)
        raise Refused(f"{name}: expected a list of 1 to {limits.rows} queries, got {got}")
    return value


def _matrix(name: str, value: Any, limits: Limits) -> npt.NDArray[np.float64]:
    rows = _listed(name, value, limits)
    for row in rows:
        if not isinstance(row, list) or not row or not {*map(type, row)} <= {int, float}:
            raise Refused(f"{name}: expected rows that are lists of numbers, got {_shown(row)}")
        if len(row) != len(rows[0]):
            raise Refused(
                f"{name}: expected rows of one width, got {len(rows[0])} and {len(row)} numbers"
            )
    try:
        found = np.array(rows, np.float64)
    except OverflowError:
        found = np.array(np.inf)
    if not np.abs(found).max() < _LARGEST:
        raise Refused(f"{name}: expected numbers within float32, got larger ones")
    return found


def _ids(value: Any, limits: Limits) -> tuple[int | str, ...]:
    for one in _listed("ids", value, limits):
        good = isinstance(one, str) or (type(one) is int and -(2**63) <= one < 2**63)
        if not good:
            raise Refused(f"ids: expected strings, or integers of 64 bits, got {_shown(one)}")
    return tuple(value)


def _modality(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = value if isinstance(value, list) else [value]
    if not 1 <= len(names) <= _FILTERS or not all(isinstance(name, str) for name in names):
        raise Refused(f"modality: expected a name or a list of names, got {_shown(value)}")
    return tuple(sorted(names))


def _where(value: Any) -> dict[str, list[Any]] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > _FILTERS:
        raise Refused(f"where: expected an object of column and value, got {_shown(value)}")
    found = {}
    for column, given in sorted(value.items()):
        wanted = given if isinstance(given, list) else [given]
        if len(wanted) > _FILTERS:
            raise Refused(f"where: expected {_FILTERS} values at most, got {len(wanted)}")
        for one in wanted:
            plain = one is None or isinstance(one, (str, bool, int, float))
            if not plain or (isinstance(one, float) and not math.isfinite(one)):
                raise Refused(
                    f"where: expected strings, finite numbers, truth values or null, got "
                    f"{_shown(one)}"
                )
        # A string of digits may be an integer of which an answer showed the digits.
        found[column] = [*wanted, *filter(None, map(large_integer, wanted))]
    return found
