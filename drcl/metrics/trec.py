"""Runs and judgements in the files of TREC, and the measures of a run.

A run's line is ``query Q0 item rank score tag``, one of the judgements (*qrels*) ``query 0 item
relevance``; fields are parted by blanks. In memory either is a mapping: query -> item -> score, or
relevance; a run's items may also be a list, best first. As in trec_eval the rank of a line is not
looked at: items are ranked by falling score, equal scores by falling name.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from drcl.checks import check_count
from drcl.metrics.measures import Measure, at_cutoffs, auroc, fall_out
from drcl.metrics.names import named
from drcl.metrics.options import Settings, check_cutoffs
from drcl.metrics.ranks import Ranks
from drcl.metrics.results import RetrievalMetrics
from drcl.metrics.retrieval import (
    apply_no_relevant,
    evaluation,
    mean_curves,
    ranking_request,
)
from drcl.ranking import (
    PER_CUTOFF,
    PER_QUERY,
    Columns,
    measures_from_ranks,
    precision_at_levels,
)
from drcl.storage.files import write_bytes
from drcl.storage.text import finite_number, read_text, whole_number

__all__ = ["read_qrels", "read_run", "run_metrics", "write_qrels", "write_run"]
__dir__ = __all__.copy

Run = Mapping[str, Mapping[str, float] | Sequence[str]]
Qrels = Mapping[str, Mapping[str, int]]
N = TypeVar("N", int, float)


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """The scores in a run file: query -> item -> score.

    A byte order mark at the start is skipped. Raises ValueError, naming the line, for text that is
    not UTF-8, a wrong number of fields, a score that is not a finite number, and an item that a
    query has twice; OSError if the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(Path(folder, "run.txt"), {"q1": {"a": 0.5, "b": 2.0}})
    ...     read_run(Path(folder, "run.txt"))
    {'q1': {'b': 2.0, 'a': 0.5}}
    """
    return _read("run", Path(path), 6, item=2, value=4, number=finite_number)


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """The relevance in a file of judgements: query -> item -> relevance.

    Raises what :func:`read_run` raises, and ValueError for a relevance that is not a whole number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "qrels.txt").write_text("q1 0 a 1\\nq1 0 b 0\\n")
    ...     read_qrels(Path(folder, "qrels.txt"))
    {'q1': {'a': 1, 'b': 0}}
    """
    return _read("qrels", Path(path), 4, item=2, value=3, number=whole_number)


def write_run(path: str | Path, run: Run, tag: str = "drcl") -> None:
    """Write a run file, each query's items by rank; scores are read back as the same floats.

    Of a list the last item scores 1, the one before it 2, and so on.

    Raises ValueError for names that are empty or hold blanks, and scores that are not finite;
    OSError where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(Path(folder, "run.txt"), {"q1": {"a": 0.5, "b": 2.0}}, tag="mine")
    ...     print(Path(folder, "run.txt").read_text(), end="")
    q1 Q0 b 1 2.0 mine
    q1 Q0 a 2 0.5 mine
    """
    scored = _scored(run)
    lines = [
        f"{_name(query)} Q0 {_name(item)} {rank} {float(scores[item])!r} {_name(tag)}\n"
        for query, scores in scored.items()
        for rank, item in enumerate(ranked(scores), start=1)
    ]
    write_bytes(Path(path), "".join(lines).encode())


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write a file of judgements.

    Raises what :func:`write_run` raises, and ValueError for a relevance that is no whole number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_qrels(Path(folder, "qrels.txt"), {"q1": {"a": 1}})
    ...     print(Path(folder, "qrels.txt").read_text(), end="")
    ...     read_qrels(Path(folder, "qrels.txt"))
    q1 0 a 1
    {'q1': {'a': 1}}
    """
    _check_whole(qrels)
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
    measures: Sequence[str | Measure] = (),
    divisor: str = "relevant",
    no_relevant: str = "zero",
    on_empty: str = "error",
    adaptive_k: bool = True,
    judged_only: bool = False,
    relevance_level: int = 1,
    recall_levels: int = 0,
) -> RetrievalMetrics:
    """The measures of :func:`drcl.metrics.retrieval_metrics` of ranked lists of names.

    Args:
        run: query -> item -> score, or query -> list of items, best first; a query without a list
            has found nothing.
        qrels: query -> item -> relevance, whole; relevant is what has ``relevance_level`` or more,
            which is its gain in nDCG.
        ks: cut-offs >= 1, None for the whole list.
        measures: more of them, as of the function; of ``"bpref"``, which looks at what was judged
            alone, ``judged_only`` changes nothing. ``"fall_out"`` and ``"auroc"`` are of a whole
            gallery, which a list is not.
        divisor: of AP@k; by default R, also of relevant items that the list lacks: trec_eval's map.
        no_relevant, on_empty: as of the function; a query whose list is empty counts 0.
        adaptive_k: whether precision@k above the length of a list is divided by that length (True,
            default), or by k as trec_eval's.
        judged_only: leave out of the lists what ``qrels`` do not name, or name with less than 0.
        relevance_level: the least relevance of what is relevant, 1 by default. At 0 all that was
            judged is relevant, of gain 1: precision@k is then the share of judged items.
        recall_levels: number of recall levels (0, default, or at least 2); where a list does not
            reach a level, the precision there is 0.

    Returns them for the queries of ``qrels``, in their order. Raises ValueError for qrels without a
    query, scores that are not finite, an item twice in a list, a relevance that is no whole number,
    and bad settings; TypeError for what is neither scores nor a list, and values that are no
    numbers.
    Source: trec_eval, of the Text Retrieval Conference.

    >>> run, qrels = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q1": {"a": 1, "c": 1, "d": 1}}
    >>> found = run_metrics(run, qrels, ks=(2, None), measures=("hit",))
    >>> round(found.summary()["mAP@all"], 4)  # (1/1 + 2/3) / 3
    0.5556
    >>> run_metrics({"q1": ["a", "b", "c"]}, qrels, ks=(2, None)).summary()["mAP@2"]
    0.3333333333333333
    """
    cutoffs, wanted = check_cutoffs(ks), named(measures)
    of_gallery = [
        name for name, one in wanted.items() if getattr(one, "func", one) in (fall_out, auroc)
    ]
    if of_gallery:
        raise ValueError(f"measures: expected none of a whole gallery, got {', '.join(of_gallery)}")
    settings = Settings(
        divisor=divisor,
        no_relevant=no_relevant,
        on_empty=on_empty,
        ndcg=True,
        recall_levels=recall_levels,
    )
    check_count("relevance_level", relevance_level, 0)
    scored = _scored(run)
    _check_whole(qrels)
    if not qrels:
        raise ValueError("qrels: expected a query, got none")
    greatest = max((r for items in qrels.values() for r in items.values()), default=0)
    if greatest >= 2**31:
        raise ValueError(f"qrels: expected relevance below 2³¹, got {greatest}")
    judged = {
        query: {
            item: score for item, score in scored.get(query, {}).items() if items.get(item, -1) >= 0
        }
        for query, items in qrels.items()
    }
    found = _ranks(judged if judged_only else scored, qrels, relevance_level)
    lengths, relevant = found.ranked, found.relevant
    # Relevant items that a list lacks are ranked behind it: the best ranking would have them.
    whole = torch.full_like(lengths, max(1, int(lengths.max()), int(relevant.max())))
    size = int(whole[0])
    request, places = ranking_request(cutoffs, size, settings)
    request = replace(request, recall_levels=0, depth=size)
    ranks = found.ranks.clamp(max=2 * size).long()
    columns = vars(Columns.split(measures_from_ranks(ranks, found.gains, whole, request), request))
    tables = {name: columns[name] for name in PER_QUERY}
    tables |= {name: columns[name][:, places] for name in PER_CUTOFF}
    k = lengths.clamp(min=1)[:, None].repeat(1, len(cutoffs))
    for column, cutoff in enumerate(cutoffs):
        if cutoff is not None:
            k[:, column] = k[:, column].clamp(max=cutoff) if adaptive_k else cutoff
    tables["precision"] = (tables["recall"] * relevant[:, None]).round() / k
    extra: dict[str, Tensor] = {}
    for name, measure in wanted.items():
        of = found
        if name == "bpref":  # of all that was judged, in the list or not
            of = _ranks(judged, qrels, relevance_level)
            counts = [sum(r >= 0 for r in one.values()) for one in qrels.values()]
            of = replace(of, ranked=torch.tensor(counts))
        elif name.startswith("ndcg") and at_cutoffs(measure):
            of = replace(found, ranked=whole)
        evaluate = evaluation({name: measure}, cutoffs, size, adaptive_k)
        assert evaluate is not None
        extra |= evaluate(of)
    some = found.relevant > 0
    curves = precision_at_levels(found.precision[some], found.relevant[some], recall_levels)
    for values in (tables, extra):
        apply_no_relevant(no_relevant, values, ~some)
    every: dict[str, Any] = tables | mean_curves(torch.stack(curves).sum(dim=1), int(some.sum()))
    return _RunMetrics(ks=cutoffs, measures=extra, on_empty=on_empty, **every)


