"""The estimator from arrays to retrieval, on sets of a few dozen rows."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from drcl import DRCL, Config, Encoder, Prior, metrics, select_prior
from drcl.data import CrossModalDataset, Labelled
from drcl.train.loop import NonFiniteLoss, schedule_q


def fit(train=None, validation=None, networks=None, *, prior=None, **settings):
    model = DRCL(networks=networks, **{**tiny.SETTINGS, **settings})
    return model.fit(train or tiny.split(), validation, prior=prior, progress=False)


def states(model, modality):
    return model.encoders[modality].state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


TEST = tiny.split(seed=7)


# --- the whole path


def test_learns_to_retrieve_across_modalities():
    model = fit(epochs=40, prior_epochs=40)
    report = model.evaluate(TEST, ks=(5,))
    assert sorted(report) == ["mAP@5", "mAP@all"]
    assert report["mAP@all"]["mean"] > 0.7  # a random ranking has about 0.25
    chance = fit(epochs=1, prior_epochs=1, lr=1e-9, prior_lr=1e-9).evaluate(TEST)
    assert chance["mAP@all"]["mean"] < 0.5
    assert model.modalities == ("image", "text") and model.classes == (0, 1, 2, 3)
    assert model.prior.modality in model.modalities and 0 < model.prior.score <= 1


def test_the_prior_is_the_one_with_the_best_score():
    model = fit()
    best = {
        name: max(
            r["score"] for r in model.history if r["phase"] == "prior" and r["modality"] == name
        )
        for name in model.modalities
    }
    assert best[model.prior.modality] == max(best.values()) == model.prior.score
    alone = select_prior(tiny.split(), config=model.config, progress=False)
    assert torch.equal(alone.weight, model.prior.weight)


def test_encode():
    model = fit()
    features = TEST["image"][0]
    out = model.encode("image", features)
    assert out.shape == (40, 16) and out.dtype == torch.float32 and out.device.type == "cpu"
    torch.testing.assert_close(torch.linalg.vector_norm(out, dim=1), torch.ones(40))
    assert not out.is_inference() and not out.requires_grad
    for same_features in (
        torch.from_numpy(features),
        features.astype(np.float64),
        features.astype(">f4"),
        features[::-1][::-1],
        np.asfortranarray(features),
        features.tolist(),
    ):
        assert torch.equal(model.encode("image", same_features), out)


def test_search():
    model = fit()
    queries, gallery = TEST["image"][0][:5], TEST["text"][0]
    scores, indices = model.search("image", queries, "text", gallery, k=3)
    cosines = model.encode("image", queries) @ model.encode("text", gallery).T
    expected = cosines.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(scores, expected.values[:, :3])
    assert torch.equal(indices, expected.indices[:, :3])
    assert model.search("image", queries, "text", gallery, k=99).indices.shape == (5, len(gallery))
    tied = model.search("image", queries, "text", np.repeat(gallery[:1], 4, axis=0), k=4)
    assert tied.indices.tolist() == [[0, 1, 2, 3]] * 5
    with pytest.raises(ValueError, match="k"):
        model.search("image", queries, "text", gallery, k=0)
    with pytest.raises(ValueError, match=r"modality.*audio"):
        model.search("image", queries, "audio", gallery)


def test_autocast_does_not_narrow_the_cosines_of_a_search():
    model = fit()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.search("image", TEST["image"][0], "text", TEST["text"][0], k=5)
        image, text = (model.encode(name, TEST[name][0]) for name in ("image", "text"))
    assert torch.equal(found.scores, (image @ text.T).sort(dim=1, descending=True).values[:, :5])


def test_evaluate_is_the_report_of_the_embeddings():
    model = fit()
    embeddings = {name: (model.encode(name, x), y) for name, (x, y) in TEST.items()}
    assert model.evaluate(TEST) == metrics.retrieval_report(embeddings)
    with pytest.raises(ValueError, match="test text labels"):
        model.evaluate({**TEST, "text": (TEST["text"][0], TEST["text"][1] + 7)})


@pytest.mark.parametrize("lr", [5e-3, {"image": 5e-3, "text": 1e-3}])
def test_add_modality_leaves_the_others_as_they_are(lr, tmp_path):
    model = fit(lr=lr)
    before = {
        name: {k: v.clone() for k, v in states(model, name).items()} for name in ("image", "text")
    }
    prior = model.prior.weight.clone()
    model.add_modality("audio", tiny.samples("audio", 35), epochs=12, lr=5e-3, progress=False)
    assert model.modalities == ("image", "text", "audio")
    assert all(same(states(model, name), state) for name, state in before.items())
    assert torch.equal(model.prior.weight, prior)
    audio = [record for record in model.history if record["modality"] == "audio"]
    assert [record["epoch"] for record in audio] == list(range(12))
    assert len(model.evaluate({**TEST, "audio": tiny.samples("audio", 20, seed=7)})["mAP@all"]) == 7
    assert DRCL.load(model.save(tmp_path / "m")).modalities == model.modalities


def test_add_modality_that_fails_changes_nothing():
    model = fit()
    x, y = tiny.samples("audio", 35)
    for bad, named in (
        (("image", (x, y)), "image"),
        (("audio", (x, y + 9)), "audio"),
        (("audio", (x[:5], y)), "audio"),
        (("a/b", (x, y)), "a/b"),
    ):
        with pytest.raises(ValueError, match=named):
            model.add_modality(*bad, progress=False)
    with pytest.raises(ValueError, match="dim"):
        model.add_modality("audio", (x, y), dim=17, progress=False)
    with pytest.raises(NonFiniteLoss):
        model.add_modality("audio", (x, y), lr=1e36, progress=False)
    assert model.modalities == ("image", "text") and len(model.history) == 22


def test_a_given_prior_is_used_as_it_is():
    prior = Prior.orthogonal(16, 4, norm=3.0)
    model = fit(prior=prior)
    assert torch.equal(model.prior.weight, prior.weight)
    assert {record["phase"] for record in model.history} == {"encoder"}
    with pytest.raises(ValueError, match="dim"):
        fit(prior=Prior.orthogonal(17, 4))


@pytest.mark.parametrize("norm", [None, 2.9])
def test_prior_settings(norm):
    orthogonal = fit(prior_norm=norm, epochs=1).prior if norm else fit(epochs=1).prior
    if norm:
        assert float(orthogonal.column_norm) == pytest.approx(norm)
    random = DRCL(**tiny.SETTINGS | {"prior": "orthogonal", "prior_norm": norm, "epochs": 1})
    weight = random.fit(tiny.split(), progress=False).prior.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(4) * (norm or 1.0) ** 2)


# --- labels and sizes


def recoded(code):
    return {name: (x, code(y)) for name, (x, y) in tiny.split().items()}


@pytest.mark.parametrize(
    "code, classes",
    [
        (lambda y: y + 1, (1, 2, 3, 4)),
        (lambda y: y * 10 + 30, (30, 40, 50, 60)),
        (lambda y: (y + 1).astype(np.float64)[:, None], (1, 2, 3, 4)),
        (lambda y: torch.from_numpy(y), (0, 1, 2, 3)),
        (lambda y: np.eye(4, dtype=np.uint8)[y], (0, 1, 2, 3)),
    ],
    ids=["from 1", "gaps", "float column", "tensor", "one-hot"],
)
def test_the_form_of_the_labels_does_not_matter(code, classes):
    model, plain = fit(recoded(code)), fit()
    assert model.classes == classes
    for name in model.modalities:
        for key, value in states(model, name).items():
            torch.testing.assert_close(value, states(plain, name)[key], rtol=1e-4, atol=1e-5)


def test_multi_hot_labels():
    def code(y):
        rows = np.eye(4)[y]
        rows[:, 0] = 1
        return rows

    model = fit(recoded(code))
    report = model.evaluate({name: (x, code(y)) for name, (x, y) in TEST.items()})
    assert report["mAP@all"]["mean"] == 1.0  # all share the first label
    assert all(math.isfinite(record["loss"]) for record in model.history)


def test_unlabelled_samples_have_no_part_in_training():
    def code(y):
        return np.where(np.arange(len(y)) % 3 == 0, -1, y)

    model = fit(recoded(code))
    without = fit(
        {name: (x[code(y) >= 0], y[code(y) >= 0]) for name, (x, y) in tiny.split().items()}
    )
    assert all(same(states(model, name), states(without, name)) for name in model.modalities)
    model.evaluate({name: (x, code(y)) for name, (x, y) in TEST.items()})


def test_a_class_may_be_missing_in_a_modality():
    train = tiny.split()
    x, y = train["text"]
    model = fit({**train, "text": (x[y != 2], y[y != 2])})
    assert model.classes == (0, 1, 2, 3)


def test_a_batch_larger_than_the_set_is_one_batch():
    large, whole = fit(batch_size=4096), fit(batch_size={"image": 40, "text": 30})
    assert all(same(states(large, name), states(whole, name)) for name in large.modalities)
    untrained = fit(batch_size=4096, epochs=1, lr=1e-12)
    assert not same(states(large, "image"), states(untrained, "image"))


def test_one_modality_is_enough_to_train():
    model = fit(tiny.split(image=40))
    assert model.encode("image", TEST["image"][0]).shape == (40, 16)


# --- reproducibility


def test_same_seed_same_bits_whatever_the_global_state():
    a = fit(validation=tiny.split(seed=3))
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    b = fit(validation=tiny.split(seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(same(states(a, name), states(b, name)) for name in a.modalities)
    assert torch.equal(a.prior.weight, b.prior.weight)
    c = fit(validation=tiny.split(seed=3), seed=1)
    assert not torch.equal(a.prior.weight, c.prior.weight)


def test_dropout_in_a_users_network_is_reproducible():
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 16))
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(fit(networks={"image": network}))
    assert same(states(models[0], "image"), states(models[1], "image"))


def test_the_order_of_modalities_does_not_matter():
    train = tiny.split()
    a, b = fit(train), fit(dict(reversed(train.items())))
    assert b.modalities == ("text", "image")
    assert torch.equal(a.prior.weight, b.prior.weight)
    assert all(same(states(a, name), states(b, name)) for name in a.modalities)
    # Nor does, with the prior given, whether there are other modalities at all.
    alone = fit(tiny.split(image=40), prior=a.prior)
    assert same(states(alone, "image"), states(a, "image"))


def test_fit_starts_anew():
    model = fit()
    again = {
        name: {k: v.clone() for k, v in states(model, name).items()} for name in model.modalities
    }
    model.fit(tiny.split(), progress=False)
    assert all(same(states(model, name), again[name]) for name in model.modalities)
    assert len(model.history) == 22


# --- networks of one's own


class Convolutions(nn.Module):
    """Takes pictures (N, 1, 4, 4)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 16),
        )

    def forward(self, pictures):
        return nn.functional.normalize(self.body(pictures))


