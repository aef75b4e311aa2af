"""What ``drcl score`` scores: embeddings in both directions, score matrices, or ranked lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from drcl import metrics
from drcl.data.assemble import file_labels
from drcl.metrics import RetrievalMetrics, trec
from drcl.run.added import part_key, read_file, read_rows
from drcl.tables import counted

Directions: TypeAlias = dict[str, RetrievalMetrics]  # "image->text" and "text->image"


class Systems(NamedTuple):
    """What was measured, the first of the systems to be compared with the others."""

    about: str
    found: list[tuple[str, Directions]]  # under the files' names
    of_bytes: tuple[str, ...] = ()  # the files of uint8 rows


def of_embeddings(
    pairs_of_files: list[tuple[str, str]],
    labels: tuple[str, ...],
    pairs: str | None,
    options: dict[str, Any],
) -> Systems:
    """Pairs of files of rows, all of the same samples; each side searches the other."""
    image, text = pairs_of_files[0]
    names = _names((image, text))
    found: list[tuple[str, Directions]] = []
    counts: list[int] = []
    of_bytes: dict[str, None] = {}
    for files in pairs_of_files:
        rows = [read_rows(file) for file in files]
        both = zip(files, rows, strict=True)
        of_bytes |= dict.fromkeys(file for file, part in both if part.dtype == np.uint8)
        counts = counts or [len(part) for part in rows]
        if [len(part) for part in rows] != counts:
            raise ValueError(
                f"{' and '.join(files)}: expected {counts[0]} and {counts[1]} rows, as in {image} "
                f"and {text}, got {len(rows[0])} and {len(rows[1])}"
            )
        relevant = (
            _labels(labels, [part.shape for part in rows], "save their transpose")
            if labels
            else _pairs(pairs or "", counts)
        )
        found.append((", ".join(files), _both_ways(names, files, rows, relevant, options)))
    sizes = (
        f"{name}: {counted(count, 'row', 'rows')}"
        for name, count in zip(names, counts, strict=True)
    )
    return Systems(", ".join(sizes), found, tuple(of_bytes))


def of_matrices(
    files: list[str], labels: tuple[str, ...], pairs: str | None, options: dict[str, Any]
) -> Systems:
    """Files of scores (Q, N), all of the same queries and items; the rows search the columns."""
    found: list[tuple[str, Directions]] = []
    shape: tuple[int, ...] = ()
    for file in files:
        scores = read_file(file)
        if scores.ndim != 2 or scores.dtype.kind not in "biuf" or 0 in scores.shape:
            raise ValueError(
                f"{file}: expected scores (Q, N), a row of numbers for each query, got "
                f"{scores.dtype} {scores.shape}"
            )
        shape = shape or scores.shape
        if scores.shape != shape:
            raise ValueError(
                f"{file}: expected scores {shape}, as in {files[0]}, got {scores.shape}"
            )
        if labels:
            if len(labels) == 1 and shape[0] != shape[1]:
                raise ValueError(
                    f"{labels[0]}: expected --labels twice, for the rows of {file} and for its "
                    f"columns, as it is {shape}"
                )
            relevant = _labels(labels, [shape, shape[::-1]], f"save the transpose of {file}")
        else:
            relevant = _pairs(pairs or "", list(shape))
        relevant = _with_gains(relevant, shape[1])
        with _called({"scores": file}):
            measured = metrics.score_metrics(scores, **relevant, **options)
        _, _, key = part_key(files[0])
        found.append((file, {key or Path(files[0]).stem: measured}))
    queries, items = counted(shape[0], "query", "queries"), counted(shape[1], "item", "items")
    return Systems(f"{files[0]}: {queries}, {items}", found)


def of_runs(runs: list[str], qrels: str, options: dict[str, Any]) -> Systems:
    """Files of ranked lists, judged by the same file."""
    judged = trec.read_qrels(qrels)
    found: list[tuple[str, Directions]] = []
    sizes: list[int] = []
    for file in runs:
        run = trec.read_run(file)
        sizes.append(sum(len(run.get(query, {})) for query in judged))
        if not any(query in run for query in judged):
            raise ValueError(f"{file}: expected a query that {qrels} judges, got none")
        found.append((file, {Path(runs[0]).stem: trec.run_metrics(run, judged, **options)}))
    queries = counted(len(judged), "judged query", "judged queries")
    return Systems(f"{runs[0]}: {queries}, {counted(sizes[0], 'item', 'items')}", found)


def _names(files: tuple[str, str]) -> list[str]:
    """What the sides are called: by their key or file, in full where both would be the same."""
    parts = [part_key(file) for file in files]
    short = [key or Path(file).stem for file, _, key in parts]
    return list(files) if short[0] == short[1] and files[0] != files[1] else short


def _labels(files: tuple[str, ...], shapes: list[tuple[int, ...]], remedy: str) -> dict[str, Any]:
    """Labels of both sides, as :func:`drcl.metrics.retrieval_metrics` takes them."""
    both = []
    for file, shape in zip((files[0], files[-1]), shapes, strict=True):
        both.append(file_labels(read_file(file), shape, file, remedy))
    return {"query_labels": both[0], "gallery_labels": both[1]}


def _pairs(text: str, counts: list[int]) -> dict[str, Any]:
    """Pairs (P, 2) of row numbers as the relevance."""
    if text == "rows":
        if counts[0] != counts[1]:
            raise ValueError(f"pairs: expected as many rows on both sides, got {counts}")
        return {"relevance": np.stack([np.arange(counts[0])] * 2, axis=1)}
    pairs = read_file(text)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"{text}: expected pairs (P, 2) of row numbers, got {pairs.dtype} {pairs.shape}"
        )
    return {"relevance": pairs}


def _both_ways(
    names: list[str],
    files: tuple[str, str],
    rows: list[np.ndarray],
    relevant: dict[str, Any],
    options: dict[str, Any],
) -> Directions:
    """The measures of each direction; of one set that is searched with itself there is one."""
    if "relevance" in relevant:
        back = {"relevance": relevant["relevance"][:, ::-1]}
    else:
        back = dict(zip(relevant, reversed(relevant.values()), strict=True))
    (a, b), (x, y) = names, rows
    with _called_by_side(*files):
        relevant = _with_gains(relevant, len(y))
        found = {f"{a}->{b}": metrics.retrieval_metrics(x, y, **relevant, **options)}
    if a != b:
        with _called_by_side(*reversed(files)):
            back = _with_gains(back, len(x))
            found[f"{b}->{a}"] = metrics.retrieval_metrics(y, x, **back, **options)
    return found


def _with_gains(relevant: dict[str, Any], items: int) -> dict[str, Any]:
    """Pairs (P, 3) with gains of one where pairs (P, 2) could be a matrix (Q, N) of two items."""
    pairs = relevant.get("relevance")
    if pairs is None or items != 2:
        return relevant
    return {"relevance": np.column_stack([pairs, np.ones(len(pairs), pairs.dtype)])}


def _called_by_side(query: str, gallery: str) -> AbstractContextManager[None]:
    """Errors in which the sides are called by their files."""
    both = f"{query} and {gallery}"
    return _called({"query": query, "gallery": gallery, "query and gallery": both})


@contextmanager
def _called(files: dict[str, str]) -> Iterator[None]:
    """Errors in which arguments are called by their files."""
    try:
        yield
    except ValueError as error:
        argument, _, text = str(error).partition(": ")
        if argument not in files:
            raise
        raise ValueError(f"{files[argument]}: {text}") from None
