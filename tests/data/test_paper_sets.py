"""The five sets of the paper, on small files of the same layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drcl.data import CrossModalDataset, load
from drcl.data.sets.paper_sets import LAYOUTS

h5py = pytest.importorskip("h5py", reason="NUS-WIDE comes as HDF5")
savemat = pytest.importorskip("scipy.io", reason="four of the sets are MATLAB files").savemat

XMEDIA = {
    "image": ("I_{}_CNN", "{}ImgCat", 500),
    "text": ("T_{}_BOW", "{}TxtCat", 500),
    "audio": ("A_{}", "{}AudCat", 100),
    "3d": ("d3_{}", "{}3dCat", 50),
    "video": ("V_{}_CNN", "{}VidCat", 87),
}


def numbered(rows: int, width: int = 2, start: int = 0) -> np.ndarray:
    """Features that tell their row: the first column counts from ``start``."""
    features = np.ones((rows, width))
    features[:, 0] = np.arange(start, start + rows)
    return features


def classes(rows: int, count: int, first: int = 0) -> np.ndarray:
    return np.arange(rows) % count + first


def folder(root: Path, name: str) -> Path:
    path = root / LAYOUTS[name].file
    path.parent.mkdir(parents=True)
    return path


def first_column(data: CrossModalDataset, split: str, modality: str) -> tuple[float, float]:
    column = getattr(data, split)[modality].features[:, 0]
    np.testing.assert_array_equal(np.diff(column), 1)
    return column[0], column[-1]


def wikipedia_deep(root: Path) -> None:
    arrays = {}
    for part, rows in (("train", 40), ("test", 693)):
        arrays[f"{part}_imgs_deep"] = numbered(rows, 6)
        arrays[f"{part}_texts_doc"] = numbered(rows, 3)
        arrays[f"{part}_imgs_labels"] = classes(rows, 10)[None]
    savemat(folder(root, "wikipedia-deep"), arrays)


def xmedia(root: Path) -> None:
    arrays = {}
    for width, (features, labels, test) in enumerate(XMEDIA.values(), start=2):
        for part, rows in (("tr", 20 + width), ("te", test + 30 + width)):
            arrays[features.format(part)] = numbered(rows, width)
            arrays[labels.format(part)] = classes(rows, 20, first=1)[:, None].astype(float)
    savemat(folder(root, "xmedia"), arrays)


def xmedianet(root: Path) -> None:
    arrays = {}
    for part, start in (("train", 0), ("valid", 1000), ("test", 2000)):
        features, labels = np.empty((1, 5), object), np.empty((1, 5), object)
        for index in range(5):
            rows = 210 + index
            features[0, index] = numbered(rows, index + 2, start)
            labels[0, index] = classes(rows, 200)[None]
        arrays[part], arrays[f"{part}_labels"] = features, labels
    savemat(folder(root, "xmedianet"), arrays)


def nus_wide(root: Path) -> None:
    with h5py.File(folder(root, "nus-wide"), "w") as file:
        for part, start in (("train", 0), ("valid", 100), ("test", 200)):
            file[f"{part}_imgs_deep"] = numbered(30, 4, start)
            file[f"{part}_texts"] = numbered(30, 3, start)
            file[f"{part}_imgs_labels"] = classes(30, 10, first=1)


def inria_websearch(root: Path) -> None:
    arrays = {}
    for part, start in (("tr", 0), ("val", 1000), ("te", 2000)):
        arrays[f"{part}_img"] = numbered(120, 4, start)
        arrays[f"{part}_txt"] = numbered(120, 3, start)
        arrays[f"{part}_img_lab"] = classes(120, 100)[:, None]
    savemat(folder(root, "inria-websearch"), arrays)


WRITERS = {
    "wikipedia-deep": wikipedia_deep,
    "xmedia": xmedia,
    "xmedianet": xmedianet,
    "nus-wide": nus_wide,
    "inria-websearch": inria_websearch,
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path) -> tuple[str, Path]:
    WRITERS[request.param](tmp_path)
    return request.param, tmp_path


def test_every_set_has_a_test():
    assert set(WRITERS) == set(LAYOUTS)


def test_classes_modalities_and_label_ids(written):
    name, root = written
    data = load(name, root)
    count = {"wikipedia-deep": 10, "xmedia": 20, "xmedianet": 200, "nus-wide": 10}.get(name, 100)
    assert len(data.classes) == count
    assert len(data.modalities) == (5 if name in ("xmedia", "xmedianet") else 2)
    for split in data.splits.values():
        assert tuple(split) == data.modalities
        for features, labels in split.values():
            assert features.dtype == np.float32
            assert labels.dtype == np.int64
            assert -1 not in labels
    assert data.train["image"].labels[:3].tolist() == [0, 1, 2]


def test_wikipedia_deep_validates_on_the_first_231_test_rows(tmp_path):
    wikipedia_deep(tmp_path)
    data = load("wikipedia-deep", tmp_path)
    for modality, width in (("image", 6), ("text", 3)):
        assert data.train[modality].features.shape == (40, width)
        assert first_column(data, "validation", modality) == (0, 230)
        assert first_column(data, "test", modality) == (231, 692)


def test_xmedia_tests_on_the_first_rows_and_validates_on_the_rest(tmp_path):
    xmedia(tmp_path)
    data = load("xmedia", tmp_path)
    for width, (modality, (_, _, test)) in enumerate(XMEDIA.items(), start=2):
        assert data.train[modality].features.shape == (20 + width, width)
        assert first_column(data, "test", modality) == (0, test - 1)
        assert first_column(data, "validation", modality) == (test, test + 29 + width)
        assert data.validation[modality].labels[0] == test % 20


def test_xmedianet_takes_one_cell_for_each_modality(tmp_path):
    xmedianet(tmp_path)
    data = load("xmedianet", tmp_path)
    assert data.modalities == ("image", "text", "audio", "3d", "video")
    for index, modality in enumerate(data.modalities):
        assert data.train[modality].features.shape == (210 + index, index + 2)
        assert first_column(data, "validation", modality) == (1000, 1209 + index)
        assert first_column(data, "test", modality) == (2000, 2209 + index)


@pytest.mark.parametrize("name", ["nus-wide", "inria-websearch"])
def test_sets_with_three_splits_of_their_own(tmp_path, name):
    WRITERS[name](tmp_path)
    data = load(name, tmp_path)
    step = 100 if name == "nus-wide" else 1000
    for modality, width in (("image", 4), ("text", 3)):
        assert data.train[modality].features.shape[1] == width
        for index, split in enumerate(data.splits):
            assert first_column(data, split, modality)[0] == index * step


def test_the_file_may_lie_in_the_data_folder_itself(tmp_path):
    nus_wide(tmp_path)
    path = tmp_path / LAYOUTS["nus-wide"].file
    path.rename(tmp_path / path.name)
    assert load("nus-wide", tmp_path).modalities == ("image", "text")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_file_says_where_to_get_it_and_where_to_put_it(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        load(name, tmp_path)
    message = str(error.value)
    assert (tmp_path / LAYOUTS[name].file).as_posix() in message
    assert f"Where to get it: {LAYOUTS[name].obtain}" in message
    assert "Where to put it:" in message
    assert "DRCL_DATA" in message


def test_a_truncated_set_is_named(written):
    name, root = written
    path = root / LAYOUTS[name].file
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=rf"{path.name}: expected .*truncated|one of its arrays"):
        load(name, root)


def test_a_set_with_other_arrays_lists_what_it_holds(tmp_path):
    savemat(folder(tmp_path, "inria-websearch"), {"img": numbered(5)})
    with pytest.raises(ValueError, match=r"one of its arrays, img.*got 'tr_img'"):
        load("inria-websearch", tmp_path)
