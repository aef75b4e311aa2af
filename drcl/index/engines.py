"""The rows of an index in the structures of another library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drcl.checks import check_count, check_installed, check_option
from drcl.metrics.embeddings import Embeddings

KINDS = ("flat", "hnsw", "ivfpq")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "hnsw": ("links", "ef_construction", "ef_search"),
    "ivfpq": ("lists", "bytes", "probes"),
}
_STEP = 65_536  # rows handed over together
_TRAINING = 256  # rows a list that an IVF index learns its lists from; faiss uses no more


def to_faiss(
    rows: Embeddings, kept: npt.NDArray[np.int64], kind: str, options: dict[str, int]
) -> Any:
    """See :meth:`drcl.Index.to_faiss`; ``kept`` are the rows, rising, and what they are called."""
    check_option("kind", kind, KINDS)
    strangers = sorted(set(options) - set(_OPTIONS[kind]))
    if strangers:
        raise ValueError(f"{strangers[0]}: expected an option of {kind!r}, {_OPTIONS[kind]}")
    check_installed("kind: needs {}; install it with: pip install 'drcl[faiss]'", "faiss")
    import faiss

    chosen = {name: check_count(name, value) for name, value in options.items()}

    def read(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return rows.at(torch.from_numpy(places), torch.float32).numpy()

    inner, width = faiss.METRIC_INNER_PRODUCT, rows.width
    if kind == "flat":
        made = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        made = faiss.IndexHNSWFlat(width, chosen.get("links", 32), inner)
        made.hnsw.efConstruction = chosen.get("ef_construction", 80)
        made.hnsw.efSearch = chosen.get("ef_search", 64)
    else:
        made = _ivfpq(faiss, width, len(kept), chosen)
        sample = np.linspace(0, len(kept) - 1, min(len(kept), _TRAINING * made.nlist))
        made.train(read(kept[np.unique(sample.astype(np.int64))]))
    labelled = faiss.IndexIDMap2(made)
    for start in range(0, len(kept), _STEP):
        part = kept[start : start + _STEP]
        labelled.add_with_ids(read(part), part)
    return labelled


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
