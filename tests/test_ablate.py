"""The ablation study: variants are what they are called, results are kept, noise is named."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import drcl.ablate.study
from drcl import DRCL, Config, Prior
from drcl.ablate import VARIANTS, Row, Table, ablate
from drcl.ablate.variants import Variant, _trainings, learn_all_priors, train_variant
from drcl.cli import main
from drcl.cli.ablate import format_table
from drcl.data import CrossModalDataset, Labelled
from drcl.storage.files import locked

CONFIG = Config(dim=16, hidden=(24,), epochs=3, prior_epochs=3, batch_size=16, lr=5e-3)


def make_split(count: int, seed: int) -> dict[str, Labelled]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return {
        name: Labelled(
            (random.normal(size=(count, width)) + 2 * np.eye(3, width)[labels]).astype(np.float32),
            labels,
        )
        for name, width in (("a", 5), ("b", 7))
    }


@pytest.fixture(scope="module")
def data() -> CrossModalDataset:
    return CrossModalDataset(
        "tiny", ("x", "y", "z"), make_split(45, 0), make_split(21, 1), make_split(30, 2)
    )


@pytest.fixture(scope="module")
def priors(data: CrossModalDataset) -> dict[str, Prior]:
    return learn_all_priors(data, CONFIG)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str]]]:
    """What is trained, in order: (seed, variant)."""
    calls: list[tuple[int, str]] = []

    def counting(variant: Variant, data: Any, config: Config, priors: Any) -> Any:
        calls.append((config.seed, variant.name))
        return train_variant(variant, data, config, priors)

    monkeypatch.setattr(drcl.ablate.study, "train_variant", counting)
    yield calls


def variant(name: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.name.startswith(name))


class TestVariants:
    @pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"prior_norm": 2.0}])
    def test_full_is_the_estimator(self, data: CrossModalDataset, settings: Any) -> None:
        config = replace(CONFIG, **settings)
        model = DRCL(config).fit(data.train, data.validation, progress=False)
        found = train_variant(variant("full"), data, config, learn_all_priors(data, config))
        assert found == model.evaluate(data.test)

    def test_paper_compat_learns_its_own_prior(
        self, data: CrossModalDataset, priors: dict[str, Prior]
    ) -> None:
        config = replace(CONFIG, paper_compat=True)
        model = DRCL(config).fit(data.train, data.validation, progress=False)
        found = train_variant(variant("paper_compat"), data, CONFIG, priors)
        assert found == model.evaluate(data.test)

    def test_random_priors(self, priors: dict[str, Prior]) -> None:
        best = max(priors.values(), key=lambda prior: prior.score or 0)
        for name, norm in (("unit columns", 1.0), ("learned norm", float(best.column_norm))):
            ((modalities, prior),) = _trainings(variant(f"random prior, {name}"), CONFIG, priors)
            assert modalities == ["a", "b"] and prior is not None
            gram = prior.weight.T @ prior.weight
            torch.testing.assert_close(gram, norm**2 * torch.eye(3), rtol=1e-5, atol=1e-5)
            assert prior.classes == best.classes

    def test_own_and_lowest(self, priors: dict[str, Prior]) -> None:
        own = _trainings(variant("each modality's own"), CONFIG, priors)
        assert own == [(["a"], priors["a"]), (["b"], priors["b"])]
        lowest = min(priors, key=lambda name: priors[name].score or 0)
        ((modalities, prior),) = _trainings(variant("prior with the lowest"), CONFIG, priors)
        assert modalities == ["a", "b"] and prior is priors[lowest]

    def test_changed_settings_change_the_training(
        self, data: CrossModalDataset, priors: dict[str, Prior]
    ) -> None:
        values = [
            train_variant(variant(name), data, CONFIG, priors)["mAP@all"]["mean"]
            for name in ("full", "no recasting", "no augmentation", "no label loss")
        ]
        assert len(set(values)) == 4

    def test_own_prior_with_settings_per_modality(
        self, data: CrossModalDataset, priors: dict[str, Prior]
    ) -> None:
        config = replace(CONFIG, lr={"a": 1e-3, "b": 2e-3})
        found = train_variant(variant("each modality's own"), data, config, priors)
        assert set(found["mAP@all"]) == {"a->b", "b->a", "mean"}


class TestStudy:
    def test_results_are_stored_and_used_again(
        self, data: CrossModalDataset, tmp_path: Path, trained: list[tuple[int, str]]
    ) -> None:
        chosen = (variant("full"), variant("no label loss"))
        first = ablate(data, CONFIG, tmp_path, seeds=1, variants=chosen, progress=False)
        assert trained == [(0, "full"), (0, "no label loss (η = 0)")]
        with pytest.raises(ValueError, match="holds results; --resume uses them"):
            ablate(data, CONFIG, tmp_path, seeds=1, variants=chosen, progress=False)
        second = ablate(
            data, CONFIG, tmp_path, seeds=2, variants=chosen, resume=True, progress=False
        )
        assert trained[2:] == [(1, "full"), (1, "no label loss (η = 0)")]
        assert second.rows[0].runs[0] == first.rows[0].runs[0]
        assert second.seeds == [0, 1]
        fresh = ablate(data, CONFIG, tmp_path / "b", seeds=2, variants=chosen, progress=False)
        assert fresh.to_dict() == second.to_dict()

    def test_an_interrupted_study_resumes(
        self, data: CrossModalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = (variant("full"), variant("random prior, unit"))

        def interrupted(one: Variant, *args: Any) -> Any:
            if one is chosen[1]:
                raise KeyboardInterrupt
            return train_variant(one, *args)

        monkeypatch.setattr(drcl.ablate.study, "train_variant", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ablate(data, CONFIG, tmp_path, seeds=1, variants=chosen, progress=False)
        (stored,) = (tmp_path / "results" / "seed-0").iterdir()
        assert stored.match("full.*.json")
        monkeypatch.undo()
        ablate(data, CONFIG, tmp_path, seeds=1, variants=chosen, resume=True, progress=False)
        assert (tmp_path / "table.json").is_file()

    def test_results_of_other_settings_or_data_are_refused(
        self, data: CrossModalDataset, tmp_path: Path
    ) -> None:
        options: Any = {"seeds": 1, "variants": VARIANTS[:1], "progress": False}
        ablate(data, CONFIG, tmp_path, **options)
        with pytest.raises(ValueError, match=r"got others \(alpha 0.1, now 0.5\)"):
            ablate(data, replace(CONFIG, alpha=0.5), tmp_path, resume=True, **options)
        with pytest.raises(ValueError, match=r"got others \(samples .*'test': \{'a': \[20, 5"):
            fewer = replace(data, test=make_split(20, 2))
            ablate(fewer, CONFIG, tmp_path, resume=True, **options)
        part = data.validation["b"]
        for changed in (
            part._replace(features=part.features + np.float32(1)),
            part._replace(labels=part.labels[::-1].copy()),
        ):
            with pytest.raises(ValueError, match=r"got others \(samples"):
                other = replace(data, validation={**data.validation, "b": changed})
                ablate(other, CONFIG, tmp_path, resume=True, **options)
        (stored,) = (tmp_path / "results" / "seed-0").iterdir()
        stored.write_text("{")
        with pytest.raises(ValueError, match=r"full\.\w{8}\.json: damaged"):
            ablate(data, CONFIG, tmp_path, resume=True, **options)
        with pytest.raises(ValueError, match="expected an ablation or an empty folder"):
            ablate(data, CONFIG, tmp_path / "results", **options)
        with pytest.raises(ValueError, match="seeds: expected an integer >= 1, got 0"):
            ablate(data, CONFIG, tmp_path / "new", seeds=0)

    def test_every_variant_has_results_of_its_own(
        self, data: CrossModalDataset, tmp_path: Path, trained: list[tuple[int, str]]
    ) -> None:
        def study(*variants: Variant) -> None:
            options: Any = {"seeds": 1, "resume": True, "progress": False}
            ablate(data, CONFIG, tmp_path, variants=variants, **options)

        alpha, eta = (
            Variant(f"{letter} = 0", changes={name: 0.0})
            for letter, name in (("α", "alpha"), ("η", "eta"))
        )
        study(alpha, eta)
        assert [name for _, name in trained] == ["α = 0", "η = 0"]
        study(alpha, eta)
        assert len(trained) == 2
        # What has only kept its name is trained anew.
        study(alpha, Variant(eta.name, changes={"eta": 0.5}), Variant("full", prior="random"))
        assert [name for _, name in trained[2:]] == ["η = 0", "full"]
        with pytest.raises(ValueError, match="variants: 'α = 0' is given twice"):
            study(alpha, eta, Variant("α = 0"))

    def test_a_second_study_in_one_folder_is_refused(
        self, data: CrossModalDataset, tmp_path: Path
    ) -> None:
        with locked(tmp_path), pytest.raises(BlockingIOError, match="another process is writing"):
            ablate(data, CONFIG, tmp_path, progress=False)
        assert not list(tmp_path.iterdir())

    def test_a_study_writes_its_table_as_json_csv_and_chart(
        self, data: CrossModalDataset, tmp_path: Path
    ) -> None:
        table = ablate(data, CONFIG, tmp_path, seeds=2, progress=False)
        names = [row.name for row in table.rows]
        assert names[:9] == [v.name for v in VARIANTS] and len(names) == 11
        assert names[9:] == ["CCA", "semantic matching (logistic regression)"]
        stored = json.loads((tmp_path / "table.json").read_text())
        assert stored == table.to_dict()
        with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == 11 * 2 * 3
        values = [run["mAP@all"]["mean"] for run in table.rows[0].runs]
        assert float(lines[2]["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert float(lines[2]["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")

    def test_unpaired_data_has_no_cca(self, data: CrossModalDataset, tmp_path: Path) -> None:
        train = {"a": data.train["a"], "b": Labelled(*(part[:30] for part in data.train["b"]))}
        unpaired = replace(data, train=train)
        table = ablate(unpaired, CONFIG, tmp_path, seeds=1, variants=VARIANTS[:1], progress=False)
        assert [row.name for row in table.rows][1:] == ["semantic matching (logistic regression)"]
        assert table.skipped == {
            "CCA": "train: expected paired rows for CCA, got 45 of a and 30 of b"
        }
        assert "CCA left out: train: expected paired rows for CCA" in format_table(table)


def row(name: str, *values: float, baseline: bool = False) -> Row:
    return Row(name, [{"mAP@all": {"a->b": v, "b->a": v, "mean": v}} for v in values], baseline)


class TestTable:
    # Two seeds, s² = 2·0.01² = 0.0002 each: the difference has a standard error of √0.0002.
    full = row("full", 0.49, 0.51)

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            (row("x", 0.51, 0.53), "within noise"),  # +0.020
            (row("x", 0.517, 0.537), "within noise"),  # +0.027 < 0.0283
            (row("x", 0.52, 0.54), "higher"),  # +0.030
            (row("x", 0.46, 0.48), "lower"),
            # A baseline adds no noise of its own: 2·√(0.0002/2) = 0.02.
            (row("x", 0.519, baseline=True), "within noise"),
            (row("x", 0.521, baseline=True), "higher"),
        ],
    )
    def test_the_verdict_says_what_is_within_noise(self, other: Row, expected: str) -> None:
        table = Table("tiny", [0, 1], [self.full, other], {}, {})
        assert table.verdict(other) == expected
        assert table.verdict(self.full) == ""
        text = format_table(table)
        assert ("No difference shown" in text) == (expected == "within noise")

    def test_one_seed_gives_no_verdict(self) -> None:
        other = row("x", 0.9)
        table = Table("tiny", [0], [row("full", 0.1), other], {}, {})
        assert table.verdict(other) == ""
        assert "one seed: no noise estimate" in format_table(table)
        assert "No difference" not in format_table(table)


def test_a_manifest_s_name_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 'features = "x.npz:x"\nlabels = "x.npz:y"\n'
    parts = "".join(f"[{split}.a]\n{rows}" for split in ("train", "validation", "test"))
    (tmp_path / "m.toml").write_text(f'name = "x/../../../evil"\n{parts}')
    np.savez(tmp_path / "x.npz", x=np.eye(4), y=[0, 1, 0, 1])

    def stopped(data: CrossModalDataset, config: Config, folder: Path, **_: Any) -> None:
        assert data.name == "x/../../../evil"
        assert folder == Path("runs", "ablate-x-..-..-..-evil")
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["drcl.cli.ablate"], "run_study", stopped)
    result = CliRunner().invoke(main, ["ablate", str(tmp_path / "m.toml")])
    assert result.exit_code == 130, result.output


def test_the_command_prints_every_variant(tmp_path: Path) -> None:
    arguments = ["ablate", "digits", "--out", str(tmp_path / "study"), "--seeds", "1"]
    small = ["--dim", "16", "--hidden", "16", "--epochs", "1", "--prior-epochs", "1"]
    result = CliRunner().invoke(main, [*arguments, *small, "--no-progress"])
    assert result.exit_code == 0, result.output
    for one in VARIANTS:
        assert f"\n{one.name} " in result.output
    assert "pixels->strokes" in result.output
    assert result.output.splitlines()[-1] == f"chart: {tmp_path / 'study' / 'table.png'}"
    again = CliRunner().invoke(main, [*arguments, *small, "--no-progress"])
    assert again.exit_code == 1 and "holds results" in again.output
