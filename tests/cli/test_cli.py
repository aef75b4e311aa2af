"""The command line: what each command prints and writes, and how it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from drcl import DRCL, Config, dispatch
from drcl.cli import main, settings
from drcl.cli.settings import attribute_help, merge, preset_for
from drcl.cli.tables import map_table
from drcl.data import CrossModalDataset, Labelled, load
from drcl.data import names as data_names
from drcl.run.added import AddedModality, read_added
from drcl.train.loop import Training

SMALL = [
    *("--dim", "16", "--hidden", "32", "--epochs", "2", "--prior-epochs", "2"),
    *("--batch-size", "32", "--no-progress"),
]
CLASSES = ("ash", "birch", "cedar")


def drcl_command(*arguments: object) -> Result:
    """Run ``drcl`` in this process; an exception that is no exit fails the test with its trace."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> str:
    result = drcl_command(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one error message of a command that must fail, without a traceback."""
    result = drcl_command(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    assert "Error: " in result.output
    return result.output.partition("Error: ")[2]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest: two unpaired modalities, three named classes; and files of a third modality."""
    folder = tmp_path_factory.mktemp("leaves")
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 4))
    arrays: dict[str, Any] = {}
    text = [f"classes = {json.dumps(CLASSES)}"]
    for modality, width, scale in (("photo", 6, 1), ("scan", 5, 2), ("smell", 7, 1)):
        view = random.normal(size=(4, width))
        for split, count in (("train", 30), ("validation", 12), ("test", 15)):
            y = np.arange(count * scale) % 3
            x = (centres[y] + 0.3 * random.normal(size=(len(y), 4))) @ view
            arrays |= {f"{modality}_{split}_x": x, f"{modality}_{split}_y": y}
            if modality != "smell":
                text.append(f"[{split}.{modality}]")
                text += [
                    f'{k} = "leaves.npz:{modality}_{split}_{k[0].replace("f", "x")}"'.replace(
                        '_l"', '_y"'
                    )
                    for k in ("features", "labels")
                ]
    np.savez(folder / "leaves.npz", **arrays)
    np.savez(folder / "names.npz", y=np.array(CLASSES)[arrays["smell_train_y"]])
    (folder / "leaves.toml").write_text("\n".join(text))
    return folder


