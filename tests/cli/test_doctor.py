"""What a newcomer types first: drcl doctor, drcl demo, and the key that completes a word."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from drcl import backends, portable
from drcl.cli import main

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = dict.fromkeys(["numpy", "safetensors", "tqdm", "click"], "3.1")
INSTALLED |= dict.fromkeys(["scipy", "h5py", "pyarrow", "scikit-learn"], "1.2")
INSTALLED["torch"] = "2.13.0+cpu"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def project():
    """This checkout's table of that name."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def machine(monkeypatch, tmp_path, project):
    """One with these packages, this checkout's requirements, no GPU and a data folder."""
    requires = list(project["dependencies"])
    for extra, names in project["optional-dependencies"].items():
        requires += [f'{name}; extra == "{extra}"' for name in names]
    installed = dict(INSTALLED)
    monkeypatch.setattr(metadata, "requires", lambda _: requires)
    monkeypatch.setattr(backends, "installed_version", installed.get)
    monkeypatch.setattr(portable, "nvidia_driver", lambda: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("DRCL_DATA", str(tmp_path))
    return installed


def lines(result: Result) -> dict[str, str]:
    """What was found -> its word and what was said."""
    rows = [re.split(r"  +", line) for line in result.output.split("\n\n")[0].splitlines()]
    return {name: f"{word}: {said}" for word, name, said in rows}


def remedies(result: Result) -> dict[str, str]:
    return dict(re.findall(r"^(\S.*):\n    (.*)$", result.output, flags=re.M))


def test_doctor_is_content_with_what_is_needed(machine, project, tmp_path):
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert found["torch"] == "ok: 2.13.0+cpu"
    assert found["extra data"] == "ok: scipy, h5py, pyarrow, scikit-learn"
    assert found["extra report"] == "without: not installed: matplotlib, jinja2"
    assert found["data folder"] == f"ok: {tmp_path.resolve()}"
    assert found["temporary folder"].startswith("ok: ")
    told = remedies(result)
    assert told["extra report"] == 'pip install "drcl[report]"'
    assert "data folder" not in told and "CUDA" not in told  # there is no GPU to be used
    extras = {name.removeprefix("extra ") for name in found if name.startswith("extra ")}
    developers = {"bench", "docs", "test", "fuzz", "lint", "release"}
    assert extras == project["optional-dependencies"].keys() - developers - {"full"}


def test_what_is_needed_and_missing_is_a_failure(machine, monkeypatch, tmp_path):
    machine |= {"torch": "2.9.1"}
    del machine["tqdm"]
    monkeypatch.setenv("DRCL_DATA", str(tmp_path / "none"))

    def full(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    result = invoke("doctor")
    assert result.exit_code == 1
    found, told = lines(result), remedies(result)
    assert found["torch"] == "MISSING: 2.9.1, expected 2.10 or newer"
    assert found["tqdm"] == "MISSING: not installed"
    assert "No usable temporary directory" in found["temporary folder"]
    assert told["torch"] == 'pip install --upgrade "torch>=2.10"'
    assert told["tqdm"] == 'pip install --upgrade "tqdm"'
    assert told["temporary folder"] == "export TMPDIR=FOLDER"
    assert told["data folder"] == "export DRCL_DATA=FOLDER"


def test_what_is_not_compiled_is_compiled_by_one_command(machine, monkeypatch):
    absent = backends.Backend(
        "native", False, f"the compiled ops are not built: {backends.REBUILD}"
    )
    monkeypatch.setattr(backends, "probe_native", lambda: absent)
    monkeypatch.setattr(shutil, "which", {"apt-get": "/usr/bin/apt-get"}.get)
    monkeypatch.setattr(portable, "nvidia_driver", lambda: "580.82")
    result = invoke("doctor")
    assert result.exit_code == 0
    said = "without: no C++ compiler 'c++'; the compiled ops are not built"
    assert lines(result)["compiled ops"] == said
    told = remedies(result)
    assert told["compiled ops"] == (
        "apt-get install g++ && pip install setuptools ninja && pip install --no-build-isolation "
        f'--no-deps --force-reinstall -e "{ROOT}"'
    )
    assert told["CUDA"] == "pip install --force-reinstall torch"


def test_a_checkout_that_is_not_installed(machine, monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert lines(result)["drcl"].startswith("without: imported from a folder")
    assert remedies(result)["drcl"].startswith("pip install --no-build-isolation")


@pytest.mark.parametrize("sklearn", [True, False])
def test_demo_trains_and_can_be_repeated(monkeypatch, tmp_path, sklearn):
    if not sklearn:
        real = util.find_spec
        monkeypatch.setattr(util, "find_spec", lambda n: real(n) if n != "sklearn" else None)
    monkeypatch.chdir(tmp_path)
    asked = []
    train = importlib.import_module("drcl.cli.train")
    monkeypatch.setattr(train, "_train", lambda options, given, *_: asked.append((options, given)))
    result = invoke("demo", "--no-progress")
    assert result.exit_code == 0, result.output
    ((options, given),) = asked
    assert options.dataset == ("digits" if sklearn else "synthetic")
    assert options.out == Path("runs", "digits-demo")
    assert options.overwrite and options.report and not options.progress and not options.resume
    assert ("scikit-learn is not installed" in result.output) is not sklearn
    assert given["epochs"] == (() if sklearn else ((None, 10),))


@pytest.mark.long
def test_demo_without_scikit_learn_takes_seconds_and_learns(monkeypatch, tmp_path):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    result = invoke("demo", "--no-progress", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["mAP@all"]["mean"] > 0.3  # ten classes: chance is 0.1


def test_make_demo_is_drcl_demo():
    assert "\ndemo: $(VENV)/.installed\n\t$(BIN)/drcl demo\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "words, expected",
    [
        ("drcl sea", {"search"}),
        ("drcl d", {"data", "demo", "doctor"}),
        ("drcl train --over", {"--overwrite"}),
        ("drcl score --test ", {"bootstrap", "permutation"}),
    ],
)
def test_words_are_completed(monkeypatch, words, expected):
    """As bash asks: the words of the line, and the place of the one that is begun."""
    monkeypatch.setenv("_DRCL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    result = CliRunner().invoke(main, prog_name="drcl")
    assert result.exit_code == 0
    assert {line.partition(",")[2] for line in result.output.splitlines()} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_every_documented_shell_can_be_had(monkeypatch, shell):
    page = (ROOT / "docs" / "installing.md").read_text("utf-8")
    assert f"_DRCL_COMPLETE={shell}_source drcl" in page
    monkeypatch.setenv("_DRCL_COMPLETE", f"{shell}_source")
    result = CliRunner().invoke(main, prog_name="drcl")
    assert result.exit_code == 0 and f"_DRCL_COMPLETE={shell}_complete" in result.output
