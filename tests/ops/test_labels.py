"""Labels of every form that people have, at every place that takes labels."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from forced import forced
from torch.utils.data import DataLoader, TensorDataset

from drcl import DRCL, Config, Prior, functional, losses, metrics, select_prior
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset, Labelled
from drcl.dispatch import use_backend
from drcl.labels import (
    class_list,
    encode_labels,
    find_classes,
    is_labelled,
    join,
    known_ids,
    parse_labels,
    resolve,
)
from drcl.report.data import ReportData
from drcl.run.added import AddedModality, read_added

COMPOSED, DECOMPOSED = "Élève", unicodedata.normalize("NFD", "Élève")

# --- one label array ---------------------------------------------------------------------------

IDS = [0, 2, 1, 2]


def forms_of_ids() -> dict[str, Any]:
    found: dict[str, Any] = {
        "list": IDS,
        "tuple": tuple(IDS),
        "list of floats": [0.0, 2.0, 1.0, 2.0],
        "list of scalars": [np.int16(0), 2, np.float32(1), torch.tensor(2)],
        "column": np.array(IDS)[:, None],
        "row": np.array([IDS]),
        "objects": np.array(IDS, object),
        "foreign byte order": np.array(IDS, ">i4"),
        "reversed": np.array(IDS[::-1])[::-1],
        "masked, nothing hidden": np.ma.array(IDS),
    }
    for dtype in "bBhHiIlLefdg":
        found[np.dtype(dtype).name] = np.array(IDS, dtype)
    for dtype in (torch.uint8, torch.int16, torch.uint64, torch.int64, torch.bfloat16, torch.half):
        found[str(dtype)] = torch.tensor(IDS).to(dtype)
    return found


FORMS = forms_of_ids()


@pytest.mark.parametrize("form", FORMS)
def test_ids_of_any_form_are_the_same_ids(form):
    parsed = parse_labels(FORMS[form], count=4)
    assert parsed.ids.dtype == np.int64 and parsed.ids.tolist() == IDS
    assert parsed.names is None and not parsed.missing.any()


def forms_with_gaps() -> dict[str, Any]:
    return {
        "−1": np.array([3, -1, 1]),
        "NaN": np.array([3, np.nan, 1]),
        "half-precision NaN": torch.tensor([3, float("nan"), 1]).half(),
        "None": [3, None, 1],
        "masked": np.ma.array([3, 7, 1], mask=[0, 1, 0]),
        "masked column": np.ma.array([[3], [7], [1]], mask=[[0], [1], [0]]),
        "large ids in a list": [3, float("nan"), 1],
    }


GAPS = forms_with_gaps()


@pytest.mark.parametrize("form", GAPS)
def test_what_is_missing_is_unlabelled(form):
    assert encode_labels(GAPS[form], classes=(1, 3)).tolist() == [1, -1, 0]
    assert find_classes([GAPS[form]]) == (1, 3)
    x = torch.eye(3)
    found = metrics.average_precision(x, x, GAPS[form], GAPS[form])
    assert found.isnan().tolist() == [False, True, False]


def test_large_ids_beside_missing_ones_keep_every_digit():
    assert find_classes([[2**53 + 1, None, 2**53, float("nan")]]) == (2**53, 2**53 + 1)


NAMES = {
    "list": ["b", None, "a"],
    "list with NaN": ["b", float("nan"), "a"],
    "strings": np.array(["b", "", "a"]),
    "bytes": np.array([b"b", b"", b"a"]),
    "objects": np.array(["b", np.nan, "a"], object),
    "column of objects": np.array([["b"], [None], ["a"]], object),
    "variable width": np.array(["b", "", "a"], np.dtypes.StringDType()),
    "masked": np.ma.array(["b", "zzz", "a"], mask=[0, 1, 0]),
    "blanks": [" b", "  ", "a "],
}


@pytest.mark.parametrize("form", NAMES)
def test_names_of_any_form(form):
    assert find_classes([NAMES[form]]) == ("a", "b")
    assert encode_labels(NAMES[form], ("a", "b")).tolist() == [1, -1, 0]


def frames() -> dict[str, Any]:
    """Ids 3, missing, 1 and names b, missing, a, as libraries of data frames hold them."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    ids, names = [3, None, 1], ["b", None, "a"]
    return {
        "pandas floats": pandas.Series([3, np.nan, 1]),
        "pandas Int64": pandas.Series(ids, dtype="Int64"),
        "pandas Categorical of ids": pandas.Categorical(ids),
        "pandas Series of a Categorical": pandas.Series(pandas.Categorical(names)),
        "pandas string": pandas.Series(names, dtype="string"),
        "pandas str": pandas.Series(names),
        "pandas objects": pandas.Series(names, dtype=object),
        "pandas Categorical": pandas.Categorical(names),
        "pandas Index": pandas.Index(names),
        "pandas DataFrame": pandas.DataFrame({"y": names}),
        "polars ints": polars.Series(ids),
        "polars strings": polars.Series(names),
        "polars Categorical": polars.Series(names, dtype=polars.Categorical),
        "polars DataFrame": polars.DataFrame({"y": names}),
    }


def test_series_and_frames_of_pandas_and_polars():
    for form, labels in frames().items():
        named = find_classes([labels]) == ("a", "b")
        assert find_classes([labels]) == (("a", "b") if named else (1, 3)), form
        assert encode_labels(labels, find_classes([labels])).tolist() == [1, -1, 0], form
        assert named != ("ids" in form or "Int" in form or "ints" in form or "float" in form), form


def test_series_whose_index_is_not_the_order_are_read_in_order():
    pandas = pytest.importorskip("pandas")
    shuffled = pandas.Series([3, 1, 3], index=[2, 0, 1])
    assert parse_labels(shuffled).ids.tolist() == [3, 1, 3]
    # divided among ranks, say, it is cut by place as well
    assert parse_labels(shuffled)[0:2].ids.tolist() == [3, 1]