@pytest.fixture(scope="module")
def trained(leaves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it work on a copy."""
    run = tmp_path_factory.mktemp("runs") / "run"
    succeed("train", leaves / "leaves.toml", "--out", run, *SMALL)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Raise KeyboardInterrupt when the named modality's encoder training begins."""
    original = Training.begin_epoch

    def at(modality: str) -> None:
        def begin_epoch(training: Training) -> None:
            if (training.phase.name, training.phase.modality) == ("encoder", modality):
                raise KeyboardInterrupt
            original(training)

        monkeypatch.setattr(Training, "begin_epoch", begin_epoch)

    yield at


class TestTrain:
    def test_run_directory_of_the_digits(self, tmp_path: Path) -> None:
        output = succeed("train", "digits", "--out", tmp_path / "run", *SMALL, "--seed", 3)
        run = tmp_path / "run"
        model = DRCL.load(run)
        assert model.modalities == ("pixels", "spectrum", "strokes")
        data = load("digits")
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics == model.evaluate(data.test, ks=(50,))
        assert list(metrics) == ["mAP@all", "mAP@50"]
        assert len(metrics["mAP@all"]) == 7 and "pixels->strokes" in metrics["mAP@50"]
        record = json.loads((run / "run.json").read_text())
        assert record["dataset"] == "digits" and record["settings"]["seed"] == 3
        assert set(record["seconds"]) == {"prior", "encoder"}
        assert set(record["versions"]) == {"drcl", "python", "torch", "numpy"}
        assert not (run / "checkpoints").exists()
        assert f"{metrics['mAP@all']['mean']:.3f}" in output
        assert output.splitlines()[-1] == f"report: {run / 'report' / 'report.html'}"
        assert (run / "report" / "report.html").is_file()

    def test_trained_model_equals_the_estimator_with_the_same_settings(
        self, leaves: Path, trained: Path
    ) -> None:
        data = load(str(leaves / "leaves.toml"))
        config = Config(dim=16, hidden=(32,), epochs=2, prior_epochs=2, batch_size=32)
        model = DRCL(config).fit(data.train, data.validation, progress=False)
        assert DRCL.load(trained).config == config
        np.testing.assert_array_equal(
            model.encode("photo", data.test["photo"].features),
            DRCL.load(trained).encode("photo", data.test["photo"].features),
        )

    def test_per_modality_values(self, leaves: Path, tmp_path: Path) -> None:
        succeed(
            *("train", leaves / "leaves.toml", "--out", tmp_path / "run", *SMALL, "--no-report"),
            *(
                "--lr",
                "5",
                "--lr",
                "scan=2e-3",
                "--lr",
                "1e-3",
                "--epochs",
                "scan=1",
                "--epochs",
                "photo=3",
            ),
        )
        config = DRCL.load(tmp_path / "run").config
        assert config.lr == {"photo": 1e-3, "scan": 2e-3}
        assert config.epochs == {"photo": 3, "scan": 1}
        assert not (tmp_path / "run" / "report").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--lr", "taste=1"], "lr: expected modalities of ['photo', 'scan'], got ['taste']"),
            (["--lr", "-1"], "lr: expected a number > 0, got -1.0"),
            (["--lr", "fast"], "'fast' is not a valid float"),
            (["--hidden", "32;32"], "expected whole numbers like 512,512"),
            (["--hidden", "3_2"], "expected whole numbers like 512,512"),
            (["--epochs", "0"], "epochs: expected an integer >= 1, got 0"),
            (["--device", "toaster"], "'toaster' cannot be used here"),
            (["--dim", "2"], "dim: expected at least 3, one direction"),
            (["--preset", "xmedia", "--dim", "16"], "lr: given for ['3d', 'audio', 'image'"),
            (["--selection", "luck"], "'luck' is not one of 'map', 'loss', 'last'"),
        ],
    )
    def test_bad_options(
        self, leaves: Path, tmp_path: Path, options: list[str], message: str
    ) -> None:
        error = refused("train", leaves / "leaves.toml", "--out", tmp_path / "run", *options)
        assert message in error
        assert not (tmp_path / "run").exists()

    def test_refused_settings_do_not_block_the_folder(
        self, leaves: Path, run: Path, tmp_path: Path
    ) -> None:
        train, before = ("train", leaves / "leaves.toml", "--no-report", "--out"), snapshot(run)
        for folder, more in ((tmp_path / "new", ()), (run, ("--overwrite",))):
            assert "dim: expected at least 3" in refused(*train, folder, "--dim", "2", *more)
            assert (snapshot(folder) if folder.exists() else {}) == (before if more else {})
            succeed(*train, folder, *SMALL, *more)

    def test_bad_data(self, tmp_path: Path) -> None:
        assert "got 'birds'" in refused("train", "birds", "--out", tmp_path / "a")
        missing = refused("train", "wikipedia", "--data", tmp_path, "--out", tmp_path / "a")
        assert "raw_features.mat" in missing and "Where to put it" in missing
        assert "no such file" in refused("train", tmp_path / "x.toml", "--out", tmp_path / "a")
        np.savez(tmp_path / "x.npz", x=np.full((4, 3), np.nan), y=np.arange(4) % 2)
        (tmp_path / "x.toml").write_text('[train.a]\nfeatures = "x.npz:x"\nlabels = "x.npz:y"\n')
        error = refused("train", tmp_path / "x.toml", "--out", tmp_path / "a")
        assert "NaN" in error and "row 0" in error
        assert not (tmp_path / "a").exists()

    def test_diverging_training_says_where(self, leaves: Path, tmp_path: Path) -> None:
        error = refused(
            *("train", leaves / "leaves.toml", "--out", tmp_path / "run", *SMALL),
            *("--lr", "1e38", "--epochs", "20"),
        )
        assert re.search(r"encoder photo: \w*loss is (nan|inf) .*epoch \d+", error)

    def test_one_modality_has_no_map(self, leaves: Path, tmp_path: Path) -> None:
        manifest = leaves / "alone.toml"
        manifest.write_text(
            f"classes = {json.dumps(CLASSES)}\n[train.photo]\n"
            'features = "leaves.npz:photo_train_x"\nlabels = "leaves.npz:photo_train_y"\n'
            '[test.photo]\nfeatures = "leaves.npz:photo_test_x"\n'
            'labels = "leaves.npz:photo_test_y"\n'
        )
        run, files = tmp_path / "run", leaves / "leaves.npz"
        output = succeed("train", manifest, "--out", run, *SMALL)
        assert "no mAP: no split holds labelled rows of two modalities" in output
        assert not (run / "metrics.json").exists()
        assert "expected a split with labelled rows" in refused("evaluate", run)
        succeed(
            *("add-modality", run, "smell", f"{files}:smell_train_x", f"{files}:smell_train_y"),
            *("--test", f"{files}:smell_test_x", f"{files}:smell_test_y", "--no-progress"),
        )
        metrics = json.loads((run / "metrics.json").read_text())
        assert set(metrics["mAP@all"]) == {"photo->smell", "smell->photo", "mean"}

    def test_measured_on_validation_without_a_test_split(
        self, leaves: Path, tmp_path: Path
    ) -> None:
        text = (leaves / "leaves.toml").read_text()
        manifest = leaves / "untested.toml"
        manifest.write_text(
            text[: text.index("[test.photo]")]
            + text[text.index("[train.scan]") : text.index("[test.scan]")]
        )
        output = succeed("train", manifest, "--out", tmp_path / "run", *SMALL, "--no-report")
        assert "validation split, rows are queries" in output


