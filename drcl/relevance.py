"""What is relevant to what: class ids, shared labels, pairs or a function, as lists of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from drcl.labels import ParsedLabels
from drcl.ops.average_precision import Relevance
from drcl.tensors import as_tensor

Labels: TypeAlias = Any  # whatever drcl.labels reads
# Query positions (q,) int64 -> relevance (q, N): bool, or integer gains (relevant when positive).
Callback: TypeAlias = Callable[[Tensor], Tensor]

_CHUNK = 4096  # gallery rows whose label bits are packed at a time, a multiple of 64


class Known:
    """Labels of one side: which rows are labelled, and class ids (N,) or multi-hot rows (N, C)."""

    def __init__(self, labels: ParsedLabels) -> None:
        self.multi_hot = labels.rows is not None
        self.values = torch.from_numpy(labels.ids) if labels.rows is None else labels.rows
        self.labelled = torch.from_numpy(~labels.missing)


def shared_labels(query: Known, rows: Tensor, gallery: Known, columns: Tensor) -> Relevance:
    """An item is relevant if it has the query's class or, multi-hot, shares a label with it."""
    if query.multi_hot:
        return _shared_bits(query.values, rows, gallery.values, columns)
    ids, order = gallery.values[columns].sort(stable=True)
    items = order.int()
    del order  # of a large gallery these take more than all else
    classes, counts = ids.unique_consecutive(return_counts=True)
    wanted = query.values[rows]
    place, found = places(classes, wanted)
    return Relevance(
        most=_most(counts),
        member_offsets=_offsets(found.long()),
        members=place[found],
        offsets=_offsets(counts),
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
    counts, members, most = [], [], 0
    for part in rows.split(_CHUNK):
        hot = (query[part.to(query.device)] > 0).cpu()
        counts.append(hot.sum(dim=1))
        members.append(hot.nonzero(as_tuple=True)[1])
        most = max(most, _most(hot.long() @ items))
    return Relevance(
        most=min(most, len(columns)),
        member_offsets=_offsets(torch.cat(counts)),
        members=torch.cat(members),
        bits=torch.from_numpy(bits.view(np.int64)),
    )


class Pairs:
    """Relevant (query, item) pairs, with a gain each, sorted."""

    def __init__(self, given: Any, queries: int, items: int) -> None:
        rows, columns, gains = _listed(given, (queries, items))
        for values, size, what in ((rows, queries, "query"), (columns, items, "item")):
            if len(values) and (int(values.min()) < 0 or int(values.max()) >= size):
                raise ValueError(f"relevance: {what} positions must lie in 0..{size - 1}")
        _check_gains(gains)
        rows, columns, gains = rows[gains > 0], columns[gains > 0], gains[gains > 0]
        order = (rows * items + columns).argsort()
        self.rows, self.columns = rows[order], columns[order]
        self.gains = gains[order].int()
        if len(order) > 1 and bool(((self.rows * items + self.columns).diff() == 0).any()):
            raise ValueError("relevance: a pair of query and item is given twice")
        self.items = items

    def relevance(self, rows: Tensor, columns: Tensor) -> Relevance:
        """For these queries (rising) over these gallery items (rising)."""
        to_column = torch.full((self.items,), -1, device="cpu")
        to_column[columns] = torch.arange(len(columns), device="cpu")
        position = torch.searchsorted(rows, self.rows).clamp(max=len(rows) - 1)
        kept = (rows[position] == self.rows) & (to_column[self.columns] >= 0)
        counts = torch.bincount(position[kept], minlength=len(rows))
        return Relevance(
            most=_most(counts),
            member_offsets=torch.arange(len(rows) + 1, device="cpu"),
            members=torch.arange(len(rows), device="cpu"),
            offsets=_offsets(counts),
            items=to_column[self.columns[kept]].int(),
            gains=self.gains[kept],
        )


def _listed(given: Any, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, items and gains (P,) of pairs, of a sparse matrix or of a dense one."""
    if hasattr(given, "tocoo"):  # a SciPy sparse matrix
        matrix = given.tocoo()
        if matrix.shape != shape:
            raise ValueError(
                f"relevance: expected a sparse matrix of shape {shape}, got {matrix.shape}"
            )
        rows, columns = as_tensor(matrix.row).long(), as_tensor(matrix.col).long()
        return rows, columns, _whole_gains(matrix.data)
    table = signed(as_tensor(given, "relevance"), "relevance").cpu()
    is_matrix = tuple(table.shape) == shape
    is_pairs = table.ndim == 2 and table.shape[1] in (2, 3) and not table.is_complex()
    is_pairs &= not table.is_floating_point() and table.dtype != torch.bool
    if is_matrix and is_pairs:
        raise ValueError(
            f"relevance: integers of shape {shape} may be pairs of query and item or a matrix "
            "(Q, N): give a matrix as bool or as scipy.sparse.coo_array(relevance), and pairs as "
            "scipy.sparse.coo_array((gains, (query, item)), shape=(Q, N))"
        )
    if is_matrix:
        places = (table != 0).nonzero()
        return places[:, 0], places[:, 1], _whole_gains(table[table != 0])
    if is_pairs:
        gains = table[:, 2] if table.shape[1] == 3 else torch.ones_like(table[:, 0])
        return table[:, 0].long(), table[:, 1].long(), gains
    raise ValueError(
        f"relevance: expected a matrix {shape} of bool or gains, or integer pairs (P, 2) of query "
        f"and item or (P, 3) with gains, got {table.dtype} of shape {tuple(table.shape)}"
    )


def _whole_gains(values: Any) -> Tensor:
    gains = signed(as_tensor(values, "relevance"), "relevance").clone()
    if gains.is_complex() or (gains.is_floating_point() and bool((gains != gains.round()).any())):
        raise ValueError("relevance: expected whole numbers as gains, got others")
    return gains


def from_callback(callback: Callback, rows: Tensor, columns: Tensor, items: int) -> Relevance:
    """What the function says of these queries, for the gallery items that are ranked."""
    matrix = signed(as_tensor(callback(rows), "relevance"), "relevance")
    if matrix.is_complex() or matrix.shape != (len(rows), items) or matrix.is_floating_point():
        raise ValueError(
            f"relevance: expected bool or integer gains of shape ({len(rows)}, {items}) from the "
            f"function, got {matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    matrix = matrix.cpu()[:, columns]
    _check_gains(matrix)
    found = matrix > 0
    places = found.nonzero()
    counts = found.sum(dim=1)
    return Relevance(
        most=_most(counts),
        member_offsets=torch.arange(len(rows) + 1, device="cpu"),
        members=torch.arange(len(rows), device="cpu"),
        offsets=_offsets(counts),
        items=places[:, 1].int(),
        gains=matrix[found].int(),
    )


def signed(tensor: Tensor, name: str) -> Tensor:
    """Unsigned integers of 16 bits or more as int64: torch can do little with them as they are.

    Raises ValueError for larger ones, which would become others, −1 among them.
    """
    if tensor.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return tensor
    wide = tensor.long()
    if bool((wide < 0).any()):
        raise ValueError(f"{name}: expected whole numbers below 2⁶³, got {tensor.dtype} beyond")
    return wide


def _check_gains(gains: Tensor) -> None:
    if gains.numel() and float(gains.max()) >= 2**31:
        raise ValueError(f"relevance: gains must be below 2³¹, got {gains.max()}")


def places(rising: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where wanted values are among rising ones, and whether they are there at all."""
    place = torch.searchsorted(rising, wanted)
    if len(rising) == 0:
        return place, torch.zeros_like(place, dtype=torch.bool)
    return place, rising[place.clamp(max=len(rising) - 1)] == wanted


def _most(counts: Tensor) -> int:
    return int(counts.max()) if len(counts) else 0


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1, dtype=torch.int64), counts.cumsum(0)])