class _RunMetrics(RetrievalMetrics):
    _none_counts = "qrels: expected a query with relevant items"


def _scored(run: Run) -> dict[str, Mapping[str, float]]:
    """The run with the scores of lists: their length for the first item, 1 for the last."""
    found: dict[str, Mapping[str, float]] = {}
    _check_mapping("run", run, "query -> item -> score, or query -> list of items")
    for query, items in run.items():
        if isinstance(items, Mapping):
            found[query] = items
            continue
        text = isinstance(items, (str, bytes, bytearray))
        if text or not isinstance(items, (Sequence, np.ndarray)):
            raise TypeError(
                f"run: expected scores or a list of items, got {type(items).__name__} for {query!r}"
            )
        for item in items:
            if isinstance(item, Collection) and not isinstance(item, (str, bytes)):
                raise TypeError(
                    f"run: expected a list of items, or item -> score, got {item!r} in the list "
                    f"for {query!r}"
                )
        names = np.asarray(items, dtype=object).tolist()
        found[query] = {item: float(len(names) - place) for place, item in enumerate(names)}
        if len(found[query]) < len(names):
            places = enumerate(names)
            twice = next(x for place, x in places if found[query][x] != len(names) - place)
            raise ValueError(f"run: expected {twice!r} once for {query!r}, got it twice")
    _check_finite("run", found)
    return found


