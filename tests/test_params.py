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


def test_a_subclass_with_other_arguments_is_not_cloned_without_them():
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

    class Further(DRCL):
        def __init__(self, extra=3, **settings):
            super().__init__(**settings)
            self.extra = extra

    class Plain(DRCL):
        pass

    with pytest.raises(TypeError, match=r"clone: expected a class .* got Further with an __init__"):
        base.clone(Further(extra=5, dim=8))
    clone = base.clone(Plain(dim=8))
    assert type(clone) is Plain and clone.config.dim == 8


def test_a_subclass_is_loaded_with_the_settings_for_its_settings(tmp_path):
    class Further(DRCL):
        def __init__(self, extra=3, **settings):
            super().__init__(**settings)
            self.extra = extra

    model = Further(**tiny.SETTINGS).fit(tiny.split(), progress=False)
    loaded = Further.load(model.save(tmp_path))
    assert loaded.extra == 3 and loaded.config == model.config


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
