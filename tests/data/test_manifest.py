"""A user's own data through a manifest: formats, labels, splits, and refusals."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from drcl.data import load, load_manifest

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((40, 5)).astype(np.float32)
Y = np.arange(40) % 2


def manifest(folder: Path, text: str, **arrays: np.ndarray) -> Path:
    np.savez(folder / "a.npz", **{"x": X, "y": Y, **arrays})
    path = folder / "birds.toml"
    path.write_text(text)
    return path


TRAIN = '[train.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'


def test_several_files_and_formats_in_one_manifest(tmp_path):
    h5py = pytest.importorskip("h5py", reason="an HDF5 file is part of this test")
    scipy_io = pytest.importorskip("scipy.io", reason="a MATLAB file is part of this test")
    parquet = pytest.importorskip("pyarrow.parquet", reason="a parquet file is part of this test")
    import pyarrow as pa
    from safetensors.numpy import save_file

    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "image.npy", X)
    np.save(tmp_path / "deep" / "label.npy", np.where(Y == 0, "sparrow", "owl"))
    scipy_io.savemat(tmp_path / "text.mat", {"t": X[:9, :3], "l": Y[:9].astype(float)})
    with h5py.File(tmp_path / "audio.h5", "w") as file:
        file["a"], file["l"] = X[:8], Y[:8, None]
    with h5py.File(tmp_path / "new.mat", "w") as file:  # MATLAB v7.3 stores transposed
        file["v"], file["l"] = X[:7].T, Y[None, :7]
    table = pa.table({"m0": X[:6, 0], "m1": X[:6, 1], "kind": ["sparrow", "owl"] * 3})
    parquet.write_table(table, tmp_path / "m.parquet")
    save_file({"s": X[:5], "l": Y[:5]}, tmp_path / "s.safetensors")
    path = manifest(
        tmp_path,
        """
        classes = ["sparrow", "owl"]
        train.image = { features = "deep/image.npy", labels = "deep/label.npy" }
        train.text = { features = "text.mat:t", labels = "text.mat:l" }
        train.audio = { features = "audio.h5:a", labels = "audio.h5:l" }
        train.video = { features = "new.mat:v", labels = "new.mat:l" }
        train.meta = { features = "m.parquet:m*", labels = "m.parquet:kind" }
        train.sketch = { features = "s.safetensors:s", labels = "s.safetensors:l" }
        validation.image = { features = "deep/image.npy", rows = "0:4" }
        """,
    )
    data = load_manifest(path)
    assert data.classes == ("sparrow", "owl")
    assert {name: one.features.shape for name, one in data.train.items()} == {
        "image": (40, 5),
        "text": (9, 3),
        "audio": (8, 5),
        "video": (7, 5),
        "meta": (6, 2),
        "sketch": (5, 5),
    }
    for name, (features, labels) in data.train.items():
        width = features.shape[1]
        np.testing.assert_array_equal(features, X[: len(features), :width], err_msg=name)
        np.testing.assert_array_equal(labels, Y[: len(labels)], err_msg=name)
    assert data.validation["image"].labels.tolist() == [-1] * 4


def test_rows_cut_features_and_labels_alike(tmp_path):
    text = TRAIN + 'rows = "10:30"\n[test.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'
    data = load_manifest(manifest(tmp_path, text + 'rows = "-7:"', y=np.arange(40) // 2))
    np.testing.assert_array_equal(data.test["image"].features, X[-7:])
    names = [data.classes[label] for label in data.test["image"].labels]
    assert names == [str(row // 2) for row in range(33, 40)]


def test_validation_is_held_out_of_train_when_there_is_none(tmp_path):
    data = load_manifest(manifest(tmp_path, "validation_share = 0.25\nseed = 3\n" + TRAIN))
    train, validation = data.train["image"], data.validation["image"]
    assert np.bincount(validation.labels).tolist() == [5, 5]
    together = np.concatenate([train.features, validation.features])
    assert sorted(map(tuple, together)) == sorted(map(tuple, X))
    again = load_manifest(tmp_path / "birds.toml")
    np.testing.assert_array_equal(again.validation["image"].features, validation.features)
    assert len(load_manifest(manifest(tmp_path, TRAIN)).validation["image"].labels) == 4
    assert data.test == {}


def test_any_numbering_through_a_class_table(tmp_path):
    text = 'classes = { 7 = "owl", 1 = "sparrow", 30 = "emu" }\n' + TRAIN
    data = load_manifest(manifest(tmp_path, text, y=np.where(Y, 7, 1)))
    assert data.classes == ("sparrow", "owl", "emu")
    assert set(data.train["image"].labels) == {0, 1}


def test_unlabelled_rows_and_a_modality_without_labels(tmp_path):
    text = TRAIN + '[train.text]\nfeatures = "a.npz:t"\n[validation.image]\nfeatures = "a.npz:x"\n'
    y = np.where(np.arange(40) < 10, -1, Y + 4)
    data = load_manifest(manifest(tmp_path, text, y=y, t=X[:3]))
    assert data.classes == ("4", "5")
    assert (data.train["image"].labels == -1).sum() == 10
    assert data.train["text"].labels.tolist() == [-1, -1, -1]
    assert "75.0%" in data.describe()


def test_multi_hot_labels_make_every_modality_multi_hot(tmp_path):
    rows = (RANDOM.random((40, 3)) < 0.5).astype(int)
    text = TRAIN + '[train.text]\nfeatures = "a.npz:x"\nlabels = "a.npz:ids"\n'
    text += '[validation.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'
    data = load_manifest(manifest(tmp_path, text, y=rows, ids=np.array([2] + [-1] * 39)))
    np.testing.assert_array_equal(data.train["image"].labels, rows)
    assert data.train["text"].labels[:2].tolist() == [[0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    "place", ["../secret.npz:x", "deep/../../secret.npz", "/etc/passwd", "~/x.npz"]
)
def test_files_outside_the_folder_are_never_read(tmp_path, place):
    np.savez(tmp_path / "secret.npz", x=X)
    folder = tmp_path / "inner"
    folder.mkdir()
    expected = (ValueError, "beside the manifest or below it")
    if place.startswith("~"):  # no home folder is looked up: it is a folder called "~"
        expected = (FileNotFoundError, "no such file")
    with pytest.raises(expected[0], match=expected[1]):
        load_manifest(manifest(folder, f'[train.image]\nfeatures = "{place}"\n'))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    np.savez(tmp_path / "secret.npz", x=X)
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "link.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(ValueError, match="beside the manifest or below it"):
        load_manifest(manifest(folder, '[train.image]\nfeatures = "link.npz:x"\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train.image", "expected TOML"),
        ("", r"train: expected a table \[train"),
        ("[train]", r"\[train\]: expected a table, got \{\}"),
        ("train = 3", r"\[train\]: expected a table, got 3"),
        (
            "shuffle = true\n" + TRAIN,
            "key at the top level: expected name, classes, .*got 'shuffle'",
        ),
        (TRAIN + 'feature = "a.npz:x"', r"key in \[train.image\]: expected .*, got 'feature'"),
        ('[train.image]\nlabels = "a.npz:y"', r"\[train.image\]: expected features"),
        ("[train.image]\nfeatures = 3", r"features in \[train.image\]: expected a string, got 3"),
        ('validation_share = "half"\n' + TRAIN, "validation_share: expected a number .*got 'half'"),
        ("validation_share = 1.5\n" + TRAIN, "share: expected a number between 0 and 1, got 1.5"),
        ("validation_share = 1\n" + TRAIN, "validation_share: expected a number .*got 1"),
        ("seed = true\n" + TRAIN, "seed: expected a whole number, got True"),
        ("classes = 3\n" + TRAIN, "classes: expected a list of names, .*got 3"),
        ("classes = [1, 2]\n" + TRAIN, r"classes: expected a list of names, .*got \[1, 2\]"),
        ('classes = { one = "a" }\n' + TRAIN, "expected labels that are whole numbers"),
        ('classes = { 1_0 = "a" }\n' + TRAIN, "expected labels that are whole numbers"),
        ('classes = ["a"]\n' + TRAIN, "train/image: row 1 has label 1, .* 1 classes"),
        (TRAIN + 'rows = "some"', "rows: expected 'start:stop', got 'some'"),
        (TRAIN + 'rows = "1_0:20"', "rows: expected 'start:stop', got '1_0:20'"),
        (TRAIN + 'rows = "0:41"', "rows: expected some of 40, got '0:41'"),
        (TRAIN + 'rows = "5:5"', "train/image rows: expected at least one"),
        (TRAIN.replace(":x", ":z"), "expected one of its arrays, x, y, got 'z'"),
        (TRAIN.replace(":x", ":y"), r"train/image features: expected shape .*, got \(40,\)"),
        ('[train.image]\nfeatures = "a.npz:x"', "expected a labelled row"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load_manifest(manifest(tmp_path, text))
    assert "birds.toml" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y[:39]}, r"train/image: expected 40 ids, .* got shape \(39,\)"),
        ({"y": Y + 0.5}, "train/image: label 0.5 in row 0 is not a whole number"),
        ({"x": np.where(np.arange(40)[:, None] == 17, np.nan, X)}, "NaN or infinity.*row 17"),
        ({"x": np.full((40, 2), 1e300)}, "NaN or infinity in 40 of 40 rows"),
        ({"x": X.astype(str)}, "train/image features: expected numbers, got <U"),
        ({"y": np.arange(40)}, "no validation rows can be held out; give a validation split"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    text = (
        TRAIN
        if "can be held out" in message
        else TRAIN + '[validation.image]\nfeatures = "a.npz:x"'
    )
    with pytest.raises(ValueError, match=message):
        load_manifest(manifest(tmp_path, text, **arrays))


def test_a_missing_manifest_or_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest .*none\.toml: no such file"):
        load(str(tmp_path / "none.toml"))
    path = manifest(tmp_path, TRAIN.replace("a.npz", "b.npz"))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*b\.npz"):
        load(str(path))


def test_a_class_for_minus_one_is_a_class(tmp_path):
    y = np.arange(40) % 3 - 1
    text = 'classes = { -1 = "no", 0 = "maybe", 1 = "yes" }\n' + TRAIN
    data = load_manifest(manifest(tmp_path, text, y=y))
    assert data.classes == ("no", "maybe", "yes")
    found = np.concatenate([split["image"].labels for split in (data.train, data.validation)])
    assert np.bincount(found).tolist() == np.bincount(y + 1).tolist()
    named = np.array(["no", "maybe", "yes"])[y + 1]
    again = load_manifest(manifest(tmp_path, text, y=named))
    assert np.array_equal(again.train["image"].labels, data.train["image"].labels)


def test_labels_of_minus_one_and_one_alone_are_two_classes(tmp_path):
    data = load_manifest(manifest(tmp_path, TRAIN, y=Y * 2 - 1))
    assert data.classes == ("-1", "1")
    assert set(data.train["image"].labels.tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"train/image: row \d+ has label -100"):
        load_manifest(manifest(tmp_path, TRAIN, y=np.where(Y == 0, -100, Y)))


def test_missing_labels_of_a_file_are_unlabelled(tmp_path):
    y = np.where(np.arange(40) % 4 == 3, np.nan, Y)
    data = load_manifest(manifest(tmp_path, TRAIN, y=y))
    parts = [split["image"].labels for split in (data.train, data.validation)]
    assert sum(int((part == -1).sum()) for part in parts) == 10 and data.classes == ("0", "1")


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_class_names_are_one_in_either_spelling(tmp_path, listed, stored):
    names = np.array(["élan", "œuf"])
    text = f'classes = ["{unicodedata.normalize(listed, "élan")}", "œuf"]\n' + TRAIN
    y = np.array([unicodedata.normalize(stored, name) for name in names[Y]])
    data = load_manifest(manifest(tmp_path, text, y=y))
    assert data.classes == tuple(names) and set(data.train["image"].labels.tolist()) == {0, 1}
    mixed = np.where(np.arange(40) % 4 < 2, y, names[Y])
    assert load_manifest(manifest(tmp_path, TRAIN, y=mixed)).classes == tuple(names)
