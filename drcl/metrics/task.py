"""One evaluation: queries, gallery, and what is relevant to what."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from drcl.distributed import all_gather_int, gather_rows, group_device, raise_together
from drcl.labels import ParsedLabels, parse_labels, resolve
from drcl.metrics.embeddings import Array, Gallery, embeddings
from drcl.metrics.exclusions import Exclusions, group_ids
from drcl.metrics.options import Settings
from drcl.metrics.pairs import Pairs, from_callback
from drcl.metrics.relevance import Labels, shared_labels
from drcl.metrics.scores import Scorer, Scores
from drcl.ranking import Relevance


class Task:
    """Queries, gallery and relevance of one evaluation, checked."""

    def __init__(
        self,
        query: Array,
        gallery: Gallery,
        query_labels: Labels | None,
        gallery_labels: Labels | None,
        settings: Settings,
    ) -> None:
        self.settings = settings
        group = settings.process_group
        with raise_together(group):
            may_be_empty = settings.on_empty != "error"
            self.count, self.size, self.device = self._read(query, gallery, may_be_empty)
            self._check_alone(query_labels, gallery_labels)
        self._resolve()
        self._share_gain_values()
        count, pieces = self.count, self.everywhere(self.size)
        offset = 0
        if group is not None:
            offset = sum(pieces[: torch.distributed.get_rank(group)])
            counts = self.everywhere(count)
            if len(set(counts)) > 1:
                raise ValueError(
                    f"query: expected all queries on every rank of process_group, got {counts}"
                )
        with raise_together(group):
            self.exclusions = Exclusions(
                settings.exclude_self,
                settings.excluded,
                settings.excluded_groups,
                count,
                self.size,
                total=sum(pieces),
                offset=offset,
            )
        self.is_empty = sum(self.everywhere(len(self.items))) == 0
        if settings.on_empty == "error" and self.is_empty:
            raise ValueError(
                f"gallery_labels: expected a labelled item, got −1 for all {sum(pieces)} items"
            )

    def _read(
        self, query: Array, gallery: Gallery, may_be_empty: bool
    ) -> tuple[int, int, torch.device]:
        """Read both sides: how many queries and items there are, and the queries' device."""
        metric = self.settings.metric
        self.query = embeddings(query, "query", metric)
        self.gallery = embeddings(gallery, "gallery", metric, may_be_empty=may_be_empty)
        if self.query.width != self.gallery.width:
            raise ValueError(
                "query and gallery: expected one width, got "
                f"{self.query.width} and {self.gallery.width}"
            )
        return len(self.query), len(self.gallery), self.query.device

    def scorer(self, kept: Tensor | None, *, max_bytes: int, max_rows: int) -> Scores:
        """What makes the scores of the kept items."""
        return Scorer(
            self.query,
            self.gallery,
            kept,
            metric=self.settings.metric,
            precision=self.settings.precision,
            max_bytes=max_bytes,
            max_rows=max_rows,
        )

    def _check_alone(self, query_labels: Labels | None, gallery_labels: Labels | None) -> None:
        """What this process can tell without the others."""
        count, size = self.count, self.size
        self.queries = torch.arange(count, device="cpu")
        self.items = torch.arange(size, device="cpu")
        self._labels: list[ParsedLabels] = []
        self._pairs: Pairs | None = None
        relevance = self.settings.relevance
        if relevance is not None:
            if query_labels is not None or gallery_labels is not None:
                raise ValueError("relevance: expected instead of labels, got both")
            if not callable(relevance):
                self._pairs = Pairs(relevance, count, size)
        elif query_labels is None or gallery_labels is None:
            missing = "query_labels" if query_labels is None else "gallery_labels"
            raise ValueError(f"{missing}: expected labels, or relevance instead, got None")
        else:
            self._labels = [
                parse_labels(query_labels, "query_labels", count=count),
                parse_labels(gallery_labels, "gallery_labels", count=size),
            ]
            resolve(self._labels, signs=0)
        self._groups = None
        query_groups, gallery_groups = self.settings.query_groups, self.settings.gallery_groups
        if (query_groups is None) != (gallery_groups is None):
            missing = "query_groups" if query_groups is None else "gallery_groups"
            raise ValueError(f"{missing}: expected groups of both sides or of neither, got None")
        if query_groups is not None and gallery_groups is not None:
            names = "query_groups", "gallery_groups"
            self._groups = group_ids(query_groups, gallery_groups, names, (count, size))

    def _resolve(self) -> None:
        """What is labelled: whether −1 is a class, all pieces of a gallery together say."""
        if not self._labels:
            return
        signs = self.everywhere(self._labels[0].signs | self._labels[1].signs)
        self._labels = resolve(self._labels, functools.reduce(operator.or_, signs))
        self.queries, self.items = (
            torch.from_numpy(~side.missing).nonzero()[:, 0] for side in self._labels
        )

    def _share_gain_values(self) -> None:
        """One table of the gains that are not whole: that of all pieces of a gallery."""
        group, pairs = self.settings.process_group, self._pairs
        if group is None or not any(self.everywhere(self.gain_values is not None)):
            return
        if not all(self.everywhere(pairs is not None)):
            raise ValueError(
                "relevance: expected pairs or a matrix on every rank where gains are not whole"
            )
        assert pairs is not None
        every = gather_rows(pairs.distinct_gains().to(group_device(group)), group)
        pairs.refer_to(every.cpu().unique())

    @property
    def gain_values(self) -> Tensor | None:
        """What the gains stand for where they are not whole: :attr:`Pairs.values`."""
        return None if self._pairs is None else self._pairs.values

    def everywhere(self, value: int) -> list[int]:
        """The value on every rank; alone, that of this process."""
        return all_gather_int(value, self.settings.process_group)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Queries and the gallery items that they rank, both rising."""
        if self._groups is None:
            yield self.queries, self.items
            return
        query_groups, gallery_groups = self._groups
        own = query_groups[self.queries]
        for group in own.unique():
            yield self.queries[own == group], self.items[gallery_groups[self.items] == group]

    def relevance(
        self, rows: Tensor, columns: Tensor
    ) -> tuple[int, Callable[[int, Tensor], Relevance]]:
        """The most relevant items of a query; each block's relevance from its start and rows.

        It is on the queries' device.
        """
        callback = self.settings.relevance
        if callable(callback):
            return len(columns), lambda start, part: from_callback(
                callback, part, columns, self.size
            ).to(self.device)
        if self._pairs is not None:
            whole = self._pairs.relevance(rows, columns)
        else:
            query, gallery = self._labels
            whole = shared_labels(query, gallery, rows, columns)
        whole = whole.to(self.device)  # once, and not with every block
        return whole.max_relevant, lambda start, part: whole.queries(start, start + len(part))

    def excluded(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor] | None:
        """The op's ``excluded``, on the queries' device."""
        found = self.exclusions.of(rows, columns)
        if found is None:
            return None
        return found[0].to(self.device), found[1].to(self.device)