def pictures(count=30, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return rng.normal(size=(count, 1, 4, 4)) + labels[:, None, None, None], labels


@pytest.mark.parametrize("standardize", [False, True])
def test_networks_of_ones_own(tmp_path, standardize):
    network = Convolutions()
    untouched = {key: value.clone() for key, value in network.state_dict().items()}
    train = {"image": pictures(), "text": tiny.samples("text", 30)}
    model = fit(train, networks={"image": network}, standardize=standardize)
    assert same(network.state_dict(), untouched)
    x, _ = pictures(seed=1)
    expected = model.encode("image", x)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"networks: modality 'image'.*Convolutions"):
        DRCL.load(tmp_path / "m")
    loaded = DRCL.load(tmp_path / "m", networks={"image": network})
    assert torch.equal(loaded.encode("image", x), expected)
    assert same(network.state_dict(), untouched)
    with pytest.raises(ValueError, match="does not fit the network"):
        DRCL.load(tmp_path / "m", networks={"image": nn.Linear(16, 16)})


def test_one_module_for_two_modalities_is_two_networks(tmp_path):
    train = {"image": tiny.samples("image", 40), "sketch": tiny.samples("image", 30, seed=5)}
    network = nn.Linear(8, 16)
    networks = dict.fromkeys(train, network)
    model = fit(train, networks=networks)
    assert not same(states(model, "image"), states(model, "sketch"))
    loaded = DRCL.load(model.save(tmp_path / "m"), networks=networks)
    for name in train:
        assert same(states(loaded, name), states(model, name))


