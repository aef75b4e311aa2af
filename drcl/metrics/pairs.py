"""What is relevant or excluded, as given: pairs, a matrix, or a function of the queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drcl.labels import computable
from drcl.metrics.relevance import Callback, largest, offsets_of
from drcl.ranking import Relevance
from drcl.tensors import as_tensor


class Pairs:
    """Pairs of query and item, with a gain each, sorted; ``name`` is what errors call them.

    Gains that are not whole stand in a table of their own, ``values``, and the pairs' are then
    places in it, counted from 1.
    """

    def __init__(self, given: Any, queries: int, items: int, name: str = "relevance") -> None:
        rows, columns, gains = _listed(given, (queries, items), name)
        for values, size, what in ((rows, queries, "query"), (columns, items, "item")):
            if len(values) and (int(values.min()) < 0 or int(values.max()) >= size):
                raise ValueError(
                    f"{name}: expected {what} positions in 0..{size - 1}, got "
                    f"{int(values.min())}..{int(values.max())}"
                )
        if name != "relevance" and not _are_whole(gains):
            raise ValueError(f"{name}: expected bool or whole numbers, got others")
        _check_gains(gains, name)
        rows, columns, gains = rows[gains > 0], columns[gains > 0], gains[gains > 0]
        self.values = None
        if not _are_whole(gains):
            self.values, places = gains.double().unique(return_inverse=True)
            gains = places + 1
        order = (rows * items + columns).argsort()
        self.rows, self.columns = rows[order], columns[order]
        self.gains = gains[order].int()
        twice = ((self.rows * items + self.columns).diff() == 0).nonzero()[:, 0]
        if len(twice):
            pair = int(self.rows[twice[0]]), int(self.columns[twice[0]])
            raise ValueError(f"{name}: expected every pair once, got {pair} twice")
        self.items = items

    def distinct_gains(self) -> Tensor:
        """The gains that there are, rising, as they were given (G,) float64."""
        found = self.gains.unique()
        return found.double() if self.values is None else self.values[found.long() - 1]

    def refer_to(self, values: Tensor) -> None:
        """Make the gains places in these rising ``values``, all that they are among them."""
        own = self.gains.double() if self.values is None else self.values[self.gains.long() - 1]
        self.gains = (torch.searchsorted(values, own) + 1).int()
        self.values = values

    def relevance(self, rows: Tensor, columns: Tensor) -> Relevance:
        """For these queries (rising) over these gallery items (rising)."""
        to_column = torch.full((self.items,), -1, device="cpu")
        to_column[columns] = torch.arange(len(columns), device="cpu")
        position = torch.searchsorted(rows, self.rows).clamp(max=len(rows) - 1)
        kept = (rows[position] == self.rows) & (to_column[self.columns] >= 0)
        counts = torch.bincount(position[kept], minlength=len(rows))
        return _in_lists(counts, to_column[self.columns[kept]], self.gains[kept])


def _listed(given: Any, shape: tuple[int, int], name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, items and gains (P,) of pairs, of a sparse matrix or of a dense one."""
    if hasattr(given, "tocoo"):  # a SciPy sparse matrix
        matrix = given.tocoo()
        if matrix.shape != shape:
            raise ValueError(
                f"{name}: expected a sparse matrix of shape {shape}, got {matrix.shape}"
            )
        rows, columns = as_tensor(matrix.row).long(), as_tensor(matrix.col).long()
        return rows, columns, _real_gains(matrix.data, name)
    table = _signed(as_tensor(given, name), name).cpu()
    is_matrix = tuple(table.shape) == shape
    is_pairs = table.ndim == 2 and table.shape[1] in (2, 3) and not table.is_complex()
    is_pairs &= not table.is_floating_point() and table.dtype != torch.bool
    if is_matrix and is_pairs:
        raise ValueError(
            f"{name}: integers of shape {shape} may be pairs of query and item or a matrix "
            f"(Q, N): give a matrix as bool or as scipy.sparse.coo_array({name}), and pairs as "
            "scipy.sparse.coo_array((gains, (query, item)), shape=(Q, N))"
        )
    if is_matrix:
        places = (table != 0).nonzero()
        return places[:, 0], places[:, 1], _real_gains(table[table != 0], name)
    if is_pairs:
        gains = table[:, 2] if table.shape[1] == 3 else torch.ones_like(table[:, 0])
        return table[:, 0].long(), table[:, 1].long(), gains
    raise ValueError(
        f"{name}: expected a matrix {shape} of bool or gains, or integer pairs (P, 2) of query "
        f"and item or (P, 3) with gains, got {table.dtype} of shape {tuple(table.shape)}"
    )


def _real_gains(values: Any, name: str) -> Tensor:
    gains = _signed(as_tensor(values, name), name).clone()
    if gains.is_complex() or bool(gains.isnan().any()):
        raise ValueError(f"{name}: expected real numbers as gains, got complex ones or NaN")
    return gains


def _are_whole(gains: Tensor) -> bool:
    return not gains.is_floating_point() or bool((gains == gains.round()).all())


def from_callback(
    callback: Callback, rows: Tensor, columns: Tensor, items: int, name: str = "relevance"
) -> Relevance:
    """What the function says of these queries, for the gallery items that are ranked."""
    matrix = _signed(as_tensor(callback(rows), name), name)
    if matrix.is_complex() or matrix.shape != (len(rows), items) or matrix.is_floating_point():
        raise ValueError(
            f"{name}: expected bool or integer gains of shape ({len(rows)}, {items}) from the "
            f"function, got {matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    matrix = matrix.cpu()[:, columns]
    _check_gains(matrix, name)
    found = matrix > 0
    return _in_lists(found.sum(dim=1), found.nonzero()[:, 1], matrix[found])


def _in_lists(counts: Tensor, items: Tensor, gains: Tensor) -> Relevance:
    """A list of so many of the items for every query."""
    queries = torch.arange(len(counts) + 1, device="cpu")
    offsets, gains = offsets_of(counts), gains.int()
    return Relevance(largest(counts), queries, queries[:-1], offsets, items.int(), gains)


def _signed(tensor: Tensor, name: str) -> Tensor:
    """Gains of a dtype that PyTorch computes with.

    Raises ValueError for unsigned integers that int64 does not hold.
    """
    wide = computable(name, tensor)
    if tensor.dtype == torch.uint64 and bool((wide < 0).any()):
        raise ValueError(f"{name}: expected whole numbers below 2⁶³, got {tensor.dtype} beyond")
    return wide


def _check_gains(gains: Tensor, name: str) -> None:
    if gains.numel() and float(gains.max()) >= 2**31:
        raise ValueError(f"{name}: expected gains below 2³¹, got {gains.max()}")
