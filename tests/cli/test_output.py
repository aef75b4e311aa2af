"""Where commands write: a file into a folder that is there, results into a folder of their own."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from drcl.cli import main
from drcl.cli.output import OutputFile

# Arguments before the option, and whether it names a folder. Nothing of them needs to exist but a
# folder: a path is refused before anything is read.
OUTPUTS = {
    ("evaluate", "--out"): False,
    ("encode", "--out"): False,
    ("export", "--out"): False,
    ("search", "--html"): False,
    ("explore", "--out"): False,
    ("train", "--out"): True,
    ("train", "--log-dir"): True,
    ("index", "--out"): True,
    ("score", "--out"): True,
    ("ablate", "--out"): True,
    ("compare", "--out"): True,
    ("bench", "--out"): True,
    ("demo", "--out"): True,
}
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
    assert found.keys() == OUTPUTS.keys()
    for option, is_folder in OUTPUTS.items():
        assert isinstance(found[option], OutputFile) != is_folder, option
        assert found[option].dir_okay == is_folder, option


@pytest.mark.parametrize(
    "command, option", [key for key, is_folder in OUTPUTS.items() if not is_folder]
)
def test_the_folder_of_a_file_must_exist(command: str, option: str, tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "file"):
        (tmp_path / "file").touch()
        out = folder / "out.npy"
        done = CliRunner().invoke(main, [command, *ARGUMENTS[command], option, str(out)])
        assert done.exit_code == 2
        words = " ".join(done.output.replace("\n", " ").split())
        assert f"{out}: expected a folder that exists, got {folder}" in words
        assert not folder.is_dir()
