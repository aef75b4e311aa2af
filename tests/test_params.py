"""Settings by name: what scikit-learn's tools ask of an estimator."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from drcl import DRCL, Config


def test_params_are_the_settings_and_make_the_same_model():
    config = Config(dim=32, hidden=[8, 8], lr={"image": 1e-3, "text": 1e-2}, epochs=3)
    networks = {"image": nn.Linear(8, 32)}
    model = DRCL(config, networks=networks)
    params = model.get_params()
    assert params == model.get_params(deep=False)
    assert set(params) == {*Config().to_dict(), "networks"}
    assert params["lr"] == {"image": 1e-3, "text": 1e-2} and params["networks"] == networks
    again = DRCL(**params)
    assert again.config == config and again.networks == networks


def test_params_are_set_and_checked():
    model = DRCL(dim=32)
    assert model.set_params(lr=1e-2, hidden=(8,)) is model
    assert model.config == Config(dim=32, lr=1e-2, hidden=(8,))
    network = nn.Linear(8, 32)
    assert model.set_params(networks={"image": network}).networks == {"image": network}
    for wrong, said in (
        ({"depth": 3}, r"config: expected settings of .*got \['depth'\]"),
        ({"lr": 0}, "lr: expected"),
        ({"networks": {"image": 3}, "lr": 1.0}, "networks"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            model.set_params(**wrong)
    assert model.config == Config(dim=32, lr=1e-2, hidden=(8,))  # all or nothing
    assert model.networks == {"image": network}


def test_a_fitted_model_keeps_its_settings():
    model = DRCL(**tiny.SETTINGS).fit(tiny.split(), progress=False)
    before = model.config
    with pytest.raises(RuntimeError, match="set_params: expected a model that is not fitted"):
        model.set_params(lr=1.0)
    assert model.config is before


def test_a_clone_has_the_settings_and_nothing_of_the_training():
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    train = tiny.split()
    settings = {**tiny.SETTINGS, "lr": {"image": 1e-3, "text": 1e-2}, "seed": 5}
    model = DRCL(**settings).fit(train, progress=False)
    clone = base.clone(model)
    assert clone.config == model.config and not clone.modalities and clone is not model
    clone.fit(train, progress=False)
    x = train["image"][0]
    assert torch.equal(clone.encode("image", x), model.encode("image", x))
