"""The loop below the estimator: settings, samples, batches, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from drcl import DRCL, Config, Prior
from drcl.storage import files
from drcl.storage.sealed import pack, read_tensors
from drcl.train import checkpoint, loop
from drcl.train.config import PRESETS
from drcl.train.loop import stream_seed
from drcl.train.networks import pick_device
from drcl.train.samples import check_features
from drcl.train.source import batches
from drcl.train.standardize import Moments

# --- settings


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 0},
        {"dim": 1.5},
        {"dim": "64"},
        {"dim": (16, 16)},
        {"dim": {"image": 16}},
        {"hidden": (4, 0)},
        {"hidden": 64},
        {"hidden": "64"},
        {"epochs": 0},
        {"epochs": True},
        {"epochs": {"image": 0}},
        {"batch_size": -1},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": "fast"},
        {"lr": (1e-3, 1e-4)},
        {"prior_lr": {"image": math.inf}},
        {"alpha": -1},
        {"alpha": {"image": 0.1}},
        {"lam": 1.1},
        {"temperature": 0},
        {"prior_norm": 0},
        {"prior": "random"},
        {"selection": "best"},
        {"prior_selection": "test"},
        {"standardize": "false"},
        {"standardize": np.int64(1)},
        {"seed": np.bool_(True)},
        {"seed": 1.0},
        {"seed": None},
        {"dim": np.float32(16)},
        {"lam": np.bool_(True)},
        {"lam": True},
        {"hidden": np.array([4.0])},
        {"device": 0},
        {"paper_compat": 1},
    ],
    ids=str,
)
def test_bad_settings_are_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name}: "):
        Config(**settings)


def test_settings_survive_json():
    config = Config(hidden=[8, 8], lr={"image": 1e-3, "text": 1}, prior_norm=2.9)
    plain = json.loads(json.dumps(config.to_dict()))
    assert Config.from_dict(plain) == config
    with pytest.raises(ValueError, match="depth"):
        Config.from_dict({**plain, "depth": 3})


def test_settings_of_numpy_and_torch_are_stored_as_python_s():
    given = Config(
        dim=np.int64(16),
        hidden=np.array([24, 8]),
        epochs={"image": np.int32(3)},
        prior_epochs=np.uint8(2),
        batch_size=np.int16(8),
        lr=np.float32(0.5),
        prior_lr={"image": np.float64(0.25)},
        alpha=np.float16(0.5),
        beta=np.int64(1),
        lam=np.float32(0.75),
        temperature=np.float64(2.0),
        prior=np.str_("orthogonal"),
        prior_norm=np.float32(3.0),
        standardize=np.bool_(True),
        paper_compat=np.bool_(False),
        seed=np.int64(7),
        device=torch.device("cpu"),
    )
    plain = Config(
        dim=16,
        hidden=(24, 8),
        epochs={"image": 3},
        prior_epochs=2,
        batch_size=8,
        lr=0.5,
        prior_lr={"image": 0.25},
        alpha=0.5,
        beta=1.0,
        lam=0.75,
        temperature=2.0,
        prior="orthogonal",
        prior_norm=3.0,
        standardize=True,
        seed=7,
        device="cpu",
    )
    assert given == plain
    assert json.loads(json.dumps(given.to_dict())) == json.loads(json.dumps(plain.to_dict()))
    for name, value in given.to_dict().items():
        assert type(value).__module__ == "builtins", name
    data = {"image": tiny.samples("image", 40)}
    models = [DRCL(config).fit(data, progress=False) for config in (given, plain)]
    assert_same_run(*models)
    assert Config(device=torch.device("cuda", 1)).device == "cuda:1"


def test_settings_of_one_modality():
    config = Config(lr={"image": 0.1}, epochs=7)
    assert config.for_modality("image").lr == 0.1 and config.for_modality("image").epochs == 7
    assert config.for_modality("text").lr == Config().lr
    config.check_modalities(["image"])
    for modalities in (["image", "text"], ["text"], []):
        with pytest.raises(ValueError, match=r"^lr: "):
            config.check_modalities(modalities)


def test_presets_are_the_papers():
    assert PRESETS["wikipedia"].lr == {"image": 6e-6, "text": 5e-3}
    assert sorted(PRESETS["xmedia"].lr.values()) == sorted([8e-4, 3e-4, 8e-4, 3e-3, 4e-4])
    for name, epochs in {"wikipedia": 200, "xmedia": 300, "nus-wide": 100}.items():
        preset = PRESETS[name]
        assert (preset.epochs, preset.batch_size, preset.dim) == (epochs, 1024, 2048)
        assert (preset.alpha, preset.beta, preset.eta, preset.lam) == (0.1, 0.1, 1.0, 0.9)
        assert preset.hidden == (4096, 4096) and preset.prior_lr == 5e-4


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("warp", "cuda:99", "hpu"):  # of the last, torch asks a module that is not here
        with pytest.raises(ValueError, match=f"device: expected one that is here, got '{name}'"):
            pick_device(name)
    with pytest.raises(ValueError, match="device: expected one that holds numbers, got 'meta'"):
        pick_device("meta")


# --- batches, seeds, samples


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count, size", [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_batches(count, size, drop_last):
    parts = list(batches(count, size, torch.Generator().manual_seed(0), drop_last))
    dropped = count % size if drop_last and count > size else 0
    rows = torch.cat(parts).tolist()
    assert len(rows) == len(set(rows)) == count - dropped and set(rows) <= set(range(count))
    assert all(len(part) == size for part in parts[:-1])


def test_streams_differ():
    names = [("prior", "image"), ("prior", "text"), ("encoder", "image"), ("prior/image",)]
    seeds = {stream_seed(seed, *name) for seed in (0, 1) for name in names[:3]}
    assert len(seeds) == 6


@pytest.mark.parametrize("value", [0.1, 1e-8, 12345.678, 0.0])
def test_standardizer_leaves_constant_columns_alone(value):
    for count in (1, 3, 7, 1000):
        standardize = Moments.of(torch.full((count, 2), value)).standardizer()
        assert standardize.std.tolist() == [1.0, 1.0]


def test_features_of_any_layout():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    frozen = x.copy()
    frozen.flags.writeable = False
    expected = torch.from_numpy(x.copy())
    for features in (x.astype(">f8"), x.astype(np.uint16), x[::-1][::-1], x.T.copy().T, frozen):
        ours = check_features(features, "x")
        assert torch.equal(ours, expected) and ours.is_contiguous()
    leaf = expected.clone().requires_grad_()
    assert not check_features(leaf, "x").requires_grad


# --- interrupted runs


def model(**settings):
    return DRCL(**{**tiny.SETTINGS, **settings})


TRAIN, VALIDATION = tiny.split(), tiny.split(seed=3)


def interrupt(monkeypatch, after):
    """A keyboard interrupt in the epoch after so many epochs, counted over all phases."""
    epochs = iter(range(after))
    real = loop.Training.begin_epoch

    def epoch(training):
        if next(epochs, None) is None:
            raise KeyboardInterrupt
        real(training)

    monkeypatch.setattr(loop.Training, "begin_epoch", epoch)
    return real


def without_times(history):
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "time")}
        for record in history
    ]


def assert_same_run(a, b):
    assert torch.equal(a.prior.weight, b.prior.weight) and a.prior.metadata() == b.prior.metadata()
    for name in b.modalities:
        ours, theirs = (m.encoders[name].state_dict() for m in (a, b))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert without_times(a.history) == without_times(b.history)


EVERY_EPOCH, EVERY_PHASE = math.inf, 0.0


@functools.cache
def uninterrupted(compat):
    return model(paper_compat=compat).fit(TRAIN, VALIDATION, progress=False)


SHARES = {"every epoch": EVERY_EPOCH, "every phase": EVERY_PHASE}


@pytest.mark.parametrize(
    ("compat", "after", "share"),
    [
        # with paper_compat, which saves no differently, one after the other
        pytest.param(
            compat,
            after,
            share,
            id=f"{'paper_compat-' * compat}{after}-{name}",
            marks=pytest.mark.long if compat and (i + j) % 2 else [],
        )
        for compat in (False, True)
        for i, after in enumerate((0, 3, 5, 8, 12, 21))
        for j, (name, share) in enumerate(SHARES.items())
    ],
)
def test_resume_is_bit_identical(monkeypatch, tmp_path, after, share, compat):
    # 5 + 5 epochs for the two priors, then 6 + 6 for the encoders.
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", share)
    whole = uninterrupted(compat)
    real = interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        model(paper_compat=compat).fit(TRAIN, VALIDATION, checkpoints=tmp_path, progress=False)
    ran = []

    def counted(training):
        ran.append(1)
        real(training)

    monkeypatch.setattr(loop.Training, "begin_epoch", counted)
    resumed = model(paper_compat=compat)
    resumed.fit(TRAIN, VALIDATION, checkpoints=tmp_path, progress=False)
    assert_same_run(resumed, whole)
    if share == EVERY_EPOCH:
        assert len(ran) == 22 - after  # nothing is trained twice
    again = model(paper_compat=compat).fit(TRAIN, VALIDATION, checkpoints=tmp_path, progress=False)
    assert_same_run(again, whole)


def test_resume_with_dropout_is_bit_identical(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", EVERY_EPOCH)
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 16), nn.BatchNorm1d(16))

    def fit(folder=None):
        return DRCL(networks={"image": network}, **tiny.SETTINGS).fit(
            tiny.split(image=32), checkpoints=folder, progress=False
        )

    whole = fit()
    real = interrupt(monkeypatch, 8)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    monkeypatch.setattr(loop.Training, "begin_epoch", real)
    assert_same_run(fit(tmp_path), whole)


@pytest.fixture
def interrupted(monkeypatch, tmp_path):
    """A folder of checkpoints of a run that was interrupted in its last phase."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", EVERY_EPOCH)
    real = interrupt(monkeypatch, 19)
    with pytest.raises(KeyboardInterrupt):
        model().fit(TRAIN, VALIDATION, checkpoints=tmp_path, progress=False)
    monkeypatch.setattr(loop.Training, "begin_epoch", real)
    return tmp_path


