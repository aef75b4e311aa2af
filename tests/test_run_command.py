"""The command that a report shows trains with the settings of its run."""

from __future__ import annotations

import shlex

import pytest

from drcl import Config
from drcl.cli.settings import merge
from drcl.cli.train import train
from drcl.run.command import train_command
from drcl.train.config import PRESETS

CASES = {
    "defaults": Config(),
    **PRESETS,
    "by modality": Config(lr={"image": 1e-3, "text": 3e-5}, epochs={"image": 3, "text": 7}),
    "switches": Config(standardize=True, paper_compat=True, prior_norm=2.5, prior="orthogonal"),
    "seed": Config(seed=7, hidden=(64,), precision="bf16"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_gives_the_same_settings(name: str) -> None:
    config = CASES[name]
    words = shlex.split(train_command("leaves and trees.toml", "data", config.to_dict()))
    assert words[:3] == ["drcl", "train", "leaves and trees.toml"]
    context = train.make_context("train", words[2:], resilient_parsing=False)
    given = {k: v for k, v in context.params.items() if k in config.to_dict()}
    assert context.params["preset"] == "none" and context.params["data"] == "data"
    names = {"image", "text", *(config.lr if isinstance(config.lr, dict) else ())}
    assert merge(Config(), given, names) == config
