"""The manifests that the page of data sets gives, on small files of the layout they are for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from drcl.cli import main
from drcl.data import load

h5py = pytest.importorskip("h5py", reason="some of the files are HDF5")
savemat = pytest.importorskip("scipy.io", reason="some of the files are MATLAB's").savemat

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data-sets.md"
RECIPES = {
    re.search(r'^name = "(\w+)"', recipe, flags=re.M)[1]: recipe
    for recipe in re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.S | re.M)
}


def numbered(rows: int, width: int, start: int = 0) -> np.ndarray:
    """Features that tell their row: the first column counts from ``start``."""
    features = np.ones((rows, width), np.float32)
    features[:, 0] = np.arange(start, start + rows)
    return features


def ids(rows: int, first: int = 0) -> np.ndarray:
    return (np.arange(rows) + first) % 3


def multi_hot(rows: int, first: int = 0) -> np.ndarray:
    """Row i has label i mod 3, and every fifth row label 3 too."""
    number = np.arange(rows) + first
    return np.column_stack([np.eye(3)[number % 3], number % 5 == 0])


def wiki_deep_h5(folder: Path) -> None:
    with h5py.File(folder / "wiki_deep_doc2vec_data_corr_ae.h5py", "w") as file:
        for part, rows in (("train", 40), ("test", 693)):
            file[f"{part}_imgs_deep"], file[f"{part}_text"] = numbered(rows, 5), numbered(rows, 3)
            file[f"{part}_imgs_labels"] = file[f"{part}_texts_labels"] = ids(rows)


def nus_wide_h5(folder: Path) -> None:
    with h5py.File(folder / "nus_wide_deep_doc2vec-corr-ae.h5py", "w") as file:
        for part, start in (("train", 0), ("valid", 30), ("test", 60)):
            file[f"{part}_imgs_deep"] = numbered(30, 5, start)
            file[f"{part}_texts"] = numbered(30, 3, start)
            file[f"{part}_imgs_labels"] = file[f"{part}_texts_labels"] = ids(30, start)


def xmedianet_4(folder: Path) -> None:
    arrays = {}
    for part, start in (("train", 0), ("valid", 30), ("test", 60)):
        features, labels = np.empty((1, 4), object), np.empty((1, 4), object)
        for cell in range(4):
            features[0, cell] = numbered(30, cell + 2, start)
            labels[0, cell] = ids(30, start)[None]
        arrays[part], arrays[f"{part}_labels"] = features, labels
    savemat(folder / "XMediaNet4View_pairs.mat", arrays)


def mirflickr(folder: Path) -> None:
    savemat(folder / "mirflickr25k-iall-vgg.mat", {"XAll": numbered(2060, 5)})
    savemat(folder / "mirflickr25k-yall.mat", {"YAll": numbered(2060, 3)})
    savemat(folder / "mirflickr25k-lall.mat", {"LAll": multi_hot(2060)})


def mscoco(folder: Path) -> None:
    with h5py.File(folder / "MSCOCO_deep_doc2vec_data_rand.h5py", "w") as file:
        file["XAll"], file["YAll"] = numbered(5060, 5), numbered(5060, 3)
        file["LAll"] = multi_hot(5060)


def iapr(folder: Path) -> None:
    arrays = {"VDatabase": numbered(60, 5), "YDatabase": numbered(60, 3)}
    arrays |= {"VTest": numbered(30, 5, 60), "YTest": numbered(30, 3, 60)}
    arrays |= {"databaseL": multi_hot(60), "testL": multi_hot(30, 60)}
    savemat(folder / "iapr-tc12-rand.mat", arrays)


# What writes the files, and the first and last row of training and validation, and of the test.
LAYOUTS = {
    "wiki_deep_h5": (wiki_deep_h5, {"train": (0, 39), "validation": (0, 230), "test": (231, 692)}),
    "nus_wide_h5": (nus_wide_h5, {"train": (0, 29), "validation": (30, 59), "test": (60, 89)}),
    "xmedianet_4": (xmedianet_4, {"train": (0, 29), "validation": (30, 59), "test": (60, 89)}),
    "mirflickr": (mirflickr, {"test": (60, 2059)}),
    "mscoco": (mscoco, {"test": (60, 5059)}),
    "iapr": (iapr, {"test": (60, 89)}),
}


def test_every_recipe_has_a_layout():
    assert set(RECIPES) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_recipe_reads_its_layout(name, tmp_path):
    write, expected = LAYOUTS[name]
    write(tmp_path)
    manifest = tmp_path / f"{name}.toml"
    manifest.write_text(RECIPES[name], encoding="utf-8")
    data = load(manifest)
    views = name == "xmedianet_4"
    assert data.modalities == (("image", "text", "audio", "video") if views else ("image", "text"))
    widths = [samples.features.shape[1] for samples in data.train.values()]
    assert widths == ([2, 3, 4, 5] if views else [5, 3])
    for split, (first, last) in expected.items():
        for features, _ in data.splits[split].values():
            np.testing.assert_array_equal(features[:, 0], np.arange(first, last + 1))
    if len(expected) == 1:  # validation rows are drawn: all rows before the test, the same in both
        parts = [data.splits[split] for split in ("train", "validation")]
        for modality in data.modalities:
            number = np.concatenate([part[modality].features[:, 0] for part in parts])
            np.testing.assert_array_equal(np.sort(number), np.arange(60))
            assert len(parts[1][modality].features) == 6
        held = [samples.features[:, 0] for samples in parts[1].values()]
        np.testing.assert_array_equal(*held)
    for split in data.splits.values():
        for features, labels in split.values():
            number = features[:, 0].astype(int)
            true = ids if labels.ndim == 1 else multi_hot
            np.testing.assert_array_equal(labels, true(number.max() + 1)[number])


def test_the_command_shows_what_opens(tmp_path):
    iapr(tmp_path)
    manifest = tmp_path / "iapr.toml"
    manifest.write_text(RECIPES["iapr"], encoding="utf-8")
    result = CliRunner().invoke(main, ["data", str(manifest)])
    assert result.exit_code == 0, result.output
    table, _, fingerprint = result.output.partition("\n\nfingerprint: ")
    assert table == load(manifest).describe()
    assert re.fullmatch(r"\w+\n", fingerprint)


def test_the_command_says_where_a_missing_set_is(tmp_path):
    result = CliRunner().invoke(main, ["data", "wikipedia-deep", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "QinYang79/DRCL on GitHub, under datasets/Wiki/" in result.output
    assert (tmp_path / "Wiki" / "wiki.mat").as_posix() in result.output