def test_multi_hot_frames_and_masked_rows():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    rows = [[1, 0, 1], [0, 1, 0]]
    table = {f"c{i}": [row[i] for row in rows] for i in range(3)}
    mixed = {**table, "c1": [False, True]}
    for frame in (pandas.DataFrame(table), pandas.DataFrame(mixed), polars.DataFrame(table)):
        assert encode_labels(frame, (0, 1, 2)).tolist() == rows
    hidden = parse_labels(np.ma.array(rows, mask=[[0, 0, 0], [1, 1, 1]]))
    assert hidden.missing.tolist() == [False, True] and hidden.rows.tolist() == [[1, 0, 1], [0] * 3]
    with pytest.raises(ValueError, match="labels: row 1 is partly masked"):
        parse_labels(np.ma.array(rows, mask=[[0, 0, 0], [1, 0, 0]]))


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1.5], "label 1.5 in row 1 is not a whole number"),
        ([1, None, 2.5], "label 2.5 in row 2 is not a whole number"),
        ([0.0, np.inf], "label inf in row 1"),
        (np.array([3, 2**63], np.uint64), "label 9223372036854775808 in row 1"),  # as int64 −2⁶³
        (np.array([2**64 - 1], np.uint64), "label 18446744073709551615 in row 0"),  # as int64 −1
        ([2.0**63], "row 0 is not a whole number of 64 bits"),
        ([1, 10**30], "row 1 is not a whole number of 64 bits"),
        ([1, "a"], "row 0 is a number and row 1 a string"),
        (["a", np.nan, 3], "row 0 is a string and row 2 a number"),
        (np.array([(1, 2), (3, 4, 5), None], object), r"row 0 holds \(1, 2\), a tuple"),
        ([[0, 5], [1, 6], [0, 7]], "row 0 of shape .3, 2. holds 5; expected 0 and 1"),
        ([[1, 0], [0.3, 0.7]], "row 1 of shape .2, 2. holds 0.3.*argmax"),
        ([[1, -1], [-1, 1]], "row 0 of shape .2, 2. holds -1.*labels > 0"),
        ([[1.0, np.nan, 0]], "row 0 .* holds nan"),
        ([["a", "b"], ["c", "d"]], r"names are \(N,\)"),
        ([[1], [1, 2]], "rows of different lengths"),
        (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.zeros((2, 0)), r"got shape \(2, 0\)"),
        (3, r"got shape \(\)"),
        (None, r"got shape \(\)"),
        ([1j], "complex128"),
        (torch.tensor([1j]), "complex"),
        (np.array(["2020-01-01"], "M8[D]"), "datetime64"),
        (np.array([b"owl", b"s\xe6l"]), r"label b's\\xe6l' in row 1 is not text in UTF-8"),
    ],
)
def test_what_are_no_labels_is_refused_with_its_row(labels, message):
    with pytest.raises((TypeError, ValueError), match=rf"^image labels: .*{message}"):
        parse_labels(labels, "image labels")


def test_sparse_labels_are_refused_with_the_remedy():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"labels: is a sparse matrix; .*toarray"):
        parse_labels(sparse.eye(3))


def test_turned_rows_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"expected 5 .* got shape \(3, 5\); .*\.T"):
        parse_labels(np.zeros((3, 5)), count=5)


def test_probabilities_only_where_they_are_asked_for():
    rows = parse_labels([[0.7, 0.3], [0.1, 0.9]], soft=True)
    assert rows.rows is not None
    with pytest.raises(ValueError, match=r"row 0 .* holds 0.7"):
        parse_labels(rows)
    with pytest.raises(ValueError, match=r"holds 1.1; expected values from 0 to 1"):
        parse_labels([[0.5, 1.1]], soft=True)


def test_as_many_names_or_ids_as_rows_are_read_in_linear_time():
    """A pass over all rows for every label would take minutes."""
    began = time.process_time()
    for labels in ([f"n{row}" for row in range(200_000)], np.arange(200_000).astype(object)):
        parsed = parse_labels(labels)
        assert len(np.unique(parsed.ids)) == 200_000
        assert encode_labels(parsed, find_classes([parsed])).max() == 199_999
    assert time.process_time() - began < 20


# --- several arrays, and what an id means ------------------------------------------------------


@pytest.mark.parametrize(
    "labels, classes",
    [
        ([[3, 1, -1], [7, 3]], (1, 3, 7)),
        ([[2.0, 1.0]], (1, 2)),
        ([[[4], [2]]], (2, 4)),
        ([np.array([1, 0], dtype=np.uint8), np.array([2**40])], (0, 1, 2**40)),
        ([np.array([2**63 - 1, 3], dtype=np.uint64)], (3, 2**63 - 1)),
        ([np.array([True, False])], (0, 1)),
        ([[-1, -1]], ()),
        ([], ()),
        ([np.zeros((5, 3))], (0, 1, 2)),
        ([["owl", "ant"], [None, "bee"], [-1, -1]], ("ant", "bee", "owl")),
        ([[-1, 1, 1], [1, 1]], (-1, 1)),
        ([[-1.0, 1.0]], (-1, 1)),
        ([[-1, 1], [2]], (1, 2)),
        ([[-1, 1, 0]], (0, 1)),
        ([[None, 1]], (1,)),  # nothing is −1
    ],
)
def test_classes_found(labels, classes):
    found = find_classes(labels)
    assert found == classes
    assert all(type(label) in (int, str) for label in found)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([np.zeros((5, 3)), np.zeros((5, 4))], "expected one form"),
        ([np.zeros((5, 3)), [0, 1, 2]], "expected one form"),
        ([np.zeros((5, 3)), [[0], [1], [2]]], "expected one form"),
        ([["cat", "dog"], [0, 1]], "expected labels that are all strings or all numbers, got both"),
        ([[0, -100]], "row 1 has label -100; class ids are 0 or larger"),
        ([[-1, 1], [-2]], "row 0 has label -2"),
    ],
)
def test_forms_that_do_not_go_together(labels, message):
    with pytest.raises(ValueError, match=f"labels: .*{message}"):
        find_classes(labels)


