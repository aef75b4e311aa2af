"""Ids and values of metadata: one rule of equality, over every type; columns of frames."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drcl import Index

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pl = pytest.importorskip("polars", reason="Polars is not installed")

# Values in groups: those of one group are equal, those of different groups are not.
GROUPS: list[list[Any]] = [
    [0, 0.0, -0.0, np.int8(0), np.float32(0), np.float64(-0.0), torch.tensor(0)],
    [1, 1.0, np.uint64(1), np.float16(1), np.array(1), torch.tensor(1.0)],
    [2, 2.0, np.int64(2), np.float32(2)],
    [-5, -5.0, np.int16(-5)],
    [0.5, np.float32(0.5)],
    [0.1, np.float64(0.1)],
    [float(np.float32(0.1)), np.float32(0.1)],
    [2**53, float(2**53)],
    [2**53 + 1],
    [2**62, 2.0**62],
    [10**400],
    [1e300, int(1e300), np.float64(1e300)],
    [5e-324],
    [True, np.True_, torch.tensor(True)],
    [False, np.False_],
    [None],
    ["", np.str_("")],
    ["0"],
    ["1", np.str_("1")],
    ["01"],
    ["1.0"],
    ["true"],
    ["True"],
    ["null"],
    ["None"],
    ["\u00e9"],
    ["e\u0301"],
]
VALUES = [(number, value) for number, group in enumerate(GROUPS) for value in group]
NAMES = [f"{type(value).__name__} {value!r:.20}" for _, value in VALUES]


def test_the_groups_are_those_of_python() -> None:
    """Python's own equality says the same, but for bool, which it takes for a number."""
    own = [(n, v.item() if hasattr(v, "item") else v) for n, v in VALUES]
    for one, a in own:
        for other, b in own:
            same = a == b and isinstance(a, bool) == isinstance(b, bool)
            assert (one == other) == same, (a, b)


@pytest.fixture(scope="module", params=["memory", "mapped"])
def index(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    values = [value for _, value in VALUES]
    made = Index().add(torch.eye(len(values)), metadata={"v": values})
    if request.param == "memory":
        return made
    return Index.load(made.save(tmp_path_factory.mktemp("values") / "index"))


@pytest.mark.parametrize("number, value", VALUES, ids=NAMES)
def test_where_finds_the_rows_of_equal_values(index: Index, number: int, value: Any) -> None:
    equal = [row for row, (other, _) in enumerate(VALUES) if other == number]
    found = index.search(torch.ones(1, len(VALUES)), len(VALUES), where={"v": value})
    assert found.indices.tolist() == [equal]
    both = {"v": [value, "1"]}
    found = index.search(torch.ones(1, len(VALUES)), len(VALUES), where=both)
    assert found.indices[0].tolist() == sorted(
        {*equal, *(row for row, (_, other) in enumerate(VALUES) if str(other) == other == "1")}
    )


@pytest.mark.parametrize("several", [[2, "1"], (2, "1"), {2, "1"}, frozenset([2, "1"])])
def test_where_takes_several_values_in_any_collection(index: Index, several: Any) -> None:
    rows = [row for row, (_, v) in enumerate(VALUES) if isinstance(v, str) and v == "1"]
    rows += [row for row, (number, _) in enumerate(VALUES) if number == 2]
    found = index.search(torch.ones(1, len(VALUES)), len(VALUES), where={"v": several})
    assert found.indices[0].tolist() == sorted(rows)


@pytest.mark.parametrize(
    "several",
    [np.array([2, 0.5]), torch.tensor([2, 0.5]), pd.Series([2, 0.5]), pl.Series([2.0, 0.5])],
    ids=["numpy", "torch", "pandas", "polars"],
)
def test_where_takes_several_values_in_an_array(index: Index, several: Any) -> None:
    rows = [row for row, (number, _) in enumerate(VALUES) if number in (2, 4)]
    found = index.search(torch.ones(1, len(VALUES)), len(VALUES), where={"v": several})
    assert found.indices[0].tolist() == rows


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, b"1", {}, {"a": 1}, np.datetime64("2020"), 1j, object(), 10**5000],
    ids=lambda value: f"{value!r:.20}" if not isinstance(value, int) else "long",
)
def test_what_is_no_value_is_refused_by_name(index: Index, value: Any) -> None:
    with pytest.raises(ValueError, match="where 'v': expected strings, finite numbers, truth"):
        index.search(torch.ones(1, len(VALUES)), where={"v": value})
    with pytest.raises(ValueError, match="metadata 'v': expected strings, finite numbers, truth"):
        Index().add(torch.eye(1), metadata={"v": [value]})


def test_half_of_a_surrogate_pair_equals_nothing() -> None:
    index = Index().add(torch.eye(2), ids=["?", "a"], metadata={"v": ["?", "\ufffd"]})
    assert index.search(torch.eye(2), where={"v": "\ud800"}).indices.shape == (2, 0)
    with pytest.raises(ValueError, match="ids: expected ids of the index"):
        index.find(["\ud800"])


