"""Models with a card, in a folder and on the hub: what is written, and what comes back."""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from drcl import DRCL, auto, portable
from drcl.data import CrossModalDataset, Labelled
from drcl.data.fingerprint import fingerprint
from drcl.model_card import _yaml, is_as_written

CLASSES = ("cat", "dog", "owl", "eel")
X, Y = tiny.samples("image", 8)


def splits(seed: int) -> dict[str, Labelled]:
    return {name: Labelled(x, y.astype(np.int64)) for name, (x, y) in tiny.split(seed).items()}


DATA = CrossModalDataset("tiny `set`", CLASSES, splits(0), {}, splits(7))


@pytest.fixture(scope="module")
def plain() -> DRCL:
    return DRCL(**tiny.SETTINGS, standardize=True, seed=3).fit(DATA.train, progress=False)


@pytest.fixture(scope="module")
def automatic() -> DRCL:
    return auto(DATA.train, seconds=1e-9, seed=4, device="cpu", progress=False)


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The card's head, in which every value is JSON here, and its text."""
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    lines = [line.partition(": ") for line in head.splitlines()]
    return {name: json.loads(value) for name, _, value in lines}, text


@pytest.mark.parametrize("which", ["plain", "automatic"])
def test_a_model_comes_back_with_a_true_card(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    folder = model.save_pretrained(tmp_path / "model", data=DATA, license="mit")
    assert folder == tmp_path / "model"
    loaded = DRCL.from_pretrained(str(folder))
    assert torch.equal(loaded.encode("image", X), model.encode("image", X))
    assert loaded.config == model.config and loaded.tried == model.tried

    head, text = card_of(folder)
    scores = loaded.evaluate(DATA.test)
    assert head["library_name"] == "drcl" and head["license"] == "mit"
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": DATA.name,
        "type": DATA.name,
        "args": {"fingerprint": fingerprint(DATA)},
    }
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    for measure, table in scores.items():
        assert values[f"{measure}, mean over pairs"] == round(table["mean"], 4)
    for pair in ("image->text", "text->image"):
        row = " | ".join(f"{scores[measure][pair]:.4f}" for measure in scores)
        assert f"| {pair} | {row} |" in text
    assert fingerprint(DATA) in text and f"seed: {model.config.seed}\n" in text
    assert "`` tiny `set` ``" in text and torch.__version__ in text
    assert ("hold rows of its training features" in text) == (which == "automatic")


def test_without_data_a_card_says_so(plain: DRCL, tmp_path: Path) -> None:
    head, text = card_of(plain.save_pretrained(tmp_path))
    assert set(head) == {"library_name", "tags"}
    assert text.count("Not recorded.") == 2
    one = CrossModalDataset("one", CLASSES, DATA.train, {}, {"image": DATA.test["image"]})
    head, text = card_of(plain.save_pretrained(tmp_path, data=one))
    assert "model-index" not in head and text.count("Not recorded.") == 1
    assert "|---|---|--:|\n| image | perceptron of" in text
    assert "where they find each other" in text
    assert fingerprint(one) in text


def test_a_card_of_one_modality_speaks_of_no_others(tmp_path: Path) -> None:
    one = {"image": DATA.train["image"]}
    text = card_of(DRCL(**tiny.SETTINGS).fit(one, progress=False).save_pretrained(tmp_path))[1]
    assert "Embeds image into a space where rows of one class find each other. Trained" in text
    assert "they find each other" not in text


