"""ONNX files in onnxruntime: our rows to 1e-6, whatever their number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner

from drcl import DRCL, auto
from drcl.cli import main
from drcl.deploy import formats, freeze, to_onnx
from drcl.encoder import Encoder
from drcl.ensemble import Ensemble, Scaling

for module in ("onnx", "onnxscript", "onnxruntime"):
    reason = f"{module} is not installed; `make peers` installs it and runs this test"
    pytest.importorskip(module, reason=reason)

ROWS = 1000
SETTINGS = {**tiny.SETTINGS, "epochs": 2, "prior_epochs": 2}


def features() -> np.ndarray:
    return tiny.samples("image", ROWS, seed=3)[0]


def assert_equal(content: bytes | str, x: np.ndarray, expected: torch.Tensor) -> None:
    """All rows at once, one alone, and three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == ("features", ["rows", 8], "tensor(float)")
    assert (given.name, given.shape[0], given.type) == ("embeddings", "rows", "tensor(float)")
    for rows in (slice(None), slice(0, 1), slice(5, 8)):
        (found,) = session.run(None, {"features": x[rows]})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[rows].numpy(), rtol=0, atol=1e-6)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"features": x[:, :1]})


def test_the_command_writes_a_file_that_runs(tmp_path: Path) -> None:
    model = DRCL(**SETTINGS, standardize=True).fit(tiny.split(), progress=False)
    run, out = model.save(tmp_path / "run"), tmp_path / "image.onnx"
    words = ["export", str(run), "image", "--format", "onnx", "--out", str(out)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output == f"{out}: {out.stat().st_size} bytes\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.onnx", "run"]
    assert_equal(str(out), features(), model.encode("image", features()))


def test_an_ensemble_of_every_kind_of_part_on_roots() -> None:
    model, x = auto(tiny.split(), seconds=0.5, progress=False), features()
    scaling = Scaling.of(torch.from_numpy(x), root=True)
    model.encoders["image"] = Ensemble(tiny.every_kind_of_part(), scaling)
    assert model.space == "posterior"
    assert_equal(to_onnx(model.encoder("image")), x, model.encode("image", x))


def test_weights_that_no_file_holds_are_refused(monkeypatch: Any) -> None:
    encoder = freeze(Encoder(8, dim=4, hidden=(5,)), None, None)
    monkeypatch.setattr(formats, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="encoder: expected less than 2 GiB of weights for ONNX"):
        to_onnx(encoder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript; .*drcl\[export\]"):
        to_onnx(encoder)
