"""An index that is added to, replaced or broken while a server answers from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from asgi import Client, client, search

from drcl import Index
from drcl.index.folder import MANIFEST
from drcl.serve import state

app = pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")

ROWS = torch.eye(6)
EVERYTHING = {"embeddings": [[1.0] * 6], "k": 50}


def found(one: Client) -> list[Any]:
    reply = one.search(EVERYTHING)
    assert reply.status == 200, reply
    return [hit["item"]["id"] for hit in reply.json["results"][0]["found"]]


def test_rows_that_are_added_removed_and_replaced_are_found_at_once(tmp_path: Path) -> None:
    folder = Index().add(ROWS[:3]).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        first = one.get("/health").json["version"]
        assert found(one) == [0, 1, 2] and len(one.get("/items").json["items"]) == 3
        assert one.get("/health").json["version"] == first  # nothing is loaded without a reason
        Index.load(folder).add(ROWS[3:]).remove([1]).save(folder)
        assert found(one) == [0, 2, 3, 4, 5]
        assert one.get("/health").json["version"] != first
        assert len(one.get("/items").json["items"]) == 5
        Index().add(ROWS, ids=list("abcdef")).save(folder, overwrite=True)
        assert found(one) == list("abcdef")
        Index().add(torch.eye(4)).save(folder, overwrite=True)
        reply = one.search(EVERYTHING)
        assert reply.status == 400 and "expected width 4" in reply.json["error"]
        assert "\ndrcl_index_loads 4\n" in one.get("/metrics").body.decode()


def test_a_search_that_has_begun_ends_in_the_state_it_began_in(tmp_path: Path) -> None:
    folder = Index().add(ROWS[:3]).save(tmp_path / "index")
    served = state.Served(folder)
    old = served.current()
    Index().add(ROWS, ids=list("abcdef")).save(folder, overwrite=True)
    new = served.current()
    assert old.version != new.version
    assert old.index.search(ROWS[:1], 9).ids.tolist() == [[0, 1, 2]]
    assert new.index.search(ROWS[:1], 9).ids.tolist() == [list("abcdef")]


@pytest.mark.parametrize("damage", ["cut", "no manifest", "no segment", "no folder"])
def test_a_state_that_cannot_be_loaded_leaves_the_old_one(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "_AGAIN", 0.0)
    folder = Index().add(ROWS[:3]).save(tmp_path / "index")
    whole = shutil.copytree(folder, tmp_path / "whole")
    with client(app.make_app(folder)) as one:
        version = one.get("/health").json["version"]
        Index.load(whole).add(ROWS[3:]).save(whole)
        if damage == "cut":
            (folder / MANIFEST).write_bytes((whole / MANIFEST).read_bytes()[:-40])
        elif damage == "no manifest":
            (folder / MANIFEST).unlink()
        elif damage == "no segment":
            shutil.copy(whole / MANIFEST, folder)
        else:
            shutil.rmtree(folder)
        for _ in range(3):
            assert found(one) == [0, 1, 2]
            health = one.get("/health")
            assert health.status == 200 and health.json["status"] == "stale"
            assert health.json["version"] == version and "log" in health.json["problem"]
            assert str(tmp_path) not in health.body.decode()
        assert "\ndrcl_index_stale 1\n" in one.get("/metrics").body.decode()
        assert str(folder) in caplog.text and len(caplog.records) == 1  # said once
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        assert found(one) == [0, 1, 2, 3, 4, 5]
        assert one.get("/health").json["status"] == "ok"


def test_without_an_index_there_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no index"):
        app.make_app(tmp_path)


def test_answers_of_one_batch_are_of_one_state(tmp_path: Path) -> None:
    folder = Index().add(ROWS[:3]).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        Index.load(folder).add(ROWS[3:]).save(folder)
        replies = one.together([search(EVERYTHING)] * 5)
        assert len({reply.json["version"] for reply in replies}) == 1