def test_positions_follow_the_list():
    classes = (7, 1, 3)
    encoded = encode_labels(np.array([[1.0], [3.0], [-1.0], [7.0]]), classes)
    assert encoded.tolist() == [1, 2, -1, 0] and encoded.dtype == np.int64
    assert encode_labels([], classes).tolist() == []
    assert encode_labels([-1, 1, None], (-1, 1)).tolist() == [0, 1, -1]
    assert encode_labels([-100, -1, 4], (-100, 4)).tolist() == [0, -1, 1]  # listed: a class


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_the_largest_ids_are_told_apart(dtype):
    classes = (2**63 - 2, 2**63 - 1)
    assert encode_labels(np.array(classes, dtype), classes).tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels, named",
    [
        ([0, 1, 9], "row 2 has label 9, which is none of the 3 classes"),
        ([-2, 1], "row 0 has label -2"),
        (["a"], "row 0 has label 'a'"),
        ([[1, 0]], "2 columns"),
    ],
)
def test_labels_outside_the_classes_are_refused(labels, named):
    with pytest.raises(ValueError, match=rf"^text labels: .*{named}"):
        encode_labels(labels, (0, 1, 2), "text labels")
    with pytest.raises(ValueError, match=r"row 1 has label 3, which is none of .*'ant'"):
        encode_labels([-1, 3], ("ant", "owl"))


def test_joined_batches_are_one_array():
    parts = [parse_labels(part) for part in (["b", "a"], [None, "c"], ["a"])]
    assert encode_labels(join(parts), ("a", "b", "c")).tolist() == [1, 0, -1, 2, 0]
    rows = join([parse_labels(np.eye(3)[:2]), parse_labels(np.eye(3)[2:])])
    assert encode_labels(rows, (0, 1, 2)).tolist() == np.eye(3).tolist()
    with pytest.raises(ValueError, match="all strings or all numbers"):
        join([parse_labels([1]), parse_labels(["a"])])
    with pytest.raises(ValueError, match="one form"):
        join([parse_labels([1]), parse_labels(np.eye(3))])


def test_encoded_ids_are_never_taken_for_classes_minus_one_and_one():
    ids = np.array([1, -1, 1])
    assert known_ids(ids).missing.tolist() == [False, True, False]
    again = resolve([known_ids(ids)])[0]
    assert again.ids.tolist() == [1, -1, 1] and again.missing.tolist() == [False, True, False]


def test_which_encoded_labels_there_are():
    for labels in (np.array([-1, 0, -2]), torch.tensor([-1, 0, -2])):
        assert is_labelled(labels).tolist() == [False, True, True]
    rows = torch.tensor([[0.0, 0.0], [0.2, 0.8], [float("nan"), 0.0]])
    assert is_labelled(rows).tolist() == is_labelled(rows.numpy()).tolist() == [False, True, True]


# --- metrics -----------------------------------------------------------------------------------

X, Y = torch.randn(12, 6), torch.randn(30, 6)
LX, LY = np.arange(12) % 3, np.arange(30) % 3


def measured(query_labels: Any, gallery_labels: Any) -> dict[str, Any]:
    options = {"no_relevant": "skip"}
    labels = query_labels, gallery_labels
    sides = {"a": (X, query_labels), "b": (Y, gallery_labels)}
    return {
        "retrieval_metrics": metrics.retrieval_metrics(X, Y, *labels, ndcg=True).summary(),
        "average_precision": metrics.average_precision(X, Y, *labels, **options).tolist(),
        "mean_average_precision": metrics.mean_average_precision(X, Y, *labels, k=5),
        "precision_recall_curve": metrics.precision_recall_curve(X, Y, *labels).precision.tolist(),
        "recall_at_k": metrics.recall_at_k(X, Y, *labels, k=3),
        "retrieval_report": metrics.retrieval_report(sides),
    }


def test_every_metric_takes_labels_of_every_form():
    expected = measured(LX, LY)
    names = np.array(["owl", COMPOSED, "ant"])
    other = np.array(["owl", DECOMPOSED, "ant"])
    for one, two in (
        (LX.tolist(), LY.astype(np.float32)[:, None]),
        (torch.from_numpy(LX).byte(), np.array([LY])),
        (names[LX], other[LY].tolist()),
        (names[LX].astype(object), [name.encode() for name in names[LY]]),
    ):
        assert measured(one, two) == expected
    assert measured(LX % 2, LY % 2) == measured(LX % 2 * 2 - 1, LY % 2 * 2 - 1)  # −1 and 1
    assert measured(LX % 2 == 1, LY % 2 == 1) == measured(LX % 2, LY % 2)


def test_every_metric_leaves_out_what_is_masked_or_missing():
    hidden = np.where(np.arange(30) % 7 == 0, -1, LY)
    expected = measured(LX, hidden)
    assert expected != measured(LX, LY)
    names = np.array(["c0", "c1", "c2"])
    for labels in (
        np.ma.array(LY, mask=hidden == -1),
        np.where(hidden == -1, np.nan, LY),
        [None if label == -1 else int(label) for label in hidden],
    ):
        assert measured(LX, labels) == expected
    named = [None if label == -1 else f"c{label}" for label in hidden]
    assert measured(names[LX], named) == expected