class TestRunDirectory:
    def test_a_finished_run_is_replaced_only_with_overwrite(self, leaves: Path, run: Path) -> None:
        before = snapshot(run)
        arguments = ("train", leaves / "leaves.toml", "--out", run, *SMALL)
        assert "holds a finished run" in refused(*arguments)
        assert "holds a finished run" in refused(*arguments, "--resume")
        assert snapshot(run) == before
        succeed(*arguments, "--seed", "5", "--overwrite", "--no-report")
        assert DRCL.load(run).config.seed == 5
        assert not (run / "report" / "report.html").exists()  # it showed the model before

    def test_overwriting_keeps_the_users_files_in_the_report_folder(
        self, leaves: Path, run: Path
    ) -> None:
        mine = {"notes.html": b"notes", "holiday.png": b"picture"}
        for name, content in mine.items():
            (run / "report" / name).write_bytes(content)
        (run / "report" / "prints.png").mkdir()
        arguments = ("train", leaves / "leaves.toml", "--out", run, *SMALL)
        succeed(*arguments, "--overwrite", "--no-report")
        assert snapshot(run / "report") == mine and (run / "report" / "prints.png").is_dir()

    def test_another_folder_is_left_alone(self, leaves: Path, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "mine.safetensors").write_bytes(b"precious")
        before = snapshot(tmp_path)
        for extra in ((), ("--overwrite",), ("--resume",)):
            error = refused("train", leaves / "leaves.toml", "--out", tmp_path, *SMALL, *extra)
            assert "expected a run or an empty directory" in error
        assert snapshot(tmp_path) == before

    def test_interrupted_and_resumed(
        self, leaves: Path, trained: Path, tmp_path: Path, interrupt: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        manifest, run = leaves / "leaves.toml", tmp_path / "my run"
        interrupt("scan")
        result = drcl_command("train", manifest, "--out", run, *SMALL)
        assert result.exit_code == 130
        last = result.output.splitlines()[-1]
        assert last == f"interrupted; continue with: drcl train {manifest} --out '{run}' --resume"
        assert not (run / "run.json").exists()
        monkeypatch.undo()

        assert "this run was interrupted" in refused("report", run)
        assert "with --resume, or --overwrite" in refused("train", manifest, "--out", run, *SMALL)
        error = refused("train", manifest, "--out", run, *SMALL, "--resume", "--alpha", "0.5")
        assert "cannot resume, the interrupted run differs in alpha; resume it" in error
        assert error.endswith("or --overwrite it\n")
        both = ("--resume", "--overwrite", "--alpha", "0.5")
        error = refused("train", manifest, "--out", run, *SMALL, *both)
        assert error.endswith("or --overwrite it without --resume\n")

        # The settings come from the interrupted run, and it ends as if nothing had happened.
        output = succeed("train", manifest, "--out", run, "--resume", "--no-progress")
        assert "preset: the interrupted run" in output
        assert not (run / "checkpoints").exists()
        ours, theirs = snapshot(run), snapshot(trained)
        models = [name for name in theirs if name.endswith(".safetensors")]
        assert len(models) == 3
        assert all(ours[name] == theirs[name] for name in models)

    @pytest.mark.parametrize("command", ["train", "add-modality"])
    def test_a_run_has_one_writer(
        self, leaves: Path, run: Path, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, said, original = leaves / "leaves.npz", [], Training.begin_epoch
        commands: dict[str, tuple[object, ...]] = {
            "train": ("train", leaves / "leaves.toml", "--out", run, "--overwrite", *SMALL),
            "add-modality": (
                *("add-modality", run, "smell", f"{file}:smell_train_x", f"{file}:smell_train_y"),
                *("--no-progress", "--no-report"),
            ),
        }

        def begin_epoch(training: Training) -> None:
            if not said:  # the first one has begun: now the others come
                before = snapshot(run)
                said.extend(refused(*arguments) for arguments in commands.values())
                assert snapshot(run) == before
            original(training)

        monkeypatch.setattr(Training, "begin_epoch", begin_epoch)
        succeed(*commands[command])
        assert said == [f"{run}: another process is writing to it\n"] * 2
        succeed("evaluate", run)

    def test_an_interrupted_overwrite_leaves_the_old_run(
        self, leaves: Path, run: Path, interrupt: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = snapshot(run)
        interrupt("scan")
        arguments = ("train", leaves / "leaves.toml", "--out", run, *SMALL, "--seed", "5")
        assert drcl_command(*arguments, "--overwrite").exit_code == 130
        monkeypatch.undo()
        after = snapshot(run)
        assert {name: after[name] for name in before} == before
        succeed("evaluate", run)
        succeed(*arguments, "--resume")
        assert DRCL.load(run).config.seed == 5

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ("config.json", "expected model format 1, got 99"),
            ("run.json", "expected run format 1, got 99"),
        ],
    )
    def test_of_another_version(self, run: Path, file: str, message: str) -> None:
        values = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**values, "format": 99}))
        assert message in refused("evaluate", run)

    def test_damage_is_refused_by_file(self, run: Path, leaves: Path) -> None:
        (run / "run.json").write_text('{"format": 1}')
        assert "run.json: checksum mismatch" in refused("evaluate", run)
        (run / "run.json").write_text('{"form')
        assert "not a valid run.json" in refused("evaluate", run)
        (run / "run.json").unlink()
        assert "holds no run (no run.json)" in refused("evaluate", run)
        encoder = next((run / "encoders").glob("photo.*"))
        encoder.write_bytes(encoder.read_bytes()[:-1])
        error = refused("encode", run, "photo", "x.npy", "--out", run / "e.npy")
        assert "truncated or damaged" in error

    def test_needs_a_run(self, tmp_path: Path) -> None:
        assert "does not exist" in refused("evaluate", tmp_path / "nowhere")
        assert "holds no run" in refused("evaluate", tmp_path)


