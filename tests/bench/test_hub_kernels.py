"""The folder for Hugging Face's ``kernels`` loader: it stands alone, and computes the same."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import drcl

hub_kernels = pytest.importorskip(
    "drcl.benchmarks.hub_kernels", reason="the benchmarks are not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("hub") / "ops"
    hub_kernels.export(made)
    return made


def test_a_folder_that_holds_something_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["hub_kernels", str(tmp_path)])
    with pytest.raises(SystemExit, match="expected an empty folder or none, it holds something"):
        hub_kernels.main()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def loaded(variant: Path) -> ModuleType:
    """As the loader does it: a module under the name that metadata.json says."""
    name = json.loads((variant / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def results(ops: Any, backend: str) -> dict[str, Tensor]:
    """Values and gradients of every op, by the functions of this package or of that."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(12) % 4
    permutation = torch.randperm(12, generator=generator)
    weight = torch.linalg.qr(torch.randn(20, 4, generator=generator))[0]
    x = torch.randn(12, 20, generator=generator).requires_grad_()
    with ops.use_backend(backend):
        loss = ops.losses.ReversibleConsistencyLoss(ops.Prior(weight))
        parts = ops.functional.reversible_consistency_loss(
            x, ids, weight, q=0.4, lam=0.9, permutation=permutation
        )
        for name, value in {
            "module": loss(x, ids, q=0.4),
            **parts._asdict(),
            "mixup": ops.functional.mixup(x, ids, classes=4, lam=0.7, permutation=permutation)[0]
            .square()
            .sum(),
            "similarity": ops.functional.prior_similarity(x, weight, ids, q=0.4).loss,
        }.items():
            found[name] = value.detach()
            (found[f"{name}, gradient"],) = torch.autograd.grad(value, x, retain_graph=True)
    return found


# The ops of a second library in this process can take the registrations of ours with them.
@pytest.mark.long
@pytest.mark.parametrize("backend", hub_kernels.BACKENDS)
def test_it_computes_what_drcl_computes_beside_it(folder: Path, backend: str) -> None:
    ops = loaded(folder / "build" / f"torch-{backend}")
    assert ops.Prior is not drcl.Prior and ops.__version__ == drcl.__version__
    found, expected = results(ops, "eager"), results(drcl, "eager")
    assert len(found) == 14
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


IMPORTS = """
import importlib.util, json, re, sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

folder, out = map(Path, sys.argv[1:])
"""
ALONE = """
import importlib.abc

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("drcl", "safetensors", "tqdm", "click", "scipy"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refused())
ops = loaded(folder / "build" / "torch-cuda")
torch.save({backend: results(ops, backend) for backend in ("eager", "triton")}, out)
"""


@pytest.mark.long  # a process of its own, in which kernels are interpreted: ten seconds
def test_it_needs_nothing_of_an_installed_drcl(folder: Path, tmp_path: Path) -> None:
    """With the Triton kernels too, by their interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    run_alone(ALONE, folder, tmp_path / "found.pt", TRITON_INTERPRET="1")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, value in results(drcl, "eager").items():
        torch.testing.assert_close(found["eager"][name], value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found["triton"][name], value, rtol=1e-4, atol=1e-6)


def test_only_op_names_and_metadata_differ_between_builds(folder: Path) -> None:
    builds = [folder / "build" / f"torch-{backend}" for backend in hub_kernels.BACKENDS]
    # Not the bytecode of what another test imported.
    *names, source = (
        {path.relative_to(one) for path in one.rglob("*.*") if path.suffix != ".pyc"}
        for one in (*builds, folder / "torch-ext" / "drcl_ops")
    )
    own = {Path("_ops.py"), Path("metadata.json")}
    assert names[0] == names[1] == source | own
    texts = [{name: (one / name).read_text("utf-8") for name in source} for one in builds]
    assert texts[0] == texts[1]
    ids = {json.loads((one / "metadata.json").read_text())["id"] for one in builds}
    assert len(ids) == len(builds)
    joined = "".join(texts[0].values())
    assert not re.search(r"^\s*(?:from|import) drcl", joined, flags=re.M)
    assert "torch.ops.drcl" not in joined and 'op("drcl::' not in joined


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="expected an empty folder or none"):
        hub_kernels.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def run_alone(code: str, folder: Path, out: Path, **variables: str) -> None:
    """Code that has `results` and `loaded` from here, where no checkout is on the path.

    There the folder of kernels would be imported in the place of the package of that name.
    """
    own = Path(__file__).read_text("utf-8")
    functions = re.search(r"^def loaded.*?(?=^@pytest)", own, flags=re.S | re.M)
    assert functions is not None
    script = out.with_suffix(".py")
    script.write_text(IMPORTS + functions[0] + code, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, str(script), str(folder), str(out)]
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LOADER = """
import kernels
from kernels._rust import Build

ops = kernels.get_local_kernel(folder, backend="cpu")
assert Path(ops.__file__).parent.name == "torch-cpu"
assert kernels.get_loaded_kernels()[-1].module is ops
torch.save(results(ops, "eager"), out)

backends = ["cpu", "cuda"]
built_for = Build.open(folder).general.backends
assert [repr(one).lower().rpartition(".")[2] for one in built_for] == backends
for backend in backends:
    about = kernels.Metadata.read_from_file(folder / "build" / f"torch-{backend}" / "metadata.json")
    assert "drcl-ops" in repr(about.name) and about.version == 1 and about.license == "MIT"
    assert not about.python_depends

(code,) = re.findall("```python\\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
names = {}
exec(code.replace("FOLDER", str(folder)), names)
assert names["value"].isfinite() and names["value"].requires_grad
"""


@pytest.mark.slow
def test_the_loader_itself_takes_it(folder: Path, tmp_path: Path) -> None:
    try:
        importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("make peers installs kernels")
    run_alone(LOADER, folder, tmp_path / "found.pt")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, value in results(drcl, "eager").items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