def test_a_wholly_masked_row_is_unknown_and_a_row_of_zeros_is_not():
    rows = np.eye(3, dtype=int)[LY]
    rows[0] = 0
    masked = np.ma.array(rows, mask=np.zeros_like(rows))
    masked[0] = np.ma.masked
    found = metrics.retrieval_metrics(X, Y, np.eye(3)[LX], masked)
    kept = metrics.retrieval_metrics(X, Y[1:], np.eye(3)[LX], rows[1:])
    assert torch.equal(found.average_precision, kept.average_precision)
    zero = metrics.retrieval_metrics(X, Y, np.eye(3)[LX], rows)
    assert not torch.equal(found.precision, zero.precision) or not torch.equal(
        found.average_precision, zero.average_precision
    )


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.stack([LX % 2, LX + 5], 1), "row 0 of shape .12, 2. holds 5; expected 0 and 1"),
        (np.full((12, 3), 0.1) + 0.6 * np.eye(3)[LX], "holds 0.7.*argmax"),
        (np.where(LX == 1, -100, LX), "row 1 has label -100; class ids are 0 or larger"),
    ],
)
def test_every_metric_refuses_labels_that_would_mislead(labels, message):
    x, entrances = torch.randn(12, 4), []
    for name in ("retrieval_metrics", "average_precision", "mean_average_precision"):
        entrances.append(lambda name=name: getattr(metrics, name)(x, x, labels, labels))
    entrances += [
        lambda: metrics.precision_recall_curve(x, x, labels, labels),
        lambda: metrics.recall_at_k(x, x, labels, labels, k=1),
        lambda: metrics.retrieval_report({"a": (x, labels), "b": (x, labels)}),
    ]
    for entrance in entrances:
        with pytest.raises(ValueError, match=message):
            entrance()


def test_names_beside_numbers_are_refused():
    with pytest.raises(ValueError, match="query_labels and gallery_labels: expected labels"):
        metrics.mean_average_precision(X, Y, LX, LY.astype(str))


def test_groups_may_be_names():
    groups = np.array(["x", "y"])
    by_name, by_id = (
        metrics.average_precision(X, Y, LX, LY, query_groups=one, gallery_groups=two)
        for one, two in ((groups[LX % 2], groups[LY % 2]), (LX % 2, LY % 2))
    )
    assert torch.equal(by_name, by_id)
    with pytest.raises(ValueError, match="query_groups: expected 12 integers or names"):
        metrics.average_precision(
            X, Y, LX, LY, query_groups=[None] * 12, gallery_groups=np.zeros(30, int)
        )


# --- the estimator and select_prior ------------------------------------------------------------

SETTINGS = {**tiny.SETTINGS, "epochs": 2, "prior_epochs": 2}
TRAIN, TEST = tiny.split(), tiny.split(seed=1)


def fit(train: Any, validation: Any = None, **options: Any) -> DRCL:
    return DRCL(**SETTINGS).fit(train, validation, progress=False, **options)


def relabelled(split: Any, change: Any) -> dict[str, Any]:
    return {name: (x, change(y)) for name, (x, y) in split.items()}


NAMED = np.array(["ant", "bee", "cow", COMPOSED])


def test_a_model_of_names_is_that_of_ids(tmp_path):
    model = fit(TRAIN, TEST)
    by_name = relabelled(TRAIN, lambda y: NAMED[y].tolist())
    decomposed = relabelled(TEST, lambda y: [unicodedata.normalize("NFD", n) for n in NAMED[y]])
    named = fit(by_name, decomposed)
    assert named.classes == ("ant", "bee", "cow", COMPOSED)
    assert torch.equal(named.prior.weight, model.prior.weight)
    assert named.evaluate(decomposed) == model.evaluate(TEST)
    again = DRCL.load(named.save(tmp_path))
    assert again.classes == named.classes and again.evaluate(by_name) == model.evaluate(TRAIN)
    x, y = tiny.samples("audio", 24)
    again.add_modality("audio", (x, [*NAMED[y[:-1]], None]), progress=False)
    with pytest.raises(ValueError, match="train extra labels: row 0 has label 'dog'"):
        again.add_modality("extra", (x, ["dog"] * 24), progress=False)
    with pytest.raises(ValueError, match=r"test image labels: row 0 has label [0-3]"):
        again.evaluate(TEST)


FIT_FORMS = {
    "lists": lambda y: y.tolist(),
    "columns of floats": lambda y: y[:, None].astype(np.float32),
    "a row": lambda y: y[None],
    "int8": lambda y: y.astype(np.int8),
    "tensors of bytes": lambda y: torch.from_numpy(y).byte(),
    "objects": lambda y: y.astype(object),
}


@pytest.mark.parametrize("form", FIT_FORMS)
def test_fit_and_select_prior_take_ids_of_every_form(form):
    config = Config(**SETTINGS)
    expected = select_prior(TRAIN, config=config, progress=False)
    found = select_prior(relabelled(TRAIN, FIT_FORMS[form]), config=config, progress=False)
    assert torch.equal(found.weight, expected.weight) and found.classes == (0, 1, 2, 3)
    model = fit(relabelled(TRAIN, FIT_FORMS[form]), prior=expected)
    assert model.evaluate(relabelled(TEST, FIT_FORMS[form])) == model.evaluate(TEST)


def test_fit_takes_series_and_categoricals():
    pandas = pytest.importorskip("pandas")
    prior = Prior.orthogonal(16, 4)
    named = Prior(prior.weight, classes=NAMED.tolist())
    model = fit(TRAIN, prior=prior)
    series = fit(relabelled(TRAIN, lambda y: pandas.Categorical(NAMED[y])), prior=named)
    assert series.evaluate(relabelled(TEST, lambda y: pandas.Series(NAMED[y]))) == (
        model.evaluate(TEST)
    )


