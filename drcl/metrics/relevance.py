"""What is relevant to what by labels: items of the query's class, or that share a label with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from drcl.labels import ParsedLabels
from drcl.ranking import Relevance

Labels: TypeAlias = Any  # whatever drcl.labels reads
# Query positions (q,) int64 -> relevance (q, N): bool, or integer gains (relevant when positive).
Callback: TypeAlias = Callable[[Tensor], Tensor]

_CHUNK = 4096  # gallery rows whose label bits are packed at a time, a multiple of 64


def shared_labels(
    query: ParsedLabels, gallery: ParsedLabels, rows: Tensor, columns: Tensor
) -> Relevance:
    """An item is relevant if it has the query's class or, multi-hot, shares a label with it.

    ``rows`` and ``columns`` are the queries and items that take part, all of them labelled.
    """
    if query.rows is not None and gallery.rows is not None:
        return _shared_bits(query.rows, rows, gallery.rows, columns)
    ids, order = torch.from_numpy(gallery.ids)[columns].sort(stable=True)
    items = order.int()
    del order  # of a large gallery these take more than all else
    classes, counts = ids.unique_consecutive(return_counts=True)
    wanted = torch.from_numpy(query.ids)[rows]
    place, found = places(classes, wanted)
    return Relevance(
        max_relevant=largest(counts),
        member_offsets=offsets_of(found.long()),
        members=place[found],
        offsets=offsets_of(counts),
        items=items,
    )


def _shared_bits(query: Tensor, rows: Tensor, gallery: Tensor, columns: Tensor) -> Relevance:
    words = -(-len(columns) // 64)
    items = torch.zeros(query.shape[1], dtype=torch.int64, device="cpu")  # of each label
    bits = np.zeros((query.shape[1], words * 8), dtype=np.uint8)
    for start in range(0, len(columns), _CHUNK):
        chunk = (gallery[columns[start : start + _CHUNK].to(gallery.device)] > 0).cpu().numpy()
        packed = np.packbits(chunk.T, axis=1, bitorder="little")
        bits[:, start // 8 : start // 8 + packed.shape[1]] = packed
        items += torch.from_numpy(chunk.sum(axis=0))
    counts, members, shared = [], [], 0
    for part in rows.split(_CHUNK):
        hot = (query[part.to(query.device)] > 0).cpu()
        counts.append(hot.sum(dim=1))
        members.append(hot.nonzero(as_tuple=True)[1])
        shared = max(shared, largest(hot.long() @ items))  # an item may share several labels
    return Relevance(
        max_relevant=min(shared, len(columns)),
        member_offsets=offsets_of(torch.cat(counts)),
        members=torch.cat(members),
        bits=torch.from_numpy(bits.view(np.int64)),
    )


def places(rising: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where wanted values are among rising ones, and whether they are there at all."""
    place = torch.searchsorted(rising, wanted)
    if len(rising) == 0:
        return place, torch.zeros_like(place, dtype=torch.bool)
    return place, rising[place.clamp(max=len(rising) - 1)] == wanted


def largest(counts: Tensor) -> int:
    """The largest of some counts, 0 of none."""
    return int(counts.max()) if len(counts) else 0


def offsets_of(counts: Tensor) -> Tensor:
    """Where lists of these lengths begin, one after the other, and where the last ends."""
    return torch.cat([counts.new_zeros(1, dtype=torch.int64), counts.cumsum(0)])
