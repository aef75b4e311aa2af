"""Labels of every form a data set comes with."""

from __future__ import annotations

import numpy as np
import pytest

from drcl.labels import encode_labels, find_classes


@pytest.mark.parametrize(
    "labels, classes",
    [
        ([[3, 1, -1], [7, 3]], (1, 3, 7)),
        ([[1, 2, 3]], (1, 2, 3)),
        ([[10, 2], [2, -5]], (-5, 2, 10)),
        ([[2.0, 1.0]], (1, 2)),
        ([[[4], [2]]], (2, 4)),
        ([np.array([1, 0], dtype=np.uint8), np.array([2**40])], (0, 1, 2**40)),
        ([np.array([2**63 - 1, 3], dtype=np.uint64)], (3, 2**63 - 1)),
        ([np.array([True, False])], (0, 1)),
        ([[-1, -1]], ()),
        ([], ()),
        ([np.zeros((5, 3))], (0, 1, 2)),
    ],
)
def test_classes_found(labels, classes):
    found = find_classes(labels)
    assert found == classes
    assert all(type(label) is int for label in found)


@pytest.mark.parametrize(
    "labels",
    [
        [np.zeros((5, 3)), np.zeros((5, 4))],
        [np.zeros((5, 3)), [0, 1, 2]],
        [np.zeros((5, 3)), [[0], [1], [2]]],
        [["cat", "dog"]],
        [[0.5, 1.0]],
        [[np.nan, 1.0]],
        [np.zeros((2, 2, 2))],
        [np.array(1)],
    ],
    ids=["widths", "forms", "forms (N, 1)", "text", "fractions", "nan", "3-d", "0-d"],
)
def test_forms_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        find_classes(labels)


def test_ids_become_positions():
    classes = (7, 1, 3)  # any order: positions follow the list
    encoded = encode_labels(np.array([[1.0], [3.0], [-1.0], [7.0]]), classes)
    assert encoded.tolist() == [1, 2, -1, 0] and encoded.dtype == np.int64
    assert encode_labels([], classes).tolist() == []


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_the_largest_ids_are_told_apart(dtype):
    classes = (2**63 - 2, 2**63 - 1)
    assert encode_labels(np.array(classes, dtype), classes).tolist() == [0, 1]


@pytest.mark.filterwarnings("error")
def test_ids_in_half_precision():
    assert encode_labels(np.array([3, -1], np.float16), (1, 3)).tolist() == [1, -1]


def test_rows_stay_rows():
    rows = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.uint8)
    encoded = encode_labels(rows, (0, 1, 2))
    assert encoded.dtype == np.float32 and np.array_equal(encoded, rows)


@pytest.mark.parametrize(
    "labels, named",
    [
        ([0, 1, 9], "row 2 has label 9"),
        ([-2, 1], "row 0 has label -2"),
        ([0.5], "fractions"),
        (np.array([2**64 - 1], np.uint64), "larger"),  # as int64 it is −1
        (np.array([2**63], np.uint64), "larger"),
        ([2.0**63], "larger"),
        ([[1, 0]], "2 columns"),
        ([[1.0, np.nan, 0]], "finite"),
        ([[1.0, -1.0, 0]], "negative"),
        (["a"], "dtype"),
        (3, "shape"),
    ],
)
def test_labels_refused_by_name(labels, named):
    with pytest.raises(ValueError, match=rf"^text labels: .*{named}"):
        encode_labels(labels, (0, 1, 2), "text labels")
