"""``drcl.Index``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import check_count
from drcl.errors import IndexChanged
from drcl.index import engines
from drcl.index.folder import Stored, read_index, read_manifest, write_index
from drcl.index.segment import Ids, Segment, key_of, make_segment, metadata_columns
from drcl.index.values import id_of, listed, spellings
from drcl.metrics.duplicates import equal_among, row_hashes
from drcl.metrics.embeddings import Embeddings
from drcl.metrics.search import nearest_known
from drcl.storage.files import check_name, is_empty, locked
from drcl.storage.mmap import is_mapped
from drcl.tensors import as_features

# Longer rows, and shorter ones that are not 0, would leave the range of float32 in a product.
LONGEST = 1e15
_PATIENCE = 5.0  # seconds to wait for another writer


class SearchResult(NamedTuple):
    """Scores (Q, k) float32, falling; indices (Q, k) int64 of rows of the index; their ids (Q, k),
    an array of int64 or of strings."""

    scores: Tensor
    indices: Tensor
    ids: npt.NDArray[Any]


class Index:
    """Embeddings with ids, searched exactly by inner product, in memory or mapped from a folder.

    Rows of several modalities stand in one index where they were encoded in one space. A row keeps
    its number, counted from 0 in the order of addition, also when others are removed.

    Args:
        space: what the rows are, ``"cosine"`` or ``"posterior"`` of :meth:`drcl.DRCL.encode`, or
            any other word; it is kept with them.
        about: whatever else is to be kept, as JSON.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> index = Index(space="cosine").add(rows, ids=["oak", "elm", "ash"], modality="image")
    >>> found = index.search(torch.tensor([[0.0, 1.0]]), k=2)
    >>> found.ids.tolist(), found.indices.tolist()
    ([['elm', 'ash']], [[1, 2]])
    """

    def __init__(self, *, space: str | None = None, about: Mapping[str, Any] | None = None) -> None:
        if space is not None and not isinstance(space, str):
            raise ValueError(f"space: expected a word or None, got {space!r}")
        try:
            self._about = dict(json.loads(json.dumps(dict(about or {}), allow_nan=False)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"about: expected what JSON can hold, got {error}") from error
        self._space = space
        self._width: int | None = None
        self._ids: str | None = None
        self._segments: list[Segment] = []
        self._removed = np.empty(0, np.int64)
        self._saved: tuple[Path, dict[str, Any]] | None = None  # the folder and its manifest
        self._refresh()

    def _refresh(self) -> None:
        """Bring what is derived from the segments up to date."""
        self._starts = np.cumsum([0, *map(len, self._segments)])
        pieces = [part.arrays["rows"] for part in self._segments]
        self._rows = Embeddings(pieces, "index") if pieces else None
        self._copies = tuple(
            torch.from_numpy(
                np.concatenate([np.empty(0, np.int64), *(p.arrays[name] for p in self._segments)])
            )
            for name in ("copies", "firsts")
        )

    @property
    def space(self) -> str | None:
        """What the rows are, as it was given."""
        return self._space

    @property
    def about(self) -> dict[str, Any]:
        """What else was given to be kept."""
        return dict(self._about)

    @property
    def width(self) -> int | None:
        """D of the rows (N, D); None before the first are added."""
        return self._width

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of the rows, in the order of their first addition."""
        names = (part.modality for part in self._segments)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns of metadata."""
        return tuple(dict.fromkeys(name for part in self._segments for name in part.columns))

    @property
    def total(self) -> int:
        """Rows that were ever added, removed ones among them: indices are below it."""
        return int(self._starts[-1])

    def __len__(self) -> int:
        """Rows that can be found."""
        return self.total - len(self._removed)

    def __repr__(self) -> str:
        return f"Index({len(self)} × {self.width or 0}, space={self.space!r})"

    def add(
        self,
        embeddings: npt.ArrayLike | Tensor,
        *,
        ids: Sequence[int] | Sequence[str] | npt.ArrayLike | None = None,
        modality: str | None = None,
        metadata: Mapping[str, Sequence[Any]] | Any = None,
    ) -> Index:
        """Add rows; :meth:`save` writes them. Returns the index.

        Args:
            embeddings: (N, D) finite, kept as float32. A memory-mapped array of float32 is not
                copied.
            ids: N integers of 64 bits, or N non-empty strings, none of them in the index, in a
                sequence, array or column of a frame. All of an
                index are of one kind. Default: integers that go on from the largest.
            modality: of all these rows; a name as a file has.
            metadata: column -> N strings, finite numbers, truth values or None; or a frame of
                pandas or Polars, without its index. What a column of pandas lacks is None.

        Raises ValueError for another width, NaN or infinity, rows longer than 10¹⁵ or shorter than
        10⁻¹⁵ and not 0, ids that are there or of another kind, lengths that differ; TypeError for
        what is no array, sequence or mapping. The index is then as it was.

        >>> index = Index().add(torch.eye(2), metadata={"name": ["x", "y"]})
        >>> index.add(torch.eye(2), ids=[7, 8]).records([1, 3])
        [{'id': 1, 'modality': None, 'name': 'y'}, {'id': 8, 'modality': None}]
        """
        given = as_features(embeddings, "embeddings")
        found = Embeddings(given, "embeddings")
        if self._width not in (None, found.width):
            raise ValueError(
                f"embeddings: expected width {self._width}, as the index has, got {found.width}"
            )
        rows = _own_rows(embeddings, given)
        count = len(rows)
        modality = None if modality is None else check_name(modality)
        columns = metadata_columns(metadata, count)
        own = self._new_ids(ids, count)
        piece = Embeddings(rows, "embeddings")  # as float32: it may be infinite only now
        lengths = piece.norms(None, count, torch.float32)
        odd = ((lengths > LONGEST) | ((lengths < 1 / LONGEST) & (lengths > 0))).nonzero()
        if len(odd):
            place = int(odd[0, 0])
            raise ValueError(
                f"embeddings: expected row lengths of {1 / LONGEST:.0e} to {LONGEST:.0e} or 0, got "
                f"{float(lengths[place]):.1e} in row {place}"
            )
        hashes = row_hashes(
            lambda start, stop: piece.rows(None, start, stop, torch.float32), count, found.width
        )
        copies, firsts = self._new_copies(piece, hashes)
        segment = make_segment(
            rows,
            own,
            columns,
            modality,
            hashes=hashes.numpy(),
            copies=copies.numpy(),
            firsts=firsts.numpy(),
        )
        self._width, self._ids = found.width, own.kind
        self._segments = [*self._segments, segment]
        self._refresh()
        return self

    def _new_ids(self, ids: Any, count: int) -> Ids:
        keys = self._keys()
        if ids is None:
            if self._ids == "strings":
                raise ValueError("ids: expected strings, as the index has, got None")
            first = int(keys.max()) + 1 if len(keys) else 0
            if first + count > 2**63:
                raise ValueError("ids: expected ids, as none are left above the largest, got None")
            return Ids(np.arange(first, first + count), None)
        own = Ids.of(ids, count)
        if self._ids not in (None, own.kind):
            raise ValueError(f"ids: expected {self._ids}, as the index has, got {own.kind}")
        known = np.isin(own.keys, keys).nonzero()[0].tolist()
        there = self._positions([own[place] for place in known])
        if there:
            raise ValueError(f"ids: expected new ids, got {next(iter(there))!r}, which is there")
        return own

    def _new_copies(self, piece: Embeddings, hashes: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of new rows that equal an earlier one, of the index or of their own."""
        parts = [torch.from_numpy(np.array(part.arrays["hashes"])) for part in self._segments]
        every = torch.cat([*parts, hashes])
        ordered = hashes.sort().values
        several = ordered[1:][ordered[1:] == ordered[:-1]]
        earlier = np.isin(every[: self.total].numpy(), hashes.numpy())
        again = np.isin(hashes.numpy(), every[: self.total].numpy())
        again |= np.isin(hashes.numpy(), several.numpy())
        candidates = torch.from_numpy(np.concatenate([earlier, again]).nonzero()[0])

        def at(positions: Tensor) -> Tensor:
            new = positions >= self.total
            rows = torch.empty(len(positions), piece.width)
            rows[new] = piece.at(positions[new] - self.total, torch.float32)
            if self._rows is not None:
                rows[~new] = self._rows.at(positions[~new], torch.float32)
            return rows

        copies, firsts = equal_among(candidates, at, piece.width)
        new = copies >= self.total
        return copies[new], firsts[new]

    def remove(self, ids: Iterable[Any]) -> Index:
        """Remove rows by their ids; :meth:`save` writes it. Returns the index.

        The rows are no longer found. They stay in their files, and the others keep their numbers.
        Raises ValueError for an id that is not there, and leaves the index as it was.

        >>> Index().add(torch.eye(3)).remove([1]).search(torch.ones(1, 3), k=3).ids.tolist()
        [[0, 2]]
        """
        self._removed = np.union1d(self._removed, self.find(ids))
        return self

    def find(self, ids: Iterable[Any]) -> npt.NDArray[np.int64]:
        """The numbers (n,) of the rows with these ids, as :attr:`SearchResult.indices` counts.

        An id is there if one of the index equals it, by the rule of ``where`` in :meth:`search`.
        Raises ValueError for an id that is not there, TypeError for what is no sequence.

        >>> Index().add(torch.eye(2), ids=["x", "y"]).find(["y"]).tolist()
        [1]
        """
        values = listed("ids", ids)
        wanted = [id_of(value, self._ids or "integers") for value in values]
        there = self._positions([one for one in wanted if one is not None])
        for value, one in zip(values, wanted, strict=True):
            if one is None or one not in there:
                why = f"; all are {self._ids}" if one is None and self._ids else ""
                raise ValueError(f"ids: expected ids of the index, got {value!r}{why}")
        return np.array([there[one] for one in wanted if one is not None], np.int64)

    def _keys(self) -> npt.NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(p.ids.keys for p in self._segments)])

    def _positions(self, ids: Sequence[int | str]) -> dict[int | str, int]:
        """Of those ids that are there, and not removed, where they stand."""
        keys = np.array([key_of(one) for one in ids], np.int64)
        places = np.isin(self._keys(), keys).nonzero()[0]
        places = places[~np.isin(places, self._removed)]
        return dict(zip(self._ids_at(places).tolist(), places.tolist(), strict=True))

    def _place(self, position: int) -> tuple[Segment, int]:
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._segments[part], position - int(self._starts[part])

    def _ids_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The ids of some rows, in an array of their shape."""
        found = np.empty(positions.shape, object if self._ids == "strings" else np.int64)
        part = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(part).tolist():
            inside = part == number
            found[inside] = self._segments[number].ids.at(positions[inside] - self._starts[number])
        return found

    def search(
        self,
        query: npt.ArrayLike | Tensor,
        k: int = 10,
        *,
        modality: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | npt.ArrayLike | None = None,
    ) -> SearchResult:
        """The k rows of largest inner product with each query, ties by number.

        Every row is compared: the answer is that of :func:`drcl.metrics.nearest` with
        ``metric="dot"``, without its passes over the gallery, which :meth:`add` has made.

        Args:
            query: (Q, D) finite, used as float32.
            k: number of rows for each query; at most as many as can be found.
            modality: search only rows of this modality, or of these.
            where: search only rows with these values: column of the metadata -> value, or list of
                values of which any will do; or a mask (:attr:`total`,) of the rows to search.
                Numbers are equal where their values are, 2 and 2.0 and NumPy's; strings, truth
                values and None equal only their like, so neither "2" nor True is a number.

        Raises ValueError for another width, NaN or infinity, k below 1, an unknown modality or
        column, a mask of another length, an index without rows; OSError where its file has become
        shorter.

        >>> index = Index().add(torch.eye(3), metadata={"kind": ["tree", "herb", "tree"]})
        >>> index.search(torch.ones(1, 3), k=9, where={"kind": "tree"}).ids.tolist()
        [[0, 2]]
        """
        k = check_count("k", k)
        if self._rows is None:
            raise ValueError("index: expected rows to search, got none; add() some first")
        queries = Embeddings(as_features(query, "query"), "query")
        if queries.width != self._width:
            raise ValueError(
                f"query: expected width {self._width}, as the index has, got {queries.width}"
            )
        queries = Embeddings(queries.rows(None, 0, len(queries), torch.float32).cpu(), "query")
        allowed = self._allowed(modality, where)
        k = min(k, self.total if allowed is None else int(allowed.sum()))
        if k == 0:
            queries.norms(None, len(queries), torch.float32)  # which refuses what is not finite
            scores = torch.empty(len(queries), 0)
            indices = scores.long()
        else:
            copies = self._copies[0], self._copies[1]
            scores, indices = nearest_known(queries, self._rows, k, copies, allowed)
        return SearchResult(scores, indices, self._ids_at(indices.numpy()))

    def _allowed(self, modality: Any, where: Any) -> Tensor | None:
        """Mask of the rows that are searched; None for all."""
        if modality is None and where is None and not len(self._removed):
            return None
        mask = np.ones(self.total, bool)
        mask[self._removed] = False
        if modality is not None:
            names = [modality] if isinstance(modality, str) else list(modality)
            strangers = [name for name in names if name not in self.modalities]
            if strangers:
                raise ValueError(
                    f"modality: expected one of {self.modalities}, got {strangers[0]!r}"
                )
            mask &= np.repeat([p.modality in names for p in self._segments], self._lengths)
        if isinstance(where, Mapping):
            for column, wanted in where.items():
                if column not in self.columns:
                    raise ValueError(f"where: expected columns of {self.columns}, got {column!r}")
                name = f"where {column!r}"
                column_of_frame = hasattr(wanted, "to_list") or getattr(wanted, "ndim", 0) == 1
                collection = isinstance(wanted, (Sequence, Set))
                several = column_of_frame or (collection and not isinstance(wanted, (str, bytes)))
                some = listed(name, wanted) if several else [wanted]
                texts = list(set().union(*(spellings(name, value) for value in some)))
                mask &= np.concatenate([p.matching(column, texts) for p in self._segments])
        elif where is not None:
            given = np.asarray(where)
            if given.dtype != bool or given.shape != (self.total,):
                raise ValueError(
                    f"where: expected a mapping, or a mask ({self.total},) of truth values, got "
                    f"{given.dtype} {given.shape}"
                )
            mask &= given
        return torch.from_numpy(mask)

    @property
    def _lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self._starts)

    def records(self, indices: npt.ArrayLike | Tensor) -> list[dict[str, Any]]:
        """Of each of some rows, by number (n,): id, modality and metadata.

        >>> Index().add(torch.eye(1), modality="image", metadata={"name": ["x"]}).records([0])
        [{'id': 0, 'modality': 'image', 'name': 'x'}]
        """
        places = (self._place(position) for position in self._numbers(indices).tolist())
        return [segment.record(place) for segment, place in places]

    def rows(self, indices: npt.ArrayLike | Tensor) -> Tensor:
        """Some rows by number, (n, D) float32.

        >>> Index().add(torch.eye(2)).rows([1])
        tensor([[0., 1.]])
        """
        numbers = self._numbers(indices)
        if self._rows is None:
            return torch.empty(0, 0)
        return self._rows.at(torch.from_numpy(numbers), torch.float32)

    def _numbers(self, indices: Any) -> npt.NDArray[np.int64]:
        numbers = np.asarray(indices)
        if numbers.size == 0 and numbers.ndim == 1:
            return np.empty(0, np.int64)
        fits = numbers.ndim == 1 and numbers.dtype.kind in "iu"
        if not fits or numbers.min() < 0 or numbers.max() >= self.total:
            raise ValueError(
                f"indices: expected numbers (n,) of rows below {self.total}, got {indices!r}"
            )
        return numbers.astype(np.int64)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the index to a folder; returns the folder.

        Where the index was loaded from this folder, or saved to it, only what is new is written. At
        any moment, and if the process is killed, the folder holds the old index or the new one,
        whole. The rows are then mapped from there, and take no memory.

        Args:
            folder: made if need be.
            overwrite: replace another index that is there.

        Raises :class:`drcl.errors.IndexChanged`, a FileExistsError, for a folder that holds another
        index, or another version of this one because another process has saved it; ValueError for
        an index without rows, or a folder with other files; OSError if it cannot be written, or
        another process is writing to it for five seconds. What was there is then still there.

        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = Index(space="cosine").add(torch.eye(2)).save(folder)
        >>> Index.load(folder)
        Index(2 × 2, space='cosine')
        """
        folder = Path(folder)
        if self._width is None or self._ids is None:
            raise ValueError("index: expected rows to save, got none; add() some first")
        with locked(folder, _PATIENCE):
            here = self._saved is not None and self._saved[0] == folder.resolve()
            there = read_manifest(folder)
            if there is None and not is_empty(folder):
                others = [entry for entry in folder.iterdir() if entry.suffix != ".safetensors"]
                if others:
                    raise ValueError(
                        f"{folder}: expected an index or an empty folder, got other files; choose "
                        "another"
                    )
            old = self._saved[1] if here and self._saved is not None else None
            if there is not None and there != old:
                if not overwrite:
                    reason = "was changed by another process" if here else "holds another index"
                    raise IndexChanged(
                        f"{folder}: {reason}; load and add to that one, or save with overwrite=True"
                    )
                old = None
            if there is None:
                old = None
            segments = self._segments if old is not None else [_unsaved(p) for p in self._segments]
            stored = Stored(
                self._width, self._space, self._about, self._ids, segments, self._removed
            )
            write_index(folder, stored, old)
            self._take(folder)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """The index of a folder, mapped: rows are read when they are searched.

        An index that another process replaces stays as it was when it was loaded. Raises
        FileNotFoundError if none is there, and ValueError, naming the file, if it is damaged. See
        :meth:`save` for an example.
        """
        index = cls()
        index._take(Path(folder))
        return index

    def _take(self, folder: Path) -> None:
        manifest, stored = read_index(folder)
        self._width, self._space, self._about = stored.width, stored.space, stored.about
        self._ids, self._segments, self._removed = stored.ids, stored.segments, stored.removed
        self._saved = folder.resolve(), manifest
        self._refresh()

    def to_faiss(self, kind: str = "flat", **options: int) -> Any:
        """An index of the library faiss over the same rows, by inner product.

        Its labels are the numbers of the rows, as in :attr:`SearchResult.indices`.

        Args:
            kind: ``"flat"``, exact; ``"hnsw"``, a graph, the usual choice; ``"ivfpq"``, compressed
                to a fraction of the memory, from 256 rows on.
            options: of ``"hnsw"`` ``links`` (32), ``ef_construction`` (80) and ``ef_search`` (64);
                of ``"ivfpq"`` ``lists`` (4·√N), ``bytes`` a row (D / 4, at most 64) and ``probes``
                (a sixteenth of the lists).

        Raises ImportError without faiss, and ValueError for another kind or option.
        """
        if self._rows is None:
            raise ValueError("index: expected rows, got none; add() some first")
        kept = np.delete(np.arange(self.total), self._removed)
        return engines.to_faiss(self._rows, kept, kind, options)

    def recall(self, other: Any, queries: npt.ArrayLike | Tensor, k: int = 10) -> float:
        """The share of the exact k rows of each query that another engine finds, 0 to 1.

        Args:
            other: anything whose ``search(queries, k)`` returns (scores, numbers of rows), as
                indexes of faiss do; queries are passed as a NumPy array (Q, D) float32.
            queries: (Q, D).
            k: the first k of both.

        Of rows that tie with the last, the exact answer holds those that were added first; an
        engine that finds others instead is not credited with them. Raises what :meth:`search`
        raises, and ValueError for an answer of another shape.

        >>> index = Index().add(torch.eye(8))
        >>> index.recall(index, torch.eye(8), k=1)
        1.0
        """
        exact = self.search(queries, k).indices.numpy()
        given = as_features(queries, "queries").cpu().float().numpy()
        found = np.asarray(other.search(np.ascontiguousarray(given), k)[1])
        if found.ndim != 2 or len(found) != len(exact):
            raise ValueError(
                f"other: expected numbers of rows ({len(exact)}, {k}), got shape {found.shape}"
            )
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, found[:, :k], strict=True))
        return hits / max(1, exact.size)


def _own_rows(embeddings: Any, given: Tensor) -> npt.NDArray[np.float32]:
    """The rows as float32 that nobody changes: a copy, unless they are mapped as they should be."""
    as_they_are = is_mapped(embeddings) and embeddings.dtype == np.float32
    if as_they_are and embeddings.flags.c_contiguous:
        return np.asarray(embeddings)
    return given.to("cpu", torch.float32, copy=True).contiguous().numpy()


def _unsaved(segment: Segment) -> Segment:
    return Segment(segment.arrays, segment.ids, segment.columns, segment.modality)
