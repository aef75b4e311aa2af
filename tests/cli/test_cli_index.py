"""``drcl index`` and ``drcl search INDEX``, and what ``drcl encode`` keeps: run, index, page."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from drcl import DRCL, Index
from drcl.cli import main, output
from drcl.report import results
from drcl.report.results import Search, results_page
from drcl.storage.files import locked

PNG = bytes.fromhex(  # a single pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63"
    "f8cfc00000030101002d0b8f6f0000000049454e44ae426082"
)
SMALL = ["--dim", "8", "--hidden", "8", "--epochs", "2", "--prior-epochs", "2", "--no-report"]


def drcl(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def succeed(*arguments: object) -> str:
    code, output = drcl(*arguments)
    assert code == 0, output
    return output


def refused(*arguments: object) -> str:
    code, output = drcl(*arguments)
    assert code in (1, 2) and "Traceback" not in output, output
    return output


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of photos and notes, features to search in, and tables of what they are."""
    folder, rng = tmp_path_factory.mktemp("leaves"), np.random.default_rng(0)
    text = ['classes = ["ash", "birch"]']
    for name, width in (("photo", 4), ("note", 3), ("smell", 2)):
        y = np.arange(20) % 2
        x = rng.normal(size=(20, width)).astype(np.float32)
        x[:, 0] += 4 * y
        np.savez(folder / f"{name}.npz", x=x, y=y)
        if name != "smell":
            text += [f"[train.{name}]", f'features = "{name}.npz:x"', f'labels = "{name}.npz:y"']
    (folder / "leaves.toml").write_text("\n".join(text))
    (folder / "a.png").write_bytes(PNG)
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = [[f"p{n}", f"Leaf {n}", "a.png" if n % 2 else "", n % 3] for n in range(20)]
        csv.writer(file).writerows([["id", "name", "picture", "day"], *rows])
    with (folder / "notes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["note", "text"], *([f"n{n}", f"<b>Note {n}</b>, ünder"] for n in range(20))]
        )
    settings = [*SMALL, "--no-progress", "--device", "cpu"]
    succeed("train", folder / "leaves.toml", "--out", folder / "run", *settings)
    return folder


@pytest.fixture(scope="module")
def index(leaves: Path) -> Path:
    out = leaves / "index"
    photos = ("photo", f"{leaves / 'photo.npz'}:x", "--ids", leaves / "photos.csv")
    succeed("index", leaves / "run", *photos, "--out", out, "--no-progress")
    notes = ("note", f"{leaves / 'note.npz'}:x", "--ids", leaves / "notes.csv")
    assert "40 in all" in succeed("index", leaves / "run", *notes, "--out", out, "--append")
    return out


def test_the_index_holds_what_the_run_encodes(leaves: Path, index: Path) -> None:
    model, made = DRCL.load(leaves / "run"), Index.load(index)
    for start, name in ((0, "photo"), (20, "note")):
        rows = model.encode(name, np.load(leaves / f"{name}.npz")["x"])
        assert (made.rows(range(start, start + 20)) == rows).all()
    assert made.space == model.space and made.modalities == ("photo", "note")
    assert made.records([1, 21]) == [
        {
            "id": "p1",
            "modality": "photo",
            "name": "Leaf 1",
            "day": "1",
            "picture": str((leaves / "a.png").resolve()),
        },
        {"id": "n1", "modality": "note", "text": "<b>Note 1</b>, ünder"},
    ]


def test_features_search_it(leaves: Path, index: Path) -> None:
    file = f"note={leaves / 'note.npz'}:x"
    found = json.loads(succeed("search", index, file, "--query", "3", "--k", "4", "--json"))
    model, made = DRCL.load(leaves / "run"), Index.load(index)
    query = model.encode("note", np.load(leaves / "note.npz")["x"])[3:4]
    expected = made.search(query, 4)
    assert [one["id"] for one in found[0]["found"]] == expected.ids[0].tolist()
    scores = [one["score"] for one in found[0]["found"]]
    assert scores == pytest.approx(expected.scores[0].tolist())
    assert found[0]["query"]["id"].endswith("row 3")
    assert len(json.loads(succeed("search", index, file, "--json"))) == 20
    text = succeed("search", index, file, "--query", "3", "--k", "4")
    assert re.findall(r"^\d +(\w+)", text, flags=re.M) == expected.ids[0].tolist()


