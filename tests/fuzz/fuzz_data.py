"""Targets: :mod:`drcl.data` where no file is read, and :mod:`drcl.baselines`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
from bad_arguments import Faults, refuses
from fuzzing import Draw, refused, target

from drcl import baselines, data
from drcl.data import CrossModalDataset, Labelled

CLASSES = ("ash", "birch", "cedar")


def draw_split(
    draw: Draw, label: str, widths: dict[str, int], multi_hot: bool
) -> dict[str, Labelled]:
    found = {}
    for name, width in widths.items():
        rows = draw.integer(f"{label} rows of {name}", 1, 5)
        x = draw.random.normal(size=(rows, width)).astype(np.float32)
        if multi_hot:
            dtype = draw.choose("label rows", np.uint8, np.float32)
            y = (draw.random.random((rows, len(CLASSES))) < 0.4).astype(dtype)
        else:
            y = draw.random.integers(-1, len(CLASSES), size=rows)
        found[name] = Labelled(x, y)
    return found


@target("drcl.data.CrossModalDataset")
def dataset(draw: Draw) -> None:
    names = ("image", "text", "audio")[: draw.integer("modalities", 1, 3)]
    widths = {name: draw.integer(f"width of {name}", 1, 4) for name in names}
    multi_hot = draw.choose("multi-hot", False, True)
    train = draw_split(draw, "train", widths, multi_hot)
    some = {name: widths[name] for name in names if draw.choose(f"test {name}", True, False)}
    test = draw_split(draw, "test", some, multi_hot)
    pictures = {name: np.zeros((len(part.features), 2, 2)) for name, part in test.items()}
    arguments: dict[str, Any] = {
        "name": "trees",
        "classes": CLASSES,
        "train": train,
        "validation": draw_split(draw, "validation", some, multi_hot),
        "test": test,
        "pictures": pictures if draw.choose("pictures", False, True) else {},
    }
    x, y = train["image"]
    bad: dict[str, Any] = {
        "a list": (x.tolist(), y),
        "float64": (x.astype(float), y),
        "1-D": (x[:, 0], y),
        "no rows": (x[:0], y[:0]),
        "no columns": (x[:, :0], y),
        "NaN": (x * np.float32(math.nan), y),
        "infinite": (np.full_like(x, math.inf), y),
        "labels a list": (x, y.tolist()),
        "labels 3-D": (x, np.zeros((len(x), 2, 2), np.int64)),
        "labels 0-D": (x, np.int64(1)),
        "fewer labels": (x, y[:-1]),
        "an id above": (x, np.full(len(x), len(CLASSES))),
        "an id below": (x, np.full(len(x), -2)),
        "ids of 32 bits": (x, np.zeros(len(x), np.int32)),
        "words": (x, np.array(["ash"] * len(x))),
        "rows too wide": (x, np.zeros((len(x), len(CLASSES) + 1), np.uint8)),
        "rows of int64": (x, np.zeros((len(x), len(CLASSES)), np.int64)),
        "rows above 1": (x, np.full((len(x), len(CLASSES)), 2, np.uint8)),
        "rows of NaN": (x, np.full((len(x), len(CLASSES)), math.nan, np.float32)),
    }
    faults: Faults = {
        f"train: {what}": lambda pair=pair: {**train, "image": Labelled(*pair)}
        for what, pair in bad.items()
    }
    faults |= {
        "classes: none": lambda: (),
        "classes: one twice": lambda: ("ash", "ash", "cedar"),
        "train/training: empty": dict,
        "validation: an unknown modality": lambda: {"smell": train["image"]},
        "validation: wider": lambda: {"image": Labelled(np.ones((len(x), 9), np.float32), y)},
        "pictures: too many": lambda: {"image": np.zeros((99, 2, 2))},
        "pictures: flat": lambda: {"image": np.zeros((len(x), 4))},
    }
    if refuses(draw, CrossModalDataset, arguments, faults):
        return
    found = CrossModalDataset(**arguments)
    assert found.modalities == names
    assert list(found.splits) == ["train", "validation", "test"]
    table = found.describe().splitlines()
    assert len(table) == 2 + sum(len(split) for split in found.splits.values())


@target("drcl.data.names")
def names(draw: Draw) -> None:
    known = data.names()
    name = draw.choose("name", *known, "digit", "", "Digits", "a" * 300, "\0")
    if name not in known:
        with refused("name"):
            data.load(name)
    elif name not in ("digits", "synthetic"):
        try:
            data.load(name, "/no such folder")
        except FileNotFoundError as error:
            assert "/no such folder" in str(error)
        else:
            raise AssertionError("data out of nowhere")


@target("drcl.data.load", few=2)
def load(draw: Draw) -> None:
    bad_seeds: Faults = {f"seed: {v!r}": lambda v=v: v for v in (-1, "a", 0.5, [1, "x"], math.nan)}
    if draw.choose("set", "synthetic", "synthetic", "synthetic", "digits") == "digits":
        if refuses(draw, data.load, {"name": "digits", "seed": 0}, bad_seeds):
            return
        found = data.load("digits", seed=draw.integer("seed", 0, 2**40))
        assert sum(len(part.features) for split in found.splits.values() for part in split.values())
        return
    options = {"shape": "wikipedia", "scale": 1e-3, "seed": 0}
    faults: Faults = {
        **bad_seeds,
        **{f"shape: {v!r}": lambda v=v: v for v in ("", "pets", None, ["inria"], 1)},
        **{f"scale: {v!r}": lambda v=v: v for v in (0, -1.0, math.nan, math.inf, "1", None, 1j)},
    }
    if refuses(draw, data.load, {"name": "synthetic", **options}, faults):
        return
    options["shape"] = draw.choose("shape", "wikipedia", "nus-wide")
    options["scale"] = draw.choose("scale", 1e-9, 1e-3, 5e-3)
    options["seed"] = draw.integer("seed", 0, 2**40)
    found, again = data.load("synthetic", **options), data.load("synthetic", **options)
    for split, modalities in found.splits.items():
        for name, part in modalities.items():
            assert set(part.labels) == set(range(len(found.classes)))
            assert np.array_equal(part.features, again.splits[split][name].features)


def small_set(draw: Draw, paired: bool) -> CrossModalDataset:
    """Two modalities; every class is in every training set."""
    multi_hot = not paired and draw.choose("multi-hot", False, False, False, True)
    splits: dict[str, dict[str, Labelled]] = {}
    for split in ("train", "validation", "test"):
        splits[split] = {}
        for name, width in (("image", 3), ("text", 2)):
            rows = 6 if paired else draw.integer(f"{split} rows of {name}", 6, 9)
            y = np.arange(rows) % 3
            x = draw.random.normal(size=(rows, width)) + y[:, None]
            x[:, 0] *= draw.choose("scale", 1.0, 0.0, 1e-20, 1e4)
            labels = np.eye(3, dtype=np.uint8)[y] if multi_hot else y
            splits[split][name] = Labelled(x.astype(np.float32), labels)
    return CrossModalDataset("trees", CLASSES, **splits)


def check_baseline(
    draw: Draw, method: Any, scalings: Sequence[str], trees: CrossModalDataset
) -> None:
    ks = draw.choose("ks", (50,), (), (1, 2))
    parts = {"name": "trees", "classes": CLASSES, **trees.splits}

    def measure(**given: Any) -> None:
        method(CrossModalDataset(**given), ks=ks)

    faults: Faults = {
        "train/two: one modality": lambda: {"image": trees.train["image"]},
        "validation: missing": lambda: {"image": trees.validation["image"]},
        "test: missing": dict,
    }
    only = {"image": trees.train["image"]}
    fault = draw.fault(*faults)
    if fault:
        name = fault.partition(":")[0].split("/")[0]
        parts[name] = faults[fault]()
        if name == "train":
            parts["validation"] = parts["test"] = only
        with refused(*fault.partition(":")[0].split("/")):
            measure(**parts)
        return
    # All settings take a second: here one scaling, with one or two of what is tried with each.
    scaling = draw.choose("scaling", *scalings)
    powers, penalties = (
        {draw.choose("first", *values), draw.choose("second", *values)}
        for values in (baselines.POWERS, baselines.INVERSE_PENALTIES)
    )
    some = {"SCALINGS": (scaling,), "POWERS": powers, "INVERSE_PENALTIES": penalties}
    with mock.patch.multiple(baselines, **some):
        found = method(trees, ks=ks)
    assert list(found.metrics) == ["mAP@all", *(f"mAP@{k}" for k in ks)]
    for values in found.metrics.values():
        assert set(values) == {"image->text", "text->image", "mean"}
        assert all(0 <= value <= 1 for value in values.values())
    assert found.chosen and all(line.startswith(scaling) for line in found.chosen.values())


@target("drcl.baselines.cca", few=5)
def cca(draw: Draw) -> None:
    # scikit-learn standardises by itself: "standard" is not tried.
    scalings = [name for name in baselines.SCALINGS if name != "standard"]
    check_baseline(draw, baselines.cca, scalings, small_set(draw, paired=True))


@target("drcl.baselines.semantic_matching", few=5)
def semantic_matching(draw: Draw) -> None:
    scalings, trees = baselines.SCALINGS, small_set(draw, paired=False)
    check_baseline(draw, baselines.semantic_matching, scalings, trees)


@target("drcl.baselines.fit_scaling")
def fit_scaling(draw: Draw) -> None:
    x = draw.random.normal(size=(draw.integer("N", 1, 6), draw.integer("d", 1, 4)))
    x *= draw.choose("scale", 1.0, 0.0, 1e-300, 1e150)
    faults: Faults = {f"name/scaling: {v!r}": lambda v=v: v for v in ("", "L2", None, 3)}
    if refuses(draw, baselines.fit_scaling, {"name": "l2", "train": x}, faults):
        return
    name = draw.choose("scaling", *baselines.SCALINGS)
    found = baselines.fit_scaling(name, x)(x)
    assert found.shape == x.shape and np.isfinite(found).all()
    if name == "none":
        assert np.array_equal(found, x)
    elif name in ("sqrt", "log"):
        assert np.array_equal(np.sign(found), np.sign(x))
    elif name == "l2":
        lengths = np.linalg.norm(found, axis=1)
        assert ((lengths < 1 + 1e-12) & (lengths >= 0)).all()