def test_labels_of_minus_one_and_one_are_two_classes_everywhere():
    ones, twos = (relabelled(TRAIN, lambda y, low=low: np.where(y % 2, 1, low)) for low in (-1, 0))
    model, other = fit(ones), fit(twos)
    assert model.classes == (-1, 1) and other.classes == (0, 1)
    assert torch.equal(model.prior.weight, other.prior.weight)
    assert model.evaluate(ones) == other.evaluate(twos)
    config = Config(**SETTINGS)
    assert select_prior(ones, config=config, progress=False).classes == (-1, 1)


def test_missing_labels_count_nowhere_in_training():
    hidden = relabelled(TRAIN, lambda y: np.where(np.arange(len(y)) % 5, y, -1))
    expected = fit(hidden)
    masked = relabelled(TRAIN, lambda y: np.ma.array(y, mask=np.arange(len(y)) % 5 == 0))
    nan = relabelled(hidden, lambda y: np.where(y < 0, np.nan, y))
    for train in (masked, nan):
        assert torch.equal(fit(train).prior.weight, expected.prior.weight)
    assert fit(masked).evaluate(masked) == expected.evaluate(hidden)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda y: np.where(y == 2, -100, y), r"train image labels: row \d+ has label -100"),
        (lambda y: np.stack([y % 2, y + 5], 1), "train image labels: row 0 .* expected values"),
        (lambda y: [f"{c}" if c else 0 for c in y.tolist()], "train image labels: row .* a string"),
    ],
)
def test_fit_and_select_prior_refuse_what_metrics_refuse(change, message):
    bad = relabelled(TRAIN, change)
    with pytest.raises(ValueError, match=message):
        fit(bad)
    with pytest.raises(ValueError, match=message):
        select_prior(bad, config=Config(**SETTINGS), progress=False)


def test_evaluate_and_add_modality_refuse_what_fit_refuses():
    model = fit(TRAIN, prior=Prior.orthogonal(16, 4))
    for change in (
        lambda y: np.where(y == 2, -100, y),
        lambda y: np.full((len(y), 4), 0.1) + 0.6 * np.eye(4)[y],
    ):
        with pytest.raises(ValueError, match=r"test image labels: row \d+"):
            model.evaluate(relabelled(TEST, change))
    with pytest.raises(ValueError, match=r"train audio labels: row \d+ has label -100"):
        x, y = tiny.samples("audio", 24)
        model.add_modality("audio", (x, np.where(y == 2, -100, y)), progress=False)


def test_probabilities_train_and_are_not_ranked():
    soft = relabelled(TRAIN, lambda y: np.full((len(y), 4), 0.1) + 0.6 * np.eye(4)[y])
    assert fit(soft).classes == (0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"validation image labels: row 0 .* holds 0.[17]"):
        fit(soft, soft)


class Rows(torch.utils.data.Dataset):
    """Samples (features, label) with labels as they are."""

    def __init__(self, x: np.ndarray, labels: Any) -> None:
        self.x, self.labels = torch.from_numpy(x), labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, Any]:
        return self.x[row], self.labels[row]


def test_datasets_and_loaders_of_names():
    prior = Prior.orthogonal(16, 4)
    named = Prior(prior.weight, classes=NAMED.tolist())
    ids = {name: Rows(x, y) for name, (x, y) in TRAIN.items()}
    names = {name: Rows(x, NAMED[y].tolist()) for name, (x, y) in TRAIN.items()}
    loaders = {name: DataLoader(part, batch_size=7) for name, part in names.items()}
    one, two = fit(ids, prior=prior), fit(names, prior=named)
    assert one.evaluate(ids) == two.evaluate(names) == two.evaluate(loaders)
    config = Config(**SETTINGS)
    found = [select_prior(part, config=config, progress=False) for part in (ids, names)]
    assert torch.equal(found[0].weight, found[1].weight)
    assert found[1].classes == tuple(NAMED)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.bool])
def test_datasets_of_ids_of_other_dtypes(dtype):
    data = {
        name: TensorDataset(torch.from_numpy(x), torch.from_numpy(y % 2).to(dtype))
        for name, (x, y) in TRAIN.items()
    }
    model = fit(data, prior=Prior.orthogonal(16, 2))
    assert model.evaluate(data) == model.evaluate(relabelled(TRAIN, lambda y: y % 2))


# --- a class list, and a prior with ids of its own ---------------------------------------------


@pytest.mark.parametrize("source", ["arrays", "Dataset"])
def test_classes_that_do_not_occur_keep_a_column(source):
    x, y = tiny.samples("image", 40, classes=5)
    x, y = x[y != 2], y[y != 2]
    data: Any = (x, y) if source == "arrays" else Rows(x, y)
    config = Config(**SETTINGS)
    assert select_prior({"image": data}, config=config, progress=False).classes == (0, 1, 3, 4)
    prior = select_prior({"image": data}, config=config, classes=range(5), progress=False)
    assert prior.classes == (0, 1, 2, 3, 4) and prior.rank == 5
    model = DRCL(**SETTINGS).fit({"image": data}, classes=range(5), progress=False)
    assert model.classes == (0, 1, 2, 3, 4)
    model.add_modality("text", tiny.samples("text", 30, classes=5), progress=False)
    with pytest.raises(ValueError, match=r"train image labels: row \d+ has label 4"):
        select_prior({"image": data}, config=config, classes=range(4), progress=False)
    with pytest.raises(ValueError, match="classes: expected None beside a prior"):
        fit({"image": data}, prior=prior, classes=range(5))


