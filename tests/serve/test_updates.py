"""An index that is added to, replaced or broken while a server answers from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


def with_text(folder: Path) -> Path:
    names = [f"leaf {n}" for n in range(6)]
    index = Index().add(ROWS, ids=names, metadata={"tree": ["oak", "elm", "ash"] * 2})
    return index.save(folder)


def segment(folder: Path) -> Path:
    (found,) = folder.glob("*.safetensors")
    return found


@pytest.mark.parametrize("left", [1, 300, -1])  # within a page: what is gone reads as zeros
def test_an_index_whose_file_is_cut_is_not_answered_from(
    tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "_AGAIN", 0.0)
    folder = with_text(tmp_path / "index")
    whole = segment(folder).read_bytes()
    by_id = {"ids": ["leaf 2"], "k": 1}
    asked = [by_id, EVERYTHING, {**EVERYTHING, "where": {"tree": "oak"}}]
    with client(app.make_app(folder)) as one:
        good = [one.search(value).json["results"] for value in asked]
        version = one.get("/health").json["version"]
        with segment(folder).open("r+b") as file:
            file.truncate(left % len(whole))
        for value in asked:
            reply = one.search(value)
            assert reply.status == 503 and str(tmp_path) not in reply.body.decode()
            assert reply.headers["retry-after"] == "1"
        assert one.get("/items").status == one.get(f"/pictures/{version}/0").status == 503
        health = one.get("/health")
        assert (health.status, health.json["status"]) == (503, "broken")
        assert "was cut" in health.json["problem"]
        assert "\ndrcl_index_broken 1\n" in one.get("/metrics").body.decode()
        assert str(segment(folder)) in caplog.text and len(caplog.records) == 1  # said once
        segment(folder).write_bytes(whole)
        assert [one.search(value).json["results"] for value in asked] == good
        assert one.get("/health").json["status"] == "ok"


def test_a_file_that_is_cut_while_a_batch_is_answered_spoils_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = with_text(tmp_path / "index"), Index.records

    def cut(index: Index, numbers: Any) -> Any:
        with segment(folder).open("r+b") as file:
            file.truncate(segment(folder).stat().st_size - 1)
        monkeypatch.undo()
        return real(index, numbers)

    with client(app.make_app(folder)) as one:
        monkeypatch.setattr(Index, "records", cut)
        assert one.search(EVERYTHING).status == 503


def test_missing_pages_of_a_file_do_not_end_the_process(tmp_path: Path) -> None:
    """In a process of its own: there is no other way to notice that it is killed."""
    folder = with_text(tmp_path / "index")
    code = f"""
import os
from drcl import Index
index = Index.load({str(folder)!r})
os.truncate({str(segment(folder))!r}, 0)
for ask in (
    lambda: index.find(["leaf 2"]),
    lambda: index.records([2]),
    lambda: index.rows([2]),
    lambda: index.remove(["leaf 2"]),
    lambda: index.search([[1.0] * 6], where={{"tree": "oak"}}),
    index.check_files,
):
    try:
        ask()
    except OSError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    assert done.stdout.count("has become shorter") == 6


def test_without_an_index_there_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no index"):
        app.make_app(tmp_path)


def test_answers_of_one_batch_are_of_one_state(tmp_path: Path) -> None:
    folder = Index().add(ROWS[:3]).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        Index.load(folder).add(ROWS[3:]).save(folder)
        replies = one.together([search(EVERYTHING)] * 5)
        assert len({reply.json["version"] for reply in replies}) == 1
