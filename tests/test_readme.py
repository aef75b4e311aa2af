"""The README's Python runs as printed; its commands exist, and run on less work than printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from drcl.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
]
# What a command is cut down to here; each setting is one that the command has anyway.
SHORTER = ["--dim", "16", "--hidden", "32", "--epochs", "2", "--prior-epochs", "2"]


@pytest.mark.parametrize("code", PYTHON, ids=[code.splitlines()[0][:30] for code in PYTHON])
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    if "labels_one_hot @" in code:  # the form before: complete but for its inputs
        setup = (
            "import torch, torch.nn.functional as F\n"
            "W, q, x = torch.randn(32, 4), 0.5, torch.randn(8, 32)\n"
            "labels_one_hot = torch.eye(4)[torch.arange(8) % 4]\n"
        )
        exec(setup, names)
    exec(code, names)


@pytest.mark.slow
def test_before_and_after_are_the_same_loss():
    import torch

    import drcl

    names: dict[str, object] = {"torch": torch, "F": torch.nn.functional, "q": 0.5}
    names |= {"W": torch.randn(32, 4).double(), "x": torch.randn(8, 32).double()}
    ids = torch.arange(8) % 4
    names["labels_one_hot"] = torch.eye(4).double()[ids]
    exec(PYTHON[0], names)
    ours = drcl.losses.ReversibleConsistencyLoss(names["W"])(names["x"], ids, q=0.5)
    torch.testing.assert_close(ours, names["loss"])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.M), command


@pytest.mark.slow
def test_commands_run(tmp_path, monkeypatch, data_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRCL_DATA", str(data_root))
    runner = CliRunner()
    commands = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("drcl ")]
    assert {words[0] for words in commands} >= {"train", "search", "ablate"}
    for words in commands:
        extra = SHORTER if words[0] in ("train", "ablate") else []
        extra = [*extra, "--seeds", "1"] if words[0] == "ablate" else extra
        result = runner.invoke(main, [*words, *extra], catch_exceptions=False)
        assert result.exit_code == 0, result.output
