"""Targets: :class:`drcl.DRCL`, :func:`drcl.auto` and :func:`drcl.select_prior`.

What trains is as small as it can be: a few rows, four dimensions, one epoch.
"""

from __future__ import annotations

import atexit
import copy
import functools
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_arguments import Faults, refuses
from fuzzing import Draw, array, refused, target, within

from drcl import DRCL, Config, Prior, auto, select_prior

TINY: dict[str, Any] = {
    "dim": 4,
    "hidden": (3,),
    "epochs": 1,
    "prior_epochs": 1,
    "batch_size": 8,
    "device": "cpu",
}
WIDTHS = {"image": 3, "text": 2, "audio": 1}
LABELS = (2, 3, 10)


@functools.cache
def scratch() -> Path:
    """A folder that goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="drcl-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def draw_samples(draw: Draw, name: str, multi_hot: bool, least: int = 3) -> tuple[Any, Any]:
    rows = draw.integer(f"rows of {name}", least, 9)
    x = draw.random.normal(size=(rows, WIDTHS[name]))
    x = x * draw.choose("scale", 1.0, 0.0, 1e-30, 1e3)
    x = x.astype(draw.choose("features", "f4", "f8", "f2", "i4", ">f4"))
    y = np.arange(rows) % len(LABELS)
    if multi_hot:
        labels = np.eye(len(LABELS))[y]
        labels[draw.random.random(labels.shape) < 0.2] = 1
    else:
        labels = np.array(LABELS)[y]
        labels[3:][draw.random.random(max(rows - 3, 0)) < 0.3] = -1
        labels = labels.astype(draw.choose("labels", "i8", "f4", "i2"))
    if x.dtype.isnative and draw.choose("tensors", False, True):
        return torch.from_numpy(x), torch.from_numpy(labels)
    return x[::-1][::-1], labels


def bad_samples(name: str, x: Any, y: Any) -> dict[str, Any]:
    rows = len(x)
    good = np.ones((rows, WIDTHS[name]), np.float32)
    return {
        "features None": (None, y),
        "features words": ([["a"]] * rows, y),
        "features ragged": ([[1.0], [1.0, 2.0]], y),
        "features 1-D": (good[:, 0], y),
        "no rows": (good[:0], y[:0]),
        "no columns": (good[:, :0], y),
        "NaN": (good * math.nan, y),
        "infinite": (good * math.inf, y),
        "beyond float32": (good.astype(float) * 1e300, y),
        "complex": (good * 1j, y),
        "one label fewer": (good, y[:-1]),
        "labels None": (good, None),
        "labels words": (good, ["a"] * rows),
        "labels below -1": (good, np.full(rows, -100)),
        "rows beyond 1": (good, np.full((rows, len(LABELS)), 2)),
        "labels fractions": (good, np.full(rows, 0.5)),
        "labels NaN": (good, np.full(rows, math.nan)),
        "labels infinite": (good, np.full(rows, math.inf)),
        "labels beyond 64 bits": (good, np.full(rows, 1e30)),
        "labels 3-D": (good, np.zeros((rows, 2, 2))),
        "rows of NaN": (good, np.full((rows, len(LABELS)), math.nan)),
        "negative rows": (good, np.full((rows, len(LABELS)), -1.0)),
        "all unlabelled": (good, np.full(rows, -1)),
        "no pair": good,
        "a number": 3,
        "nothing": None,
    }


def draw_settings(draw: Draw) -> dict[str, Any]:
    return {
        **TINY,
        "lam": draw.choose("lam", 0.9, 1.0),
        "prior": draw.choose("prior", "learned", "orthogonal"),
        "selection": draw.choose("selection", "map", "loss", "last"),
        "prior_norm": draw.choose("prior_norm", None, 3.0),
        "standardize": draw.choose("standardize", False, True),
        "paper_compat": draw.choose("paper_compat", False, True),
        "precision": draw.choose("precision", "float32", "bf16"),
        "batch_size": draw.choose("batch_size", 8, 2, 1, 10**6),
        "seed": draw.integer("model seed", 0, 9),
    }


def draw_training(
    draw: Draw, call: Any, named: str
) -> tuple[dict[str, Any], dict[str, Any], Any] | None:
    """Settings and arguments of a training, and its result, unless it was to be refused."""
    multi_hot = draw.choose("multi-hot", False, True)
    names = ("image", "text")[: draw.integer("modalities", 1, 2)]
    train = {name: draw_samples(draw, name, multi_hot) for name in names}
    some = names if draw.choose("validation", True, False) else ()
    validation = {name: draw_samples(draw, name, multi_hot) for name in some}
    settings = draw_settings(draw)
    arguments = {"train": train, "validation": validation}
    faults: Faults = {
        f"train/labels: {what}": lambda pair=pair: {**train, "image": pair}
        for what, pair in bad_samples("image", *train["image"]).items()
    }
    faults |= {
        "train: None": lambda: None,
        "train: a list": lambda: list(train),
        "train: empty": dict,
        "train/classes: one class": lambda: {"image": (np.ones((3, 3)), np.ones(3))},
        "train/modality: a name with a slash": lambda: {**train, "a/b": train["image"]},
        "validation/modality: an unknown one": lambda: {"smell": train["image"]},
        "validation: NaN": lambda: {"image": (np.full((3, 3), math.nan), train["image"][1][:3])},
        "validation: another width": lambda: {"image": (np.ones((3, 9)), train["image"][1][:3])},
        "validation: a new class": lambda: {"image": (np.ones((3, 3)), np.array([99, 3, 10]))},
    }
    if named == "select_prior":
        # Without a choice by validation these samples are not looked at closely.
        faults.pop("validation/modality: an unknown one")
    if refuses(draw, lambda **given: call(settings, given), arguments, faults):
        return None
    return settings, arguments, call(settings, arguments)


@target("drcl.DRCL.fit", few=2)
def fit(draw: Draw) -> None:
    def call(settings: dict[str, Any], given: dict[str, Any]) -> DRCL:
        return DRCL(**settings).fit(**given, progress=False)

    case = draw_training(draw, call, "fit")
    if case is None:
        return
    settings, given, model = case
    assert model.modalities == tuple(given["train"])
    assert model.classes in (LABELS, tuple(range(len(LABELS))))
    phases = len(model.modalities) * (1 if settings["prior"] == "orthogonal" else 2)
    assert len(model.history) == phases
    for name, (x, _) in given["train"].items():
        rows = array(model.encode(name, x))
        assert rows.shape == (len(x), 4)
        lengths = np.linalg.norm(rows, axis=1)
        assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()
    if draw.choose("again", False, True):
        again = call(settings, given)
        for name, (x, _) in given["train"].items():
            assert torch.equal(model.encode(name, x), again.encode(name, x))


@target("drcl.auto", few=2)
def automatic(draw: Draw) -> None:
    """One scale of the kernel: the others take the same."""

    def call(settings: dict[str, Any], given: dict[str, Any]) -> DRCL:
        return auto(**given, seconds=1e-9, device="cpu", progress=False)

    case = draw_training(draw, call, "auto")
    if case is None:
        return
    _, given, model = case
    assert model.modalities == tuple(given["train"])
    for name, (x, _) in given["train"].items():
        rows = array(model.encode(name, x))
        assert rows.shape == (len(x), len(model.classes))
        within(rows.sum(axis=1), np.ones(len(x)), 1e-4, "sum of posteriors")


@target("drcl.select_prior", few=3)
def prior_selection(draw: Draw) -> None:
    def call(settings: dict[str, Any], given: dict[str, Any]) -> Prior:
        return select_prior(**given, config=Config(**settings), progress=False)

    case = draw_training(draw, call, "select_prior")
    if case is None:
        return
    settings, given, found = case
    assert found.dim == 4 and found.modality in given["train"]
    assert found.score is not None and 0 <= found.score <= 1
    if settings["prior_norm"] is not None:
        within(found.column_norm, 3.0, 1e-4, "norm")


@target("drcl.DRCL")
def estimator(draw: Draw) -> None:
    """Settings are checked when the object is made, and nothing works before there is a model."""
    bad = {"dim": 0, "hidden": 4, "lam": 2, "prior": "best", "epochs": 0.5, "device": None}
    name = draw.choose("setting", None, *bad)
    if name is not None:
        with refused(name):
            DRCL(**{**TINY, name: bad[name]})
        return
    model = DRCL(Config(**TINY), **draw_settings(draw))
    assert model.modalities == () and model.history == []
    call = draw.choose("call", "prior", "encode", "search", "evaluate", "save")
    try:
        if call == "prior":
            _ = model.prior
        elif call == "encode":
            model.encode("image", np.ones((2, 3)))
        elif call == "search":
            model.search("image", np.ones((2, 3)), "text", np.ones((2, 2)))
        elif call == "evaluate":
            model.evaluate({"image": (np.ones((2, 3)), np.ones(2))})
        else:
            model.save(scratch() / "none")
    except RuntimeError as error:
        assert "fit()" in str(error)
    except ValueError as error:
        assert "modality" in str(error)
    else:
        raise AssertionError("worked without a model")


@functools.cache
def trained() -> DRCL:
    random = np.random.default_rng(0)
    y = np.array(LABELS)[np.arange(12) % 3]
    train = {name: (random.normal(size=(12, WIDTHS[name])), y) for name in ("image", "text")}
    return DRCL(**TINY).fit(train, progress=False)


def faults_of_features(name: str) -> Faults:
    samples = bad_samples("image", np.ones((4, 3)), np.zeros(4))
    kinds = ("features", "no ", "NaN", "infinite", "beyond", "complex", "bool")
    found: Faults = {
        f"{name}/image/text: {what}": lambda pair=pair: pair[0]
        for what, pair in samples.items()
        if isinstance(pair, tuple) and what.startswith(kinds) and "rows of" not in what
    }
    return {**found, f"{name}/image/text: too wide": lambda: np.ones((4, 9))}


@target("drcl.DRCL.encode")
def encode(draw: Draw) -> None:
    model, (x, _) = trained(), draw_samples(draw, "image", False, least=1)
    faults = {
        **faults_of_features("features"),
        **{f"modality: {v!r}": lambda v=v: v for v in ("audio", "", None, 3)},
    }
    if refuses(draw, model.encode, {"modality": "image", "features": x}, faults):
        return
    found = model.encode("image", x)
    assert found.shape == (len(x), 4) and found.dtype == torch.float32
    alone = torch.cat([model.encode("image", x[i : i + 1]) for i in range(len(x))])
    within(alone, found, 1e-5, "rows one by one")


@target("drcl.DRCL.encoder")
def encoder(draw: Draw) -> None:
    model, (x, _) = trained(), draw_samples(draw, "image", False, least=1)
    space = draw.choose("space", None, "cosine", "posterior")
    faults = {
        **{f"modality: {v!r}": lambda v=v: v for v in ("audio", "", None, 3)},
        **{f"space: {v!r}": lambda v=v: v for v in ("", "dot", 3, ("cosine",))},
    }
    if refuses(draw, model.encoder, {"modality": "image", "space": space}, faults):
        return
    found = model.encoder("image", space=space)
    rows = torch.as_tensor(np.asarray(x, dtype=np.float32))
    assert torch.equal(found(rows), model.encode("image", x, space=space))
    with refused("features"):
        found(rows[:, : draw.integer("width", 0, 2)])


@target("drcl.DRCL.evaluate")
def evaluate(draw: Draw) -> None:
    model = trained()
    test = {name: draw_samples(draw, name, False) for name in ("image", "text")}
    ks = draw.choose("ks", (50,), (), (1, 3))
    faults: Faults = {
        f"test/image/gallery_labels/query_labels: {what}": lambda pair=pair: {**test, "image": pair}
        for what, pair in bad_samples("image", *test["image"]).items()
        if what not in ("one label fewer",)
    }
    faults |= {
        "test: None": lambda: None,
        "test/gallery_labels/query_labels: fewer labels": lambda: {
            **test,
            "image": (test["image"][0], test["image"][1][:-1]),
        },
        "test/embeddings: one modality": lambda: {"image": test["image"]},
        "test/modality: an unknown one": lambda: {**test, "smell": test["image"]},
        "test: a new class": lambda: {**test, "image": (np.ones((1, 3)), np.array([99]))},
        "ks/k: zero": lambda: (0,),
        "no_relevant: a word": lambda: "drop",
    }
    if refuses(draw, model.evaluate, {"test": test, "ks": ks, "no_relevant": "zero"}, faults):
        return
    found = model.evaluate(test, ks=ks, no_relevant=draw.choose("no_relevant", "zero", "skip"))
    assert list(found) == ["mAP@all", *(f"mAP@{k}" for k in ks)]
    assert all(0 <= value <= 1 for table in found.values() for value in table.values())


@target("drcl.DRCL.search")
def search(draw: Draw) -> None:
    model = trained()
    queries, gallery = draw_samples(draw, "image", False)[0], draw_samples(draw, "text", False)[0]
    k = draw.choose("k", 2, 1, 10, 10**9)
    given = {"source": "image", "queries": queries, "target": "text", "gallery": gallery, "k": k}
    faults = {
        **faults_of_features("queries"),
        **faults_of_features("gallery"),
        **{f"k: {v!r}": lambda v=v: v for v in (0, -1, 1.5, "1", None, math.nan)},
        **{f"source/modality: {v!r}": lambda v=v: v for v in ("audio", None)},
        **{f"target/modality: {v!r}": lambda v=v: v for v in ("", 3)},
    }
    if refuses(draw, model.search, given, faults):
        return
    found = model.search(**given)
    x, y = model.encode("image", queries), model.encode("text", gallery)
    count = min(k, len(gallery))
    assert found.scores.shape == found.indices.shape == (len(queries), count)
    exact = array(x) @ array(y).T
    for row, (scores, items) in enumerate(zip(found.scores, found.indices, strict=True)):
        assert len(set(items.tolist())) == count
        within(scores, exact[row, items.numpy()], 1e-5, "cosines")
        within(scores, np.sort(exact[row])[::-1][:count], 1e-5, "the best")
        ties = (scores.diff() == 0) & (items.diff() < 0)
        assert not bool(ties.any()), "ties go by index"


@target("drcl.DRCL.add_modality", few=5)
def add_modality(draw: Draw) -> None:
    model = copy.deepcopy(trained())
    train = draw_samples(draw, "audio", False)
    given: dict[str, Any] = {
        "name": "audio",
        "train": train,
        "validation": draw.choose("validation", None, train),
        "epochs": 1,
        "dim": 4,
        "lr": draw.choose("lr", 1e-3, 1),
    }
    faults: Faults = {
        f"train/audio: {what}": lambda pair=pair: pair
        for what, pair in bad_samples("audio", *train).items()
    }
    faults |= {
        "train/audio: a new class": lambda: (np.ones((3, 1)), np.array([99, 3, 10])),
        "validation/audio: NaN": lambda: (np.full((3, 1), math.nan), np.array(LABELS)),
        "name: one that is there": lambda: "image",
        **{f"name/modality: {v!r}": lambda v=v: v for v in ("", "a/b", None, 3, "..", "a" * 99)},
        "dim: another": lambda: 5,
        "epochs: none": lambda: 0,
        "lr: none": lambda: 0.0,
    }
    before = {name: model.encode(name, np.ones((2, WIDTHS[name]))) for name in model.modalities}
    if not refuses(draw, functools.partial(model.add_modality, progress=False), given, faults):
        model.add_modality(**given, progress=False)
        assert model.modalities == ("image", "text", "audio")
        assert bool(model.encode("audio", train[0]).isfinite().all())
    else:
        assert model.modalities == ("image", "text")
    for name, rows in before.items():
        assert torch.equal(model.encode(name, np.ones((2, WIDTHS[name]))), rows)


@target("drcl.DRCL.save", few=5)
def save(draw: Draw) -> None:
    """A model is read as it was written, over an older one as well."""
    model, folder = trained(), scratch() / "model"
    path = str(folder) if draw.choose("path", "Path", "text") == "text" else folder
    model.save(path)
    again = DRCL.load(path)
    x = draw.random.normal(size=(3, 3))
    assert torch.equal(again.encode("image", x), model.encode("image", x))
    assert again.config == model.config and again.classes == model.classes
    assert again.history == model.history
    if draw.choose("afterwards", "keep", "remove") == "remove":
        shutil.rmtree(folder)


@target("drcl.DRCL.save_pretrained", few=5)
def save_pretrained(draw: Draw) -> None:
    """The card goes along, over an older one as well; what cannot be said there is refused."""
    model, folder = trained(), scratch() / "carded"
    license = draw.choose("license", None, "mit", "apache-2.0")
    faults: Faults = {
        **{f"license: {v!r}": lambda v=v: v for v in ("", "a b", "-", "mit\n", 3, ["mit"])},
        **{f"push_to: {v!r}": lambda v=v: v for v in ("", "model", "a/b/c", "../m", "a/", 3)},
        **{f"data: {v!r}": lambda v=v: v for v in ("digits", 3, {}, [])},
    }
    given = {"folder": folder, "license": license, "push_to": None, "data": None}
    if refuses(draw, model.save_pretrained, given, faults):
        return
    assert model.save_pretrained(**given) == folder
    text = (folder / "README.md").read_text("utf-8")
    assert ("license:" in text) == (license is not None) and "Not recorded." in text
    x = draw.random.normal(size=(3, 3))
    assert torch.equal(DRCL.load(folder).encode("image", x), model.encode("image", x))


@target("drcl.DRCL.from_pretrained", few=5)
def from_pretrained(draw: Draw) -> None:
    model, folder = trained(), saved()
    source = draw.choose("source", folder, str(folder))
    given: dict[str, Any] = {"source": source, "networks": None, "revision": None}
    faults: Faults = {
        **{f"revision: {v!r}": lambda v=v: v for v in ("main", "", 3)},
        "networks: a list": lambda: [1],
        "networks/image: no module": lambda: {"image": 3},
    }
    if refuses(draw, DRCL.from_pretrained, given, faults):
        return
    again = DRCL.from_pretrained(**given)
    x = draw.random.normal(size=(3, 3))
    assert torch.equal(again.encode("image", x), model.encode("image", x))


@target("drcl.DRCL.get_params")
def get_params(draw: Draw) -> None:
    model = DRCL(**draw_settings(draw))
    params = model.get_params(deep=draw.choose("deep", True, False))
    assert DRCL(**params).config == model.config


@target("drcl.DRCL.set_params")
def set_params(draw: Draw) -> None:
    """What is set is what a new model has; with one bad setting nothing is."""
    model, settings = DRCL(), draw_settings(draw)
    bad = {"dim": 0, "hidden": 4, "lam": 2, "prior": "best", "epochs": 0.5, "depth": 3}
    name = draw.choose("setting", None, *bad)
    if name is not None:
        with refused(name):
            model.set_params(**{**settings, name: bad[name]})
        assert model.config == Config()
        return
    assert model.set_params(**settings).config == Config(**settings)


@functools.cache
def saved() -> Path:
    """A folder with a model, for the damaged ones to be made of."""
    folder = scratch() / "saved"
    trained().save(folder)
    return folder


@target("drcl.DRCL.load", few=5)
def load(draw: Draw) -> None:
    """A model with one damaged file is refused, naming it."""
    folder = saved()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[draw.integer("file", 0, len(files) - 1)]
    content = file.read_bytes()
    damaged = bytearray(content)
    damage = draw.choose("damage", "cut", "flip", "empty", "remove", "noise")
    at = int(draw.random.integers(len(content)))
    if damage == "flip":
        damaged[at] ^= 1 << int(draw.random.integers(8))
    else:
        damaged = {
            "cut": damaged[:at],
            "empty": bytearray(),
            "noise": bytearray(draw.random.bytes(len(content))),
            "remove": bytearray(),
        }[damage]
    file.write_bytes(damaged)
    if damage == "remove":
        file.unlink()
    try:
        DRCL.load(str(folder) if draw.choose("path", "Path", "text") == "text" else folder)
    except (ValueError, FileNotFoundError) as error:
        assert folder.name in str(error) or file.name.split(".")[0] in str(error), error
    else:  # which is right where nothing that was meant has changed: a last line's end is cut
        same = file.suffix == ".json" and json.loads(damaged) == json.loads(content)
        assert same, f"{file.name} was read after {damage} at byte {at}"
    finally:
        file.write_bytes(content)
