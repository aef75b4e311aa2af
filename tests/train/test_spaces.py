"""``space``: cosine or calibrated posteriors, in every way in and out."""

from __future__ import annotations

import json

import pytest
import torch

from drcl import DRCL, Prior, metrics
from drcl.ensemble.calibration import fit_temperature

SETTINGS = {"dim": 8, "hidden": (16,), "epochs": 8, "prior_epochs": 4, "lr": 1e-2}


def make(seed, count=60):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    return {
        name: (torch.eye(3, width)[y] + 0.7 * torch.randn(count, width, generator=generator), y)
        for name, width in (("image", 6), ("text", 4))
    }


@pytest.fixture(scope="module")
def model():
    return DRCL(**SETTINGS).fit(make(0), make(1), progress=False)


def test_the_posterior_is_the_calibrated_softmax_of_the_logits(model):
    x, y = make(1)["image"]
    z = model.encode("image", x)
    logits = z @ model.prior.weight
    tau = fit_temperature(logits, torch.eye(3)[y])
    assert model.temperatures["image"] == pytest.approx(tau, rel=1e-5)
    torch.testing.assert_close(
        model.encode("image", x, space="posterior"), (logits / tau).softmax(dim=1)
    )


def test_evaluate_and_search_take_a_space(model):
    test = make(2)
    rows = {m: (model.encode(m, x, space="posterior"), y) for m, (x, y) in test.items()}
    assert model.evaluate(test, space="posterior") == metrics.retrieval_report(rows, metric="dot")
    assert model.evaluate(test) == model.evaluate(test, space="cosine")
    found = model.search("image", test["image"][0][:1], "text", test["text"][0], space="posterior")
    scores = rows["image"][0][:1] @ rows["text"][0].T
    torch.testing.assert_close(found.scores, scores.sort(descending=True).values[:, :10])


def test_the_space_of_the_settings_is_the_models_and_changes_no_weight(model):
    other = DRCL(**SETTINGS, space="posterior").fit(make(0), make(1), progress=False)
    assert other.space == "posterior" and model.space == "cosine"
    x = make(2)["text"][0]
    assert torch.equal(other.encode("text", x, space="cosine"), model.encode("text", x))
    assert torch.equal(other.encode("text", x), model.encode("text", x, space="posterior"))


def test_auto_takes_the_better_space_on_validation():
    model = DRCL(**SETTINGS, space="auto").fit(make(0), make(1), progress=False)
    values = {
        space: model.evaluate(make(1), ks=(), space=space)["mAP@all"]["mean"]
        for space in ("cosine", "posterior")
    }
    assert model.space == max(values, key=values.__getitem__)


def test_auto_needs_validation_rows_of_two_modalities():
    with pytest.raises(ValueError, match="space: expected validation rows of two modalities"):
        DRCL(**SETTINGS, space="auto").fit(make(0), progress=False)


def test_without_validation_the_temperature_is_the_settings():
    model = DRCL(**SETTINGS, temperature=0.5).fit(make(0), progress=False)
    assert model.temperatures == {"image": 0.5, "text": 0.5}


def test_a_modality_that_is_added_is_calibrated_too():
    data = make(0)
    model = DRCL(**SETTINGS, space="auto").fit(
        {"image": data["image"], "sound": data["text"]},
        {"image": make(1)["image"], "sound": make(1)["text"]},
        progress=False,
    )
    model.add_modality("text", data["text"], make(1)["text"], progress=False)
    assert model.temperatures["text"] not in (0.0, 1.0)
    assert model.encode("text", data["text"][0], space="posterior").shape == (60, 3)


def test_spaces_and_temperatures_are_stored_and_models_of_before_have_neither(model, tmp_path):
    from drcl.storage import sealed

    folder = model.save(tmp_path / "model")
    again = DRCL.load(folder)
    assert (again.space, again.temperatures) == (model.space, model.temperatures)
    config = json.loads((folder / "config.json").read_text())
    del config["space"], config["tried"], config["crc32"]
    for entry in config["encoders"].values():
        del entry["temperature"]
    (folder / "config.json").write_bytes(sealed.to_json(sealed.with_checksum(config)))
    old = DRCL.load(folder)
    assert (old.space, old.temperatures) == ("cosine", {"image": 1.0, "text": 1.0})
    x = make(2)["image"][0]
    assert torch.equal(old.encode("image", x), model.encode("image", x))


@pytest.mark.parametrize("entry", ["method", "setting"])
def test_another_space_is_refused(model, entry):
    with pytest.raises(ValueError, match="space: expected one of"):
        if entry == "setting":
            DRCL(space="euclid")
        else:
            model.encode("image", make(0)["image"][0], space="auto")


def test_networks_of_the_users_own_are_calibrated_by_their_own_lengths():
    prior = Prior.orthogonal(dim=8, classes=3)
    networks = {"image": torch.nn.Linear(6, 8), "text": torch.nn.Linear(4, 8)}
    model = DRCL(**SETTINGS, networks=networks).fit(make(0), make(1), prior=prior, progress=False)
    x = make(2)["image"][0]
    z = model.encoders["image"](x).detach()
    expected = (z @ prior.weight / model.temperatures["image"]).softmax(dim=1)
    torch.testing.assert_close(model.encode("image", x, space="posterior"), expected)


def test_a_loader_gives_the_posteriors_of_its_rows(model):
    x, y = make(2)["image"]
    data = torch.utils.data.TensorDataset(x, y)
    torch.testing.assert_close(
        model.encode("image", data, space="posterior"), model.encode("image", x, space="posterior")
    )
