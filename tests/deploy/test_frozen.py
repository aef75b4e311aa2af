"""``model.encoder``: the rows of ``encode``, from a module that runs anywhere PyTorch does."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from drcl import DRCL, Encoder, Prior, auto
from drcl.deploy import freeze, to_pt2
from drcl.ensemble import Ensemble, Scaling

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SPACES = ("cosine", "posterior")
ROWS = 1000
ROOT = Path(__file__).resolve().parents[2]


class OwnNetwork(nn.Module):
    """No encoder of the package: no unit length, no ``in_features``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.5), nn.Tanh(), nn.Linear(12, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.fixture(scope="module")
def models() -> dict[str, DRCL]:
    part = tiny.split()
    settings: dict[str, Any] = {**tiny.SETTINGS, "epochs": 2, "prior_epochs": 2}
    made = {
        "perceptron": DRCL(**settings),
        "standardized": DRCL(**settings, standardize=True, space="posterior"),
        "own network": DRCL(**settings, networks={"image": OwnNetwork()}),
    }
    for model in made.values():
        model.fit(part, part, progress=False)
    return {**made, "auto": auto(part, seconds=0.5, progress=False)}


MODELS = pytest.mark.parametrize("name", ["perceptron", "standardized", "own network", "auto"])


def features(count: int = ROWS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, 8, generator=generator) + 1


@MODELS
@pytest.mark.parametrize("space", SPACES)
def test_rows_are_those_of_encode_to_the_bit(models, name, space):
    model, x = models[name], features()
    encoder = models[name].encoder("image", space=space)
    expected = model.encode("image", x, space=space)
    assert torch.equal(encoder(x), expected)
    assert torch.equal(torch.jit.script(encoder)(x), expected)
    traced = torch.jit.trace(encoder, (x[:3],))
    assert torch.equal(traced(x), expected)
    torch.testing.assert_close(traced(x[:1]), expected[:1], rtol=0, atol=1e-6)


@MODELS
def test_the_space_is_that_of_the_model_unless_asked_for(models, name):
    model, x = models[name], features(5)
    other = SPACES[model.space == "cosine"]
    assert torch.equal(model.encoder("image")(x), model.encode("image", x))
    assert not torch.equal(model.encoder("image", space=other)(x), model.encode("image", x))


def mixed(root: bool) -> Ensemble:
    """An ensemble of every kind of part, none like the next."""
    network = Ensemble(tiny.every_kind_of_part(), Scaling.of(features(), root)).eval()
    network.temperatures.copy_(torch.tensor([0.5, 1.0, 2.0, 1.5]))
    network.shares.copy_(torch.tensor([0.2, 0.1, 0.4, 0.3]))
    return network


@pytest.mark.parametrize("root", [False, True])
def test_an_ensemble_of_every_kind_of_part(root):
    network, x = mixed(root), features()
    with torch.no_grad():
        expected = network(x).softmax(dim=1)
    encoder = freeze(network, None, (torch.eye(4), 1.0))
    assert torch.equal(encoder(x), expected)
    assert torch.equal(torch.jit.script(encoder)(x), expected)


def test_token_ids_stay_whole_numbers_and_other_rows_become_float32():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(9, 16)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.table(ids)
            return out

    ids = torch.randint(9, (6, 3))
    encoder = freeze(Words(), None, None)
    assert torch.equal(encoder(ids), torch.jit.script(encoder)(ids.int()))
    again = torch.export.load(io.BytesIO(to_pt2(encoder, example=ids))).module()
    assert torch.equal(again(ids[:5]), encoder(ids[:5]))
    with pytest.raises(ValueError, match="example: expected a batch of features"):
        to_pt2(encoder)

    encoder, x = freeze(Encoder(8, dim=4, hidden=(5,)), None, None), features(3)
    assert torch.equal(encoder(x.double()), encoder(x))
    assert torch.equal(encoder(x.int()), encoder(x.int().float()))


def test_rows_of_another_width_are_refused(models):
    for name in ("perceptron", "standardized", "auto"):
        encoder = models[name].encoder("image")
        for shape in ((2, 1), (2, 7), (8,), (), (2, 3, 8)):  # a single column could be broadcast
            message = rf"features: expected rows \(N, 8\), got {re.escape(str(shape))}"
            with pytest.raises(ValueError, match=message):
                encoder(torch.ones(shape))
            with pytest.raises(torch.jit.Error, match=message):
                torch.jit.script(encoder)(torch.ones(shape))


def test_a_row_that_is_not_finite_spoils_itself_alone(models):
    x = features(4)
    x[1, 2] = torch.nan
    for model in models.values():
        found = model.encoder("image")(x)
        assert found[1].isnan().all() and found[[0, 2, 3]].isfinite().all()


def test_it_is_a_copy_for_inference(models):
    for model in models.values():
        x = features(6)
        before = model.encode("image", x)
        with torch.inference_mode():
            encoder = model.encoder("image")
        assert not encoder.training
        assert not any(part.requires_grad for part in encoder.parameters())
        assert not any(part.is_inference() for part in encoder.state_dict().values())
        with torch.no_grad():
            for part in encoder.state_dict().values():
                part.fill_(0.5)
        assert torch.equal(model.encode("image", x), before)


def test_what_is_not_there_is_refused(models):
    with pytest.raises(ValueError, match="modality: expected one of"):
        models["auto"].encoder("smell")
    with pytest.raises(ValueError, match="space: expected one of"):
        models["auto"].encoder("image", space="euclidean")
    with pytest.raises(RuntimeError, match="call fit"):
        DRCL().encoder("image")


# PyTorch's own dependencies, as its metadata names them, with what these import.
ELSEWHERE = """
import sys

ALLOWED = {
    *("torch", "torchgen", "functorch", "numpy", "safetensors", *sys.stdlib_module_names),
    *("filelock", "typing_extensions", "setuptools", "sympy", "mpmath", "networkx", "jinja2"),
    *("markupsafe", "fsspec"),
}

class Only:
    finders = sys.meta_path[:]

    def find_spec(self, name, path=None, target=None):
        # Python's own table of how it was built is named after the platform.
        if name.partition(".")[0] in ALLOWED or name.startswith("_sysconfigdata"):
            for finder in self.finders:
                if (spec := finder.find_spec(name, path, target)) is not None:
                    return spec

sys.meta_path[:] = [Only()]
for name in ("drcl", "tqdm", "click", "scipy", "sklearn", "onnx"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} was imported")
import numpy, torch

x = numpy.load("features.npy")
rows = torch.from_numpy(x)
for name in ("standardized", "auto"):
    expected = torch.from_numpy(numpy.load(f"{name}.npy"))
    encoders = [torch.jit.load(f"{name}.ts")]
    if name == "auto":
        encoders.append(torch.export.load("auto.pt2").module())
    for encoder in encoders:
        assert torch.equal(encoder(rows), expected), name
        assert (encoder(rows[:1]) - expected[:1]).abs().max() <= 1e-6, name
print("without drcl")

ALLOWED.add("drcl")
from drcl import DRCL, Prior
for name in ("standardized", "auto"):
    model, expected = DRCL.load(name), torch.from_numpy(numpy.load(f"{name}.npy"))
    assert torch.equal(model.encode("image", x), expected), name
    assert torch.equal(model.encoder("image")(rows), expected), name
    assert model.search("image", x[:2], "image", x, k=3).indices.shape == (2, 3)
assert Prior.load("prior.safetensors").classes == (0, 1, 2, 3)
assert not {"tqdm", "click", "scipy", "sklearn"} & set(sys.modules)
print("with it alone")
"""


def test_files_run_without_drcl_and_encoding_needs_torch_numpy_and_safetensors_only(
    models, tmp_path
):
    """In a process where nothing else can be imported."""
    x = features()
    np.save(tmp_path / "features.npy", x.numpy())
    models["standardized"].prior.save(tmp_path / "prior.safetensors")
    for name in ("standardized", "auto"):
        model = models[name]
        encoder = model.encoder("image")
        torch.jit.script(encoder).save(tmp_path / f"{name}.ts")
        if name == "auto":  # of a perceptron, the command's test writes and reads one
            (tmp_path / "auto.pt2").write_bytes(to_pt2(encoder))
        model.save(tmp_path / name)
        np.save(tmp_path / f"{name}.npy", model.encode("image", x).numpy())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "without drcl\nwith it alone\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_prior_comes_back_from_its_file(dtype, tmp_path):
    weight = Prior.orthogonal(dim=9, classes=3).weight.to(dtype)
    prior = Prior(weight, classes=("ash", "birch", "cedar"), modality="image", score=0.75)
    again = Prior.load(prior.save(tmp_path / "prior.safetensors"))
    assert again.metadata() == prior.metadata()
    for name, buffer in prior.named_buffers():
        assert torch.equal(getattr(again, name), buffer)
    Prior(weight, classes=(4, 6, 8)).save(str(tmp_path / "prior.safetensors"))
    assert Prior.load(str(tmp_path / "prior.safetensors")).classes == (4, 6, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["prior.safetensors"]


def test_what_is_no_prior_is_refused(models, tmp_path):
    path = Prior.orthogonal(dim=9, classes=3).save(tmp_path / "prior.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"prior\.safetensors: expected a safetensors file"):
        Prior.load(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"prior\.safetensors: checksum mismatch"):
        Prior.load(path)
    model = models["perceptron"].save(tmp_path / "model")
    (encoder,) = (model / "encoders").glob("image*.safetensors")
    with pytest.raises(ValueError, match="expected a prior, got a file without 'weight'"):
        Prior.load(encoder)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            Prior.load(missing)
    with pytest.raises(OSError, match="cannot be written"):
        Prior.orthogonal(dim=9, classes=3).save(tmp_path)


@MODELS
@pytest.mark.parametrize("given", [np.ones((2, 8), np.float32), [[1.0] * 8], None])
def test_what_is_no_tensor_is_refused_by_name(models, name, given):
    kind = type(given).__name__
    with pytest.raises(TypeError, match=f"features: expected a tensor, got {kind}"):
        models[name].encoder("image")(given)