def changed(split, name):
    x, y = split[name]
    x = x.copy()
    x[0, 0] += 1e-3
    return {**split, name: (x, y)}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: model(lr=1e-3).fit(TRAIN, VALIDATION, **c),
        lambda c: model(seed=1).fit(TRAIN, VALIDATION, **c),
        lambda c: model().fit(changed(TRAIN, "text"), VALIDATION, **c),
        lambda c: model().fit(TRAIN, changed(VALIDATION, "text"), **c),
        lambda c: model().fit(TRAIN, VALIDATION, prior=Prior.orthogonal(16, 4), **c),
        lambda c: DRCL(networks={"image": nn.Linear(8, 16)}, **tiny.SETTINGS).fit(
            TRAIN, VALIDATION, **c
        ),
        lambda c: model().fit(
            {**TRAIN, "text": (TRAIN["text"][0], TRAIN["text"][1][::-1])}, VALIDATION, **c
        ),
    ],
    ids=["setting", "seed", "training data", "validation data", "prior", "network", "labels"],
)
def test_a_checkpoint_of_another_run_is_refused(interrupted, change):
    before = {file.name: file.read_bytes() for file in interrupted.iterdir()}
    with pytest.raises(ValueError, match=r"\.safetensors: written with other settings"):
        change({"checkpoints": interrupted, "progress": False})
    assert {file.name: file.read_bytes() for file in interrupted.iterdir()} == before


