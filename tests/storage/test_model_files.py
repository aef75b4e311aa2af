"""Saved models: they come back bit for bit, survive a crash, and damage is reported, not loaded."""

from __future__ import annotations

import copy
import json
import shutil
import threading
import time

import numpy as np
import pytest
import tiny
import torch
from gloo import process_group
from torch import nn

from drcl import DRCL, model_files
from drcl.storage import files as storage
from drcl.storage import sealed

TEST = tiny.split(seed=7)


@pytest.fixture(scope="module")
def trained():
    train = {name: (x, y + 1) for name, (x, y) in tiny.split().items()}
    return DRCL(**tiny.SETTINGS, standardize=True).fit(train, progress=False)


@pytest.fixture
def folder(trained, tmp_path):
    return trained.save(tmp_path / "model")


def embeddings(model):
    return {name: model.encode(name, x) for name, (x, _) in TEST.items()}


def assert_loads(folder, expected):
    loaded = embeddings(DRCL.load(folder))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    del config["crc32"]
    path.write_text(json.dumps(sealed.with_checksum(config)))


def test_round_trip(trained, folder):
    loaded = DRCL.load(folder)
    assert_loads(folder, embeddings(trained))
    assert loaded.config == trained.config and loaded.history == trained.history
    assert loaded.classes == trained.classes == (1, 2, 3, 4)
    assert loaded.prior.metadata() == trained.prior.metadata()
    for name, buffer in trained.prior.named_buffers():
        assert torch.equal(getattr(loaded.prior, name), buffer)
    test = {name: (x, y + 1) for name, (x, y) in TEST.items()}
    assert loaded.evaluate(test) == trained.evaluate(test)
    # A loaded model goes on like the one it was saved from.
    x, y = tiny.samples("audio", 30)
    ours, theirs = (
        model.add_modality("audio", (x, y + 1), progress=False).encode("audio", x)
        for model in (loaded, copy.deepcopy(trained))
    )
    assert torch.equal(ours, theirs)


def test_only_safetensors_and_json_are_written(folder):
    files = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    assert len(files) == 5 and all(file.endswith((".json", ".safetensors")) for file in files)
    strict = {"parse_constant": lambda name: pytest.fail(f"{name} is no JSON")}
    for file in folder.rglob("*.json"):
        json.loads(file.read_text(), **strict)


def test_a_folder_can_be_moved(trained, folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert_loads(tmp_path / "elsewhere", embeddings(trained))


def test_saving_again_replaces_and_leaves_other_files_alone(trained, folder):
    mine = folder / "encoders" / "clip.safetensors"
    notes = folder / "history.md"
    mine.write_bytes(b"mine"), notes.write_text("mine")
    other = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(), progress=False)
    other.save(folder)
    assert_loads(folder, embeddings(other))
    assert mine.read_bytes() == b"mine" and notes.read_text() == "mine"
    assert len([file for file in folder.rglob("*") if file.is_file()]) == 5 + 2
    trained.save(folder), trained.save(folder)
    assert_loads(folder, embeddings(trained))


@pytest.mark.parametrize("write", range(5))
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_model(trained, folder, monkeypatch, write, step):
    other = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(image=20, text=20), progress=False)
    calls = iter(range(100))

    def failing(real):
        def call(*arguments):
            if next(calls) == write:
                raise OSError("no space left on device")
            return real(*arguments)

        return call

    monkeypatch.setattr(storage.os, step, failing(getattr(storage.os, step)))
    with pytest.raises(OSError, match="no space"):
        other.save(folder)
    assert_loads(folder, embeddings(trained))
    assert not list(folder.rglob(".*"))  # nothing half-written lies about
    monkeypatch.undo()
    other.save(folder)
    assert_loads(folder, embeddings(other))
    assert len([file for file in folder.rglob("*") if file.is_file()]) == 5


def damaged_files(folder):
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name != "config.json"
    )


@pytest.mark.parametrize("index", range(4), ids=["image", "text", "history", "prior"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "bit flipped", "missing", "swapped"])
def test_damage_is_reported_by_file(folder, index, damage):
    files = damaged_files(folder)
    file = files[index]
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "swapped":
        file.write_bytes(files[index - 1].read_bytes())
    else:
        content[-3] ^= 1
        kept = {"empty": 0, "truncated": len(content) - 7}.get(damage, len(content))
        file.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
        DRCL.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"7", b"{}", b"\xff\xfe", b'{"format": 1}', b'{"format": null}'],
)
def test_an_invalid_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        DRCL.load(folder)


