"""Where commands write: a file into a folder that is there, results into a folder of their own."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from drcl import Index
from drcl.cli import main
from drcl.cli.output import OutputFile

FILES = [
    *(("evaluate", "--out"), ("encode", "--out"), ("export", "--out")),
    *(("search", "--html"), ("explore", "--out")),
]
FOLDERS = [
    *(("train", "--out"), ("train", "--log-dir"), ("index", "--out"), ("score", "--out")),
    *(("ablate", "--out"), ("compare", "--out"), ("bench", "--out")),
    ("demo", "--out"),
]
# Arguments before the option. Nothing of them needs to exist but a folder: a path is refused before
# anything is read.
ARGUMENTS = {
    "evaluate": ["."],
    "encode": [".", "image", "x.npy"],
    "export": [".", "image"],
    "search": [".", "query"],
    "explore": ["."],
}


def options() -> dict[tuple[str, str], click.Path]:
    """Every option of every command that takes the path of what need not exist."""
    return {
        (name, option.opts[0]): option.type
        for name, command in main.commands.items()
        for option in command.params
        if isinstance(option, click.Option)
        and isinstance(option.type, click.Path)
        and not option.type.exists
    }


def test_every_output_is_known() -> None:
    found = options()
    assert set(found) == {*FILES, *FOLDERS}
    for option, kind in found.items():
        assert isinstance(kind, OutputFile) == (option in FILES), option
        assert kind.dir_okay == (option in FOLDERS), option


@pytest.mark.parametrize("command, option", FILES)
def test_the_folder_of_a_file_must_exist(command: str, option: str, tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "file"):
        (tmp_path / "file").touch()
        out = folder / "out.npy"
        done = CliRunner().invoke(main, [command, *ARGUMENTS[command], option, str(out)])
        assert done.exit_code == 2
        words = " ".join(done.output.replace("\n", " ").split())
        assert f"{out}: expected a folder that exists, got {folder}" in words
        assert not folder.is_dir()


@pytest.mark.parametrize("command, option", FILES)
def test_of_a_link_the_folder_is_where_it_points(command: str, option: str, tmp_path: Path) -> None:
    link, folder = tmp_path / "out.npy", tmp_path / "new"
    link.symlink_to(folder / "out.npy")
    done = CliRunner().invoke(main, [command, *ARGUMENTS[command], option, str(link)])
    words = " ".join(done.output.replace("\n", " ").split())
    assert done.exit_code == 2 and f"expected a folder that exists, got {folder}" in words
    assert link.is_symlink() and not folder.is_dir()


@pytest.mark.parametrize("command, option", FILES[-2:])
def test_a_page_has_the_ending_of_a_page(command: str, option: str, tmp_path: Path) -> None:
    for ending in (".pdf", ".txt", ".json"):
        given = [command, *ARGUMENTS[command], option, str(tmp_path / f"page{ending}")]
        done = CliRunner().invoke(main, given)
        words = " ".join(done.output.split())
        assert done.exit_code == 2 and f"ending in .html, got '{ending}'" in words
    for name in (".html", ".HTM"):
        given = [command, *ARGUMENTS[command], option, str(tmp_path / name)]
        done = CliRunner().invoke(main, given)
        words = " ".join(done.output.split())
        assert done.exit_code == 2 and f"expected a name before its ending, got '{name}'" in words
    for name in ("page.HTM", "page"):
        done = CliRunner().invoke(
            main, [command, *ARGUMENTS[command], option, str(tmp_path / name)]
        )
        refusal = "expected an index to search" if command == "search" else "holds no index"
        assert refusal in done.output  # the name is taken, what is to be shown is not there


def test_a_command_writes_where_a_link_points(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the page is made with Jinja (extra 'report')")
    index = Index().add(torch.eye(2)).save(tmp_path / "index")
    page, link = tmp_path / "pages" / "page.html", tmp_path / "link.html"
    page.parent.mkdir()
    link.symlink_to(page)
    given = ["explore", str(index), "--out", str(link)]
    assert CliRunner().invoke(main, given).exit_code == 0
    assert link.readlink() == page and not page.is_symlink()
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert CliRunner().invoke(main, given).exit_code == 1  # it is there now