def test_tied_weights_can_be_saved(tmp_path):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16))
    network[1].weight = network[0].weight
    model = DRCL(networks={"image": network}, **tiny.SETTINGS)
    model.fit(tiny.split(image=40), checkpoints=tmp_path / "c", progress=False)
    loaded = DRCL.load(model.save(tmp_path / "m"), networks={"image": network})
    assert torch.equal(
        loaded.encode("image", TEST["image"][0]), model.encode("image", TEST["image"][0])
    )


class _Squared(Encoder):
    def forward(self, features):
        return super().forward(features * features)


def _with_other_layers(**layers):
    network = Encoder(8, dim=16, hidden=(24, 24, 24))
    for place, layer in layers.items():
        network.layers[int(place[1:])] = layer
    return network


def _with_tied_layers():
    network = Encoder(8, dim=16, hidden=(24, 24, 24))
    network.layers[4] = network.layers[2]
    return network


CHANGED = {
    "subclass": lambda: _Squared(8, dim=16, hidden=(24,)),
    "tanh": lambda: _with_other_layers(_1=nn.Tanh()),
    "a bias at the end": lambda: _with_other_layers(_6=nn.Linear(24, 16)),
    "no bias": lambda: _with_other_layers(_0=nn.Linear(8, 24, bias=False)),
    "widths": lambda: _with_other_layers(_0=nn.Linear(8, 30), _2=nn.Linear(30, 24)),
    "tied": _with_tied_layers,
}


