"""Targets: :class:`drcl.Index`. Rows of small integers, whose products are exact."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_training import scratch
from fuzzing import Draw, refused, target

from drcl import Index


@dataclass
class Drawn:
    """An index, and what should be in it."""

    index: Index
    width: int
    rows: np.ndarray
    ids: list[Any]
    modalities: list[str | None]
    kinds: list[Any]
    removed: set[int] = field(default_factory=set)

    @property
    def kept(self) -> list[int]:
        return [n for n in range(len(self.rows)) if n not in self.removed]

    def first(self, query: np.ndarray, k: int, allowed: np.ndarray) -> list[list[int]]:
        """Numbers of the k allowed rows of largest product, by sorting all of them."""
        places = np.array([n for n in self.kept if allowed[n]], dtype=np.int64)
        scores = query @ self.rows[places].T
        return [places[np.argsort(-row, kind="stable")[:k]].tolist() for row in scores]

    def check(self, index: Index) -> None:
        """All of it is in an index."""
        assert index.total == len(self.rows) and len(index) == len(self.kept)
        assert np.array_equal(index.rows(range(len(self.rows))), self.rows)
        records = index.records(range(len(self.rows)))
        assert [one["id"] for one in records] == self.ids
        assert [one["modality"] for one in records] == self.modalities
        assert [one.get("kind") for one in records] == self.kinds
        query = self.rows[:2]
        found = index.search(query, len(self.rows)) if len(self.kept) else None
        everything = np.ones(len(self.rows), bool)
        if found is not None:
            assert found.indices.tolist() == self.first(query, len(self.rows), everything)


def draw_rows(draw: Draw, count: int, width: int) -> np.ndarray:
    return draw.random.integers(-2, 3, (count, width)).astype(np.float32)


def draw_index(draw: Draw) -> Drawn:
    width, strings = draw.choose("D", 3, 1, 2, 9, 33), draw.choose("ids", False, True)
    drawn = Drawn(Index(), width, np.empty((0, width), np.float32), [], [], [])
    for part in range(draw.integer("additions", 1, 3)):
        count = draw.integer("rows", 1, 8)
        rows = draw_rows(draw, count, width)
        start = len(drawn.rows)
        ids: Any = list(range(start, start + count))
        if strings:
            ids = [f"{draw.choose('letter', 'é', 'x', '日')} {n}" for n in ids]
        modality = draw.choose("modality", "image", "text", None)
        kinds = draw.choose("kinds", [None] * count, ["a", 1, None, True] * count)[:count]
        given = draw.choose("form", rows, torch.from_numpy(rows), rows.astype("f8"), rows.tolist())
        drawn.index.add(
            given,
            ids=ids if strings or part % 2 else None,
            modality=modality,
            metadata={"kind": kinds} if any(kinds) else None,
        )
        drawn.rows = np.concatenate([drawn.rows, rows])
        drawn.ids += ids
        drawn.modalities += [modality] * count
        drawn.kinds += kinds
    if draw.choose("removal", False, True):
        gone = draw.random.permutation(len(drawn.rows))[: draw.integer("removed", 0, 4)].tolist()
        drawn.index.remove([drawn.ids[n] for n in gone])
        drawn.removed = set(gone)
    return drawn


@target("drcl.Index", few=10)
def index(draw: Draw) -> None:
    fault = draw.fault("space", "about")
    space = draw.choose("space", None, "cosine") if fault != "space" else 7
    about = draw.choose("about", None, {"a": [1, None]}) if fault != "about" else {"a": {1, 2}}
    if fault:
        with refused(fault):
            Index(space=space, about=about)  # type: ignore[arg-type]
        return
    made = Index(space=space, about=about)  # type: ignore[arg-type]
    assert (made.space, made.about, len(made), made.total) == (space, about or {}, 0, 0)


@target("drcl.Index.add", few=10)
def add(draw: Draw) -> None:
    drawn = draw_index(draw)
    drawn.check(drawn.index)
    rows = draw_rows(draw, 2, drawn.width)
    new: list[Any] = ["new", "newer"] if isinstance(drawn.ids[0], str) else [-1, -2]
    good: dict[str, Any] = {"embeddings": rows, "ids": new}
    faults: dict[str, tuple[str, Any]] = {
        "width": ("embeddings", np.ones((2, drawn.width + 1))),
        "NaN": ("embeddings", rows * np.nan),
        "long": ("embeddings", np.full((2, drawn.width), 1e20)),
        "1-D": ("embeddings", rows[0]),
        "words": ("embeddings", "rows"),
        "kinds": ("ids", [0.5, 1.5]),
        "one": ("ids", new[:1]),
        "twice": ("ids", new[:1] * 2),
        "other": ("ids", ["x", 1]),
        "modality": ("modality", draw.choose("bad modality", "a/b", "", 3)),
        "metadata": ("metadata", draw.choose("bad", 5, {"x": [1]}, {"id": [1, 2]}, {"x": [{}, 1]})),
    }
    fault = draw.fault(*faults)
    if fault:
        name, value = faults[fault]
        with refused(name):
            drawn.index.add(**{**good, name: value})
        drawn.check(drawn.index)


@target("drcl.Index.remove", few=10)
def remove(draw: Draw) -> None:
    drawn = draw_index(draw)
    fault = draw.fault("unknown", "removed", "kind", "a word")
    if fault == "removed" and not drawn.removed:
        return
    if fault:
        bad: Any = {
            "unknown": ["nothing" if isinstance(drawn.ids[0], str) else 10**9],
            "removed": [drawn.ids[n] for n in drawn.removed],
            "kind": [1.5],
            "a word": "ab",
        }[fault]
        with refused("ids"):
            drawn.index.remove(bad)
    drawn.check(drawn.index)


@target("drcl.Index.compact", few=10)
def compact(draw: Draw) -> None:
    drawn = draw_index(draw)
    if not drawn.kept:
        with refused("index"):
            drawn.index.compact()
        drawn.check(drawn.index)
        return
    places = np.array(drawn.kept)
    drawn.index.compact()
    for name in ("ids", "modalities", "kinds"):
        setattr(drawn, name, [getattr(drawn, name)[n] for n in places])
    drawn.rows, drawn.removed = drawn.rows[places], set()
    drawn.check(drawn.index)


@target("drcl.Index.find", few=10)
def find(draw: Draw) -> None:
    drawn = draw_index(draw)
    places = draw.random.permutation(drawn.kept).tolist()
    found = drawn.index.find([drawn.ids[n] for n in places])
    assert found.tolist() == places and found.dtype == np.int64
    with refused("ids"):
        drawn.index.find([None])  # type: ignore[list-item]


@target("drcl.Index.search", few=10)
def search(draw: Draw) -> None:
    drawn = draw_index(draw)
    query = draw_rows(draw, draw.integer("Q", 1, 5), drawn.width)
    options: dict[str, Any] = {"k": draw.choose("k", 2, 1, 1000)}
    allowed = np.ones(len(drawn.rows), bool)
    modality = draw.choose("modality", None, "image", "text")
    if modality in drawn.modalities and modality is not None:
        options["modality"] = draw.choose("as", modality, [modality])
        allowed &= np.array([name == modality for name in drawn.modalities])
    where = draw.choose("where", "none", "kind", "mask")
    if where == "kind" and "kind" in drawn.index.columns:
        options["where"] = {"kind": draw.choose("value", "a", 1, ["a", True], "nothing")}
        values = options["where"]["kind"]
        wanted = values if isinstance(values, list) else [values]
        pairs = [(type(one), one) for one in wanted]
        allowed &= np.array([(type(one), one) in pairs for one in drawn.kinds])
    elif where == "mask":
        mask = draw.random.random(len(drawn.rows)) < 0.5
        options["where"] = mask
        allowed &= mask
    faults: dict[str, tuple[str, Any]] = {
        "width": ("query", np.ones((1, drawn.width + 1))),
        "NaN": ("query", np.full((1, drawn.width), math.nan)),
        "k": ("k", draw.choose("bad k", 0, -1, 1.5)),
        "modality": ("modality", "smell"),
        "column": ("where", {"colour": 1}),
        "mask": ("where", [True] * (len(drawn.rows) + 1)),
    }
    fault = draw.fault(*faults)
    if fault:
        name, value = faults[fault]
        with refused(name):
            drawn.index.search(**{"query": query, **options, name: value})
        return
    found = drawn.index.search(query, **options)
    expected = drawn.first(query, options["k"], allowed)
    assert found.indices.tolist() == expected
    assert found.ids.tolist() == [[drawn.ids[n] for n in row] for row in expected]
    exact = [(query[q] @ drawn.rows[row].T).tolist() for q, row in enumerate(expected)]
    assert found.scores.tolist() == exact


@target("drcl.Index.records", few=10)
def records(draw: Draw) -> None:
    drawn = draw_index(draw)
    drawn.check(drawn.index)
    with refused("indices"):
        drawn.index.records([draw.choose("bad", len(drawn.rows), -1, 0.5)])  # type: ignore[list-item]


@target("drcl.Index.rows", few=10)
def rows(draw: Draw) -> None:
    drawn = draw_index(draw)
    places = draw.random.integers(0, len(drawn.rows), draw.integer("n", 1, 9))
    found = drawn.index.rows(draw.choose("form", places, places.tolist(), torch.from_numpy(places)))
    assert np.array_equal(found, drawn.rows[places])
    with refused("indices"):
        drawn.index.rows(draw.choose("bad", [[0]], [len(drawn.rows)], ["a"], 0))


@target("drcl.Index.save", few=10)
def save(draw: Draw) -> None:
    drawn, folder = draw_index(draw), scratch() / "index"
    shutil.rmtree(folder, ignore_errors=True)
    if draw.fault("another"):
        (folder / "sub").mkdir(parents=True)
        with refused("folder"):
            drawn.index.save(folder)
        return
    drawn.index.save(folder)
    drawn.check(drawn.index)
    if drawn.kept and draw.choose("more", False, True):
        gone = drawn.kept[0]
        drawn.index.remove([drawn.ids[gone]]).save(folder)
        drawn.removed.add(gone)
    drawn.check(Index.load(folder))


@target("drcl.Index.check_files", few=10)
def check_files(draw: Draw) -> None:
    """Of an index from a folder, whichever of its files is cut at whatever place."""
    drawn, folder = draw_index(draw), scratch() / "index"
    shutil.rmtree(folder, ignore_errors=True)
    drawn.index.check_files()
    loaded = Index.load(drawn.index.save(folder))
    loaded.check_files()
    file = draw.choose("file", *sorted(path.name for path in folder.glob("*.safetensors")))
    os.truncate(folder / file, int(draw.random.integers((folder / file).stat().st_size)))
    with pytest.raises(OSError, match=file):
        loaded.check_files()
    with pytest.raises(OSError, match=file):
        loaded.search(drawn.rows[:1], 1)


@target("drcl.Index.check_ids", few=10)
def check_ids(draw: Draw) -> None:
    """It refuses what ``add`` refuses, in the same words, and nothing else."""
    drawn = draw_index(draw)
    rows, count = draw_rows(draw, 3, drawn.width), len(drawn.index)
    known = [*drawn.ids, "z"][:3]
    free = range(10**6, 10**6 + 3)
    ids: Any = draw.choose("new", None, ["a", "b", "c"], free, known, ["a", "a", "b"], ["a"], "abc")
    try:
        drawn.index.check_ids(ids, 3)
    except (ValueError, TypeError) as error:
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            drawn.index.add(rows, ids=ids)
        assert len(drawn.index) == count
    else:
        assert len(drawn.index.add(rows, ids=ids)) == count + 3


@target("drcl.Index.load", few=10)
def load(draw: Draw) -> None:
    """Whatever bytes are put into a file, it is refused, or what was there is found."""
    drawn, folder = draw_index(draw), scratch() / "index"
    shutil.rmtree(folder, ignore_errors=True)
    drawn.index.save(folder)
    drawn.check(Index.load(folder))
    manifest = folder / "index.json"
    file = draw.choose("file", manifest, folder)
    if file == folder:
        file = folder / json.loads(manifest.read_text())["segments"][0]["file"]
    content = bytearray(file.read_bytes())
    if file == manifest or draw.choose("cut", True, False):
        content = content[: int(draw.random.integers(len(content)))]
    else:  # in the header: bytes of rows may be anything
        length = 8 + int.from_bytes(content[:8], "little")
        content[int(draw.random.integers(length))] ^= draw.integer("bits", 1, 255)
    file.write_bytes(bytes(content))
    try:
        found = Index.load(folder)
        found.search(drawn.rows[:1], 5)
        found.records(range(found.total))
    except ValueError:
        return
    assert found.total == len(drawn.rows)


@contextmanager
def or_missing() -> Iterator[None]:
    """Without the library it is refused, and told how to install it."""
    try:
        yield
    except ImportError as error:
        assert "pip install" in str(error)


@target("drcl.Index.to_faiss", few=2)
def to_faiss(draw: Draw) -> None:
    drawn = draw_index(draw)
    fault = draw.fault("kind", "probes")
    if fault:
        kind, options = ("tree", {}) if fault == "kind" else ("flat", {"probes": 1})
        with refused(fault):
            drawn.index.to_faiss(kind, **options)
        return
    with or_missing():
        assert drawn.index.to_faiss("flat").ntotal == len(drawn.kept)


@target("drcl.Index.to_usearch", few=2)
def to_usearch(draw: Draw) -> None:
    drawn = draw_index(draw)
    fault = draw.fault("links", "probes")
    if fault:
        with refused(fault):
            drawn.index.to_usearch(**{fault: draw.choose("bad", 1, 0, 2.5)})  # type: ignore[arg-type]
        return
    with or_missing():
        assert len(drawn.index.to_usearch()) == len(drawn.kept)


@target("drcl.Index.to_qdrant", few=2)
def to_qdrant(draw: Draw) -> None:
    drawn = draw_index(draw)
    with refused("collection"):
        drawn.index.to_qdrant(None, draw.choose("bad", "", None, 7))  # type: ignore[arg-type]
    try:
        drawn.index.to_qdrant(None, "rows")
    except (ImportError, TypeError) as error:
        assert "client: " in str(error)
        return
    raise AssertionError("expected a client to be needed")


@target("drcl.Index.to_lancedb", few=2)
def to_lancedb(draw: Draw) -> None:
    drawn, folder = draw_index(draw), scratch() / "tables"
    shutil.rmtree(folder, ignore_errors=True)
    fault = draw.fault("table", "overwrite")
    if fault:
        table, overwrite = (7, True) if fault == "table" else ("rows", 7)
        with refused(fault):
            drawn.index.to_lancedb(folder, table, overwrite=overwrite)  # type: ignore[arg-type]
        return
    with or_missing():
        assert drawn.index.to_lancedb(folder, "rows").count_rows() == len(drawn.kept)


@target("drcl.Index.to_pgvector", few=10)
def to_pgvector(draw: Draw) -> None:
    drawn, file = draw_index(draw), scratch() / "rows.sql"
    fault = draw.fault("table", "overwrite")
    if fault:
        table = draw.choose("bad", "A", "", "a b", None, 'a"') if fault == "table" else "rows"
        with refused(fault):
            drawn.index.to_pgvector(file, table, overwrite=fault == "table" or 7)  # type: ignore[arg-type]
        return
    lines = drawn.index.to_pgvector(file, "rows").read_text("utf-8").splitlines()
    lines = lines[lines.index(next(line for line in lines if line.startswith("COPY"))) + 1 : -2]
    fields = [line.split("\t") for line in lines]
    assert [int(number) for number, *_ in fields] == drawn.kept
    assert [one[1] for one in fields] == [str(drawn.ids[n]) for n in drawn.kept]
    assert [one[2] for one in fields] == [drawn.modalities[n] or "\\N" for n in drawn.kept]
    kinds = [json.loads(one[3]).get("kind") for one in fields]
    assert kinds == [drawn.kinds[n] for n in drawn.kept]
    found = np.array([json.loads(one[4]) for one in fields]).reshape(-1, drawn.width)
    assert np.array_equal(found, drawn.rows[drawn.kept])


@target("drcl.Index.recall", few=10)
def recall(draw: Draw) -> None:
    drawn = draw_index(draw)
    query = draw_rows(draw, 3, drawn.width)
    assert drawn.index.recall(drawn.index, query, 2) == (1.0 if drawn.kept else 0.0)

    class Other:
        def search(self, queries: np.ndarray, k: int) -> Any:
            return None, np.full((len(queries), k), -1)

    assert drawn.index.recall(Other(), query, 2) == 0.0
    answer = draw.choose("answer", [[0]] * 2, [["a"]] * 3, [0] * 3, [[0.5]] * 3)
    with refused("other"):
        drawn.index.recall(lambda queries, k: answer, query, 2)
    with refused("k"):
        drawn.index.recall(drawn.index, query, 0)
