"""What a query does not find: itself, items of its own group, or any others that are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drcl.labels import ParsedLabels, look_up, parse_labels
from drcl.metrics.pairs import Pairs, from_callback
from drcl.metrics.relevance import offsets_of, places
from drcl.tensors import as_tensor

Find = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # queries and columns -> rows and places


class Exclusions:
    """The gallery items that each query's ranking does not hold.

    ``queries`` and ``items`` are how many there are, ``total`` the items of all pieces of the
    gallery, of which this one begins at ``offset``.
    """

    def __init__(
        self,
        own: Any,
        pairs: Any,
        groups: Any,
        queries: int,
        items: int,
        *,
        total: int,
        offset: int,
    ) -> None:
        self._finders: list[Find] = []
        if (places_of_queries := own_places(own, queries, total)) is not None:
            self._finders.append(_own(places_of_queries - offset))
        self.bytes_per_item = 0
        if pairs is not None:
            self.bytes_per_item = 40
            if callable(pairs):
                self._finders.append(_called(pairs, items))
            else:
                listed = Pairs(pairs, queries, items, "excluded")
                self._finders.append(lambda rows, columns: _pairs(listed, rows, columns))
        if groups is not None:
            self.bytes_per_item = 40
            self._finders.append(_same_group(*_two_sides(groups, queries, items)))

    @property
    def most(self) -> int | None:
        """How many items a query does not find at most; None where only the items would tell."""
        return None if self.bytes_per_item else len(self._finders)

    def of(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where each query's excluded items begin (q + 1,), and their places among the columns."""
        if not self._finders:
            return None
        found = [find(rows, columns) for find in self._finders]
        keys = torch.cat([query * len(columns) + place for query, place in found])
        if len(found) > 1:
            keys = keys.unique()  # an item may be excluded for more than one reason
        query = keys // max(len(columns), 1)
        counts = torch.bincount(query, minlength=len(rows))
        return offsets_of(counts), keys - query * len(columns)


def group_ids(
    one: Any, other: Any, names: tuple[str, str], counts: tuple[int, int]
) -> list[Tensor]:
    """Groups of both sides as comparable ids; any integer is a group, and every row is in one."""
    sides = [
        parse_labels(given, name, count=count)
        for given, name, count in zip((one, other), names, counts, strict=True)
    ]
    for side in sides:
        if side.rows is not None or side.missing.any():
            raise ValueError(
                f"{side.name}: expected {len(side)} integers or names, got shape {side.shape} or "
                "NaN"
            )
    known = dict.fromkeys((*(sides[0].names or ()), *(sides[1].names or ())))
    if known and (sides[0].names is None or sides[1].names is None):
        raise ValueError(
            f"{' and '.join(dict.fromkeys(names))}: expected one kind, got names and numbers"
        )
    place = {name: index for index, name in enumerate(known)}
    return [torch.from_numpy(_ids(side, place)) for side in sides]


def _ids(side: ParsedLabels, place: dict[str, int]) -> Any:
    return side.ids if side.names is None else look_up(side, place, "")


def own_places(given: Any, queries: int, total: int) -> Tensor | None:
    """Which item each query is, from ``exclude_self``: None where no query is an item."""
    if isinstance(given, (bool, np.bool_)):
        if not given:
            return None
        if queries != total:
            raise ValueError(
                "exclude_self: expected one set as query and gallery, got "
                f"{queries} queries and {total} items"
            )
        return torch.arange(queries, device="cpu")
    own = as_tensor(given, "exclude_self").cpu()
    if own.dtype == torch.bool and own.shape == (total,):
        own = own.nonzero()[:, 0]
    elif own.is_floating_point() or own.is_complex() or own.dtype == torch.bool:
        own = own.new_empty(0)
    if own.shape != (queries,):
        raise ValueError(
            f"exclude_self: expected a bool, the positions ({queries},) of the queries in the "
            f"gallery or a bool mask ({total},) of them, got {given!r:.60}"
        )
    own = own.long()
    if len(own) and (int(own.min()) < 0 or int(own.max()) >= total):
        raise ValueError(
            f"exclude_self: expected positions in 0..{total - 1}, got "
            f"{int(own.min())}..{int(own.max())}"
        )
    return own


def _own(position: Tensor) -> Find:
    def find(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        place, present = places(columns, position[rows])
        return present.nonzero()[:, 0], place[present]

    return find


def _called(callback: Callable[[Tensor], Tensor], items: int) -> Find:
    def find(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        return _listed(from_callback(callback, rows, columns, items, "excluded"))

    return find


def _pairs(pairs: Pairs, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return _listed(pairs.relevance(rows, columns))


def _listed(found: Any) -> tuple[Tensor, Tensor]:
    counts = found.offsets.diff()
    return torch.arange(len(counts), device="cpu").repeat_interleave(counts), found.items.long()


def _two_sides(groups: Any, queries: int, items: int) -> list[Tensor]:
    """Group ids of queries and items; of several columns, a group is a combination."""
    if not isinstance(groups, (tuple, list)) or len(groups) != 2:
        raise ValueError(
            "excluded_groups: expected a pair, the queries' groups and the items', got "
            f"{type(groups).__name__}"
        )
    if all(getattr(side, "ndim", 1) == 2 and side.shape[1] > 1 for side in groups):
        columns = [as_tensor(side, "excluded_groups").cpu() for side in groups]
        widths = {side.shape[1] for side in columns}
        if [len(side) for side in columns] != [queries, items] or len(widths) > 1:
            shapes = " and ".join(str(tuple(side.shape)) for side in columns)
            raise ValueError(
                f"excluded_groups: expected ({queries}, C) and ({items}, C) columns, got {shapes}"
            )
        if any(side.is_floating_point() or side.is_complex() for side in columns):
            raise ValueError("excluded_groups: expected integer columns, got others")
        ids = torch.cat([side.long() for side in columns]).unique(dim=0, return_inverse=True)[1]
        return [ids[:queries], ids[queries:]]
    one, other = groups
    return group_ids(one, other, ("excluded_groups", "excluded_groups"), (queries, items))


def _same_group(query: Tensor, gallery: Tensor) -> Find:
    def find(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        ids, order = gallery[columns].sort(stable=True)
        wanted = query[rows]
        first = torch.searchsorted(ids, wanted)
        counts = torch.searchsorted(ids, wanted, right=True) - first
        within = torch.arange(int(counts.sum()), device="cpu")
        within -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        own_row = torch.arange(len(rows), device="cpu").repeat_interleave(counts)
        return own_row, order[first.repeat_interleave(counts) + within]

    return find