@pytest.mark.parametrize("make", CHANGED.values(), ids=CHANGED)
def test_an_encoder_that_was_changed_is_a_network_of_ones_own(make, tmp_path):
    """It was trained with the layers it had been built with, and loaded as the plain encoder."""
    network, data = make(), tiny.split()
    model = fit(data, networks={"image": network})
    wrapped = fit(data, networks={"image": nn.Sequential(network)})
    image, _ = data["image"]
    assert torch.equal(model.encode("image", image), wrapped.encode("image", image))
    model.save(tmp_path)
    with pytest.raises(ValueError, match="network of your own"):
        DRCL.load(tmp_path)
    loaded = DRCL.load(tmp_path, networks={"image": network})
    assert torch.equal(loaded.encode("image", image), model.encode("image", image))


class _Stateful(nn.Linear):
    def get_extra_state(self):
        return {"steps": 0}

    def set_extra_state(self, state):
        pass


class _Pair(nn.Linear):
    def forward(self, features):
        return super().forward(features), features


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Identity(), "expected a parameter to train"),
        (nn.Linear(8, 16).requires_grad_(False), "expected a parameter to train"),
        (nn.LazyLinear(16), "expected parameters with a shape"),
        (_Stateful(8, 16), "_extra_state"),
        (_Pair(8, 16), "one tensor"),
    ],
    ids=["nothing", "frozen", "lazy", "state", "pair"],
)
def test_networks_that_cannot_be_trained_are_refused(network, said):
    with pytest.raises((ValueError, TypeError), match=f"networks: .*{said}"):
        fit(networks={"image": network})


def test_networks_for_unknown_modalities_are_refused():
    with pytest.raises(ValueError, match=r"networks.*imgae"):
        fit(networks={"imgae": nn.Linear(8, 16)})


def test_a_network_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match=r"features: expected width 16, .* got 12"):
        fit(networks={"image": nn.Linear(8, 12)})


def test_pictures_need_a_network():
    with pytest.raises(ValueError, match=r"image features.*network"):
        fit({"image": pictures(), "text": tiny.samples("text", 30)})


# --- settings


def test_standardize_is_stored_and_applied(tmp_path):
    train = {name: (x * 100 + 30, y) for name, (x, y) in tiny.split().items()}
    x = train["image"][0].copy()
    train["image"] = (
        np.hstack([x[:, :-1], np.full((40, 1), 0.1, dtype=np.float32)]),
        train["image"][1],
    )
    model = fit(train, standardize=True)
    image = model.standardizers["image"]
    assert image.mean.numpy()[:-1] == pytest.approx(x[:, :-1].mean(axis=0), rel=1e-5)
    assert image.std.numpy()[:-1] == pytest.approx(x[:, :-1].std(axis=0), rel=1e-5)
    assert float(image.std[-1]) == 1.0  # a constant column
    by_hand = (torch.from_numpy(train["image"][0]) - image.mean) / image.std
    with torch.no_grad():
        torch.testing.assert_close(
            model.encoders["image"](by_hand), model.encode("image", train["image"][0])
        )
    loaded = DRCL.load(model.save(tmp_path / "m"))
    assert torch.equal(
        loaded.encode("text", TEST["text"][0]), model.encode("text", TEST["text"][0])
    )
    # Standardizing first gives the same model.
    ready = {
        name: (model.standardizers[name](torch.from_numpy(x)), y) for name, (x, y) in train.items()
    }
    assert same(states(fit(ready), "text"), states(model, "text"))
    prior = select_prior(train, config=model.config, progress=False)
    assert torch.equal(prior.weight, model.prior.weight)


