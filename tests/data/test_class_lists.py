"""Labels of any kind to class ids, and holding rows out by class."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drcl.data.classes import ClassList
from drcl.data.splits import stratified_holdout
from drcl.labels import parse_labels


@pytest.mark.parametrize(
    "raw",
    [
        np.array([1, 7, -1]),
        np.array([[1], [7], [-1]], np.int16),
        np.array([[1.0, 7.0, -1.0]]),
        np.array([[1], [7], [-1]], np.float16),
    ],
    ids=["ids", "column", "row of floats", "half-precision column"],
)
def test_ids_come_in_any_shape_and_number_type(raw):
    ids = parse_labels(raw, count=3).ids
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 7, -1]


def test_unsigned_and_string_labels():
    assert parse_labels(np.array([10, 250], np.uint8), count=2).ids.tolist() == [10, 250]
    owl = parse_labels(np.array([b"owl ", b""]))
    assert owl.names == ("owl",) and owl.ids.tolist() == [0, -1]
    assert parse_labels(np.array(["sæl".encode()])).names == ("sæl",)
    assert len(parse_labels(np.array([], "S3"))) == 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.array([1.0, 2.5]), "train/text: label 2.5 in row 1 is not a whole number"),
        (np.array([np.inf, 2.0]), "label inf in row 0"),
        (np.array([1, 2, 3]), r"expected 2 ids, names or rows, got shape \(3,\)"),
        (np.array([[0, 1, 0], [0, 2, 0]]), "row 1 of shape .* holds 2; expected 0 and 1"),
        (np.array([["a", "b"], ["c", "d"]]), r"names are \(N,\)"),
        (np.array([1j, 2j]), "complex128"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (
            np.array([b"owl", b"s\xe6l"]),
            r"train/text: label b's\\xe6l' in row 1 is not text in UTF-8",
        ),
    ],
)
def test_invalid_labels_are_refused(raw, message):
    with pytest.raises((TypeError, ValueError), match=message):
        parse_labels(raw, "train/text", count=2)


def class_list(*found):
    return ClassList.from_labels([parse_labels(labels) for labels in found])


def test_the_class_list_is_the_sorted_union_and_skips_unlabelled():
    classes = class_list(np.array([30, -1, 4]), np.array([11]))
    assert classes.names == ("4", "11", "30")
    assert classes.encode(parse_labels(np.array([11, 30, 4, -1]))).tolist() == [1, 2, 0, -1]


def test_names_sort_and_empty_means_unlabelled():
    classes = class_list(np.array(["owl", "", "ant"]), np.array([-1, -1]))
    assert classes.names == ("ant", "owl")
    assert classes.encode(parse_labels(np.array(["owl", ""]))).tolist() == [1, -1]


def test_a_label_outside_a_given_list_is_named_with_its_first_row():
    classes = ClassList.from_table({1: "cat", 2: "dog"})
    with pytest.raises(ValueError, match=r"test/image: row 2 has label 3, .* 2 classes"):
        classes.encode(parse_labels([1, 2, 3, 3], "test/image"))
    with pytest.raises(ValueError, match="row 0 has label 'cow'"):
        classes.encode(parse_labels(["cow"], "test/text"))


def test_multi_hot_rows_pass_and_ids_join_them():
    rows = np.array([[0, 1, 1], [0, 0, 0]], np.uint8)
    classes = class_list(rows, np.array([2, -1]))
    assert classes.names == ("0", "1", "2")
    ids = classes.encode(parse_labels(np.array([2, -1])))
    assert classes.as_rows(ids).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert classes.as_rows(rows) is rows
    with pytest.raises(ValueError, match="2 columns: expected one for each of the 3"):
        classes.encode(parse_labels(np.eye(2, dtype=np.uint8)))


def test_a_class_list_needs_labels_of_one_kind():
    with pytest.raises(ValueError, match="expected a labelled row"):
        class_list(np.array([-1, -1]))
    with pytest.raises(ValueError, match="all strings or all numbers"):
        class_list(np.array([1]), np.array(["owl"]))
    with pytest.raises(ValueError, match=r"shapes \[\(2, 2\), \(3, 3\)\]"):
        class_list(np.eye(2, dtype=np.uint8), np.eye(3, dtype=np.uint8))


@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=80).map(np.array),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_holdout_partitions_and_leaves_every_class_on_both_sides(labels, share, seed):
    kept, held = stratified_holdout(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert -1 not in labels[held]
    for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
        out = int((labels[held] == label).sum())
        assert out == 0 if count == 1 else 1 <= out < count
        assert abs(out - share * count) <= 1


def test_holdout_is_repeatable_and_depends_on_the_seed():
    labels = np.arange(200) % 5
    first, again, other = (stratified_holdout(labels, 0.3, seed)[1] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_holdout_of_rows_goes_by_the_first_class():
    rows = np.array([[1, 1]] * 10 + [[0, 1]] * 10 + [[0, 0]] * 5, np.uint8)
    _, held = stratified_holdout(rows, 0.2, seed=0)
    assert [int((held < 10).sum()), int((held >= 10).sum()), int(held.max() < 20)] == [2, 2, 1]


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_holdout_needs_a_share_between_0_and_1(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_holdout(np.array([0, 0]), share, seed=0)


def test_holding_out_of_very_many_classes_is_no_matter_of_minutes():
    """A pass over all rows for every class would take a thousand times as long."""
    labels = np.random.default_rng(0).permutation(np.arange(200_000) // 2)
    began = time.process_time()
    kept, held = stratified_holdout(labels, 0.5, seed=0)
    assert time.process_time() - began < 10
    assert np.array_equal(np.sort(labels[kept]), np.arange(100_000)) and len(held) == 100_000
