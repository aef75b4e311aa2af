"""Linear baselines: they agree with textbook facts, and choose on validation alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drcl.baselines
from drcl.baselines import Baseline, _posteriors, cca, fit_scaling, semantic_matching
from drcl.data import CrossModalDataset, Labelled, load

CLASSES = ("one", "two", "three")


def views(count: int, seed: int, noise: float = 0.2, shift: float = 0.0) -> dict[str, Labelled]:
    """Paired rows: two linear views of one latent, class-dependent vector."""
    fixed, random = np.random.default_rng(9), np.random.default_rng(seed)
    centres, maps = fixed.normal(size=(3, 4)), fixed.normal(size=(2, 4, 6))
    labels = random.permutation(count) % 3
    latent = centres[labels] + 0.2 * random.normal(size=(count, 4))
    return {
        name: Labelled(
            (latent @ view + noise * random.normal(size=(count, 6)) + shift).astype(np.float32),
            labels.astype(np.int64),
        )
        for name, view in zip(("a", "b"), maps, strict=True)
    }


@pytest.fixture(scope="module")
def paired() -> CrossModalDataset:
    return CrossModalDataset("views", CLASSES, views(90, 0), views(45, 1), views(60, 2))


@pytest.fixture(scope="module")
def of_paired(paired: CrossModalDataset) -> Callable[[Any], Baseline]:
    """A baseline of ``paired``, which takes fifty fits, once."""
    return functools.cache(lambda baseline: baseline(paired))


def relabelled(samples: Labelled, labels: np.ndarray) -> Labelled:
    return Labelled(samples.features, labels)


class TestScaling:
    x = np.random.default_rng(0).normal(size=(50, 4)) * 3 + 1

    def test_standard_is_fitted_to_the_training_rows(self) -> None:
        scaled = fit_scaling("standard", self.x)(self.x)
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)
        other = fit_scaling("standard", self.x)(self.x + 1)
        np.testing.assert_allclose(other.mean(axis=0), 1 / self.x.std(axis=0), rtol=1e-12)

    @pytest.mark.parametrize("name", ["none", "standard", "l2", "sqrt", "log"])
    def test_finite_for_constant_and_zero_columns(self, name: str) -> None:
        x = np.zeros((3, 2))
        assert np.isfinite(fit_scaling(name, x)(x)).all()

    @pytest.mark.parametrize("name", ["sqrt", "log"])
    def test_sign_and_order_are_kept(self, name: str) -> None:
        x = np.linspace(-3, 3, 13)[:, None]
        assert (np.diff(fit_scaling(name, x)(x), axis=0) > 0).all()
        assert fit_scaling(name, x)(np.array([[0.0]])) == 0

    def test_an_unknown_scaling_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"scaling: expected one of .*, got 'cubic'"):
            fit_scaling("cubic", self.x)


@pytest.mark.parametrize("baseline", [cca, semantic_matching])
class TestBoth:
    def test_baselines_retrieve_across_modalities(
        self, of_paired: Callable[[Any], Baseline], baseline: type
    ) -> None:
        metrics = of_paired(baseline).metrics
        assert list(metrics) == ["mAP@all", "mAP@50"]
        assert list(metrics["mAP@all"]) == ["a->b", "b->a", "mean"]
        assert metrics["mAP@all"]["mean"] > 0.85
        values = metrics["mAP@all"]
        assert values["mean"] == pytest.approx((values["a->b"] + values["b->a"]) / 2)

    def test_baselines_are_at_chance_on_noise(
        self, paired: CrossModalDataset, baseline: type
    ) -> None:
        random = np.random.default_rng(0)
        splits = {
            split: {
                name: Labelled(
                    random.normal(size=part.features.shape).astype(np.float32), part.labels
                )
                for name, part in paired.splits[split].items()
            }
            for split in ("train", "validation", "test")
        }
        noise = CrossModalDataset("noise", CLASSES, **splits)
        assert 0.25 < baseline(noise).metrics["mAP@all"]["mean"] < 0.48  # chance is about 1/3

    def test_the_test_labels_choose_nothing(
        self, paired: CrossModalDataset, of_paired: Callable[[Any], Baseline], baseline: type
    ) -> None:
        wrong = {
            name: relabelled(part, (part.labels + np.arange(len(part.labels))) % 3)
            for name, part in paired.test.items()
        }
        first, second = of_paired(baseline), baseline(replace(paired, test=wrong))
        assert first.chosen == second.chosen
        assert first.metrics != second.metrics

    def test_multi_hot_labels(self, paired: CrossModalDataset, baseline: type) -> None:
        def rows(split: dict[str, Labelled]) -> dict[str, Labelled]:
            return {
                name: relabelled(part, np.eye(3, dtype=np.uint8)[part.labels])
                for name, part in split.items()
            }

        hot = replace(
            paired,
            train=rows(paired.train),
            validation=rows(paired.validation),
            test=rows(paired.test),
        )
        assert baseline(hot).metrics["mAP@all"]["mean"] > 0.85

    def test_needs_validation_and_test(self, paired: CrossModalDataset, baseline: type) -> None:
        with pytest.raises(
            ValueError, match=r"expected validation rows .* got none of \['a', 'b'\]"
        ):
            baseline(replace(paired, validation={}))
        with pytest.raises(ValueError, match=r"expected test rows .* got none of \['b'\]"):
            baseline(replace(paired, test={"a": paired.test["a"]}))
        alone = {"a": paired.train["a"]}
        with pytest.raises(ValueError, match="at least two modalities"):
            baseline(replace(paired, train=alone, validation={}, test={}))


class TestCCA:
    def test_needs_pairs(self, paired: CrossModalDataset) -> None:
        a, b = paired.train["a"], paired.train["b"]
        fewer = Labelled(b.features[:80], b.labels[:80])
        with pytest.raises(ValueError, match="paired rows for CCA, got 90 of a and 80 of b"):
            cca(replace(paired, train={"a": a, "b": fewer}))
        labels = b.labels.copy()
        labels[4] = (labels[4] + 1) % 3
        with pytest.raises(ValueError, match="another label of row 4 in a than in b"):
            cca(replace(paired, train={"a": a, "b": relabelled(b, labels)}))

    def test_uses_no_training_labels(
        self, paired: CrossModalDataset, of_paired: Callable[[Any], Baseline]
    ) -> None:
        unlabelled = {
            name: relabelled(part, np.full(len(part.labels), -1, np.int64))
            for name, part in paired.train.items()
        }
        assert cca(replace(paired, train=unlabelled)) == of_paired(cca)


class TestSemanticMatching:
    def test_a_class_that_a_modality_never_saw(self, paired: CrossModalDataset) -> None:
        b = paired.train["b"]
        seen = b.labels != 2
        train = {"a": paired.train["a"], "b": Labelled(b.features[seen], b.labels[seen])}
        values = semantic_matching(replace(paired, train=train)).metrics["mAP@all"]
        assert np.isfinite(list(values.values())).all()

    def test_rows_far_outside_of_the_training_rows_are_ranked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Of both classes the probability ends between 1e-150 and nothing there.
        x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
        x = x[(x > 0).any(axis=1)]
        near = Labelled(x, (x > 0).astype(np.uint8))
        far = -np.geomspace(1, 1e4, 400, dtype=np.float32)[:, None].repeat(2, axis=1)
        split = {"a": near, "b": near}
        test = {"a": Labelled(far, np.ones((400, 2), np.uint8)), "b": near}
        monkeypatch.setattr(drcl.baselines, "SCALINGS", ("none",))
        monkeypatch.setattr(drcl.baselines, "RANKINGS", {"cosine": "cosine"})
        data = CrossModalDataset("sides", ("right", "upper"), split, split, test)
        values = semantic_matching(data).metrics["mAP@all"]
        assert values == {"a->b": 1.0, "b->a": 1.0, "mean": 1.0}

    def test_unlabelled_rows_are_left_out(
        self, paired: CrossModalDataset, of_paired: Callable[[Any], Baseline]
    ) -> None:
        extended = {
            name: Labelled(
                np.concatenate([part.features, part.features]),
                np.concatenate([part.labels, np.full(len(part.labels), -1, np.int64)]),
            )
            for name, part in paired.train.items()
        }
        ours = semantic_matching(replace(paired, train=extended))
        theirs = of_paired(semantic_matching)
        # Standardisation sees the same mean and deviation: every row is there twice.
        assert ours.metrics["mAP@all"]["mean"] == pytest.approx(
            theirs.metrics["mAP@all"]["mean"], abs=0.01
        )


@pytest.fixture(scope="module")
def wikipedia(data_root: Path) -> CrossModalDataset:
    return load("wikipedia", data_root)


@pytest.fixture(scope="module")
def posteriors(wikipedia: CrossModalDataset) -> Callable[[str], Any]:
    """Of the regressions of a modality of Wikipedia, fitted once for both rankings."""
    return functools.cache(functools.partial(_posteriors, wikipedia))


class TestReferencePoints:
    """Values measured elsewhere on the same splits; to choose on validation costs up to 0.02."""

    @pytest.fixture
    def by_cosine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drcl.baselines, "RANKINGS", {"cosine": "cosine"})

    @staticmethod
    def within(found: Baseline, expected: dict[str, tuple[float, float]]) -> None:
        values = found.metrics["mAP@all"]
        for pair, (low, high) in expected.items():
            assert low - 0.02 < values[pair] < high + 0.02, (pair, values[pair])

    @pytest.fixture
    def fitted(self, posteriors: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drcl.baselines, "_posteriors", lambda _, modality: posteriors(modality))

    @pytest.mark.usefixtures("by_cosine", "fitted")
    def test_wikipedia(self, wikipedia: CrossModalDataset) -> None:
        self.within(cca(wikipedia), {"image->text": (0.257, 0.275), "text->image": (0.211, 0.227)})
        self.within(
            semantic_matching(wikipedia),
            {"image->text": (0.264, 0.269), "text->image": (0.222, 0.244)},
        )

    @pytest.mark.usefixtures("fitted")
    def test_wikipedia_by_inner_product(self, wikipedia: CrossModalDataset) -> None:
        found = semantic_matching(wikipedia)
        assert all(line.endswith("inner product") for line in found.chosen.values())
        # Standardised features .279, square roots of the histograms .286.
        assert found.metrics["mAP@all"]["mean"] == pytest.approx(0.28, abs=0.02)

    @pytest.mark.usefixtures("by_cosine")
    def test_uci_logistic_regression(self, data_root: Path) -> None:
        i, t, p = "fourier", "karhunen_loeve", "pixels"
        reference = {
            f"{i}->{t}": 0.820,
            f"{i}->{p}": 0.822,
            f"{t}->{i}": 0.783,
            f"{t}->{p}": 0.938,
            f"{p}->{i}": 0.791,
            f"{p}->{t}": 0.948,
        }
        found = semantic_matching(load("uci", data_root))
        self.within(found, {pair: (value, value) for pair, value in reference.items()})
