"""``drcl.Index``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import check_count
from drcl.index import databases, engines
from drcl.index.adding import new_ids, new_segment
from drcl.index.compacting import compacted
from drcl.index.filters import allowed_rows
from drcl.index.folder import Stored, read_index, save_index
from drcl.index.held import Held
from drcl.metrics.embeddings import Embeddings
from drcl.metrics.search import nearest_known
from drcl.tensors import as_features


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
        self._held = Held()
        self._saved: tuple[Path, dict[str, Any]] | None = None  # the folder and its manifest

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
        return self._held.width

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of the rows, in the order of their first addition."""
        return self._held.modalities

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns of metadata."""
        return self._held.columns

    @property
    def id_type(self) -> type[int] | type[str] | None:
        """What ids are, ``int`` or ``str``; None before the first rows are added.

        >>> Index().add(torch.eye(1), ids=["oak"]).id_type
        <class 'str'>
        """
        return {"integers": int, "strings": str, None: None}[self._held.kind]

    @property
    def total(self) -> int:
        """Rows that were ever added, removed ones among them: indices are below it."""
        return self._held.total

    def __len__(self) -> int:
        """Rows that can be found."""
        return self.total - len(self._held.removed)

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Of the rows that can be found, rising: what :meth:`records` and :meth:`rows` take.

        >>> Index().add(torch.eye(3)).remove([1]).numbers.tolist()
        [0, 2]
        """
        return self._held.kept

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
                sequence, array or column of a frame. All of an index are of one kind. Default:
                integers that go on from the largest.
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
        held = self._held
        segment = new_segment(held, embeddings, ids, modality, metadata)
        self._held = Held([*held.segments, segment], held.removed)
        return self

    def remove(self, ids: Iterable[Any]) -> Index:
        """Remove rows by their ids; :meth:`save` writes it. Returns the index.

        The rows are no longer found. They stay in their files until :meth:`compact`, and the others
        keep their numbers.
        Raises ValueError for an id that is not there, and leaves the index as it was.

        >>> Index().add(torch.eye(3)).remove([1]).search(torch.ones(1, 3), k=3).ids.tolist()
        [[0, 2]]
        """
        held = self._held
        self._held = Held(held.segments, np.union1d(held.removed, self.find(ids)))
        return self

    def compact(self) -> Index:
        """Drop the rows that are removed and number the others anew, in their order; :meth:`save`
        writes it. Returns the index.

        Ids stay as they are. Numbers of before, in a :class:`SearchResult` or as labels in another
        engine, are of other rows now, and the integers of rows that are gone may become ids again.
        Of additions that lose rows the others are copied into memory until they are saved, which
        needs that much disk beside the old files. Raises ValueError if all rows are removed, and
        OSError as of :meth:`check_files`; the index is then as it was.

        >>> index = Index().add(torch.eye(3), ids=["x", "y", "z"]).remove(["y"]).compact()
        >>> index.total, index.find(["z"]).tolist()
        (2, [1])
        """
        self.check_files()
        if len(self._held.removed):
            self._held = compacted(self._held)
        return self

    def check_ids(
        self, ids: Sequence[int] | Sequence[str] | npt.ArrayLike | None, count: int
    ) -> None:
        """Raise what :meth:`add` would for these ids of so many rows, before they are encoded.

        >>> Index().add(torch.eye(1), ids=["oak"]).check_ids(["elm", "ash"], 2)
        """
        new_ids(self._held, ids, count)

    def check_files(self) -> None:
        """Raise OSError, naming the file, if a file of the index has become shorter.

        Files of an index are never changed. Where one was cut all the same, what it holds no more
        would end the process (SIGBUS) or be read as zeros. The methods that read look before they
        do; a file that is cut while they read is not noticed.

        >>> Index().add(torch.eye(2)).check_files()
        """
        self._held.check_files()

    def find(self, ids: Iterable[Any]) -> npt.NDArray[np.int64]:
        """The numbers (n,) of the rows with these ids, as :attr:`SearchResult.indices` counts.

        An id is there if one of the index equals it, by the rule of ``where`` in :meth:`search`.
        Raises ValueError for an id that is not there, TypeError for what is no sequence, OSError as
        of :meth:`check_files`.

        >>> Index().add(torch.eye(2), ids=["x", "y"]).find(["y"]).tolist()
        [1]
        """
        self.check_files()
        return self._held.find(ids)

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
            query: (Q, D) finite, used as float32; a row of float64 with numbers closer to 0 than
                float32 has (1.2·10⁻³⁸) is compared in float64.
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
        held = self._held
        held.check_files()
        if held.rows is None:
            raise ValueError("index: expected rows to search, got none; add() some first")
        if isinstance(query, str):
            raise TypeError(
                f"query: expected embeddings (Q, {held.width}), got {query!r}; those of an item "
                "are index.rows(index.find([id]))"
            )
        given = as_features(query, "query")
        if given.ndim == 1:
            raise ValueError(
                f"query: expected (Q, {held.width}), got ({len(given)},); one row is query[None]"
            )
        queries = Embeddings(given, "query")
        if queries.width != held.width:
            raise ValueError(
                f"query: expected width {held.width}, as the index has, got {queries.width}"
            )
        queries = Embeddings(queries.rows(None, 0, len(queries), queries.dtype).cpu(), "query")
        allowed = allowed_rows(held, modality, where)
        k = min(k, held.total if allowed is None else int(allowed.sum()))
        if k == 0:
            queries.norms(None, len(queries), torch.float32)  # which refuses what is not finite
            scores = torch.empty(len(queries), 0)
            indices = scores.long()
        else:
            copies = held.copies, held.firsts
            scores, indices = nearest_known(queries, held.rows, k, copies, allowed)
        return SearchResult(scores, indices, held.ids_at(indices.numpy()))

    def records(self, indices: npt.ArrayLike | Tensor) -> list[dict[str, Any]]:
        """Of each of some rows, by number (n,): id, modality and metadata.

        >>> Index().add(torch.eye(1), modality="image", metadata={"name": ["x"]}).records([0])
        [{'id': 0, 'modality': 'image', 'name': 'x'}]
        """
        self.check_files()
        return [self._held.record(position) for position in self._held.numbers(indices).tolist()]

    def rows(self, indices: npt.ArrayLike | Tensor) -> Tensor:
        """Some rows by number, (n, D) float32.

        >>> Index().add(torch.eye(2)).rows([1])
        tensor([[0., 1.]])
        """
        numbers = self._held.numbers(indices)
        if self._held.rows is None:
            return torch.empty(0, 0)
        return self._held.rows.at(torch.from_numpy(numbers), torch.float32)

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
        if self._held.width is None or self._held.kind is None:
            raise ValueError("index: expected rows to save, got none; add() some first")
        stored = Stored(
            self._held.width,
            self._space,
            self._about,
            self._held.kind,
            list(self._held.segments),
            self._held.removed,
        )
        here = self._saved is not None and self._saved[0] == folder.resolve()
        old = self._saved[1] if here and self._saved is not None else None
        self._take(folder, *save_index(folder, stored, old, overwrite))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """The index of a folder, mapped: rows are read when they are searched.

        An index that another process replaces stays as it was when it was loaded. Raises
        FileNotFoundError if none is there, and ValueError, naming the file, if it is damaged. See
        :meth:`save` for an example.
        """
        index = cls()
        index._take(Path(folder), *read_index(Path(folder)))
        return index

    def _take(self, folder: Path, manifest: dict[str, Any], stored: Stored) -> None:
        self._space, self._about = stored.space, stored.about
        self._held = Held(stored.segments, stored.removed)
        self._saved = folder.resolve(), manifest

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

        >>> import pytest; _ = pytest.importorskip("faiss")
        >>> index = Index().add(torch.eye(3))
        >>> scores, numbers = index.to_faiss("hnsw").search(index.rows([1]).numpy(), 1)
        >>> scores.tolist(), numbers.tolist()
        ([[1.0]], [[1]])
        """
        self.check_files()
        return engines.to_faiss(self._held, kind, options)

    def to_usearch(self, **options: int) -> Any:
        """An index of the library usearch over the same rows: a graph, by inner product.

        Its keys are the numbers of the rows, as in :attr:`SearchResult.indices`; its distances are
        1 less the inner product. Its ``save`` writes one file, which its ``view`` maps.

        Args:
            options: ``links`` (32, from 2 on), ``ef_construction`` (80) and ``ef_search`` (64).

        Raises ImportError without usearch, ValueError for another option or an index without rows.

        >>> import pytest; _ = pytest.importorskip("usearch")
        >>> index = Index().add(torch.eye(3))
        >>> index.to_usearch().search(index.rows([1]).numpy(), 1).keys.tolist()
        [1]
        """
        self.check_files()
        return engines.to_usearch(self._held, options)

    def to_qdrant(self, client: Any, collection: str) -> None:
        """Write the rows into a new collection of the database Qdrant, to be searched by DOT.

        A point has the number of its row as its id, as in :attr:`SearchResult.indices`, and the
        payload ``{"id": …, "modality": …, "metadata": {column: value}}``. Rows are sent a few at a
        time. A collection that cannot be filled is deleted; if the process is killed, the rows that
        were sent stay.

        Args:
            client: a ``qdrant_client.QdrantClient``.
            collection: a new name. To replace a collection that is in use, write another one and
                move the alias to it.

        Raises ImportError without qdrant-client, ValueError for a collection that exists or an
        index without rows, and whatever the client raises.

        >>> import pytest; _ = pytest.importorskip("qdrant_client")
        >>> from qdrant_client import QdrantClient
        >>> client = QdrantClient(":memory:")
        >>> Index().add(torch.eye(2), ids=["oak", "elm"]).to_qdrant(client, "trees")
        >>> client.query_points("trees", query=[0.0, 1.0], limit=1).points[0].payload["id"]
        'elm'
        """
        self.check_files()
        databases.to_qdrant(self._held, client, collection)

    def to_lancedb(self, database: Any, table: str, *, overwrite: bool = False) -> Any:
        """Write the rows as a table of the database LanceDB; returns the table.

        Columns are ``number`` of the row, as in :attr:`SearchResult.indices`, ``id``, ``modality``,
        ``metadata``, a struct of the columns of metadata, and ``vector``. A column of metadata has
        the type that holds all of its values exactly: strings, truth values, integers of 64 bits or
        floats; where none does, it has their JSON. What is missing is null, as None is. Search it
        with ``distance_type("dot")``, whose distance is 1 less the inner product.

        Rows are passed a few at a time, and the table has all of them or is as it was before. If
        the process is killed while it writes a new table, the table may stay, empty.

        Args:
            database: a connection of ``lancedb.connect``, or the folder of a database.
            table: its name.
            overwrite: replace the table if it exists.

        Raises ImportError without lancedb, ValueError for a table that exists, a bad name or an
        index without rows, and whatever the library raises.

        >>> import pytest; _ = pytest.importorskip("lancedb")
        >>> import tempfile
        >>> index = Index().add(torch.eye(2), ids=["oak", "elm"])
        >>> table = index.to_lancedb(tempfile.mkdtemp(), "trees")
        >>> table.search([0.0, 1.0]).distance_type("dot").limit(1).to_list()[0]["id"]
        'elm'
        """
        self.check_files()
        return databases.to_lancedb(self._held, database, table, overwrite)

    def to_pgvector(self, path: str | Path, table: str, *, overwrite: bool = False) -> Path:
        """Write a file that makes a table of the rows in PostgreSQL with pgvector.

        Returns its path. ``psql --file PATH DATABASE`` makes the whole table, or leaves the
        database as it was. Columns are ``number`` of the row, as in :attr:`SearchResult.indices`,
        the primary key, ``id``, a ``bigint`` or ``text``, ``modality``, ``metadata``, a ``jsonb``,
        and ``embedding``, a ``vector(D)``. Search it by ``embedding <#> …``, the negative inner
        product. The file is written a few rows at a time, and replaces an old one in one step. Its
        format: https://www.postgresql.org/docs/current/sql-copy.html.

        Args:
            path: of the file.
            table: small letters, digits and ``_``, at most 63.
            overwrite: whether loading the file replaces a table of that name; without it, psql
                refuses.

        Raises ValueError for another name, rows wider than 16,000, a NUL in text, which PostgreSQL
        cannot hold, or an index without rows; OSError if the file cannot be written.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> index = Index().add(torch.eye(2), ids=["x", "y"], modality="image")
        >>> index.to_pgvector(folder / "rows.sql", "trees").read_text().splitlines()[-4:]
        ['0\\tx\\timage\\t{}\\t[1,0]', '1\\ty\\timage\\t{}\\t[0,1]', '\\\\.', 'COMMIT;']
        """
        self.check_files()
        path = Path(path)
        databases.to_pgvector(self._held, path, table, overwrite)
        return path

    def recall(self, other: Any, queries: npt.ArrayLike | Tensor, k: int = 10) -> float:
        """The share of the exact k rows of each query that another engine finds, 0 to 1.

        Args:
            other: what :meth:`to_faiss` or :meth:`to_usearch` returns, or anything else whose
                ``search(queries, k)`` returns (scores, numbers of rows); or, for a database, a
                function of (queries, k) that returns the numbers of rows for each query, at most k.
                Queries are passed as a NumPy array (Q, D) float32.
            queries: (Q, D).
            k: the first k of both.

        Of rows that tie with the last, the exact answer holds those that were added first; an
        engine that finds others instead is not credited with them. Raises what :meth:`search`
        raises, ValueError for an answer of another shape, and TypeError for an engine that is
        neither.

        >>> index = Index().add(torch.eye(8))
        >>> index.recall(index, torch.eye(8), k=1)
        1.0
        >>> index.recall(lambda queries, k: [[0]] * len(queries), torch.eye(8), k=1)
        0.125
        """
        exact = self.search(queries, k).indices.numpy()
        given = as_features(queries, "queries").cpu().float().numpy()
        found = engines.answers(other, np.ascontiguousarray(given), k)
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True))
        return hits / max(1, exact.size)
