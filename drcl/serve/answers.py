"""From requests to answers: a batch of them against one state of the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drcl.report.results import PICTURE
from drcl.serve.batcher import Answer
from drcl.serve.items import public_record, to_json
from drcl.serve.requests import Refused, Request
from drcl.serve.state import State


@dataclass(frozen=True)
class Encoders:
    """What turns features into rows of the index: (modality, features, space) -> embeddings.

    ``prior`` identifies the common space: :attr:`drcl.Index.about` of an index that they fit has
    the same ``"prior"``, or none.

    >>> encoders = Encoders(("image",), lambda modality, features, space: features / 2, prior="")
    >>> encoders.encode("image", torch.ones(1, 2), None)
    tensor([[0.5000, 0.5000]])
    """

    modalities: Sequence[str]
    encode: Callable[[str, Tensor, str | None], Tensor]
    prior: str


@dataclass(frozen=True)
class _Queries:
    """Rows to search with; ``own`` are the items that they are of, which do not find themselves."""

    rows: Tensor
    own: list[int] | None


def answer(
    state: State, requests: Sequence[Request], encoders: Encoders | None = None
) -> list[Answer]:
    """The answer to each request, as JSON, or why there is none.

    Requests that search the same items share one product. Of each, the results are the first k of
    what the largest k among them finds. That is what it would have found alone up to the rounding
    of float32: a product of more queries may add in another order, so that scores differ in their
    last bits, and items whose scores are that close may change places.

    Raises OSError if a file of the index was cut.
    """
    with state.reading():
        return _answers(state, requests, encoders)


def _answers(state: State, requests: Sequence[Request], encoders: Encoders | None) -> list[Answer]:
    answers: dict[int, Answer] = {}
    groups: dict[str, list[tuple[int, _Queries]]] = {}
    for place, request in enumerate(requests):
        try:
            queries = _queries(state, request, encoders)
        except (ValueError, Refused) as error:
            answers[place] = _refused(error)
        else:
            groups.setdefault(request.among, []).append((place, queries))
    for group in groups.values():
        places = [place for place, _ in group]
        k = max(requests[place].k + (queries.own is not None) for place, queries in group)
        first = requests[places[0]]
        try:
            found = state.index.search(
                torch.cat([queries.rows for _, queries in group]),
                k,
                modality=first.modality,
                where=first.where,
            )
        except ValueError as error:
            answers |= dict.fromkeys(places, _refused(error))
            continue
        start = 0
        for place, queries in group:
            stop = start + len(queries.rows)
            scores, numbers = found.scores[start:stop], found.indices[start:stop]
            answers[place] = _written(state, queries, scores, numbers, requests[place].k)
            start = stop
    return [answers[place] for place in range(len(requests))]


def _refused(error: Exception) -> Refused:
    return error if isinstance(error, Refused) else Refused(str(error)[:500])


def _queries(state: State, request: Request, encoders: Encoders | None) -> _Queries:
    index = state.index
    columns = tuple(column for column in index.columns if column != PICTURE)
    for column in request.where or ():
        if column not in columns:
            raise Refused(f"where: expected columns of {columns}, got {column!r}"[:500])
    if request.ids:
        own = _numbers(state, request.ids)
        return _Queries(index.rows(own), own)
    assert request.rows is not None
    if request.encoder is None:
        if request.rows.shape[1] != index.width:
            raise Refused(
                f"embeddings: expected width {index.width}, as the index has, got "
                f"{request.rows.shape[1]}"
            )
        return _Queries(request.rows, None)
    if encoders is None:
        raise Refused("features: expected embeddings or ids: the server was given no run")
    if request.encoder not in encoders.modalities:
        raise Refused(
            f"features: expected a modality of {tuple(encoders.modalities)}, got "
            f"{request.encoder[:100]!r}"
        )
    if index.about.get("prior") not in (None, encoders.prior):
        raise Refused("features: the index was made with another run than the server's", 409)
    rows = encoders.encode(request.encoder, request.rows.float(), index.space)
    if rows.shape[1] != index.width:
        raise Refused(
            f"features: the server's run encodes to width {rows.shape[1]}, the index has "
            f"{index.width}",
            409,
        )
    if not rows.isfinite().all():
        raise Refused("features: expected such as can be encoded, got some that are not finite")
    return _Queries(rows, None)


def _numbers(state: State, ids: Sequence[int | str]) -> list[int]:
    """Where items stand, found together; of an index of integers digits are ids, too."""
    wanted: list[Any] = list(ids)
    if not state.strings:
        wanted = [int(one) if _is_integer(one) else one for one in wanted]
    try:
        return [int(place) for place in state.index.find(wanted)]
    except ValueError as error:
        raise Refused(str(error)[:200], 404) from error


def _is_integer(one: int | str) -> bool:
    return isinstance(one, str) and one.removeprefix("-").isdecimal() and len(one) < 21


def _written(state: State, queries: _Queries, scores: Tensor, numbers: Tensor, k: int) -> bytes:
    index, results = state.index, []
    asked = [None] * len(scores) if queries.own is None else index.records(queries.own)
    for place, query in enumerate(asked):
        pairs = zip(numbers[place].tolist(), scores[place].tolist(), strict=True)
        own = None if queries.own is None else queries.own[place]
        kept = [(number, score) for number, score in pairs if number != own][:k]
        records = index.records([number for number, _ in kept])
        found = [
            {**_item(number, record), "score": score}
            for (number, score), record in zip(kept, records, strict=True)
        ]
        results.append(
            {"query": None if query is None else _item(int(own or 0), query), "found": found}
        )
    return to_json({"version": state.version, "results": results})


def _item(number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "item": public_record(dict(record)),
        "picture": bool(record.get(PICTURE)),
    }
