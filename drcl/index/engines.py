"""The rows of an index in the structures of another library, and what such a library answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drcl.checks import check_count, check_installed, check_option
from drcl.index.held import Held

KINDS = ("flat", "hnsw", "ivfpq")
_GRAPH = ("links", "ef_construction", "ef_search")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "hnsw": _GRAPH,
    "ivfpq": ("lists", "bytes", "probes"),
}
_STEP = 65_536  # rows handed over together
_TRAINING = 256  # rows a list that an IVF index learns its lists from; faiss uses no more


def to_faiss(held: Held, kind: str, options: dict[str, int]) -> Any:
    """See :meth:`drcl.Index.to_faiss`."""
    check_option("kind", kind, KINDS)
    chosen = _chosen(options, kind, _OPTIONS[kind])
    every, kept = held.filled(), held.kept
    check_installed("kind: needs {}; install it with: pip install 'drcl[faiss]'", "faiss")
    import faiss

    inner, width = faiss.METRIC_INNER_PRODUCT, every.width
    made: Any  # what a kind of index has, faiss's types do not say
    if kind == "flat":
        made = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        made = faiss.IndexHNSWFlat(width, chosen.get("links", 32), inner)
        made.hnsw.efConstruction = chosen.get("ef_construction", 80)
        made.hnsw.efSearch = chosen.get("ef_search", 64)
    else:
        made = _ivfpq(faiss, width, len(kept), chosen)
        sample = np.linspace(0, len(kept) - 1, min(len(kept), _TRAINING * made.nlist))
        places = torch.from_numpy(kept[np.unique(sample.astype(np.int64))])
        made.train(every.at(places, torch.float32).numpy())
    labelled = faiss.IndexIDMap2(made)
    for numbers, rows in held.parts(_STEP):
        labelled.add_with_ids(rows, numbers)
    return labelled


def to_usearch(held: Held, options: dict[str, int]) -> Any:
    """See :meth:`drcl.Index.to_usearch`."""
    chosen = _chosen(options, "usearch", _GRAPH)
    links, width = check_count("links", chosen.get("links", 32), 2), held.filled().width
    check_installed("index: needs {}; install it with: pip install 'drcl[usearch]'", "usearch")
    from usearch.index import Index

    made = Index(
        ndim=width,
        metric="ip",
        dtype="f32",  # its own choice depends on the processor
        connectivity=links,
        expansion_add=chosen.get("ef_construction", 80),
        expansion_search=chosen.get("ef_search", 64),
    )
    for numbers, rows in held.parts(_STEP):
        made.add(numbers.astype(np.uint64), rows)
    return made


def answers(other: Any, queries: npt.NDArray[np.float32], k: int) -> list[npt.NDArray[np.int64]]:
    """The first k numbers of rows, or fewer, that another engine finds for each query.

    See :meth:`drcl.Index.recall`.
    """
    expected = f"other: expected numbers of rows for each of {len(queries)} queries, got "
    if callable(other):
        found = other(queries, k)
    elif not callable(getattr(other, "search", None)):
        raise TypeError(
            "other: expected a function of (queries, k), or an engine with search(queries, k), got "
            f"{type(other).__name__}"
        )
    else:
        found = other.search(queries, k)
        if hasattr(found, "distances"):
            # Of usearch: one row where there is one query, and 0 under NaN where nothing was found.
            gone = np.isnan(np.atleast_2d(found.distances))
            found = np.where(gone, -1, np.atleast_2d(found.keys).astype(np.int64))
        elif isinstance(found, (tuple, list)) and len(found) > 1:
            found = found[1]
        else:
            raise ValueError(f"{expected}{type(found).__name__}, not (scores, numbers)")
    if not isinstance(found, Iterable) or getattr(found, "ndim", 1) == 0:
        raise ValueError(f"{expected}{type(found).__name__}")
    lists = [np.asarray(row) for row in found]
    good = all(row.ndim == 1 and (row.dtype.kind in "iu" or not row.size) for row in lists)
    if not good or len(lists) != len(queries):
        kinds = sorted({f"{row.dtype} {row.shape}" for row in lists})
        raise ValueError(f"{expected}{len(lists)} of {', '.join(kinds[:3])}")
    return [row[:k].astype(np.int64) for row in lists]


def _chosen(options: dict[str, int], kind: str, allowed: tuple[str, ...]) -> dict[str, int]:
    strangers = sorted(set(options) - set(allowed))
    if strangers:
        raise ValueError(f"{strangers[0]}: expected an option of {kind!r}, {allowed}")
    return {name: check_count(name, value) for name, value in options.items()}


def _ivfpq(faiss: Any, width: int, count: int, chosen: dict[str, int]) -> Any:
    if count < 256:
        raise ValueError(f'kind: expected at least 256 rows for "ivfpq", got {count}')
    lists = min(count, chosen.get("lists", max(1, round(4 * math.sqrt(count)))))
    size = chosen.get("bytes", _divisor(width))
    if width % size:
        raise ValueError(f"bytes: expected a divisor of the width {width}, got {size}")
    quantizer = faiss.IndexFlatIP(width)
    made = faiss.IndexIVFPQ(quantizer, width, lists, size, 8, faiss.METRIC_INNER_PRODUCT)
    made.nprobe = chosen.get("probes", max(1, lists // 16))
    return made


def _divisor(width: int) -> int:
    """The largest divisor of the width up to a quarter of it, and to 64."""
    return max(size for size in range(1, max(1, min(64, width // 4)) + 1) if width % size == 0)