class TestEvaluate:
    def test_prints_the_metrics_and_writes_nothing(self, run: Path) -> None:
        before = snapshot(run)
        metrics = json.loads((run / "metrics.json").read_text())
        assert map_table(metrics) in succeed("evaluate", run)
        assert snapshot(run) == before

    def test_other_cutoffs_and_split(self, leaves: Path, run: Path, tmp_path: Path) -> None:
        out = tmp_path / "validation.json"
        succeed("evaluate", run, "--split", "validation", "--k", 5, "--k", 7, "--out", out)
        expected = DRCL.load(run).evaluate(load(str(leaves / "leaves.toml")).validation, ks=(5, 7))
        assert json.loads(out.read_text()) == expected

    def test_data_elsewhere(self, leaves: Path, run: Path, tmp_path: Path) -> None:
        moved = Path(shutil.copytree(leaves, tmp_path / "moved")) / "leaves.toml"
        assert "mean" in succeed("evaluate", run, "--data", moved)
        moved.write_text(moved.read_text().replace("ash", "elm"))
        assert "expected the classes of the run" in refused("evaluate", run, "--data", moved)


class TestEncodeAndSearch:
    @pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
    def test_encode(self, leaves: Path, run: Path, tmp_path: Path, suffix: str) -> None:
        out = tmp_path / f"embeddings.{suffix}"
        succeed("encode", run, "photo", f"{leaves / 'leaves.npz'}:photo_test_x", "--out", out)
        if suffix == "safetensors":
            found = load_file(out)["embeddings"]
        else:
            found = np.load(out, allow_pickle=False)
            found = found["embeddings"] if suffix == "npz" else found
        features = np.load(leaves / "leaves.npz")["photo_test_x"].astype(np.float32)
        assert found.dtype == np.float32 and found.shape == (15, 16)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(found, DRCL.load(run).encode("photo", features))

    def test_encode_refuses(self, leaves: Path, run: Path, tmp_path: Path) -> None:
        file, out = leaves / "leaves.npz", tmp_path / "e.npy"
        good = f"{file}:photo_test_x"
        assert "got 'taste'" in refused("encode", run, "taste", good, "--out", out)
        error = refused("encode", run, "photo", f"{file}:scan_test_x", "--out", out)
        assert "expected rows of shape (6,), got (5,)" in error
        error = refused("encode", run, "photo", f"{file}:photo_test_y", "--out", out)
        assert "expected rows of numbers (N, d)" in error
        assert "got 'z'" in refused("encode", run, "photo", f"{file}:z", "--out", out)
        assert "ending in .npy" in refused("encode", run, "photo", good, "--out", "e.txt")
        assert not out.exists()

    def test_search_ranks_by_cosine(self, leaves: Path, run: Path) -> None:
        data, model = load(str(leaves / "leaves.toml")), DRCL.load(run)
        query = model.encode("photo", data.test["photo"].features)[4].numpy()
        gallery = model.encode("scan", data.test["scan"].features).numpy()
        expected = np.argsort(-(gallery @ query), kind="stable")[:3]
        lines = succeed("search", run, "photo", "scan", "--query", 4, "--k", 3).splitlines()
        assert lines[0] == "photo row 4: birch"
        found = [line.replace("*", "").split() for line in lines[2:5]]
        assert [int(cells[1]) for cells in found] == expected.tolist()
        assert [float(cells[2]) for cells in found] == pytest.approx(
            (gallery @ query)[expected], abs=5e-4
        )
        names = [CLASSES[data.test["scan"].labels[index]] for index in expected]
        assert [cells[3] for cells in found] == names
        assert ["*" in line for line in lines[2:5]] == [name == "birch" for name in names]

    def test_search_refuses(self, run: Path) -> None:
        error = refused("search", run, "photo", "scan", "--query", "15")
        assert "expected rows 0 to 14 of photo, got 15" in error
        assert "got 'taste'" in refused("search", run, "photo", "taste")


