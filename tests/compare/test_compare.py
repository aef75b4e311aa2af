"""The protocol, the linear peers, and the study that runs them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from drcl import metrics
from drcl.cli import main
from drcl.compare import linear
from drcl.compare.fitted import Fitted, Method, measure, unit
from drcl.compare.methods import METHODS
from drcl.compare.protocol import (
    damage_of,
    with_few_labels,
    with_missing_rows,
    with_noise,
    with_unseen_classes,
    with_validation,
)
from drcl.compare.study import read_results, run_study, summarize, table
from drcl.data import CrossModalDataset, Labelled
from drcl.data.fingerprint import fingerprint


def blobs(count=90, classes=3, seed=0, validation=True):
    draw = np.random.default_rng(seed)

    def split(size):
        y = np.arange(size) % classes
        return {
            name: Labelled(
                (np.eye(classes, width)[y] * 2 + draw.normal(size=(size, width))).astype("f4"), y
            )
            for name, width in (("image", 7), ("text", 5))
        }

    names = tuple("abcde"[:classes])
    return CrossModalDataset(
        "blobs", names, split(count), split(30) if validation else {}, split(45)
    )


@pytest.fixture(scope="module")
def data():
    return blobs()


LINEAR = ("logistic", "logistic-train", "svm", "ridge", "cca", "kernel-cca")


@pytest.mark.parametrize("name", LINEAR)
def test_linear_peers_are_far_above_chance(name, data):
    fitted = METHODS[name].fit(data, 0)
    assert measure(fitted.embed, data.test)["mAP@all"]["mean"] > 0.6  # chance is .35
    assert fitted.chosen


@pytest.mark.parametrize("per_class", [1, 2])
def test_machines_need_two_rows_a_class_and_say_so(data, per_class):
    damage = damage_of(labels_per_class=per_class)
    methods = {name: METHODS[name] for name in ("svm", "logistic")}
    results = run_study(data, methods, [0], damage=damage, progress=False)
    assert [r.get("refused") for r in results] == [
        "needs two rows a class" if per_class == 1 else None,
        None,
    ]
    assert ("| needs two rows a class |" in table(summarize(results), {})) == (per_class == 1)


@pytest.mark.parametrize("rare", [3, 87])
def test_machines_take_several_labels_a_row(data, rare):
    """Each label has rows with it and rows without it."""

    def several(part):
        labels = np.eye(3, dtype=np.uint8)[part.labels]
        labels[:, 2] = np.arange(len(labels)) < (rare if len(labels) == 90 else 15)
        return Labelled(part.features, labels)

    splits = {
        split: {name: several(part) for name, part in parts.items()}
        for split, parts in data.splits.items()
    }
    given = replace(data, **splits)
    rows = METHODS["svm"].fit(given, 0).embed("image", data.test["image"].features)
    assert rows.shape == (45, 3) and np.isfinite(rows).all()


def test_measure_ranks_by_inner_product(data):
    rows = {name: np.abs(part.features[:, :4]) for name, part in data.test.items()}
    found = measure(lambda modality, _: rows[modality], data.test)
    y = data.test["image"].labels
    expected = metrics.mean_average_precision(rows["image"], rows["text"], y, y, metric="dot")
    assert found["mAP@all"]["image->text"] == pytest.approx(expected)


def test_cca_of_two_modalities_finds_the_correlations_of_cca(data, monkeypatch):
    monkeypatch.setattr(linear, "CCA_PENALTIES", (1e-9,))
    monkeypatch.setattr(linear, "POWERS", (0,))
    monkeypatch.setattr(linear, "DIRECTIONS", 2)
    monkeypatch.setattr(linear, "best", lambda candidates, _: Fitted(candidates[0][1], ""))
    embed = linear.cca(data, 0).embed
    found = {name: embed(name, part.features) for name, part in data.train.items()}
    model = CCA(2, tol=1e-10, max_iter=5000)
    x, z = (part.features for part in data.train.values())
    expected = model.fit(x, z).transform(x, z)
    for direction in range(2):
        ours = np.corrcoef(found["image"][:, direction], found["text"][:, direction])[0, 1]
        theirs = np.corrcoef(expected[0][:, direction], expected[1][:, direction])[0, 1]
        assert ours == pytest.approx(theirs, abs=1e-4)


def unpaired(data):
    text = data.train["text"]
    turned = Labelled(text.features[::-1].copy(), text.labels[::-1].copy())
    return replace(data, train={**data.train, "text": turned})


@pytest.mark.parametrize(
    "asked, keeps_pairs",
    [
        ({}, True),
        ({"noise": "symmetric:0.3"}, True),
        ({"labels_per_class": 5}, True),
        ({"missing": 0.5}, False),
        ({"unseen": 1}, False),
    ],
)
@pytest.mark.parametrize("paired", [True, False])
def test_pairs_are_judged_by_the_set_as_it_was_loaded_and_by_the_damage(paired, asked, keeps_pairs):
    data = blobs(classes=4)
    given = data if paired else unpaired(data)
    methods = {name: METHODS[name] for name in ("cca", "ridge")}
    results = run_study(given, methods, [0], damage=damage_of(**asked), progress=False)
    suited = paired and keeps_pairs
    assert [r["method"] for r in results if "refused" in r] == ([] if suited else ["cca"])
    assert ("needs pairs" in table(summarize(results), {})) == (not suited)


def test_missing_rows_are_each_modality_s_own(data):
    thin = with_missing_rows(data, 0.4, seed=2)
    left = {}
    for name, part in data.train.items():
        order = np.random.default_rng([2, list(data.train).index(name)]).permutation(90)
        left[name] = set(range(90)) - set(order[:36])  # the published way to the rows
        rows = sorted(left[name])
        np.testing.assert_array_equal(thin.train[name].features, part.features[rows])
        np.testing.assert_array_equal(thin.train[name].labels, part.labels[rows])
        assert len(thin.validation[name].labels) == 18
    assert left["image"] != left["text"] and thin.test is data.test
    with pytest.raises(ValueError, match=r"missing: expected a rate from 0 to below 1, got 1"):
        with_missing_rows(data, 1, seed=2)


def test_unseen_classes_differ_by_modality_and_lack_every_row():
    data = blobs(classes=5, count=100)
    damaged = with_unseen_classes(data, 2, seed=4)
    order = np.random.default_rng(4).permutation(5)
    for split in ("train", "validation"):
        for name, gone in (("image", order[:2]), ("text", order[2:4])):
            before, after = (given.splits[split][name].labels for given in (data, damaged))
            assert sorted(set(after)) == sorted(set(range(5)) - set(gone))
            assert len(after) == (~np.isin(before, gone)).sum()
    assert damaged.test is data.test
    for count in (0, 3):
        with pytest.raises(ValueError, match=r"unseen: expected .*, got \d a modality"):
            with_unseen_classes(data, count, seed=4)


@pytest.mark.parametrize("name", ["auto", "logistic", "svm", "ridge"])
def test_methods_learn_from_modalities_that_lack_classes(name):
    data = blobs(classes=4)
    methods = {name: METHODS[name]}
    (result,) = run_study(data, methods, [0], damage=damage_of(unseen=1), progress=False)
    assert result["mAP@all"]["mean"] > 0.4  # chance is about .28


@pytest.mark.parametrize(
    "asked",
    [
        {"noise": "symmetric"},
        {"noise": "symmetric:much"},
        {"noise": "symmetric:0.2", "missing": 0.2},
        {"noise": "upwards:0.2"},
        {"noise": "symmetric:nan"},
        {"labels_per_class": 0},
        {"labels_per_class": 3, "unseen": 1},
        {"missing": 1.0},
        {"missing": float("nan")},
        {"unseen": 0},
    ],
)
def test_damages_that_cannot_be_are_named(asked):
    with pytest.raises(ValueError, match=rf"^(noise.* unseen|{next(iter(asked))}): expected"):
        damage_of(**asked)


def test_a_modality_keeps_a_row(data):
    with pytest.raises(ValueError, match="missing: expected a row to be left of 90 of image"):
        with_missing_rows(data, 0.999, seed=0)


def test_rates_have_all_their_digits_in_the_name():
    assert damage_of(missing=0.12345671) != damage_of(missing=0.12345672)
    assert damage_of(missing=0.9999999).name == "missing rows 0.9999999"


def test_no_method_sees_the_test_rows(data):
    blind = replace(
        data, test={m: Labelled(np.zeros_like(p.features), p.labels) for m, p in data.test.items()}
    )
    for name in LINEAR:
        x = data.test["image"].features
        one, other = (METHODS[name].fit(part, 0).embed("image", x) for part in (data, blind))
        np.testing.assert_array_equal(one, other)


def test_unit_rows_keep_zero_rows():
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_validation_rows_are_a_fifth_of_every_class_and_stay_paired():
    data = blobs(validation=False)
    cut = with_validation(data, 3)
    assert np.bincount(cut.validation["image"].labels).tolist() == [6, 6, 6]
    rows = {
        name: [np.flatnonzero((part.features == row).all(axis=1))[0] for row in held.features]
        for (name, part), held in zip(data.train.items(), cut.validation.values(), strict=True)
    }
    assert rows["image"] == rows["text"]
    assert len(cut.train["image"].labels) == 72
    assert fingerprint(cut) != fingerprint(with_validation(data, 4))
    again = with_validation(cut, 9)
    assert fingerprint(again) == fingerprint(cut)
    one = replace(cut, validation={"text": cut.validation["text"]})
    assert np.array_equal(
        with_validation(one, 9).validation["text"].labels, cut.validation["text"].labels
    )


def test_noise_changes_as_many_labels_as_it_says(data):
    for kind in ("symmetric", "asymmetric"):
        noisy = with_noise(data, kind, 0.4, seed=1)
        for name, part in data.train.items():
            changed = noisy.train[name].labels != part.labels
            assert changed.sum() == 36
            if kind == "asymmetric":
                new, old = noisy.train[name].labels[changed], part.labels[changed]
                assert np.array_equal(new, (old + 1) % 3)
            held = noisy.validation[name].labels != data.validation[name].labels
            assert held.sum() == 12
        assert noisy.test is data.test
    # The published way to the rows, written out.
    known = np.random.default_rng([1, 0]).permutation(90)[:36]
    assert (noisy.train["image"].labels != data.train["image"].labels).nonzero()[0].tolist() == (
        sorted(known.tolist())
    )


@pytest.mark.parametrize("kind, rate", [("upwards", 0.1), ("symmetric", 1.5)])
def test_noise_of_another_kind_or_rate_is_refused(data, kind, rate):
    with pytest.raises(ValueError, match="noise: expected"):
        with_noise(data, kind, rate, 0)


def test_few_labels_keep_as_many_of_each_class(data):
    few = with_few_labels(data, 4, seed=0)
    for part in (*few.train.values(), *few.validation.values()):
        assert np.bincount(part.labels).tolist() == [4, 4, 4]
    assert few.test is data.test
    with pytest.raises(ValueError, match="per_class: expected at least 1, got 0"):
        with_few_labels(data, 0, seed=0)


def test_a_study_goes_on_where_it_stopped(data, tmp_path):
    calls = []

    def fit(data, seed):
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Fitted(lambda modality, x: x[:, :4], "nothing")

    file = tmp_path / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_study(data, {"a": Method("a", fit)}, range(4), file, progress=False)
    assert len(read_results(file)) == 2
    results = run_study(data, {"a": Method("a", fit)}, range(4), file, progress=False)
    assert calls == [0, 1, 2, 2, 3] and [r["seed"] for r in results] == [0, 1, 2, 3]
    assert results == read_results(file)


def test_a_damaged_file_of_results_is_named(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"method": "a"}\n')
    with pytest.raises(ValueError, match=r"results.jsonl: expected a result in line 1"):
        read_results(file)


def test_the_table_gives_no_verdict_below_five_seeds():
    def results(seeds):
        return [
            {
                "method": name,
                "seed": seed,
                "fingerprint": "0",
                "mAP@all": {"mean": value + seed / 100},
                "seconds": 1.0,
            }
            for name, value in (("a", 0.5), ("b", 0.4))
            for seed in range(seeds)
        ]

    few, enough = (summarize(results(seeds)) for seeds in (4, 6))
    assert few[1]["p"] is None and "too few" in table(few, {})
    assert enough[1]["p"] == 2 / 2**6 and enough[1]["gain"] == pytest.approx(0.1)
    assert enough[0]["mean"] == pytest.approx(0.525) and enough[0]["p"] is None


def test_the_command_writes_results_and_a_table(tmp_path, capsys):
    out = tmp_path / "study"
    arguments = ["digits", "--methods", "ridge,logistic-train", "--seeds", "1", "--no-progress"]
    arguments += ["--labels-per-class", "5", "--out", str(out)]
    main(["compare", *arguments], standalone_mode=False)
    said = capsys.readouterr().out
    assert "fingerprint: " in said and ", labels per class 5" in said and "too few" in said
    assert max(map(len, said.splitlines())) <= 80
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["ridge", "logistic-train"]
    assert "ridge regression" in (out / "table.md").read_text()
