"""An index whose writer is killed, whose disk is full, whose files change or are damaged."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_injection import killed_everywhere, partials

from drcl import Index
from drcl.index.folder import MANIFEST
from drcl.storage.sealed import read_json, to_json, with_checksum, without_checksum

ROWS = torch.randn(30, 5)


def first(folder: Path) -> Path:
    return Index(space="cosine").add(ROWS[:20], metadata={"name": ["x"] * 20}).save(folder)


def changed(folder: Path) -> Path:
    """Rows added and one removed."""
    return Index.load(folder).add(ROWS[20:]).remove([3]).save(folder)


def replaced(folder: Path) -> Path:
    return (
        Index().add(ROWS[5:25, :3], ids=[f"r{n}" for n in range(20)]).save(folder, overwrite=True)
    )


def state(folder: Path) -> str:
    """Which of the three indexes it holds, all of whose rows, ids and metadata are looked at."""
    index = Index.load(folder)
    if index.width == 3:
        assert torch.equal(index.rows(range(20)), ROWS[5:25, :3]) and len(index) == 20
        assert [one["id"] for one in index.records([0, 19])] == ["r0", "r19"]
        return "replaced"
    assert index.total in (20, 30) and torch.equal(
        index.rows(range(index.total)), ROWS[: index.total]
    )
    assert [one.get("name") for one in index.records([19])] == ["x"]
    assert len(index) == (20 if index.total == 20 else 29)
    return "first" if index.total == 20 else "changed"


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["", "SIGKILL"])
def really(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return request.param


@pytest.mark.parametrize("change", [changed, replaced])
def test_an_index_killed_anywhere_in_saving_is_old_or_new(
    change: Any, tmp_path: Path, really: bool
) -> None:
    folder, states = tmp_path / "index", []

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return first(folder)

    for _ in killed_everywhere(prepare, change, really):
        states.append(state(folder))
        replaced(folder)
        assert state(folder) == "replaced" and not partials(folder)
        assert len(list(folder.iterdir())) == 2
    assert set(states) == {"first", change.__name__}
    assert states == sorted(states, key=["first", change.__name__].index)


def test_an_index_whose_disk_is_full_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = first(tmp_path / "index")
    index = Index.load(folder).add(ROWS[20:]).remove([3])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="cannot be written"):
            index.save(folder)
    assert state(folder) == "first" and not partials(folder)
    index.save(folder)
    assert state(folder) == "changed"


def test_a_reader_keeps_the_index_it_has_loaded(tmp_path: Path) -> None:
    folder = first(tmp_path / "index")
    reader = Index.load(folder)
    before = reader.search(ROWS[:5], 9)
    replaced(folder)
    after = reader.search(ROWS[:5], 9)
    assert torch.equal(before.indices, after.indices) and torch.equal(before.scores, after.scores)
    assert reader.records([7]) == [{"id": 7, "modality": None, "name": "x"}]


def test_an_index_replaced_while_it_is_loaded_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drcl.index import folder as files

    folder, named = first(tmp_path / "index"), files._read_named

    def meanwhile(place: Path, manifest: Any) -> Any:
        monkeypatch.setattr(files, "_read_named", named)
        replaced(folder)
        return named(place, manifest)

    monkeypatch.setattr(files, "_read_named", meanwhile)
    assert Index.load(folder).width == 3


def test_of_two_writers_the_second_is_refused(tmp_path: Path) -> None:
    folder = first(tmp_path / "index")
    one, other = Index.load(folder), Index.load(folder)
    one.add(ROWS[20:]).remove([3]).save(folder)
    with pytest.raises(FileExistsError, match="was changed by another process"):
        other.add(ROWS[:1]).save(folder)
    with pytest.raises(FileExistsError, match="holds another index"):
        Index().add(ROWS).save(folder)
    assert state(folder) == "changed"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="got other files"):
        one.save(tmp_path)


def test_an_index_whose_file_becomes_shorter_says_so(tmp_path: Path) -> None:
    folder = first(tmp_path / "index")
    index = Index.load(folder)
    os.truncate(next(folder.glob("*.safetensors")), 200)
    with pytest.raises(OSError, match="has become shorter"):
        index.search(ROWS[:1])
    with pytest.raises(ValueError, match="damaged"):
        Index.load(folder)


def test_a_damaged_index_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    whole = changed(first(tmp_path / "whole"))
    manifest = without_checksum(read_json(whole / MANIFEST), whole / MANIFEST)
    entries = manifest["segments"]
    for change in (
        {"format": 2},
        {"width": 4},
        {"width": 0},
        {"ids": "strings"},
        {"ids": "words"},
        {"about": []},
        {"space": 7},
        {"segments": 7},
        {"segments": [{**entries[0], "rows": 19}]},
        {"segments": [{**entries[0], "file": "../x.safetensors"}]},
        {"segments": [{**entries[0], "modality": "a/b"}]},
        {"removed": entries[0]["file"]},
    ):
        folder = Path(shutil.copytree(whole, tmp_path / "damaged", dirs_exist_ok=True))
        (folder / MANIFEST).write_bytes(to_json(with_checksum({**manifest, **change})))
        with pytest.raises(ValueError, match=r"index\.json|\.safetensors"):
            Index.load(folder)
    (folder / MANIFEST).write_bytes(to_json(manifest))
    with pytest.raises(ValueError, match="checksum"):
        Index.load(folder)
    shutil.copy(whole / MANIFEST, folder)
    file = folder / entries[1]["file"]
    content = file.read_bytes()
    for damage in (
        b"",
        content[:7],
        content[:60],
        b"\xff" * 90,
        content[:-9],
        b"\x02" + content[1:],
    ):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=f"{file.name}: damaged"):
            Index.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        Index.load(folder)
    with pytest.raises(FileNotFoundError, match="holds no index"):
        Index.load(tmp_path)