class TestAddModality:
    @pytest.fixture
    def smell(self, leaves: Path) -> tuple[str, ...]:
        file = leaves / "leaves.npz"
        return ("smell", f"{file}:smell_train_x", f"{leaves / 'names.npz'}:y")

    def test_adding_a_modality_leaves_the_others_unchanged(
        self, leaves: Path, run: Path, smell: tuple[str, ...]
    ) -> None:
        before, file = snapshot(run), leaves / "leaves.npz"
        output = succeed(
            *("add-modality", run, *smell, "--lr", "1e-3", "--epochs", "smell=3"),
            *("--test", f"{file}:smell_test_x", f"{file}:smell_test_y", "--no-progress"),
        )
        assert output.splitlines()[-1].startswith("report: ")
        after = snapshot(run)
        kept = [n for n in before if n.startswith(("encoders/", "prior."))]
        assert len(kept) == 3
        assert all(after[name] == before[name] for name in kept)
        model = DRCL.load(run)
        assert model.modalities == ("photo", "scan", "smell")
        assert len([r for r in model.history if r["modality"] == "smell"]) == 3
        metrics = json.loads((run / "metrics.json").read_text())
        assert len(metrics["mAP@all"]) == 7
        old = json.loads(before["metrics.json"])
        assert metrics["mAP@all"]["photo->scan"] == old["mAP@all"]["photo->scan"]
        assert map_table(metrics) in succeed("evaluate", run)
        assert "smell row 2: cedar" in succeed("search", run, "smell", "photo", "--query", "2")

    def test_without_test_rows_it_is_trained_and_not_measured(
        self, run: Path, smell: tuple[str, ...]
    ) -> None:
        old = json.loads((run / "metrics.json").read_text())
        succeed("add-modality", run, *smell, "--no-progress", "--no-report")
        assert json.loads((run / "metrics.json").read_text()) == old
        history = [r for r in DRCL.load(run).history if r["modality"] == "smell"]
        assert all("validation_map" in record for record in history)  # a tenth was held out

    def test_refuses_and_changes_nothing(
        self, leaves: Path, run: Path, smell: tuple[str, ...], tmp_path: Path, interrupt: Any
    ) -> None:
        before = snapshot(run)
        name, features, labels = smell
        assert "name: expected one that is not in" in refused(
            "add-modality", run, "photo", features, labels
        )
        assert "expected a name of" in refused("add-modality", run, "../x", features, labels)
        error = refused("add-modality", run, name, features, f"{leaves}/leaves.npz:scan_train_y")
        assert "expected 30 ids, names or rows, got shape (60,)" in error
        np.save(tmp_path / "y.npy", np.full(30, "oak"))
        error = refused("add-modality", run, name, features, tmp_path / "y.npy")
        assert "row 0 has label 'oak', which is none of the 3 classes" in error
        error = refused("add-modality", run, *smell, "--lr", "taste=1")
        assert "lr: expected modalities of ['smell'], got ['taste']" in error
        wide = f"{leaves}/leaves.npz:photo_test_x", f"{leaves}/leaves.npz:photo_test_y"
        result = drcl_command("add-modality", run, *smell, "--test", *wide)
        assert "test/smell features: expected width" in result.output
        assert "settings:" not in result.output  # it is said before anything is trained
        interrupt("smell")
        result = drcl_command("add-modality", run, *smell, "--no-progress")
        assert result.exit_code == 130
        assert result.output.splitlines()[-1] == f"interrupted; {run} is as it was before"
        assert snapshot(run) == before

    def test_numbers_are_names_where_the_names_are_numbers(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).normal(size=(20, 4))
        y = np.where(np.arange(20) % 2, 7, 3)
        np.savez(tmp_path / "a.npz", x=x, y=y)
        (tmp_path / "a.toml").write_text(
            "\n".join(
                f'[{split}.a]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'
                for split in ("train", "validation", "test")
            )
        )
        run, rows = tmp_path / "run", f"{tmp_path / 'a.npz'}:x"
        succeed("train", tmp_path / "a.toml", "--out", run, *SMALL)
        labels = f"{tmp_path / 'a.npz'}:y"
        succeed("add-modality", run, "b", rows, labels, "--test", rows, labels, "--no-progress")
        assert "b row 1: 7" in succeed("search", run, "b", "a", "--query", "1")
        np.save(tmp_path / "ids.npy", np.arange(20) % 2)
        error = refused("add-modality", run, "c", rows, tmp_path / "ids.npy")
        assert "row 0 has label 0, which is none of the 2 classes" in error

    def test_numbers_are_those_of_the_manifests_table(self, tmp_path: Path) -> None:
        y = np.arange(30) % 3 - 1
        np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(30, 4)), y=y)
        (tmp_path / "a.toml").write_text(
            'classes = { -1 = "no", 0 = "maybe", 1 = "yes" }\n'
            '[train.a]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'
        )
        data = load(tmp_path / "a.toml")
        file = str(tmp_path / "a.npz")
        added = read_added(
            AddedModality((f"{file}:x", f"{file}:y"), test=(f"{file}:x", f"{file}:y")), data
        )
        assert added["test"].labels.tolist() == (y + 1).tolist()

    def test_a_negative_number_is_a_name_like_any_other(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.eye(4)[[0, 1, 2, 0]], y=[1, -5, 0, 1])
        files = AddedModality((f"{tmp_path / 'a.npz'}:x", f"{tmp_path / 'a.npz'}:y"))
        part = {"a": Labelled(np.eye(3, dtype=np.float32), np.arange(3))}
        data = CrossModalDataset("signed", ("-5", "0", "1"), part, {}, {})
        added = read_added(dataclasses.replace(files, test=files.train), data)
        assert added["test"].labels.tolist() == [2, 0, 1, 2]