def test_networks_of_the_user_are_named_and_given_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = {"image": nn.Linear(8, 16)}
    model = DRCL(**tiny.SETTINGS, networks=own).fit(DATA.train, progress=False)
    folder = model.save_pretrained(tmp_path)
    assert "| image | Linear, to be given as `networks` |" in card_of(folder)[1]
    with pytest.raises(ValueError, match="networks: modality 'image'"):
        DRCL.from_pretrained(folder)
    loaded = DRCL.from_pretrained(folder, networks=own)
    assert torch.equal(loaded.encode("image", X), model.encode("image", X))


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5, 6])
def test_a_card_never_stands_beside_another_model(
    failing: int, plain: DRCL, automatic: DRCL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of the renames that put files into their places."""
    automatic.save_pretrained(tmp_path)
    calls, replace = [], portable.replace

    def killed(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == failing:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(portable, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        plain.save_pretrained(tmp_path)
    monkeypatch.undo()
    loaded = DRCL.from_pretrained(tmp_path)
    assert loaded.config.seed in (3, 4)
    if (tmp_path / "README.md").exists():
        assert f"seed: {loaded.config.seed}\n" in card_of(tmp_path)[1]
    plain.save_pretrained(tmp_path)
    assert "seed: 3\n" in card_of(tmp_path)[1]
    with monkeypatch.context() as patch:
        patch.setattr(portable, "replace", lambda *arguments: calls.append(arguments))
        calls.clear()
        plain.save_pretrained(tmp_path / "new")
    assert len(calls) == 6  # all renames were tried


def test_a_file_that_is_no_card_is_kept(plain: DRCL, automatic: DRCL, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path)
    readme = tmp_path / "README.md"
    assert is_as_written(readme)
    readme.write_text(readme.read_text("utf-8").replace("seed: 3", "seed: best"), "utf-8")
    assert not is_as_written(readme)
    with pytest.raises(FileExistsError, match=r"README\.md: expected none, or a model card"):
        automatic.save_pretrained(tmp_path)
    assert DRCL.from_pretrained(tmp_path).config.seed == 3 and "best" in readme.read_text("utf-8")
    automatic.save(tmp_path)
    assert DRCL.load(tmp_path).config.seed == 4 and "best" in readme.read_text("utf-8")


def test_save_takes_the_card_of_an_older_model_away(
    plain: DRCL, automatic: DRCL, tmp_path: Path
) -> None:
    plain.save_pretrained(tmp_path)
    automatic.save(tmp_path)
    assert not (tmp_path / "README.md").exists() and DRCL.load(tmp_path).config.seed == 4


def test_any_name_gives_valid_yaml() -> None:
    name = 'a "b" \\ {c}: #d, é 😀'
    assert json.loads(_yaml("a b#:{},")) == "a b#:{},"
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert yaml.safe_load(f"name: {_yaml({'x': [name, 0.5]})}") == {"name": {"x": [name, 0.5]}}


class Hub(ModuleType):
    """A stand-in for huggingface_hub: repositories are folders, a snapshot links to blobs."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.made = root, {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.made.setdefault(repo_id, private)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], delete_patterns: Any
    ) -> None:
        there = self.root / "remote" / repo_id
        for file in there.rglob("*"):
            name = file.relative_to(there).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, one) for one in delete_patterns):
                file.unlink()
        for file in folder_path.rglob("*"):
            name = file.relative_to(folder_path).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, one) for one in allow_patterns):
                (there / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, there / name)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        there = self.root / "remote" / repo_id
        cache = self.root / "cache" / f"models--{repo_id.replace('/', '--')}"
        snapshot = cache / "snapshots" / (revision or "0123abcd")
        for number, file in enumerate(sorted(there.rglob("*"))):
            name = file.relative_to(there).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, one) for one in allow_patterns):
                (cache / "blobs").mkdir(parents=True, exist_ok=True)
                shutil.copy(file, cache / "blobs" / str(number))
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / name).symlink_to(cache / "blobs" / str(number))
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