def test_a_checkpoint_under_another_name_is_refused(interrupted):
    (interrupted / "encoder-text.safetensors").unlink()
    (interrupted / "encoder-image.safetensors").rename(interrupted / "encoder-text.safetensors")
    with pytest.raises(ValueError, match="encoder-text"):
        model().fit(TRAIN, VALIDATION, checkpoints=interrupted, progress=False)


@pytest.mark.parametrize("size", [0, 4, 100, -10])
def test_a_truncated_checkpoint_is_refused_by_name(interrupted, size):
    file = interrupted / "encoder-text.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"encoder-text\.safetensors: expected a safetensors file"):
        model().fit(TRAIN, VALIDATION, checkpoints=interrupted, progress=False)


def _in_history(**changes):
    return lambda tensors, about: about["history"][0].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, about: tensors.update({"adam.0.exp_avg": torch.zeros(1)}),
        lambda tensors, about: tensors.pop("adam.0.step"),
        lambda tensors, about: tensors.pop("module.layers.0.bias"),
        lambda tensors, about: tensors.update({"kept.layers.0.bias": torch.zeros(5)}),
        lambda tensors, about: tensors.update(generator=torch.zeros(5)),
        lambda tensors, about: about.pop("history"),
        lambda tensors, about: about.update(history=[7]),
        lambda tensors, about: about.update(best="high"),
        _in_history(phase="\x1b[2J"),
        _in_history(modality=["text"]),
        _in_history(seconds=0.0),
        _in_history(loss=10**400),
        _in_history(time={"data": 1.0}),
    ],
)
def test_a_forged_checkpoint_is_refused_by_name(interrupted, change):
    """The first of these made the optimizer's kernel reach into other memory."""
    path = interrupted / "encoder-text.safetensors"
    tensors, about = read_tensors(path)
    change(tensors, about)
    path.write_bytes(pack(tensors, about))
    with pytest.raises(ValueError, match=r"encoder-text\.safetensors: incomplete or damaged"):
        model().fit(TRAIN, VALIDATION, checkpoints=interrupted, progress=False)