def test_ids_below_minus_one_are_classes_where_they_are_listed():
    classes = (-30, -20, -10, 0)
    train = relabelled(TRAIN, lambda y: y * 10 - 30)
    model, plain = fit(train, classes=classes), fit(TRAIN)
    assert model.classes == classes and torch.equal(model.prior.weight, plain.prior.weight)
    assert model.evaluate(train) == plain.evaluate(TRAIN)
    config = Config(**SETTINGS)
    prior = select_prior(train, config=config, classes=classes, progress=False)
    assert prior.positions([-10, -1, -30]).tolist() == [2, -1, 0]


def test_class_lists():
    assert class_list(np.arange(3)) == (0, 1, 2)
    assert class_list(["owl ", COMPOSED]) == ("owl", COMPOSED) == class_list(["owl", DECOMPOSED])
    for bad, message in (
        ([COMPOSED, DECOMPOSED], "each class once"),
        ([1, 1.5], "integers or names"),
        (["a", 1], "integers or names"),
        (["a", " "], "not empty"),
        ("abc", "a list of ids"),
        (5, "a list of ids"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"classes: .*{message}"):
            class_list(bad)


# --- losses ------------------------------------------------------------------------------------

W = torch.randn(8, 5)
FEATURES = torch.randn(6, 8)
TARGETS = torch.tensor([0, 3, -1, 4, 1, 2])


def loss_functions(prior: Any) -> dict[str, Any]:
    module = losses.ReversibleConsistencyLoss(prior)
    return {
        "reversible_consistency_loss": lambda t: (
            functional.reversible_consistency_loss(FEATURES, t, prior).total
        ),
        "ReversibleConsistencyLoss": lambda t: module(FEATURES, t),
        "prior_similarity": lambda t: functional.prior_similarity(FEATURES, prior, t).loss,
    }


def positional() -> dict[str, Any]:
    return {
        **loss_functions(Prior(W)),
        "generalized_cross_entropy": lambda t: functional.generalized_cross_entropy(
            FEATURES @ W, t
        ),
        "GeneralizedCrossEntropy": lambda t: losses.GeneralizedCrossEntropy()(FEATURES @ W, t),
        "mixup": lambda t: functional.mixup(FEATURES, t, classes=5, permutation=torch.arange(6))[
            1
        ].sum(),
        "FeatureMixup": lambda t: losses.FeatureMixup(5, lam=0.5).eval()(FEATURES, t)[1].sum(),
    }


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name", positional())
def test_losses_take_ids_of_every_dtype(name, backend):
    loss = positional()[name]
    with use_backend(backend):
        expected = loss(TARGETS)
        for targets in (
            TARGETS.int(),
            TARGETS.to(torch.int8),
            TARGETS.double(),
            TARGETS.half(),
            TARGETS[:, None],
        ):
            assert torch.equal(loss(targets), expected)
        binary = (TARGETS > 1).long()
        for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint64):
            assert torch.equal(loss(binary.to(dtype)), loss(binary))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name", positional())
@pytest.mark.parametrize("bad", [-100, -2, 5, 2**40])
def test_an_id_that_is_no_class_is_an_error_where_values_are_looked_at(name, backend, bad):
    targets = TARGETS.clone()
    targets[3] = bad
    with use_backend(backend), pytest.raises(ValueError, match=rf"targets: .*{bad} in row 3"):
        positional()[name](targets)


@pytest.mark.parametrize("name", positional())
@pytest.mark.parametrize("bad", [-100, -2, 5, 2**40, float("nan"), 1.5])
def test_an_id_that_is_no_class_makes_a_compiled_loss_nan(name, bad):
    targets = TARGETS.double() if isinstance(bad, float) else TARGETS.clone()
    targets[3] = bad
    with use_backend("eager"):
        loss = torch.compile(positional()[name], fullgraph=True, backend="eager")
        assert loss(TARGETS.to(targets)).isfinite()
        assert loss(targets).isnan()


def test_a_bad_id_makes_the_gradient_nan_and_not_silently_zero():
    targets, x = TARGETS.clone(), FEATURES.clone().requires_grad_()
    targets[3] = -100

    def loss(x):
        return functional.prior_similarity(x, W, targets).loss

    with use_backend("eager"):
        torch.compile(loss, fullgraph=True, backend="eager")(x).backward()
    assert x.grad is not None and x.grad[3].isnan().all() and not x.grad[2].any()


def test_targets_that_are_no_tensor_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"targets: expected a tensor, got list.*torch.as_tensor"):
        functional.reversible_consistency_loss(FEATURES, TARGETS.tolist(), W)
    with pytest.raises(TypeError, match=r"targets: .*Prior.positions"):
        functional.prior_similarity(FEATURES, W, np.array(["a"] * 6))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("classes", [(0, 1, 3, 4, 9), (4, 2, 0, 1, 3), (-1, 1, 2, 3, 4)])
def test_beside_a_prior_ids_are_those_of_its_classes(classes, backend):
    prior = Prior(W, classes=classes)
    ids = torch.tensor(classes + classes[:1])
    columns = torch.tensor([0, 1, 2, 3, 4, 0])
    with use_backend(backend):
        plain = loss_functions(Prior(W))
        for name, loss in loss_functions(prior).items():
            assert torch.equal(loss(ids), plain[name](columns)), name
            assert torch.equal(loss(ids[:, None].double()), plain[name](columns)), name
            wrong = ids.clone()
            wrong[2] = 7
            with pytest.raises(ValueError, match="targets: expected ids among the prior's classes"):
                loss(wrong)
            if -1 not in classes:
                ids[1], columns[1] = -1, -1
                assert torch.equal(loss(ids), plain[name](columns)), name
                ids[1], columns[1] = classes[1], 1


