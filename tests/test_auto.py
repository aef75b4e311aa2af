"""``drcl.auto``: what it gives back, what it keeps out of its way, and what it refuses."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from click import UsageError

import drcl.automatic
from drcl import DRCL, auto, metrics
from drcl.cli import main
from drcl.ensemble import Ensemble, Scaling
from drcl.train.standardize import Standardizer


@pytest.fixture(scope="module", autouse=True)
def two_scales():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drcl.automatic, "SCALES", drcl.automatic.SCALES[:2])
        yield


@pytest.fixture(scope="module")
def part():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    return {
        name: (torch.eye(3, width)[y] * 2 + torch.randn(90, width, generator=generator), y)
        for name, width in (("image", 6), ("text", 4))
    }


@pytest.fixture(scope="module")
def model(part):
    return auto(part, progress=False)


def test_it_ranks_by_posteriors_whose_inner_product_evaluate_uses(model, part):
    assert model.space == "posterior"
    p = {name: model.encode(name, x) for name, (x, _) in part.items()}
    assert all(torch.allclose(rows.sum(dim=1), torch.ones(90)) for rows in p.values())
    y = part["image"][1]
    expected = metrics.mean_average_precision(p["image"], p["text"], y, y, metric="dot")
    found = model.evaluate(part, ks=())["mAP@all"]["image->text"]
    assert found == pytest.approx(expected) and found > 0.8


def test_search_gives_the_probability_of_one_class(model, part):
    found = model.search("image", part["image"][0][:2], "text", part["text"][0], k=90)
    p = model.encode("image", part["image"][0][:2]) @ model.encode("text", part["text"][0]).T
    torch.testing.assert_close(found.scores, p.sort(dim=1, descending=True).values)


def test_what_it_tried_says_how_it_chose(model):
    assert {record["modality"] for record in model.tried} == {"image", "text"}
    for name in ("image", "text"):
        own = [record for record in model.tried if record["modality"] == name]
        assert sum(record["share"] for record in own) == pytest.approx(1.0)
        *tried, last = own
        taken = {
            f"{one}, {other}"
            for one in ("roots", "as they are")
            for other in ("one scale", "scale by column")
        }
        assert {record["features"] for record in tried} == taken
        assert last["recipe"].endswith("calibrated") and last["share"] == 1.0
        best = max(tried, key=lambda record: record["log_likelihood"])
        assert last["recipe"].startswith(best["recipe"]) and last["features"] == best["features"]


def test_it_is_saved_and_read_without_modules(model, part, tmp_path):
    again = DRCL.load(model.save(tmp_path / "model"))
    assert isinstance(again.encoders["image"], Ensemble)
    assert again.space == "posterior" and again.tried == model.tried
    for name, (x, _) in part.items():
        assert torch.equal(again.encode(name, x), model.encode(name, x))


def test_a_model_whose_scaling_is_outside_of_its_encoders_is_read(part, tmp_path, monkeypatch):
    """As models were saved before there were roots."""
    old = auto(part, seconds=0.01, progress=False)
    for name, encoder in old.encoders.items():
        scaling = encoder.scaling
        old.standardizers[name] = Standardizer(scaling.mean, scaling.std)
        encoder.scaling = Scaling(len(scaling.mean))
    describe, state_dict = Ensemble.describe, Ensemble.state_dict
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "describe", lambda self: without(describe(self), "root"))
        patch.setattr(Ensemble, "state_dict", lambda self: without(state_dict(self), "scaling."))
        folder = old.save(tmp_path / "model")
    again = DRCL.load(folder)
    for name, (x, _) in part.items():
        assert torch.equal(again.encode(name, x), old.encode(name, x))


def without(entries, start):
    return {key: value for key, value in entries.items() if not key.startswith(start)}


@pytest.fixture
def few_landmarks(monkeypatch):
    """Rows beyond what the kernel takes, and perceptrons that train in a moment."""
    monkeypatch.setattr(drcl.automatic, "LANDMARKS", 40)
    monkeypatch.setattr(drcl.automatic, "MOST", 10)


def test_the_same_seed_gives_the_same_model(part, few_landmarks):
    one, other, third = (auto(part, seed=seed, progress=False) for seed in (3, 3, 4))
    x = part["image"][0]
    assert torch.equal(one.encode("image", x), other.encode("image", x))
    assert not torch.equal(one.encode("image", x), third.encode("image", x))


def test_rows_beyond_the_landmarks_bring_perceptrons_in(part, few_landmarks, tmp_path):
    model = auto(part, progress=False)
    own = [record for record in model.tried if record["modality"] == "image"]
    names = [record["recipe"] for record in own[-4:]]
    assert names[1:] == ["hidden, dropout", "hidden, heavy dropout", "consistent, mixed"]
    assert sum(record["share"] for record in own) == pytest.approx(1.0)
    assert model.evaluate(part, ks=())["mAP@all"]["mean"] > 0.8
    again = DRCL.load(model.save(tmp_path / "model"))
    assert torch.equal(
        again.encode("image", part["image"][0]), model.encode("image", part["image"][0])
    )


def test_validation_rows_are_trained_on_too(part):
    alone = auto(part, progress=False)
    more = auto(part, {"text": part["text"]}, progress=False)
    x, z = part["image"][0], part["text"][0]
    assert torch.equal(alone.encode("image", x), more.encode("image", x))
    assert not torch.equal(alone.encode("text", z), more.encode("text", z))


def test_little_time_leaves_one_scale_of_the_kernel(part, few_landmarks):
    begin = time.perf_counter()
    model = auto(part, seconds=1e-3, progress=False)
    assert len(model.tried) == 4  # one tried and one taken for each modality
    assert all(record["recipe"].startswith("kernel, scale 0.5") for record in model.tried)
    assert time.perf_counter() - begin < 30


def test_rows_alone_in_their_class_do_not_judge(part):
    """Left out, such a row is taken for any class but its own."""
    x, y = part["image"]
    y = y.clone()
    y[:3] = torch.tensor([3, 4, 5])
    alone = auto({"image": (x, y)}, progress=False).tried[-1]["log_likelihood"]
    without = auto({"image": (x[3:], y[3:])}, progress=False).tried[-1]["log_likelihood"]
    assert alone == pytest.approx(without, abs=0.2)


@pytest.mark.parametrize("count", [2, 20, 60])
def test_one_row_a_class_is_ranked_as_its_nearest_row(count):
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(count, 16, generator=generator)
    ids = torch.arange(4 * count) % count
    x = centres[ids] + torch.randn(4 * count, 16, generator=generator)
    model = auto(
        {"image": (x[:count], ids[:count]), "text": (x[:count], ids[:count])}, progress=False
    )
    test = dict.fromkeys(("image", "text"), (x[count:], ids[count:]))
    assert model.evaluate(test, ks=())["mAP@all"]["mean"] > 0.7  # the nearest rows': above .8
    assert all(math.isfinite(record["log_likelihood"]) for record in model.tried)


def test_the_bar_ends_where_it_said(part, few_landmarks, capsys):
    for seconds in (1e-3, None):
        auto(part, seconds=seconds)
        assert "100%" in capsys.readouterr().err


def test_what_is_loaded_does_not_depend_on_the_default_dtype(model, part, tmp_path):
    folder, x = model.save(tmp_path / "model"), part["image"][0]
    try:
        torch.set_default_dtype(torch.bfloat16)
        again = DRCL.load(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again.encode("image", x), model.encode("image", x))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": -0.5}, "scale: expected a number > 0, got -0.5"),
        ({"scale": "0.5"}, "scale: expected a number > 0, got '0.5'"),
        ({"landmarks": 10**12}, "does not fit the network"),
        (None, "parts: expected one or more, got none"),
    ],
)
def test_a_description_that_cannot_be_is_refused(model, tmp_path, monkeypatch, change, message):
    """And takes no memory for what its tensors do not have."""
    describe = Ensemble.describe

    def changed(self):
        about = describe(self)
        parts = [] if change is None else [{**part, **change} for part in about["parts"]]
        return {**about, "parts": parts}

    monkeypatch.setattr(Ensemble, "describe", changed)
    folder = model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        DRCL.load(folder)


def test_it_is_trained_in_inference_mode_too(part):
    with torch.inference_mode():
        model = auto(part, seconds=1e-3, progress=False)
    assert model.evaluate(part, ks=())["mAP@all"]["mean"] > 0.8


def test_labels_may_be_several_missing_or_names(part):
    x, y = part["image"]
    several = torch.eye(3)[y]
    several[::5, 0] = 1
    several[7] = 0
    model = auto({"image": (x, several), "text": (part["text"][0], several)}, progress=False)
    assert model.evaluate({"image": (x, several), "text": (part["text"][0], several)}, ks=())
    names = np.array(["cat", "dog", "fox"])[y.numpy()]
    assert auto({"image": (x, names)}, seconds=1, progress=False).classes == ("cat", "dog", "fox")


def test_a_modality_may_lack_a_class(part):
    x, y = part["text"]
    seen = y != 2
    model = auto({"image": part["image"], "text": (x[seen], y[seen])}, progress=False)
    assert model.encode("text", x).argmax(dim=1).ne(2).float().mean() > 0.9


@pytest.mark.parametrize(
    "change, error",
    [
        ({"seconds": 0}, "seconds: expected"),
        ({"seed": 1.5}, "seed: expected"),
        (
            {"train": {"image": (torch.zeros(4, 3, 1), [0, 1, 0, 1])}},
            r"train image features: expected rows \(N, d\), got shape \(4, 3, 1\)",
        ),
        ({"validation": {"sound": (torch.zeros(2, 2), [0, 1])}}, "validation: expected modalities"),
        ({"classes": [0, 1]}, "train image labels: row 2 has label 2"),
    ],
)
def test_bad_arguments_are_named(part, change, error):
    with pytest.raises((ValueError, TypeError), match=error):
        auto(**{"train": part, "progress": False, **change})


def test_a_dataset_is_refused(part):
    data = torch.utils.data.TensorDataset(*part["image"])
    with pytest.raises(TypeError, match=r"train image: expected \(features, labels\)"):
        auto({"image": data}, progress=False)


def test_a_later_modality_is_a_model_of_its_own_with_comparable_posteriors(model, part):
    with pytest.raises(ValueError, match=r"with drcl.auto\(…, classes=model.classes\)"):
        model.add_modality("sound", part["text"])
    later = auto({"sound": part["text"]}, classes=model.classes, seconds=1, progress=False)
    assert later.classes == model.classes
    p, y = later.encode("sound", part["text"][0]), part["text"][1]
    image = model.encode("image", part["image"][0])
    assert metrics.mean_average_precision(image, p, y, y, metric="dot") > 0.8


def test_the_preset_trains_and_measures_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", "digits", "--preset", "auto", "--seed", "2", "--out", str(run)]
    main([*command, "--no-progress"], standalone_mode=False)
    report = (run / "report" / "report.html").read_text()
    assert "drcl train digits --preset auto --seed 2 --out OUT" in report
    said = capsys.readouterr().out
    assert "kernel, scale 0.5" in said and "training: auto " in said
    assert json.loads((run / "metrics.json").read_text())["mAP@all"]["mean"] > 0.8
    written = (run / "metrics.json").read_bytes()
    for space in ("cosine", "posterior"):
        out = tmp_path / f"{space}.json"
        main(["evaluate", str(run), "--space", space, "--out", str(out)], standalone_mode=False)
        assert (out.read_bytes() == written) == (space == "posterior")
    for option in (("--dim", "8"), ("--resume",)):
        with pytest.raises(UsageError, match=f"--preset auto: expected no {option[0]} beside it"):
            main([*command, *option], standalone_mode=False)