def test_a_model_goes_to_the_hub_and_comes_back(
    plain: DRCL, automatic: DRCL, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    automatic.save_pretrained(folder, push_to="owner/model")
    plain.save_pretrained(folder, push_to="owner/model")
    assert hub.made == {"owner/model": True}  # private
    there = {file.name for file in (tmp_path / "remote").rglob("*") if file.is_file()}
    ours = {file.name for file in folder.rglob("*") if file.is_file()}
    assert there == ours - {"notes.txt"} and len(there) == 6
    for revision in (None, "v1"):
        loaded = DRCL.from_pretrained("owner/model", revision=revision)
        assert torch.equal(loaded.encode("image", X), plain.encode("image", X))


def test_a_file_from_the_hub_that_leads_elsewhere_is_refused(
    plain: DRCL, hub: Hub, tmp_path: Path
) -> None:
    plain.save_pretrained(tmp_path / "model", push_to="owner/model")
    snapshot = Path(hub.snapshot_download("owner/model", revision=None, allow_patterns=["*"]))
    (link,) = snapshot.glob("prior.*")
    outside = tmp_path / "secret"
    shutil.copy(link, outside)
    link.unlink()
    link.symlink_to(outside)
    hub.snapshot_download = lambda *_, **__: str(snapshot)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="expected files in the folder"):
        DRCL.from_pretrained("owner/model")


def test_bad_arguments(plain: DRCL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="push_to: expected OWNER/NAME, got 'model'"):
        plain.save_pretrained(tmp_path / "m", push_to="model")
    with pytest.raises(ValueError, match="license: expected a short name"):
        plain.save_pretrained(tmp_path / "m", license="as you like")
    with pytest.raises(TypeError, match=r"data: expected a drcl\.data\.CrossModalDataset"):
        plain.save_pretrained(tmp_path / "m", data=DATA.train)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"call fit\(\) first"):
        DRCL(**tiny.SETTINGS).save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(FileNotFoundError, match="holds no model"):
        DRCL.from_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="revision: expected None"):
        DRCL.from_pretrained(plain.save(tmp_path / "m"), revision="v1")
    for source in (None, 5):
        with pytest.raises(TypeError, match="source: expected a folder or OWNER/NAME, got "):
            DRCL.from_pretrained(source)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("mine")
    for save in (plain.save, plain.save_pretrained):
        with pytest.raises(FileExistsError, match=r"folder: expected a folder .* got .*file, a fi"):
            save(tmp_path / "file")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: DRCL.from_pretrained("owner/model"),
        lambda: plain.save_pretrained(tmp_path / "n", push_to="owner/model"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'drcl\[hub\]'"):
            call()
    assert not (tmp_path / "n").exists()  # the client is looked for first


class TestTheClientItself:
    @pytest.fixture
    def client(self) -> Any:
        return pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    def test_it_reads_the_card(self, client: Any, plain: DRCL, tmp_path: Path) -> None:
        folder = plain.save_pretrained(tmp_path, data=DATA, license="apache-2.0")
        card = client.ModelCard.load(folder / "README.md")
        assert card.data.license == "apache-2.0" and card.data.library_name == "drcl"
        found = {result.metric_name: result.metric_value for result in card.data.eval_results}
        expected = plain.evaluate(DATA.test)
        assert found == {
            f"{measure}, mean over pairs": round(table["mean"], 4)
            for measure, table in expected.items()
        }
        assert card.data.eval_results[0].dataset_name == DATA.name

    def test_it_finds_a_model_in_its_cache(
        self, client: Any, plain: DRCL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As it lays it out, without a network."""
        plain.save_pretrained(tmp_path / "remote" / "owner" / "model")
        commit = "0" * 40
        Hub(tmp_path).snapshot_download("owner/model", revision=commit, allow_patterns=["*"])
        refs = tmp_path / "cache" / "models--owner--model" / "refs"
        refs.mkdir()
        (refs / "main").write_text(commit)
        monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(client.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        loaded = DRCL.from_pretrained("owner/model")
        assert torch.equal(loaded.encode("image", X), plain.encode("image", X))

    def test_it_takes_what_it_is_given(self, client: Any) -> None:
        import inspect

        upload = inspect.signature(client.upload_folder).parameters
        assert {"repo_id", "folder_path", "allow_patterns", "delete_patterns"} <= set(upload)
        create = inspect.signature(client.create_repo).parameters
        assert {"repo_id", "private", "exist_ok"} <= set(create)