def test_a_foreign_checkpoint_is_refused_by_name(interrupted):
    save_file({"x": torch.zeros(3)}, interrupted / "encoder-text.safetensors")
    with pytest.raises(ValueError, match=r"encoder-text\.safetensors"):
        model().fit(TRAIN, VALIDATION, checkpoints=interrupted, progress=False)


def test_a_crash_while_writing_keeps_the_old_checkpoint(interrupted, monkeypatch):
    before = {file.name: file.read_bytes() for file in interrupted.iterdir()}

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        model().fit(TRAIN, VALIDATION, checkpoints=interrupted, progress=False)
    assert {file.name: file.read_bytes() for file in interrupted.iterdir()} == before


def test_modality_names_cannot_lead_checkpoints_out_of_the_folder(tmp_path):
    for name in ("../outside", "a/b", "", ".hidden", 3):
        with pytest.raises(ValueError, match="modality"):
            model().fit({name: TRAIN["image"]}, checkpoints=tmp_path / "c", progress=False)
        with pytest.raises(ValueError, match="modality"):
            model(epochs=1, prior_epochs=1).fit(TRAIN, progress=False).add_modality(
                name, TRAIN["image"], checkpoints=tmp_path / "c", progress=False
            )
    assert not list(tmp_path.iterdir())


def test_settings_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().dim = 3  # type: ignore[misc]


def test_training_seeds_without_torch_manual_seed(monkeypatch) -> None:
    """That one keeps a traceback of every call for devices that are not there: two an epoch."""

    def grows(seed: int) -> None:
        raise AssertionError("torch.manual_seed was called")

    monkeypatch.setattr(torch, "manual_seed", grows)
    DRCL(**{**tiny.SETTINGS, "epochs": 2, "prior_epochs": 2}).fit(tiny.split(), progress=False)