@pytest.mark.parametrize("number, value", VALUES, ids=NAMES)
def test_find_goes_by_the_same_rule(number: int, value: Any) -> None:
    integers = [0, 1, 2, -5, 2**53, 2**53 + 1, 2**62]
    strings = ["0", "1", "01", "1.0", "true", "True", "null", "None", "\u00e9", "e\u0301"]
    for ids in (integers, strings):
        index = Index().add(torch.eye(len(ids)), ids=ids)
        kind = int if ids is integers else str
        equal = [
            place
            for place, one in enumerate(ids)
            if any(type(other) is kind and other == one for other in GROUPS[number])
        ]
        if equal:
            assert index.find([value, ids[0]]).tolist() == [*equal, 0]
        else:
            with pytest.raises(ValueError, match="ids: expected ids of the index, got"):
                index.find([ids[0], value])


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**70, [1], {}, b"1", 1j, 1.5])
def test_what_is_no_id_is_not_there(value: Any) -> None:
    for ids in (["a", "1"], [1, 2**62]):
        with pytest.raises(ValueError, match="ids: expected ids of the index, got"):
            Index().add(torch.eye(2), ids=ids).find([value])


IDS = [3, 1, 2**60]


@pytest.mark.parametrize(
    "ids",
    [IDS, tuple(IDS), np.array(IDS), torch.tensor(IDS), pd.Series(IDS, [7, 8, 9]), pl.Series(IDS)],
    ids=["list", "tuple", "numpy", "torch", "pandas", "polars"],
)
def test_ids_come_in_any_sequence(ids: Any) -> None:
    index = Index().add(torch.eye(3), ids=ids)
    assert index.find(ids).tolist() == [0, 1, 2]
    assert [one["id"] for one in index.records([0, 1, 2])] == IDS
    assert len(index.remove(ids)) == 0


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.int64, np.uint64, int])
def test_ids_are_scalars_of_any_library(kind: Any) -> None:
    index = Index().add(torch.eye(3), ids=[kind(one) for one in IDS])
    assert index.find([kind(one) for one in IDS]).tolist() == [0, 1, 2]
    assert [one["id"] for one in index.records([0, 1, 2])] == IDS
    with pytest.raises(ValueError, match="ids: expected unique ids, got 7 twice"):
        index.add(torch.eye(3)[:2], ids=[kind(7), kind(7)])
    for bad in (torch.tensor(True), torch.tensor(1.5), torch.tensor([1])):
        with pytest.raises(ValueError, match="expected all strings, or all integers"):
            index.add(torch.eye(3)[:1], ids=[bad])


@pytest.mark.parametrize("kind", [np.str_, np.array])
def test_ids_are_strings_of_any_library(kind: Any) -> None:
    index = Index().add(torch.eye(2), ids=[kind("x"), kind("y")])
    assert index.search(torch.eye(2), 1).ids.tolist() == [["x"], ["y"]]


def test_ids_of_strings_come_in_columns_too() -> None:
    names = ["x", "y", "\u00f6"]
    for ids in (pd.Series(names), pl.Series(names), np.array(names), pd.Index(names)):
        index = Index().add(torch.eye(3), ids=ids)
        assert index.find(ids).tolist() == [0, 1, 2]
        assert [one["id"] for one in index.records([0, 1, 2])] == names


COLUMNS: dict[str, list[Any]] = {
    "name": ["a", None, "\u00f6"],
    "year": [1, 2, 3],
    "size": [0.5, 2.0, -1.0],
    "seen": [True, False, True],
}


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_metadata_comes_in_frames(frame: Any, tmp_path: Path) -> None:
    index = Index().add(torch.eye(3), metadata=frame(COLUMNS), ids=frame(COLUMNS)["year"])
    index = Index.load(index.save(tmp_path / "index"))
    for name, values in COLUMNS.items():
        assert [one[name] for one in index.records(range(3))] == values
    assert index.find([1, 2, 3]).tolist() == [0, 1, 2]
    assert index.search(torch.eye(3), where={"year": 2.0}).indices.tolist() == [[1]] * 3


def test_what_a_column_of_pandas_lacks_is_none() -> None:
    frame = pd.DataFrame({"a": [1.5, math.nan], "b": pd.array([None, 7], "Int64")}, index=[5, 5])
    records = Index().add(torch.eye(2), metadata=frame).records([0, 1])
    assert [(one["a"], one["b"]) for one in records] == [(1.5, None), (None, 7)]
    records = Index().add(torch.eye(2), metadata={"a": frame["a"]}).records([0, 1])
    assert [one["a"] for one in records] == [1.5, None]


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"metadata": pd.DataFrame([[1, 2], [3, 4]], columns=["x", "x"])},
            "metadata: expected columns of different names, got 'x' twice",
        ),
        ({"metadata": pd.DataFrame([[1], [3]])}, "metadata: expected names other than"),
        ({"metadata": pd.DataFrame({"x": [1]})}, "metadata 'x': expected 2 values"),
        (
            {"metadata": pd.DataFrame({"t": pd.to_datetime(["2020", "2021"])})},
            "metadata 't': expected strings, finite numbers",
        ),
        ({"metadata": pd.Series([1, 2])}, "metadata: expected a mapping from column"),
        ({"ids": pd.DataFrame({"x": [1, 2]})}, "ids: expected a sequence, got DataFrame"),
        ({"ids": pl.DataFrame({"x": [1, 2]})}, "ids: expected a sequence, got DataFrame"),
        ({"ids": pd.Series([1.0, math.nan])}, "ids: expected all strings, or all integers"),
    ],
)
def test_frames_that_do_not_fit_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Index().add(torch.eye(2), **given)
