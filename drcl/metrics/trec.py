"""Runs and judgements in the files of TREC, and the measures of a run.

A run's line is ``query Q0 item rank score tag``, one of the judgements (*qrels*) ``query 0 item
relevance``; fields are parted by blanks. In memory either is a mapping: query -> item -> score, or
relevance. As in trec_eval the rank of a line is not looked at: items are ranked by falling score,
equal scores by falling name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from drcl.checks import check_option
from drcl.metrics.options import check_cutoffs
from drcl.metrics.results import RetrievalMetrics
from drcl.ranking import (
    DIVISORS,
    PER_CUTOFF,
    PER_QUERY,
    Columns,
    Request,
    measures_from_ranks,
)
from drcl.storage.files import write_bytes

__all__ = ["read_qrels", "read_run", "run_metrics", "write_qrels", "write_run"]
__dir__ = __all__.copy

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]
N = TypeVar("N", int, float)


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """The scores in a run file: query -> item -> score.

    Raises ValueError, with the line, for another number of fields, a score that is no finite number
    and an item that is there twice; OSError where the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(Path(folder, "run.txt"), {"q1": {"a": 0.5, "b": 2.0}})
    ...     read_run(Path(folder, "run.txt"))
    {'q1': {'b': 2.0, 'a': 0.5}}
    """
    return _read(Path(path), 6, item=2, value=4, number=_finite)


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """The relevance in a file of judgements: query -> item -> relevance.

    Raises what :func:`read_run` raises, for a relevance that is no whole number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_qrels(Path(folder, "qrels.txt"), {"q1": {"a": 1, "b": 0}})
    ...     read_qrels(Path(folder, "qrels.txt"))
    {'q1': {'a': 1, 'b': 0}}
    """
    return _read(Path(path), 4, item=2, value=3, number=int)


def write_run(path: str | Path, run: Run, tag: str = "drcl") -> None:
    """Write a run file, each query's items by rank; scores are read back as the same floats.

    Raises ValueError for names that are empty or hold blanks; OSError where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(Path(folder, "run.txt"), {"q1": {"a": 0.5, "b": 2.0}}, tag="mine")
    ...     print(Path(folder, "run.txt").read_text(), end="")
    q1 Q0 b 1 2.0 mine
    q1 Q0 a 2 0.5 mine
    """
    lines = [
        f"{_name(query)} Q0 {_name(item)} {rank} {float(scores[item])!r} {_name(tag)}\n"
        for query, scores in run.items()
        for rank, item in enumerate(ranked(scores), start=1)
    ]
    write_bytes(Path(path), "".join(lines).encode())


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write a file of judgements. Raises what :func:`write_run` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_qrels(Path(folder, "qrels.txt"), {"q1": {"a": 1}})
    ...     print(Path(folder, "qrels.txt").read_text(), end="")
    q1 0 a 1
    """
    lines = [
        f"{_name(query)} 0 {_name(item)} {int(relevance)}\n"
        for query, judged in qrels.items()
        for item, relevance in judged.items()
    ]
    write_bytes(Path(path), "".join(lines).encode())


def run_metrics(
    run: Run,
    qrels: Qrels,
    *,
    ks: Sequence[int | None] = (None,),
    divisor: str = "relevant",
) -> RetrievalMetrics:
    """The measures of :func:`drcl.metrics.retrieval_metrics` of ranked lists of names.

    Args:
        run: query -> item -> score; a query without a list has found nothing.
        qrels: query -> item -> relevance, whole; above 0 it is relevant, and its gain in nDCG.
        ks: cut-offs >= 1, None for the whole list.
        divisor: of AP@k; by default R, also of relevant items that the list lacks: trec_eval's map.

    Returns them for the queries of ``qrels``, in their order; one with nothing relevant counts 0.
    precision@k above the length of a list is divided by that length, and not by k as trec_eval's.
    Raises ValueError for qrels without a query and bad settings. Source: trec_eval, of the Text
    Retrieval Conference.

    >>> run, qrels = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q1": {"a": 1, "c": 1, "d": 1}}
    >>> found = run_metrics(run, qrels)
    >>> round(found.summary()["mAP@all"], 4)  # (1/1 + 2/3) / 3
    0.5556
    """
    cutoffs = check_cutoffs(ks)
    check_option("divisor", divisor, DIVISORS)
    if not qrels:
        raise ValueError("qrels: expected a query, got none")
    lists = {query: ranked(run.get(query, {})) for query in qrels}
    relevant = {query: [i for i, r in judged.items() if r > 0] for query, judged in qrels.items()}
    longest = max(1, *map(len, lists.values()), *map(len, relevant.values()))
    shape = len(qrels), max(1, *map(len, relevant.values()))
    ranks = torch.full(shape, 2 * longest, dtype=torch.int64)  # of what is not in the list, too
    gains = torch.zeros(shape, dtype=torch.float64)
    for row, (query, items) in enumerate(relevant.items()):
        places = {item: place for place, item in enumerate(lists[query], start=1)}
        order = sorted(items, key=lambda item: places.get(item, 2 * longest))
        for column, item in enumerate(order):
            ranks[row, column] = places.get(item, 2 * longest)
            gains[row, column] = qrels[query][item]
    wanted = [longest if k is None else min(k, longest) for k in cutoffs]
    request = Request(
        tuple(sorted(set(wanted))),
        longest,
        divisor,
        discounts=1 / torch.arange(2, longest + 2, dtype=torch.float64).log2(),
    )
    sizes = torch.tensor([len(items) for items in lists.values()])
    columns = Columns.split(measures_from_ranks(ranks, gains, sizes, request), request)
    chosen = [request.cutoffs.index(k) for k in wanted]
    measures: dict[str, Any] = {name: getattr(columns, name) for name in PER_QUERY}
    measures |= {name: getattr(columns, name)[:, chosen] for name in PER_CUTOFF}
    return RetrievalMetrics(ks=cutoffs, interpolated=None, raw=None, **measures)


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Items by falling score, equal scores by falling name."""
    return sorted(scores, key=lambda item: (scores[item], item), reverse=True)


def _read(
    path: Path, fields: int, item: int, value: int, number: Callable[[str], N]
) -> dict[str, dict[str, N]]:
    found: dict[str, dict[str, N]] = {}
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            cells = text.split()
            if not cells:
                continue
            if len(cells) != fields:
                raise ValueError(f"{path}, line {line}: expected {fields} fields, got {len(cells)}")
            items = found.setdefault(cells[0], {})
            if cells[item] in items:
                raise ValueError(
                    f"{path}, line {line}: expected {cells[item]!r} once, got it twice"
                )
            try:
                items[cells[item]] = number(cells[value])
            except ValueError:
                raise ValueError(
                    f"{path}, line {line}: expected a number, got {cells[value]!r}"
                ) from None
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _name(name: str) -> str:
    if len(str(name).split()) != 1 or str(name) != str(name).strip():
        raise ValueError(f"name: expected one without blanks, got {name!r}")
    return str(name)