def test_beside_a_prior_a_compiled_loss_maps_ids_too():
    classes = (0, 1, 3, 4, 9)
    prior, ids = Prior(W, classes=classes), torch.tensor([*classes, -1])
    with use_backend("eager"):
        plain = loss_functions(Prior(W))
        for name, loss in loss_functions(prior).items():
            compiled = torch.compile(loss, fullgraph=True, backend="eager")
            assert torch.equal(compiled(ids), plain[name](torch.tensor([0, 1, 2, 3, 4, -1])))
            assert compiled(torch.tensor([0, 1, 2, 4, 9, -1])).isnan(), name  # 2 is no class


def test_positions_of_a_prior():
    prior = Prior(W, classes=(0, 1, 3, 4, 9))
    assert prior.positions([9, -1, 3, None]).tolist() == [4, -1, 2, -1]
    assert prior.positions(torch.tensor([[4.0], [0.0]])).tolist() == [3, 0]
    assert prior.positions(np.eye(5)[:1]).tolist() == [[1, 0, 0, 0, 0]]
    named = Prior(W, classes=["a", "b", COMPOSED, "d", "e"])
    assert named.positions([DECOMPOSED, "", "a"]).tolist() == [2, -1, 0]
    with pytest.raises(ValueError, match="row 0 has label 2, which is none of the 5 classes"):
        prior.positions([2])
    # of names a tensor holds the columns
    assert torch.equal(*(loss_functions(p)["prior_similarity"](TARGETS) for p in (named, W)))


def test_a_prior_with_ids_of_its_own_moves_and_is_stored_as_before():
    prior = Prior(W, classes=(0, 1, 3, 4, 9))
    assert prior.state_dict().keys() == Prior(W).state_dict().keys()
    assert prior.double().columns_of(torch.tensor([9])).tolist() == [4]
    by_column = prior.by_column()
    assert by_column.columns_of(torch.tensor([4])).tolist() == [4] and prior.classes[4] == 9
    by_column.float()
    assert prior.weight.dtype == torch.float64


def test_training_with_a_prior_of_other_ids_is_that_of_columns():
    weight = Prior.orthogonal(16, 4).weight
    gaps = np.array([2, 3, 5, 9])
    model = fit(TRAIN, TEST, prior=Prior(weight))
    other = fit(
        relabelled(TRAIN, lambda y: gaps[y]),
        relabelled(TEST, lambda y: gaps[y]),
        prior=Prior(weight, classes=gaps),
    )
    for name, encoder in model.encoders.items():
        for one, two in zip(encoder.parameters(), other.encoders[name].parameters(), strict=True):
            assert torch.equal(one, two)


# --- files, sets and reports -------------------------------------------------------------------


def test_a_class_named_for_minus_one_is_a_class():
    classes = ClassList.from_table({-1: "no", 0: "maybe", 1: "yes"})
    assert classes.names == ("no", "maybe", "yes")
    assert classes.encode(parse_labels([-1, 1, 0, None])).tolist() == [0, 2, 1, -1]
    assert classes.encode(parse_labels(["no", "", "yes"])).tolist() == [0, -1, 2]
    found = ClassList.from_labels([parse_labels([-1, 1, 1, -1])])
    assert found.names == ("-1", "1") and found.encode(parse_labels([1, -1])).tolist() == [1, 0]


def test_names_in_two_spellings_are_one_class():
    table = ClassList.from_table({1: COMPOSED, 2: "ant"})
    assert table.encode(parse_labels([DECOMPOSED, "ant"])).tolist() == [0, 1]
    found = ClassList.from_labels([parse_labels([COMPOSED, DECOMPOSED, "ant"])])
    assert found.names == ("ant", COMPOSED)
    part = {"image": Labelled(np.ones((2, 2), np.float32), np.array([0, 1]))}
    assert CrossModalDataset("set", (DECOMPOSED, "ant"), part, {}, {}).classes[0] == COMPOSED
    with pytest.raises(ValueError, match="expected distinct classes"):
        CrossModalDataset("set", (COMPOSED, DECOMPOSED), part, {}, {})
    assert Prior(W[:, :2], classes=(DECOMPOSED, "ant")).classes == (COMPOSED, "ant")


def test_an_added_modality_takes_names_in_either_spelling(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([DECOMPOSED, "ant"] * 10))
    part = Labelled(x, np.arange(20) % 2)
    data = CrossModalDataset("set", (COMPOSED, "ant"), {"image": part}, {}, {})
    files = f"{tmp_path}/a.npz:x", f"{tmp_path}/a.npz:y"
    added = read_added(AddedModality(files, files), data)
    assert added["train"].labels.tolist() == [0, 1] * 10


def test_a_report_takes_names():
    x = np.eye(3, dtype=np.float32)
    data = ReportData(
        "Tiny",
        {"mAP@all": {"a->b": 1.0, "b->a": 1.0, "mean": 1.0}},
        {"a": x, "b": x},
        {"a": [DECOMPOSED, "ant", None], "b": np.array([0, 1, -1])},
        (COMPOSED, "ant"),
        history=[],
        curves={},
        pictures={},
        summary={},
    )
    assert [data.class_names("a", row) for row in range(3)] == [COMPOSED, "ant", "unlabelled"]
    assert np.array_equal(data.label_rows("a"), data.label_rows("b"))


# --- dtypes that PyTorch computes little with, and one class -------------------------------------

