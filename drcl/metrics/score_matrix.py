"""The measures of scores that are there already: :func:`score_metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drcl.checks import check_option
from drcl.metrics.embeddings import Embeddings, Gallery
from drcl.metrics.measures import Measure
from drcl.metrics.options import RetrievalOptions, refuse, shows_options
from drcl.metrics.relevance import Labels
from drcl.metrics.results import RetrievalMetrics
from drcl.metrics.retrieval import measured
from drcl.metrics.scores import Scores
from drcl.metrics.task import Task
from drcl.tensors import is_array

if TYPE_CHECKING:
    from typing_extensions import Unpack

_REFUSED = "metric", "precision"
# Those that float32 does not hold.
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)


@shows_options(*_REFUSED)
def score_metrics(
    scores: Gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    blocks: str = "rows",
    ks: Sequence[int | None] = (None,),
    measures: Sequence[str | Measure] = (),
    **options: Unpack[RetrievalOptions],
) -> RetrievalMetrics:
    """:func:`retrieval_metrics` of a score matrix (Q, N): of a cross-encoder, say, or a distance.

    Args:
        scores: (Q, N) of any real dtype, row i those of query i; higher is nearer, so distances go
            in with a minus. They are compared in float64 where they are float64 or integers of 32
            bits or more, else in float32; infinities are scores like others. A mapped array is read
            block by block. Or blocks of the matrix, in a sequence, or from an iterator, which are
            kept in a temporary file.
        query_labels, gallery_labels, ks, measures: as of :func:`retrieval_metrics`.
        blocks: of which the scores may come: ``"rows"`` (q, N) of some queries, or ``"columns"``
            (Q, n) of some items, one after the other.
        options: those of :func:`retrieval_metrics`, but neither ``metric`` nor ``precision``. Ranks
            of a ``process_group`` hold all queries' scores of their pieces of the gallery.

    Raises what :func:`retrieval_metrics` raises; ValueError for NaN, with the row.

    >>> scores = torch.tensor([[0.9, 0.1, 0.4], [0.3, 0.2, 0.8]])
    >>> found = score_metrics(scores, [0, 1], [0, 1, 1], ks=(1,), measures=("hit",))
    >>> found.summary()["hit@1"], found.first_rank.tolist()
    (1.0, [1.0, 1.0])
    >>> columns = (scores[:, i : i + 1] for i in range(3))
    >>> score_metrics(columns, [0, 1], [0, 1, 1], blocks="columns").summary()["mAP@all"]
    0.9166666666666666
    """
    refuse(options, *_REFUSED)
    check_option("blocks", blocks, ("rows", "columns"))
    given: Any = scores
    return measured(
        given,
        (),
        query_labels,
        gallery_labels,
        options,
        ks=ks,
        measures=measures,
        find_first=True,
        kind=partial(_ScoreTask, blocks=blocks),
    )


class _Matrix:
    """Scores (Q, N), wherever they are."""

    def __init__(self, given: Gallery, blocks: str, may_be_empty: bool) -> None:
        shape = tuple(getattr(given, "shape", (0, 1)))
        if len(shape) != 2:
            raise ValueError(f"scores: expected (Q, N), got {shape}")
        if not is_array(given) and not isinstance(given, Iterable):
            raise TypeError(f"scores: expected an array or chunks, got {type(given).__name__}")
        kept = is_array(given) or isinstance(given, Sequence)
        counts: set[int] = set()
        self._columns: list[Embeddings] = []
        for part in given if blocks == "columns" and not is_array(given) else (given,):
            if len(block := tuple(getattr(part, "shape", (0, 1)))) != 2:
                raise ValueError(f"scores: expected blocks of columns (Q, n), got {block}")
            count = _rows_without_columns(part)
            if count is None:
                # What comes from an iterator is to be kept in a file.
                array: Any = part if kept or part is given else iter((part,))
                self._columns.append(Embeddings(array, "scores", axes=("Q", "N")))
                count = len(self._columns[-1])
            counts.add(count)
        if not counts:
            raise ValueError("scores: expected a block of columns, got none")
        if len(counts) > 1:
            raise ValueError(f"scores: expected columns of all queries, got {sorted(counts)} rows")
        (self.count,) = counts
        if not self._columns and not (may_be_empty and self.count):
            raise ValueError(f"scores: expected a non-empty (Q, N) array, got ({self.count}, 0)")
        dtypes = {piece.dtype for part in self._columns for piece in part.pieces}
        self.dtype = torch.float64 if dtypes.intersection(_WIDE) else torch.float32
        self.device = self._columns[0].device if self._columns else torch.device("cpu")
        self.width = sum(part.width for part in self._columns)

    def rows(self, rows: Tensor) -> Tensor:
        """Those of these queries (rising), of all items."""
        parts = [part.rows(rows, 0, len(rows), self.dtype) for part in self._columns]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _rows_without_columns(given: Any) -> int | None:
    """How many rows an array, or arrays one below the other, have that are (q, 0); else None."""
    parts = [given] if is_array(given) else given if isinstance(given, Sequence) else []
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    empty = bool(shapes) and all(len(shape) == 2 and shape[1] == 0 for shape in shapes)
    return sum(shape[0] for shape in shapes) if empty else None


class _GivenScores:
    """Blocks of a matrix as :class:`drcl.metrics.scores.Scorer` makes them."""

    scale: Tensor | None = None
    bias: Tensor | None = None

    def __init__(self, matrix: _Matrix, kept: Tensor | None, max_bytes: int, max_rows: int) -> None:
        self._matrix, self._kept = matrix, kept
        self.dtype = matrix.dtype
        rows = max_bytes // 4 // (self.dtype.itemsize * max(matrix.width, 1))
        self.rows_per_block = max(1, min(max_rows, rows))

    def block(self, rows: Tensor) -> Tensor:
        """Scores (q, N) of the queries at these positions."""
        scores = self._matrix.rows(rows)
        if self._kept is not None:
            scores = scores[:, self._kept.to(scores.device)]
        if scores.numel() and bool((bad := scores.amax(dim=1).isnan()).any()):
            raise ValueError(f"scores: row {int(rows[bad.nonzero()[0, 0]])} holds NaN")
        return scores.contiguous()


class _ScoreTask(Task):
    """An evaluation of a score matrix, whose columns are the gallery."""

    def __init__(self, scores: Any, *others: Any, blocks: str) -> None:
        self._blocks = blocks
        super().__init__(scores, *others)

    def _read(
        self, query: Gallery, gallery: Any, may_be_empty: bool
    ) -> tuple[int, int, torch.device]:
        self._matrix = _Matrix(query, self._blocks, may_be_empty)
        return self._matrix.count, self._matrix.width, self._matrix.device

    def scorer(self, kept: Tensor | None, *, max_bytes: int, max_rows: int) -> Scores:
        return _GivenScores(self._matrix, kept, max_bytes, max_rows)
