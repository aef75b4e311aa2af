"""CrossModalDataset refuses what would fail later, and says where."""

from __future__ import annotations

import numpy as np
import pytest

from drcl.data import CrossModalDataset, Labelled, Split


def samples(rows: int = 4, width: int = 3, labels: object = None) -> Labelled:
    ids = np.arange(rows) % 2 if labels is None else np.asarray(labels)
    return Labelled(np.ones((rows, width), np.float32), ids)


def build(train: Split, validation: Split | None = None, test: Split | None = None, **extra):
    return CrossModalDataset("pets", ("cat", "dog"), train, validation or {}, test or {}, **extra)


def test_unpaired_modalities_of_any_size_are_fine():
    data = build({"image": samples(9), "text": samples(4, width=7)}, test={"text": samples(2, 7)})
    assert data.modalities == ("image", "text")
    assert [len(one.features) for one in data.train.values()] == [9, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_feature_is_named_by_split_modality_and_first_row(bad):
    image = samples(6)
    image.features[3, 1] = bad
    image.features[5, 0] = bad
    with pytest.raises(
        ValueError, match=r"test/image features: .*NaN or infinity in 2 of 6 .*row 3"
    ):
        build({"image": samples(6)}, test={"image": image})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (samples(4, labels=[0, 1, 0]), "train/image: expected 4 ids, names or rows"),
        (samples(2, labels=[0, 2]), "train/image: row 1 has label 2, .* 2 classes"),
        (samples(2, labels=[-2, 1]), "train/image: row 0 has label -2"),
        (samples(0), r"train/image features: expected at least one value, got shape \(0, 3\)"),
        (samples(4, width=0), r"features: expected at least one value, got shape \(4, 0\)"),
        (
            Labelled(np.ones(4, np.float32), np.zeros(4, np.int64)),
            r"expected shape \(samples, width\), got \(4,\)",
        ),
        (Labelled(np.ones((4, 1), np.float32), np.zeros((4, 1, 1))), r"shape \(4, 1, 1\)"),
        (samples(2, labels=np.ones((2, 3), np.uint8)), "3 columns: expected one for each of the 2"),
        (samples(2, labels=np.full((2, 2), 2, np.uint8)), "row 0 .* expected values from 0 to 1"),
        (samples(2, labels=np.full((2, 2), np.nan, np.float32)), "row 0 of shape .* holds nan"),
    ],
)
def test_bad_values_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        build({"image": image})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Labelled(np.ones((2, 3)), np.zeros(2, np.int64)), "expected float32, got float64"),
        (samples(2, labels=np.zeros(2, np.int32)), "expected ids of int64, got int32"),
        (samples(2, labels=np.zeros((2, 2), np.int64)), "float32 or uint8, got int64"),
    ],
)
def test_other_dtypes_are_refused(image, message):
    with pytest.raises(TypeError, match=message):
        build({"image": image})


def test_splits_must_fit_together():
    with pytest.raises(ValueError, match=r"test/text: expected a modality of train \(image\)"):
        build({"image": samples()}, test={"text": samples()})
    with pytest.raises(ValueError, match=r"validation/image features: expected width 3 .*got 5"):
        build({"image": samples()}, {"image": samples(width=5)})
    with pytest.raises(ValueError, match="class ids in train/image and multi-hot rows in test/im"):
        build({"image": samples()}, test={"image": samples(2, labels=np.eye(2, dtype=np.uint8))})
    with pytest.raises(ValueError, match="expected a modality in train"):
        build({})


def test_classes_must_be_there_and_distinct():
    image = {"image": samples()}
    with pytest.raises(ValueError, match="expected at least one class"):
        CrossModalDataset("pets", (), image, {}, {})
    with pytest.raises(ValueError, match="distinct classes, got 'cat'"):
        CrossModalDataset("pets", ("cat", "cat"), image, {}, {})


def test_pictures_go_with_the_test_rows():
    parts = {"train": {"image": samples()}, "test": {"image": samples(3)}}
    assert build(**parts, pictures={"image": np.zeros((3, 8, 8))}).pictures["image"].shape == (
        3,
        8,
        8,
    )
    for pictures in ({"image": np.zeros((4, 8, 8))}, {"text": np.zeros((3, 8, 8))}):
        with pytest.raises(ValueError, match="one for each test row"):
            build(**parts, pictures=pictures)


def test_describe_lists_every_split_and_the_labelled_share():
    data = build({"image": samples(4, labels=[0, 1, -1, -1])}, test={"image": samples(3)})
    table = [line.split() for line in data.describe().splitlines()]
    assert table[2:] == [
        ["train", "image", "4", "3", "50.0%"],
        ["test", "image", "3", "3", "100.0%"],
    ]