def change(*path, to):
    def apply(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    "edited, message",
    [
        (change("format", to=2), r"config\.json: expected model format 1, got 2"),
        (change("format", to="1"), "format"),
        (
            change("prior", "file", to="../secret.0123456789abcdef.safetensors"),
            "expected files in the folder",
        ),
        (change("prior", "file", to="/etc/passwd"), "expected files in the folder"),
        (change("history", to="../../etc/passwd"), "expected files in the folder"),
        (change("prior", "file", to=""), "folder"),
        (change("prior", "file", to="encoders"), "encoders"),
        (change("prior", "file", to="config.json"), "config.json"),
        (change("prior", "file", to=7), r"config\.json"),
        (change("prior", to=None), r"config\.json"),
        (change("prior", "classes", to=[1, 2]), "classes"),
        (change("encoders", to=[]), r"config\.json"),
        (change("encoders", "image", "network", "in_features", to=9), "does not fit the network"),
        (change("encoders", "image", "network", "in_features", to=-9), "in_features"),
        (change("encoders", "image", "network", "kind", to="Mine"), "networks"),
        (change("settings", to={"dim": 16, "depth": 3}), "depth"),
        (change("settings", "dim", to="16"), "dim"),
        (change("settings", "hidden", to=5), "hidden"),
        (change("settings", "lr", to=10**400), r"config\.json: lr: expected a number > 0"),
        (change("settings", "alpha", to=10**400), r"config\.json: alpha: expected a number >= 0"),
    ],
)
def test_config_that_was_tampered_with(folder, edited, message):
    (folder.parent / "secret.0123456789abcdef.safetensors").write_bytes(b"secret")
    edit(folder, edited)
    with pytest.raises(ValueError, match=message):
        DRCL.load(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder):
    file = damaged_files(folder)[0]
    target = folder.parent / file.name
    file.rename(target)
    file.symlink_to(target)
    with pytest.raises(ValueError, match="expected files in the folder"):
        DRCL.load(folder)


def test_the_encoders_of_another_model_are_not_removed_through_a_link(trained, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "encoders").symlink_to(folder / "encoders")
    model = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(), progress=False)
    with pytest.raises(OSError, match=r"other/encoders: a symbolic link"):
        model.save(other)
    assert_loads(folder, embeddings(trained))
    assert [file.name for file in other.iterdir()] == ["encoders"]


def test_another_model_is_not_replaced_through_a_link(trained, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").symlink_to(folder / "config.json")
    model = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(), progress=False)
    model.save(other)
    assert_loads(folder, embeddings(trained))
    assert_loads(other, embeddings(model))


def test_a_second_writer_waits_and_is_refused_in_the_end(trained, folder, monkeypatch):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    other = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(), progress=False)
    monkeypatch.setattr(model_files, "PATIENCE", 0.1)
    with (
        storage.locked(folder),
        pytest.raises(BlockingIOError, match="model: another process is writing to it"),
    ):
        other.save(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    monkeypatch.setattr(model_files, "PATIENCE", 60.0)
    with storage.locked(folder):
        second = threading.Thread(target=other.save, args=[folder])
        second.start()
        time.sleep(0.1)
        assert second.is_alive()
    second.join()
    assert_loads(folder, embeddings(other))


@pytest.mark.parametrize("times", [1, 3])
def test_a_model_that_is_replaced_while_it_is_read_is_read_anew(
    trained, folder, monkeypatch, times
):
    other = DRCL(**tiny.SETTINGS, seed=5).fit(tiny.split(), progress=False)
    real, saves = sealed.without_checksum, []

    def unseal(config, path):  # config.json has been read, and nothing else
        if len(saves) < times:
            saves.append((trained, other)[len(saves) % 2 == 0].save(folder))
        return real(config, path)

    monkeypatch.setattr(sealed, "without_checksum", unseal)
    assert_loads(folder, embeddings(other))
    assert len(saves) == times


def test_no_model_there(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no config\.json"):
            DRCL.load(path)


def test_nothing_is_unpickled(folder, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("something was unpickled")

    monkeypatch.setattr("pickle.load", refuse), monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    DRCL.load(folder)


@pytest.mark.parametrize("part", ["history", "settings"])
def test_what_is_no_json_is_refused_before_anything_is_written(trained, tmp_path, part):
    model = copy.deepcopy(trained)
    if part == "history":
        model.history.append({"loss": torch.tensor(1.0)})
    else:
        object.__setattr__(model.config, "seed", torch.tensor(1))
    with pytest.raises(TypeError, match="Tensor is not JSON serializable"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_network_in_distributed_data_parallel_is_loaded_into(tmp_path):
    network = nn.Linear(8, 16)
    model = DRCL(networks={"image": network}, **tiny.SETTINGS)
    model.fit(tiny.split(image=32), progress=False).save(tmp_path / "m")
    with process_group(0, 1, tmp_path):
        wrapped = nn.parallel.DistributedDataParallel(nn.Linear(8, 16))
        loaded = DRCL.load(tmp_path / "m", networks={"image": wrapped})
    x = np.ones((3, 8))
    assert torch.equal(loaded.encode("image", x), model.encode("image", x))


def test_buffers_of_ones_own_network_are_stored(tmp_path):
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
    model = DRCL(networks={"image": network}, **tiny.SETTINGS)
    model.fit(tiny.split(image=32), progress=False)
    assert int(model.encoders["image"][1].num_batches_tracked) == 12
    loaded = DRCL.load(model.save(tmp_path / "m"), networks={"image": network})
    x = np.ones((3, 8))
    assert torch.equal(loaded.encode("image", x), model.encode("image", x))
