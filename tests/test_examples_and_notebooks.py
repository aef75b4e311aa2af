"""Scripts and notebooks in examples/ run as they are, and show what they claim to."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def run_notebook(name: str, changes: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """The code of the cells, in order, in one namespace."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, code in enumerate(code_cells(EXAMPLES / name)):
        for old, new in changes.items():
            code = code.replace(old, new)
        exec(compile(code, f"{name}, code cell {number}", "exec"), names)
    return names


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_loss_in_a_loop(monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    run_script("loss_in_a_loop.py", monkeypatch)
    found = dict(re.findall(r"mAP@all (\S+) +([\d.]+)", capsys.readouterr().out))
    assert set(found) == {"pixels->spectrum", "spectrum->pixels", "mean"}
    # Ten equally frequent classes: a random order has an mAP of 0.1.
    assert min(map(float, found.values())) > 0.7


def test_evaluate_embeddings_that_are_made_up(monkeypatch, capsys):
    run_script("evaluate_embeddings.py", monkeypatch)
    out = capsys.readouterr().out
    assert "A -> B: 300 queries, 200 gallery items" in out
    values = [float(value) for value in re.findall(r"mAP@all +([\d.]+)", out)]
    assert len(values) == 2 and min(values) > 0.3  # a random order: 0.1


def test_evaluate_embeddings_of_the_authors(monkeypatch, capsys, data_root):
    """Their saved Wikipedia embeddings; @all with ties by gallery index."""
    folder = data_root / "drcl_wikipedia_embeddings"
    if not folder.is_dir():
        pytest.skip(f"no embeddings at {folder}")
    pytest.importorskip("scipy", reason="MATLAB files are read with SciPy")
    sides = [f"{folder}/wiki_{i}.mat:{key}" for i in (0, 1) for key in ("test_fea", "test_lab")]
    run_script("evaluate_embeddings.py", monkeypatch, *sides)
    out = capsys.readouterr().out
    assert re.findall(r"mAP@all +([\d.]+)", out) == ["0.56192", "0.53759"]


def test_evaluate_embeddings_says_how_to_call_it(monkeypatch):
    with pytest.raises(SystemExit, match="A_LABELS"):
        run_script("evaluate_embeddings.py", monkeypatch, "one.npy")


def test_digit_files_become_an_index_and_a_page(monkeypatch, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("jinja2", reason="the page is made with Jinja")
    from click.testing import CliRunner

    from drcl import DRCL
    from drcl.cli import main
    from drcl.data import load

    run_script("digit_files.py", monkeypatch, str(tmp_path))
    data = load("digits")
    two = {name: data.train[name] for name in ("pixels", "strokes")}
    model = DRCL(dim=16, hidden=(16,), epochs=1, prior_epochs=1, device="cpu")
    model.fit(two, progress=False).save(tmp_path / "run")
    index = ["index", f"{tmp_path}/run", "pixels", f"{tmp_path}/pixels.npy"]
    index += ["--ids", f"{tmp_path}/pixels.csv", "--out", f"{tmp_path}/index"]
    for command in (index, ["explore", f"{tmp_path}/index", "--out", f"{tmp_path}/page.html"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 100 and '"classes":{"digit":["0",' in page


@pytest.mark.slow
def test_faiss_search(monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss is not installed")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    run_script("faiss_search.py", monkeypatch)
    out = capsys.readouterr().out
    same, error = re.search(r"same items ([\d.]+), scores within (\S+)", out).groups()
    # Items whose cosines are equal up to rounding may change places.
    assert float(same) > 0.99 and float(error) < 1e-5
    recall = re.search(r"recall of the exact 10 ([\d.]+)", out)
    assert recall is not None and float(recall[1]) > 0.9


@pytest.mark.slow
def test_notebook_on_embeddings(tmp_path):
    pytest.importorskip("matplotlib", reason="its curves are drawn with Matplotlib")
    names = run_notebook("evaluate_embeddings.ipynb", {}, tmp_path)
    assert names["report"].keys() == {"mAP@all", "mAP@50"}


@pytest.mark.slow
def test_notebook_on_wikipedia(tmp_path, monkeypatch, data_root, capsys):
    for library in ("matplotlib", "scipy", "sklearn"):
        pytest.importorskip(library, reason=f"the notebook needs {library}")
    monkeypatch.setenv("DRCL_DATA", str(data_root))
    names = run_notebook("wikipedia.ipynb", {"EPOCHS = 200": "EPOCHS = 3"}, tmp_path)
    assert len(names["found"]) == 7  # six pairs of three modalities, and their mean
    assert "EPOCHS = 200" in "".join(code_cells(EXAMPLES / "wikipedia.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