def test_a_run_of_a_missing_device_asks_for_another(
    leaves: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DRCL.load(run)
    model.config = dataclasses.replace(model.config, device="cuda:99")
    model.save(run)
    before, file = snapshot(run), leaves / "leaves.npz"
    smell = ("smell", f"{file}:smell_train_x", f"{file}:smell_train_y")
    commands: list[tuple[object, ...]] = [
        ("evaluate", run),
        ("encode", run, "photo", f"{file}:photo_test_x", "--out", tmp_path / "e.npy"),
        ("search", run, "photo", "scan"),
        ("report", run),
        ("add-modality", run, *smell, "--test", *smell[1:], "--epochs", "1", "--no-progress"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "begin_epoch", lambda _: pytest.fail("it was trained"))
        for command in commands:
            error = refused(*command)
            assert "device: expected one that is here, got 'cuda:99'" in error
            assert error.count("\n") == 1
            assert "choose another with --device" in error
    assert snapshot(run) == before
    for command in commands:
        succeed(*command, "--device", "cpu")
    stored = DRCL.load(run)
    assert stored.modalities == ("photo", "scan", "smell") and stored.config.device == "cuda:99"


class TestSettings:
    def test_every_setting_is_an_option_with_its_default(self) -> None:
        output = CliRunner().invoke(main, ["train", "--help"], terminal_width=300).output
        words = attribute_help()
        for field in dataclasses.fields(Config):
            assert len(words[field.name]) > 10
            assert f"--{field.name.replace('_', '-')} " in output
        assert "[default: 4096,4096]" in output and "--no-paper-compat" in output
        assert all(f" {name}" in output for name in data_names())

    def test_words_name_what_is_set(self) -> None:
        words = attribute_help()
        assert words["prior_epochs"].startswith("Epochs of prior learning")
        assert words["lr"].startswith("Learning rate of encoder training")

    def test_add_modality_names_no_defaults_for_what_it_takes_from_the_run(self) -> None:
        output = CliRunner().invoke(main, ["add-modality", "--help"], terminal_width=300).output
        of_the_run = output.partition("--hidden")[2].partition("--data")[0]
        assert "--epochs INTEGER" in of_the_run and "--lr FLOAT" in of_the_run
        assert "[default" not in of_the_run and "MODALITY=" not in of_the_run

    def test_options_win_over_the_preset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        preset = Config(dim=32, lr={"a": 0.1, "b": 0.2}, epochs=7, standardize=True, prior_norm=2.0)
        monkeypatch.setitem(settings.PRESETS, "mine", preset)
        assert preset_for("mine", None) == ("mine", preset)
        assert preset_for("mine", "none") == ("none", Config())
        assert preset_for("other", "mine") == ("mine", preset)
        given = {
            "lr": ((("a"), 0.5),),
            "epochs": ((None, 9), ("b", 3)),
            "standardize": False,
            "prior_norm": "none",
            "dim": None,
            "batch_size": (),
        }
        assert merge(preset, given, ["a", "b"]) == Config(
            dim=32, lr={"a": 0.5, "b": 0.2}, epochs={"a": 9, "b": 3}
        )

    def test_presets_of_sets_with_another_name_exist(self) -> None:
        assert set(settings.PRESET_OF.values()) <= set(settings.PRESETS)


def test_report_is_rebuilt(run: Path) -> None:
    page = run / "report" / "report.html"
    page.write_text("old")
    assert succeed("report", run) == f"report: {page}\n"
    assert "mAP@50" in page.read_text()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ("1024 2048 10", ["rows by rows, 1024×1024", "the prior's, 10 of 2048"]),
        ("4096 512 10", ["features by features, 512×512", "the prior's, 10 of 512"]),
        ("32 2048 2048", ["rows by rows, 32×32", "the whole", "products"]),
    ],
)
def test_info_says_how_the_loss_is_computed(sizes: str, expected: list[str]) -> None:
    said = succeed("info", "--loss", *sizes.split())
    assert not [words for words in expected if words not in said]