UNUSUAL = (
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip


def losses_of(targets: torch.Tensor) -> list[torch.Tensor]:
    """What the losses and mixing make of targets with three classes."""
    x, w = torch.eye(4), torch.eye(4, 3)
    swap = torch.tensor([1, 0, 3, 2])
    found = functional.prior_similarity(x, w, targets)
    assert found.loss is not None and found.score is not None
    return [
        found.loss,
        found.score,
        functional.generalized_cross_entropy(x @ w, targets),
        functional.reversible_consistency_loss(x, targets, w).total,
        losses.ReversibleConsistencyLoss(Prior(w))(x, targets),
        *functional.mixup(x, targets, classes=3, permutation=swap),
    ]


@pytest.mark.parametrize("dtype", UNUSUAL)
@pytest.mark.parametrize("form", ["ids", "column", "rows"])
def test_labels_of_unusual_dtypes_mean_what_others_do(dtype, form):
    ids = torch.tensor([0, 2, 1, 2])
    labels = {"ids": ids, "column": ids[:, None], "rows": torch.eye(3)[ids]}[form]
    unusual = labels.float().to(dtype) if dtype.is_floating_point else labels.to(dtype)
    for ours, plain in zip(losses_of(unusual), losses_of(labels), strict=True):
        assert torch.equal(ours, plain)
    x = torch.randn(4, 3)
    for given in ({"query_labels": unusual, "gallery_labels": labels}, {"query_labels": labels,
                  "gallery_labels": unusual}):  # fmt: skip
        ours = metrics.average_precision(x, x, **given)
        assert torch.equal(ours, metrics.average_precision(x, x, labels, labels))
    scored = metrics.score_metrics(x @ x.T, unusual, unusual).average_precision
    assert torch.equal(scored, metrics.score_metrics(x @ x.T, labels, labels).average_precision)
    assert np.array_equal(encode_labels(unusual, (0, 1, 2)), encode_labels(labels, (0, 1, 2)))
    if form == "ids":
        groups = {"query_groups": unusual, "gallery_groups": unusual}
        grouped = metrics.average_precision(x, x, labels, labels, **groups)
        groups = {"query_groups": labels, "gallery_groups": labels}
        expected = metrics.average_precision(x, x, labels, labels, **groups)
        assert torch.equal(grouped, expected)


@pytest.mark.parametrize("dtype", UNUSUAL)
def test_relevance_of_unusual_dtypes(dtype):
    x = torch.randn(4, 3)
    gains = torch.tensor([[1.0, 0.0, 2.0, 0.0]]).repeat(4, 1)
    unusual = gains.to(dtype)
    found = metrics.retrieval_metrics(x, x, relevance=unusual, ndcg=True)
    expected = metrics.retrieval_metrics(x, x, relevance=gains, ndcg=True)
    assert torch.equal(found.ndcg, expected.ndcg)


def test_the_estimator_takes_label_rows_of_unusual_dtypes():
    ids = torch.arange(30) % 3
    x = {"image": torch.randn(30, 4), "text": torch.randn(30, 5)}
    rows = torch.eye(3)[ids]
    config = Config(dim=4, hidden=(4,), epochs=1, prior_epochs=1)
    embedded = []
    for dtype in (torch.float32, torch.uint16, torch.float8_e4m3fn):
        model = DRCL(config).fit({name: (part, rows.to(dtype)) for name, part in x.items()})
        embedded.append(torch.as_tensor(model.encode("image", x["image"])))
    assert torch.equal(embedded[0], embedded[1]) and torch.equal(embedded[0], embedded[2])


@pytest.mark.parametrize("dtype", [torch.float4_e2m1fn_x2, torch.bits8])
def test_dtypes_that_hold_no_labels_are_named(dtype):
    odd = torch.zeros(3, 3, dtype=torch.uint8).view(dtype)
    x = torch.eye(3)
    name = re.escape(str(dtype))
    with pytest.raises(TypeError, match=f"targets: expected .* got {name}"):
        functional.generalized_cross_entropy(x, odd)
    with pytest.raises(TypeError, match=f"query_labels: expected .* got {name}"):
        metrics.average_precision(x, x, odd, odd)
    with pytest.raises(TypeError, match=f"relevance: expected .* got {name}"):
        metrics.average_precision(x, x, relevance=odd)


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
def test_rows_are_labelled_where_the_dtype_of_the_loss_holds_their_mass(backend):
    rows = torch.eye(4, 3, dtype=torch.float64)
    rows[1] *= 1e-60  # 0 in float32
    with forced(backend):
        for ours, plain in zip(losses_of(rows), losses_of(rows.float()), strict=True):
            assert torch.equal(ours, plain)


def test_unsigned_ids_beyond_int64_are_no_class():
    ids = torch.tensor([0, 2**64 - 1], dtype=torch.uint64)
    with pytest.raises(ValueError, match=r"targets: expected class ids in 0\.\.2"):
        functional.generalized_cross_entropy(torch.zeros(2, 3), ids)
    rows = torch.stack([ids, ids, ids], dim=1)
    with pytest.raises(ValueError, match="targets: expected finite rows that are not negative"):
        functional.generalized_cross_entropy(torch.zeros(2, 3), rows)


def test_with_one_class_a_column_is_of_rows_or_refused():
    x, w = torch.eye(3), torch.ones(3, 1)
    ids, rows = torch.tensor([0, -1, 0]), torch.tensor([[1.0], [0.0], [1.0]])
    calls = (
        lambda y: functional.prior_similarity(x, w, y).score,
        lambda y: functional.generalized_cross_entropy(x[:, :1], y),
        lambda y: functional.reversible_consistency_loss(x, y, w).total,
        lambda y: functional.mixup(x, y, classes=1, lam=1.0)[1],
    )
    for backend in ("eager", "reference"):
        for call in calls:
            with use_backend(backend):
                for same in (rows, rows.bool(), rows.bfloat16(), rows.to(torch.float8_e5m2)):
                    assert torch.equal(call(same), call(ids))
                for dtype in (torch.int64, torch.uint8, torch.uint16):
                    with pytest.raises(ValueError, match="one class may be either"):
                        call(rows.to(dtype))
    with pytest.raises(ValueError, match="one class may be either"):
        functional.mixup(x, ids[:, None])
    assert encode_labels(ids[:, None], (0,)).tolist() == [0, -1, 0]