def _ranks(run: Mapping[str, Mapping[str, float]], qrels: Qrels, level: int) -> Ranks:
    """The ranks of the relevant items in the lists; of those that a list lacks, infinity."""
    lists = {query: ranked(run.get(query, {})) for query in qrels}
    relevant = {
        query: [i for i, r in judged.items() if r >= level] for query, judged in qrels.items()
    }
    shape = len(qrels), max(1, *map(len, relevant.values()))
    ranks, gains = (torch.full(shape, x, dtype=torch.float64) for x in (torch.inf, 0.0))
    for row, (query, items) in enumerate(relevant.items()):
        places = {item: place for place, item in enumerate(lists[query], start=1)}
        for column, item in enumerate(sorted(items, key=lambda item: places.get(item, math.inf))):
            ranks[row, column] = places.get(item, math.inf)
            gains[row, column] = float(qrels[query][item]) if level else 1.0
    counts = [torch.tensor([len(one) for one in each.values()]) for each in (relevant, lists)]
    return Ranks(ranks, counts[0], counts[1], gains)


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Items by falling score, equal scores by falling name."""
    return sorted(scores, key=lambda item: (scores[item], item), reverse=True)


def _read(
    name: str, path: Path, fields: int, item: int, value: int, number: Callable[[str], N]
) -> dict[str, dict[str, N]]:
    found: dict[str, dict[str, N]] = {}
    try:
        content = read_text(path)
    except OSError as error:
        raise type(error)(
            f"{name}: expected a file that can be read, got {path} ({error.strerror})"
        ) from error
    for line, text in enumerate(io.StringIO(content, newline=None), start=1):
        cells = text.split()
        if not cells:
            continue
        if len(cells) != fields:
            raise ValueError(f"{path}, line {line}: expected {fields} fields, got {len(cells)}")
        items = found.setdefault(cells[0], {})
        if cells[item] in items:
            raise ValueError(f"{path}, line {line}: expected {cells[item]!r} once, got it twice")
        try:
            items[cells[item]] = number(cells[value])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return found


def _check_mapping(name: str, value: object, expected: str, where: str = "") -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}{where}")


def _check_finite(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse NaN, which has no place among scores, infinities, and what no double holds."""
    for query, values in found.items():
        for item, value in values.items():
            try:
                finite = math.isfinite(value)
            except OverflowError:
                finite = False
            except TypeError:
                raise TypeError(
                    f"{name}: expected numbers, got {value!r} of {item!r} for {query!r}"
                ) from None
            if not finite:
                raise ValueError(
                    f"{name}: expected finite numbers, got {value} of {item!r} for {query!r}"
                )


def _check_whole(qrels: Qrels) -> None:
    """Refuse a relevance that is no whole number."""
    _check_mapping("qrels", qrels, "query -> item -> relevance")
    for query, judged in qrels.items():
        _check_mapping("qrels", judged, "item -> relevance", f" for {query!r}")
    _check_finite("qrels", qrels)
    for query, judged in qrels.items():
        for item, relevance in judged.items():
            if int(relevance) != relevance:
                raise ValueError(
                    f"qrels: expected whole numbers, got {relevance} of {item!r} for {query!r}"
                )


def _name(name: str) -> str:
    word = str(name)
    if word.split() != [word] or "\ufeff" in word:
        raise ValueError(f"name: expected one without blanks or byte order marks, got {name!r}")
    return word