def test_paper_compat():
    model = fit(validation=tiny.split(seed=3), paper_compat=True, selection="last")
    assert all(math.isfinite(v) for r in model.history for v in r.values() if isinstance(v, float))
    encoder = [r for r in model.history if r["phase"] == "encoder" and r["modality"] == "image"]
    # Lowest validation loss at each epoch's own q.
    losses = [r["validation_loss"] for r in encoder]
    kept = [r["epoch"] for r in encoder if r["kept"]]
    assert kept[-1] == int(np.argmin(losses))
    prior = [
        r for r in model.history if r["phase"] == "prior" and r["modality"] == model.prior.modality
    ]
    assert all(record["kept"] for record in prior)  # the last W is the prior


def test_paper_compat_drops_the_last_partial_batch():
    # 40 rows in batches of 16: as it comes, or only the two whole batches.
    sizes: list[int] = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                sizes.append(len(x))
            return super().forward(x)

    for compat, expected in ((False, [16, 16, 8]), (True, [16, 16])):
        sizes.clear()
        fit(tiny.split(image=40), networks={"image": Spy(8, 16)}, paper_compat=compat, epochs=2)
        assert sizes == expected * (5 + 2)
    sizes.clear()
    fit(tiny.split(image=9), networks={"image": Spy(8, 16)}, paper_compat=True, epochs=2)
    assert sizes == [9] * (5 + 2)  # the only batch is never dropped


@pytest.mark.parametrize(
    "selection, value, better",
    [("map", "validation_map", np.argmax), ("loss", "validation_loss", np.argmin)],
)
def test_selection_keeps_the_best_epoch(selection, value, better):
    validation = tiny.split(seed=3)
    model = fit(validation=validation, selection=selection, epochs=12, lr=3e-2)
    records = [r for r in model.history if r["phase"] == "encoder" and r["modality"] == "text"]
    values = [record[value] for record in records]
    best = int(better(values))
    assert [r["epoch"] for r in records if r["kept"]][-1] == best
    # What is kept is that epoch's state: training that stops there has it as its last.
    stopped = fit(validation=validation, selection="last", epochs=best + 1, lr=3e-2)
    assert same(states(stopped, "text"), states(model, "text"))
    x, y = validation["text"]
    z = model.encode("text", x)
    if selection == "map":
        again = metrics.mean_average_precision(z, z, y, y, exclude_self=True)
        assert again == pytest.approx(max(values), rel=1e-4)


def test_without_validation_the_last_epoch_is_kept():
    model = fit(validation={"image": tiny.samples("image", 20, seed=3)})
    text = [r for r in model.history if r["phase"] == "encoder" and r["modality"] == "text"]
    assert all(record["kept"] and "validation_map" not in record for record in text)


def test_prior_selection_by_validation():
    validation = tiny.split(seed=3)
    model = fit(validation=validation, prior_selection="validation")
    training = fit(validation=validation)
    assert model.prior.score != training.prior.score
    seen: list[str] = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append("trained")
            return super().forward(x)

    with pytest.raises(ValueError, match=r"validation.*text"):
        fit(
            validation={"image": validation["image"]},
            prior_selection="validation",
            networks={"image": Spy(8, 16)},
        )
    assert not seen  # refused up front, not after the first modality


def test_the_schedule_of_q():
    assert [schedule_q(epoch) for epoch in (0, 1, 50, 100, 101, 1000)] == [0, 0.01, 0.5, 1, 1, 1]


# --- bad input


def train_with(**changes):
    train = tiny.split()
    for name, change in changes.items():
        train[name] = change(*train[name])
    return train