def test_an_item_searches_it_and_does_not_find_itself(index: Path) -> None:
    made = Index.load(index)
    row = made.find(["p4"])
    options = ("--in", "photo", "--where", "day=1", "--where", "day=2", "--k", "30", "--json")
    found = json.loads(succeed("search", index, "p4", *options))
    mask = np.array([one.get("day") in ("1", "2") for one in made.records(range(40))])
    mask[row] = False
    expected = made.search(made.rows(row), 30, where=mask).ids[0].tolist()
    assert [one["id"] for one in found[0]["found"]] == expected and "p4" not in expected
    assert found[0]["query"]["name"] == "Leaf 4"
    every = json.loads(succeed("search", index, "p4", "--k", "39", "--json"))[0]["found"]
    assert len(every) == 39 and "p4" not in [one["id"] for one in every]


def test_the_page_shows_names_texts_and_pictures(index: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the page is made with Jinja")
    page = tmp_path / "page.html"
    succeed("search", index, "p1", "--k", "39", "--html", page)
    html = page.read_text("utf-8")
    assert html.count('src="data:image/png;base64,') == 10  # with the query's own
    for number in range(20):
        assert f"&lt;b&gt;Note {number}&lt;/b&gt;, ünder" in html
    assert "<b>" not in html and not re.search(r"https?://|<script|<link|src=\"(?!data:)", html)
    assert html.index("Leaf 1<") < html.index("Query, photo")
    for one in Index.load(index).records(range(40)):  # the name, and the id too
        title = one.get("name", one["id"])
        assert html.count(f">{title}</h") == 1 and html.count(f">{one['id']}<") == 1


def test_a_page_leaves_out_what_is_no_small_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2", reason="the page is made with Jinja")
    secret, large = tmp_path / "secret.png", tmp_path / "large.png"
    secret.write_text("root:x:0:0")
    large.write_bytes(PNG[:8] + bytes(results.LARGEST))
    good = tmp_path / "good.png"
    good.write_bytes(PNG)
    paths = [str(path) for path in (secret, large, good, tmp_path, tmp_path / "gone.png", good)]
    search = Search({"id": 0}, [{"id": n, "score": 0, "picture": p} for n, p in enumerate(paths)])
    html = results_page("T", "a", [search])
    assert html.count("<img") == 2 and "4 pictures left out" in html and "root:x" not in html
    monkeypatch.setattr(results, "BUDGET", len(PNG))
    assert results_page("T", "a", [search]).count("<img") == 1


def test_a_modality_added_to_the_run_joins_and_the_rest_stays(leaves: Path, tmp_path: Path) -> None:
    run, out, x = leaves / "run", tmp_path / "index", f"{leaves / 'photo.npz'}:x"
    succeed("index", run, "photo", x, "--out", out)
    before = {file.name: file.read_bytes() for file in out.glob("*.safetensors")}
    smell = [f"{leaves / 'smell.npz'}:{key}" for key in "xy"]
    options = ("--hidden", "4", "--epochs", "1", "--no-report", "--no-progress")
    succeed("add-modality", run, "smell", *smell, *options)
    succeed("index", run, "smell", smell[0], "--out", out, "--append")
    after = {file.name: file.read_bytes() for file in out.glob("*.safetensors")}
    assert before.items() < after.items()
    found = json.loads(succeed("search", out, f"smell={smell[0]}", "--in", "photo", "--json"))
    assert {one["modality"] for one in found[0]["found"]} == {"photo"}
    assert [
        one["id"]
        for one in json.loads(succeed("search", out, "21", "--k", "99", "--json"))[0]["found"]
    ].count(21) == 0


def test_what_does_not_fit_is_refused(leaves: Path, index: Path, tmp_path: Path) -> None:
    run, x = leaves / "run", f"{leaves / 'photo.npz'}:x"
    before = {file.name: file.read_bytes() for file in index.iterdir()}
    photos = ("--ids", leaves / "photos.csv")
    assert "--append, or --overwrite" in refused("index", run, "photo", x, "--out", index)
    error = refused("index", run, "photo", x, "--out", index, "--append", *photos)
    assert "ids: expected new ids, got 'p0', which is there" in error
    error = refused("index", run, "photo", x, "--out", index, "--append")
    assert f"--ids: expected a table, as the ids of {index} are names, got none" in error
    error = refused("index", run, "taste", x, "--out", index, "--append", *photos)
    assert "modality: expected one of" in error
    other = "posterior" if Index.load(index).space == "cosine" else "cosine"
    error = refused("index", run, "photo", x, "--out", index, "--append", "--space", other)
    assert f"got '{other}'" in error
    error = refused("index", run, "photo", x, "--out", tmp_path, "--append")
    assert "holds no index to add to; without --append one is made" in error
    (tmp_path / "mine.txt").touch()
    for more in ([], ["--overwrite"]):
        error = refused("index", run, "photo", x, "--out", tmp_path, *more)
        assert "expected an index or an empty folder, got other files" in error
    tables = {
        "a,a\n" + "1,2\n" * 20: "column names, all different",
        "": "a line of column names",
        "id\n1\n": "expected 20 lines under the names, id, got 1",
        "id,name\n" + "1,2\n" * 19 + "3\n": "expected 2 columns, as named, got 1 in line 21",
        "id\n" + "1\n" * 20: "t.csv: expected unique ids, got '1' twice",
    }
    for text, message in tables.items():
        (tmp_path / "t.csv").write_text(text)
        given = ("--ids", tmp_path / "t.csv", "--out", tmp_path / "new")
        assert message in refused("index", run, "photo", x, *given)
        assert not (tmp_path / "new").exists()
    error = refused("search", index, "p99")
    assert f"expected an id of {index}, or MODALITY=FILE, got 'p99'; one id is 'p0'" in error
    file = str(leaves / "photo.npz")
    assert f"; features of a file are photo={file}" in refused("search", index, file)
    words = " ".join(refused("search", index, "note", file).split())
    assert f"beside it; features of a file are note={file}" in words
    assert "got 'sound'" in refused("search", index, "p1", "--in", "sound")
    assert "where: expected columns" in refused("search", index, "p1", "--where", "a=1")
    assert "expected COLUMN=VALUE" in refused("search", index, "p1", "--where", "a")
    assert "expected rows 0 to 19" in refused("search", index, f"photo={x}", "--query", "20")
    assert "expected one QUERY" in refused("search", index, "p1", "p2")
    assert "--split: expected a run" in refused("search", index, "p1", "--split", "test")
    assert "--json: expected an index" in refused("search", run, "photo", "note", "--json")
    assert "holds no index" in refused("search", run, "photo")
    other_run = tmp_path / "run"
    settings = [*SMALL, "--no-progress", "--seed", "5"]
    succeed("train", leaves / "leaves.toml", "--out", other_run, *settings)
    error = refused("index", other_run, "photo", x, "--out", index, "--append", *photos)
    assert "trained against another prior" in error
    error = refused("search", index, f"photo={x}", "--run", other_run)
    assert "trained against another prior" in error
    assert {file.name: file.read_bytes() for file in index.iterdir()} == before
    succeed("index", run, "photo", x, "--out", index.parent / "second")
    succeed("index", run, "photo", x, "--out", index.parent / "second", "--overwrite")
    assert len(Index.load(index.parent / "second")) == 20


def test_ids_that_do_not_fit_are_refused_before_anything_is_encoded(
    leaves: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*unused: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(sys.modules["drcl.cli.index"], "encoded", never)
    given = ("index", leaves / "run", "photo", f"{leaves / 'photo.npz'}:x", "--out")
    append = (*given, index, "--append")
    assert "--ids: expected a table" in refused(*append)
    assert "photos.csv: ids: expected new ids, got 'p0', which is there" in refused(
        *append, "--ids", leaves / "photos.csv"
    )
    (tmp_path / "twice.csv").write_text("id\n" + "1\n" * 20)
    assert "'1' twice" in refused(*given, tmp_path / "new", "--ids", tmp_path / "twice.csv")


def test_an_index_of_numbers_takes_whole_numbers_of_a_table(leaves: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "index", tmp_path / "t.csv"
    given = ("index", leaves / "run", "photo", f"{leaves / 'photo.npz'}:x", "--out", out)
    succeed(*given)
    numbers = [-5, 10**18, *range(100, 118)]
    table.write_text("id\n" + "".join(f"{n}\n" for n in numbers))
    assert "40 in all" in succeed(*given, "--append", "--ids", table)
    made = Index.load(out)
    assert [one["id"] for one in made.records(range(20, 40))] == numbers
    assert made.find([-5, 117]).tolist() == [20, 39] and made.id_type is int
    assert "-5, which is there" in refused(*given, "--append", "--ids", table)
    for wrong in ("p1", "01", "1.0", "1e3"):
        table.write_text("id\n" + "".join(f"{n}\n" for n in range(200, 219)) + wrong)
        error = refused(*given, "--append", "--ids", table)
        assert f"{table}: expected whole numbers, as the ids of {out} are, got {wrong!r}" in error
    table.write_text("id\n" + "".join(f"{n}\n" for n in range(200, 219)) + "9" * 19)
    assert "integers of 64 bits" in refused(*given, "--append", "--ids", table)
    assert len(Index.load(out)) == 40


def test_an_index_made_in_python_is_searched_with_the_run_that_is_given(
    leaves: Path, tmp_path: Path
) -> None:
    run, out = leaves / "run", tmp_path / "index"
    model, x = DRCL.load(run), np.load(leaves / "photo.npz")["x"]
    rows = model.encode("photo", x, space="cosine")
    Index(space="cosine").add(rows).save(out)
    query = f"photo={leaves / 'photo.npz'}:x"
    error = refused("search", out, query)
    assert f"{out}: expected --run, the run to encode queries with" in error and "None" not in error
    done = CliRunner().invoke(
        main, ["search", str(out), query, "--run", str(run), "--query", "3", "--json"]
    )
    assert f"{out} does not say which run encoded its rows; {run} is taken for it" in done.stderr
    found = json.loads(done.stdout)[0]["found"]
    assert [one["id"] for one in found] == Index.load(out).search(rows[3:4], 10).ids[0].tolist()
    more = ("index", run, "note", f"{leaves / 'note.npz'}:x", "--out", out, "--append")
    assert "40 in all" in succeed(*more)
    for space, width, message in (
        ("cosine", 3, "expected width 3, as"),
        ("posterior", 8, "got 2 in the space 'posterior'"),
        ("clip", 8, "got 'clip'; search it with ids or embeddings"),
    ):
        Index(space=space).add(torch.eye(width)).save(out, overwrite=True)
        assert message in refused("search", out, query, "--run", run)


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_encode_appends_and_overwrites_only_when_asked(
    leaves: Path, tmp_path: Path, suffix: str
) -> None:
    out, x = tmp_path / f"e.{suffix}", f"{leaves / 'photo.npz'}:x"
    given = ("encode", leaves / "run", "photo", x, "--out", out)
    succeed(*given)
    once = out.read_bytes()
    assert "is there already" in refused(*given) and out.read_bytes() == once
    assert "got both" in refused(*given, "--append", "--overwrite")
    assert "40 × 8 float32" in succeed(*given, "--append")
    succeed(*given, "--overwrite")
    assert out.read_bytes() == once
    if suffix != "npz":
        assert "ending in .npz" in refused(*given, "--ids", leaves / "photos.csv")
        return
    assert "expected no --ids" in refused(*given, "--append", "--ids", leaves / "photos.csv")
    succeed(*given, "--overwrite", "--ids", leaves / "photos.csv")
    assert "expected --ids" in refused(*given, "--append")
    assert "got one twice" in refused(*given, "--append", "--ids", leaves / "photos.csv")
    succeed(
        *given[:2],
        "note",
        f"{leaves / 'note.npz'}:x",
        *given[4:],
        "--append",
        "--ids",
        leaves / "notes.csv",
    )
    with np.load(out, allow_pickle=False) as file:
        assert file["ids"].tolist() == [f"{a}{n}" for a in "pn" for n in range(20)]
        assert file["embeddings"].shape == (40, 8)


def meanwhile(monkeypatch: pytest.MonkeyPatch, module: str, other: Callable[[], object]) -> None:
    """Let something happen while the next command encodes; it may be another command."""
    encoded = sys.modules[module].encoded

    def slower(*arguments: Any) -> Any:
        monkeypatch.setattr(sys.modules[module], "encoded", encoded)
        found = encoded(*arguments)
        other()
        return found

    monkeypatch.setattr(sys.modules[module], "encoded", slower)


@pytest.mark.parametrize("ids", [False, True])
def test_two_commands_append_to_one_index_and_nothing_is_lost(
    leaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: bool
) -> None:
    run, out = leaves / "run", tmp_path / "index"
    x = {name: f"{leaves / name}.npz:x" for name in ("photo", "note")}
    tables = {name: ("--ids", leaves / f"{name}s.csv") if ids else () for name in x}
    (tmp_path / "first.csv").write_text("id\n" + "".join(f"first {n}\n" for n in range(20)))
    first = ("--ids", tmp_path / "first.csv") if ids else ()
    succeed("index", run, "photo", x["photo"], "--out", out, *first)

    def append(name: str) -> str:
        return succeed("index", run, name, x[name], "--out", out, "--append", *tables[name])

    meanwhile(monkeypatch, "drcl.cli.index", lambda: append("note"))
    assert "20 rows of photo added, 60 in all" in append("photo")
    made, model = Index.load(out), DRCL.load(run)
    for start, name in ((20, "note"), (40, "photo")):
        rows = model.encode(name, np.load(leaves / f"{name}.npz")["x"])
        assert (made.rows(range(start, start + 20)) == rows).all()
    names = [one["id"] for one in made.records(range(20, 60))]
    assert names == (
        [f"n{n}" for n in range(20)] + [f"p{n}" for n in range(20)] if ids else list(range(20, 60))
    )


def test_what_was_made_meanwhile_is_not_replaced_unasked(
    leaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*given: object) -> None:
        error = refused(*given)
        assert "--overwrite it" in error and "overwrite=" not in error

    run, x, file = leaves / "run", f"{leaves / 'photo.npz'}:x", tmp_path / "photo.pt2"
    for command, module, out in (
        ("index", "drcl.cli.index", tmp_path / "index"),
        ("encode", "drcl.cli.retrieve", tmp_path / "e.npz"),
    ):
        given = (command, run, "photo", x, "--out", out)
        meanwhile(monkeypatch, module, functools.partial(succeed, *given))
        check(*given)
    export = sys.modules["drcl.cli.export"]
    monkeypatch.setattr(export, "FORMATS", {"pt2": lambda _: file.touch()})
    check("export", run, "photo", "--out", file)


def test_two_commands_append_to_one_file_and_nothing_is_lost(
    leaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out, model = leaves / "run", tmp_path / "e.npy", DRCL.load(leaves / "run")
    x = {name: f"{leaves / name}.npz:x" for name in ("photo", "note")}
    given = {name: ("encode", run, name, x[name], "--out", out) for name in x}
    succeed(*given["photo"])
    meanwhile(monkeypatch, "drcl.cli.retrieve", lambda: succeed(*given["note"], "--append"))
    assert "60 × 8" in succeed(*given["photo"], "--append")
    rows = [
        model.encode(name, np.load(leaves / f"{name}.npz")["x"])
        for name in ("photo", "note", "photo")
    ]
    assert np.array_equal(np.load(out), np.concatenate(rows))


@pytest.mark.parametrize("command", ["index", "encode"])
def test_a_command_waits_for_another_that_is_writing(
    leaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = tmp_path / "there"
    out = folder if command == "index" else folder / "e.npy"
    folder.mkdir()
    monkeypatch.setattr("drcl.index.folder.PATIENCE", 0.1)
    holder, say = contextlib.ExitStack(), output.say

    def said_once(message: str) -> None:
        say(message)
        threading.Timer(0.5, holder.close).start()

    def hold() -> None:
        holder.enter_context(locked(folder))
        monkeypatch.setattr(output, "say", said_once)

    module = "drcl.cli.index" if command == "index" else "drcl.cli.retrieve"
    meanwhile(monkeypatch, module, hold)
    x = f"{leaves / 'photo.npz'}:x"
    said = succeed(command, leaves / "run", "photo", x, "--out", out, "--no-progress")
    assert said.count(f"waiting for another process that is writing to {folder}\n") == 1
    assert len(np.load(out) if command == "encode" else Index.load(out)) == 20


def test_what_cannot_be_appended_to_is_refused_before_anything_is_encoded(
    leaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("drcl.cli.index", "drcl.cli.retrieve"):
        monkeypatch.setattr(sys.modules[module], "encoded", None)
    run, x = leaves / "run", f"{leaves / 'photo.npz'}:x"
    (tmp_path / "t.csv").write_text("id\n1\n")
    encode = ("encode", run, "photo", x, "--out", tmp_path / "e.npz", "--append")
    assert "expected a file to append to, got none" in refused(*encode)
    np.savez(tmp_path / "e.npz", embeddings=np.ones((1, 8), np.float32))
    table = ("--ids", leaves / "photos.csv")
    assert "expected no --ids" in refused(*encode, *table)
    index = ("index", run, "photo", x, "--out", tmp_path / "index")
    assert "expected 20 lines" in refused(*index, "--ids", tmp_path / "t.csv")


def test_an_id_on_the_command_line_is_the_text_that_is_printed(tmp_path: Path) -> None:
    ids = [1, -5, 0, 2**62]
    integers = Index().add(torch.eye(4), ids=ids, metadata={"n": [2, 2.0, "2", True]})
    integers.save(tmp_path / "integers")
    for one in ids:
        found = json.loads(succeed("search", tmp_path / "integers", "--json", "--", one))
        assert found[0]["query"]["id"] == one
    for other in ("01", "--5", "-0", "1.0", "+1", "\u0661", "1_0", " 1", "9" * 5000, "true"):
        error = refused("search", tmp_path / "integers", "--", other)
        assert f"QUERY: expected an id of {tmp_path / 'integers'}, or MODALITY=FILE" in error
    hint = "an id that begins with '-' goes last, after --"
    for one in ("-5", "--5"):
        assert hint in " ".join(refused("search", tmp_path / "integers", one).split())
    names = ["01", "1", "-x", "9" * 5000]
    Index().add(torch.eye(4), ids=names).save(tmp_path / "strings")
    for name in names:
        found = json.loads(succeed("search", tmp_path / "strings", "--json", "--", name))
        assert found[0]["query"]["id"] == name
    where = {
        "n=2": {-5, 0},  # the query, 1, does not find itself
        "n=2.0": {-5},
        "n=true": {2**62},
        "n=1e999": set(),
        "n=02": set(),
        "n=" + "9" * 5000: set(),
        "n=[2]": set(),
    }
    for condition, expected in where.items():
        options = ("--json", "--where", condition)
        found = json.loads(succeed("search", tmp_path / "integers", 1, *options))[0]["found"]
        assert {item["id"] for item in found} == expected, condition


def test_a_search_that_finds_nothing_says_so(index: Path) -> None:
    options = ("--in", "photo", "--where", "day=7", "--where", "name=x")
    said = "photo p1\nnothing found with --in photo --where day=7 --where name=x\n\n"
    assert succeed("search", index, "p1", *options) == said
    assert json.loads(succeed("search", index, "p1", *options, "--json"))[0]["found"] == []
    alone = index.parent / "alone"
    Index().add(torch.eye(1), ids=["x"]).save(alone)
    assert succeed("search", alone, "x") == "x\nnothing found\n\n"