def test_info_and_version() -> None:
    assert "reference" in succeed("info")
    assert succeed("--version").startswith("drcl, version ")


@pytest.mark.parametrize(("backend", "said"), [("triton", "no chip"), ("fortran", "expected one")])
def test_a_backend_that_cannot_be_used_is_said_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, backend: str, said: str
) -> None:
    dispatch.explain(torch.device("cpu"))  # the machine is looked at once
    monkeypatch.setitem(dispatch._probed, "triton", "no chip")
    monkeypatch.setenv("DRCL_BACKEND", backend)
    for command in (["info"], ["evaluate", run]):
        text = refused(*command)
        assert text.startswith("DRCL_BACKEND: ") and said in text and text.count("\n") == 1
    assert "linear-memory" in drcl_command("info").output  # what there is, is shown all the same


def test_impossible_memory_is_a_one_line_error(leaves: Path, tmp_path: Path) -> None:
    train = ("train", leaves / "leaves.toml", "--out", tmp_path / "run")
    for width in (10**14, 10**18):  # more bytes than addresses, and than 64 bits count
        error = refused(*train, "--hidden", width)
        assert error.startswith("out of memory: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bench_on_a_missing_device_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object, **__: object) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    pytest.importorskip("drcl.benchmarks.suite.registry", reason="benchmarks need more libraries")
    monkeypatch.setattr("drcl.train.networks.torch.empty", unavailable)
    for listing in ([], ["--list"]):
        error = refused("bench", "--device", "cuda", *listing)
        assert error == (
            "device: expected one that is here, got 'cuda' (Torch not compiled with CUDA enabled)\n"
        )


def test_ctrl_c_with_stderr_closed_exits_with_130() -> None:
    script = (
        "from drcl import backends, cli\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "backends.format_info = interrupted\n"
        "cli.main(['info'])"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert subprocess.run([sys.executable, "-c", script], stderr=writer).returncode == 130
    finally:
        os.close(writer)


def test_python_dash_m(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "drcl", "evaluate", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: drcl evaluate") and "does not exist" in result.stderr