def nan_at(row):
    def change(x, y):
        x = x.copy()
        x[row, 1] = np.nan
        return x, y

    return change


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": nan_at(4)}, "train text features: expected finite values .* in row 4"),
        (
            {"image": lambda x, y: (x.astype(float) * 1e300, y)},
            "train image features: expected finite values",
        ),
        (
            {"text": lambda x, y: (x, y[:-1])},
            r"train text labels: expected 30 ids, names or rows, got shape \(29,\)",
        ),
        ({"text": lambda x, y: (x[:0], y[:0])}, "train text features"),
        ({"text": lambda x, y: (x[:, 0], y)}, "train text features"),
        ({"text": lambda x, y: (x.astype(str), y)}, "train text features"),
        ({"text": lambda x, y: (x + 0j, y)}, "train text features"),
        ({"text": lambda x, y: ([[1.0], [1.0, 2.0]], y[:2])}, "train text features"),
        ({"text": lambda x, y: (x, np.full(len(y), -1))}, "train text.*unlabelled"),
        ({"text": lambda x, y: (x, y + 0.5)}, "labels: label .* is not a whole number"),
        ({"text": lambda x, y: (x, np.eye(4)[y])}, "labels.*one form"),
        (
            {"text": lambda x, y: (x, y * 0), "image": lambda x, y: (x, y * 0)},
            r"train.*two classes, got \[0\]",
        ),
    ],
)
def test_bad_data_is_refused_by_name(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(train_with(**changes))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dim": 3}, "dim: expected at least 4"),
        ({"lr": {"image": 1e-3}}, "lr.*image.*text"),
        ({"epochs": {"image": 1, "text": 2, "audio": 3}}, "epochs.*audio"),
        ({"device": "warp"}, "device.*warp"),
        ({"device": "\x1b[2J"}, r"device: expected .*, got '\\x1b\[2J'"),
    ],
)
def test_settings_are_checked_up_front(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(**settings)


def test_other_ways_to_call_fit_wrongly(tmp_path):
    with pytest.raises(ValueError, match="train"):
        DRCL(**tiny.SETTINGS).fit({}, progress=False)
    with pytest.raises(ValueError, match=r"validation.*audio"):
        fit(validation={"audio": tiny.samples("audio", 9)})
    with pytest.raises(ValueError, match=r"validation text labels.*row 0"):
        fit(validation={"text": (TEST["text"][0], TEST["text"][1] + 50)})
    with pytest.raises(ValueError, match="a/b"):
        fit({"a/b": tiny.samples("image", 40)})
    folder = tmp_path / "model"
    for call in (lambda m: m.prior, lambda m: m.classes, lambda m: m.save(folder)):
        with pytest.raises(RuntimeError, match="fit"):
            call(DRCL())
    assert not folder.exists()
    x, y = tiny.samples("image", 8)
    for call in (
        lambda m: m.encode("image", x),
        lambda m: m.encode("image", TensorDataset(torch.from_numpy(x), torch.from_numpy(y))),
        lambda m: m.search("image", x, "text", x),
        lambda m: m.evaluate({"image": (x, y), "text": (x, y)}),
        lambda m: m.add_modality("image", (x, y), progress=False),
    ):
        with pytest.raises(RuntimeError, match=r"this DRCL has no .* yet: call fit\(\) first"):
            call(DRCL())
    with pytest.raises(ValueError, match=r"expected rows of shape \(8,\), got \(5,\)"):
        fit(epochs=1).encode("image", np.zeros((1, 5)))


X, Y = tiny.samples("image", 40)
MODULES = r"networks: expected an nn.Module for image, got"
MISUSES = {
    "a list": (lambda: [(X, Y)], r"train: expected a mapping .* got list; give \{\"image\""),
    "an array": (lambda: X, r"train: expected a mapping .* got ndarray; give \{\"image\""),
    "a tensor": (lambda: torch.from_numpy(X), r"train: expected a mapping .* got Tensor"),
    "a frame": (
        lambda: pytest.importorskip("pandas", reason="no pandas").DataFrame(X),
        r"train: expected a mapping .* got DataFrame",
    ),
    "a data set": (
        lambda: CrossModalDataset("set", tuple("abcd"), {"image": Labelled(X, Y)}, {}, {}),
        r"train: expected a mapping .* got CrossModalDataset; give its \.train",
    ),
    "features alone": (lambda: {"image": X}, r"train image: expected \(features, labels\), a Data"),
    "a frame alone": (
        lambda: {"image": pytest.importorskip("pandas", reason="no pandas").DataFrame(X)},
        r"train image: expected \(features, labels\), a Dataset .* got DataFrame",
    ),
    "three": (lambda: {"image": (X, Y, Y)}, r"train image: expected \(features.* got 3 items"),
}


@pytest.mark.parametrize("train, message", MISUSES.values(), ids=MISUSES)
def test_what_is_no_train_argument_says_what_to_give(train, message):
    config = Config(**tiny.SETTINGS)
    model = fit(epochs=1, prior_epochs=1)
    for call in (
        lambda: DRCL(config).fit(train(), progress=False),
        lambda: DRCL(config).fit(train(), train(), progress=False),
        lambda: select_prior(train(), config=config, progress=False),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match=message.replace("train", "validation")):
        DRCL(config).fit({"image": (X, Y)}, train(), progress=False)
    with pytest.raises(TypeError, match=message.replace("train", "test")):
        model.evaluate(train())
    if isinstance(train(), dict):
        with pytest.raises(TypeError, match=message.replace("image", "audio")):
            model.add_modality("audio", *train().values(), progress=False)


def test_fit_of_features_and_labels_says_what_to_give():
    with pytest.raises(TypeError, match=r"train: .* give \{\"image\": \(features, labels\), …\}"):
        DRCL(**tiny.SETTINGS).fit(X, Y, progress=False)


@pytest.mark.parametrize(
    "network, said",
    [
        (lambda x: x, MODULES + r" function; a function needs a module whose forward\(\)"),
        (nn.Linear, r"networks: expected a module for image, got the class Linear; .* Linear\(…\)"),
        ("resnet", MODULES + " str"),
    ],
    ids=["function", "class", "name"],
)
def test_networks_that_are_no_modules_are_refused_wherever_they_are_given(network, said, tmp_path):
    networks = {"image": network}
    config, train = Config(**tiny.SETTINGS), tiny.split()
    model = fit(epochs=1, prior_epochs=1)
    folder = model.save(tmp_path / "m")
    for call in (
        lambda: DRCL(config, networks=networks),
        lambda: DRCL.load(folder, networks=networks),
        lambda: select_prior(train, config=config, networks=networks, progress=False),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(TypeError, match=said.replace("image", "audio")):
        model.add_modality("audio", tiny.samples("audio", 30), network=network, progress=False)
    for wrong in (nn.Linear(8, 16), [nn.Linear(8, 16)]):
        with pytest.raises(TypeError, match=r"networks: expected a mapping from modality to nn"):
            DRCL(config, networks=wrong)


def test_a_mapping_of_settings_may_be_of_any_kind(tmp_path):
    lr = {"image": 1e-3, "text": 1e-3}
    config = Config(**tiny.SETTINGS | {"lr": MappingProxyType(lr)})
    lr["image"] = -1.0
    assert Config.from_dict(config.to_dict()) == config and config.lr["image"] == 1e-3


def test_settings_of_an_added_modality_are_checked_by_name():
    model = fit(epochs=1, prior_epochs=1)
    with pytest.raises(ValueError, match=r"lr: given for \['image'\], .* \['audio'\]"):
        model.add_modality("audio", tiny.samples("audio", 30), lr={"image": 1e-3}, progress=False)


class _OnlyOnce(IterableDataset):
    def __init__(self, rows, labels):
        self.pairs = iter(list(zip(torch.from_numpy(rows), labels.tolist(), strict=True)))

    def __iter__(self):
        return self.pairs


def test_a_dataset_that_can_be_read_only_once_is_named():
    network = nn.Linear(8, 16)
    with pytest.raises((ValueError), match="prior image: expected samples in epoch 0, got none"):
        fit({"image": _OnlyOnce(*tiny.samples("image", 40))}, networks={"image": network})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_where_gradients_are_switched_off(mode):
    expected = fit(epochs=2, prior_epochs=2)
    with mode():
        found = fit(epochs=2, prior_epochs=2)
        found.add_modality("audio", tiny.samples("audio", 30), progress=False)
    expected.add_modality("audio", tiny.samples("audio", 30), progress=False)
    assert all(same(states(found, name), states(expected, name)) for name in found.modalities)
    with mode():
        prior = select_prior(tiny.split(), config=expected.config, progress=False)
    assert torch.equal(prior.weight, expected.prior.weight)


def test_training_under_another_default_dtype(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        model = fit(epochs=2, prior_epochs=2)
        loaded = DRCL.load(model.save(tmp_path))
        found = [one.encode("image", TEST["image"][0]) for one in (model, loaded)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(*found) and found[0].dtype == torch.float32


def test_select_prior_checks_as_fit_does():
    config = Config(**tiny.SETTINGS)
    for train, message in (
        ({}, "train"),
        ({"image": (np.ones((4, 3)), np.zeros(4))}, "two classes"),
        (train_with(text=nan_at(0)), "train text features"),
    ):
        with pytest.raises(ValueError, match=message):
            select_prior(train, config=config, progress=False)
    with pytest.raises(ValueError, match="dim"):
        select_prior(tiny.split(), config=Config(**tiny.SETTINGS | {"dim": 3}), progress=False)


class Broken(nn.Linear):
    """NaN from a given training step on."""

    def __init__(self, width, dim, after):
        super().__init__(width, dim)
        self.steps, self.after = 0, after

    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * (float("nan") if self.steps > self.after else 1.0)


def test_a_non_finite_loss_says_where():
    with pytest.raises(NonFiniteLoss, match=r"prior text: loss is nan in epoch 2, batch 1 of 2"):
        fit(networks={"text": Broken(5, 16, after=5)})
    with pytest.raises(NonFiniteLoss, match=r"encoder text: loss is nan in epoch 3, batch 0 of 2"):
        fit(networks={"text": Broken(5, 16, after=6)}, prior=Prior.orthogonal(16, 4))


@pytest.mark.parametrize("phase", ["prior", "encoder"])
@pytest.mark.parametrize("validation", [None, tiny.split(seed=3)], ids=["", "validation"])
@pytest.mark.parametrize("epochs", [1, 5])
def test_an_absurd_learning_rate_is_noticed(phase, validation, epochs):
    settings = {"prior_lr": 1e36} if phase == "prior" else {"lr": 1e36}
    settings |= {"epochs": epochs, "prior_epochs": epochs, "batch_size": 4096}
    with pytest.raises(NonFiniteLoss, match=f"{phase} image"):
        fit(validation=validation, **settings)


def test_what_inference_mode_made_can_be_trained_further(tmp_path):
    with torch.inference_mode():
        prior = Prior(torch.randn(16, 4, dtype=torch.float64).float())
        orthogonal = Prior.orthogonal(16, 4)
    fit(prior=prior)
    model = fit(prior=orthogonal)
    with torch.inference_mode():
        loaded = DRCL.load(model.save(tmp_path))
    loaded.add_modality("audio", tiny.samples("audio", 30), progress=False)
    assert loaded.modalities == ("image", "text", "audio")


def test_an_encoder_of_numpy_sizes_is_saved(tmp_path):
    network = Encoder(np.int64(8), dim=np.int32(16), hidden=(np.int64(24),))
    model = fit(networks={"image": network})
    loaded = DRCL.load(model.save(tmp_path))
    assert torch.equal(
        loaded.encode("image", TEST["image"][0]), model.encode("image", TEST["image"][0])
    )


def test_features_may_be_of_any_shape_that_the_network_takes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features = 32  # its own name for something else
            self.layer = nn.Linear(32, 16)

        def forward(self, pictures):
            return nn.functional.normalize(self.layer(pictures.flatten(1)))

    pictures, labels = np.random.default_rng(0).normal(size=(40, 2, 4, 4)), np.arange(40) % 4
    model = fit({"image": (pictures, labels)}, networks={"image": Net()})
    assert model.encode("image", pictures).shape == (40, 16)


def test_features_that_overflow_in_the_network_are_refused():
    model = fit()
    huge = np.full((3, 8), 3e38, np.float32)
    huge[0] = 1
    ones = np.zeros(3, np.int64)
    for call in (
        lambda: model.encode("image", huge),
        lambda: model.search("image", huge, "text", TEST["text"][0]),
        lambda: model.encode(
            "image", TensorDataset(torch.from_numpy(huge), torch.from_numpy(ones))
        ),
    ):
        with pytest.raises(
            ValueError, match=r"image features: expected finite embeddings, got .* in row 1"
        ):
            call()


def test_the_released_codes_settings_train_in_one_epoch():
    settings = {"paper_compat": True, "epochs": 1, "prior": Prior.orthogonal(16, 4)}
    judged, not_judged = fit(validation=tiny.split(seed=3), **settings), fit(**settings)
    assert same(states(judged, "image"), states(not_judged, "image"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_labels_may_be_tensors_of_any_kind(dtype):
    features, ids = tiny.samples("image", 40)
    rows = torch.eye(4, dtype=dtype)[torch.from_numpy(ids)]
    plain = fit({"image": (features, rows.float().numpy())})
    rows.requires_grad_()
    model = fit({"image": (features, rows)})
    assert same(states(model, "image"), states(plain, "image"))
    with pytest.raises(TypeError, match=r"train.*complex"):
        fit({"image": (features, rows.detach().to(torch.complex64))})
