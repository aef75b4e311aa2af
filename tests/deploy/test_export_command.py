"""``drcl export``: the file, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner, Result

from drcl import DRCL
from drcl.cli import main


@pytest.fixture(scope="module")
def model() -> DRCL:
    settings = {**tiny.SETTINGS, "epochs": 1, "prior_epochs": 1, "standardize": True}
    return DRCL(**settings).fit(tiny.split(), progress=False)


@pytest.fixture
def run(model: DRCL, tmp_path: Path) -> Path:
    return model.save(tmp_path / "run")


def export(run: Path, *arguments: object) -> Result:
    words = ["export", str(run), "image", *map(str, arguments)]
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def refused(run: Path, *arguments: object) -> str:
    result = export(run, *arguments)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    return result.output.partition("Error: ")[2]


def test_the_file_gives_the_embeddings_and_is_not_replaced_unasked(model, run):
    out, x = run.parent / "image.pt2", torch.from_numpy(tiny.samples("image", 30)[0])
    result = export(run, "--out", out)
    assert result.exit_code == 0, result.output
    content = out.read_bytes()
    assert result.stdout == f"{out}: {len(content)} bytes\n"
    encoder = torch.export.load(out).module()
    assert torch.equal(encoder(x), model.encode("image", x))

    told = refused(run, "--out", out, "--space", "posterior")
    assert told == f"{out}: exists; choose another name, or --overwrite it\n"
    assert refused(run, "--out", out, "--overwrite", "--space", "moon")
    assert out.read_bytes() == content
    more = "--overwrite", "--space", "posterior", "--format", "pt2"
    assert export(run, "--out", out, *more).exit_code == 0
    expected = model.encode("image", x, space="posterior")
    assert torch.equal(torch.export.load(out).module()(x), expected)


def test_what_cannot_be_exported_leaves_no_file(run, monkeypatch):
    out = run.parent / "image.onnx"
    monkeypatch.setitem(sys.modules, "onnx", None)  # importing it fails
    assert "needs onnx" in refused(run, "--out", run.parent / "image", "--format", "onnx")
    for name, kind, ending in (("image.onnx", "pt2", "pt2"), ("image.PT2", "onnx", "onnx")):
        told = refused(run, "--out", run.parent / name, "--format", kind)
        assert f"{name}: expected a name ending in .{ending}, as --format says" in told
    told = refused(run, "--out", run.parent / "image.bin")
    assert "image.bin: expected a name ending in .onnx or .pt2, or --format" in told
    told = refused(run, "--out", out)
    assert told == "the ONNX format needs onnx; install it with: pip install 'drcl[export]'\n"
    assert "modality: expected one of" in CliRunner().invoke(
        main, ["export", str(run), "smell", "--out", str(run.parent / "smell.pt2")]
    ).output.replace("\n", " ")
    assert "holds no model" in refused(run.parent, "--out", out)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]
