"""Tables as text: what ``.csv`` and ``.tsv`` files of other programs mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drcl.data.files import read_array
from drcl.data.formats import tables

X = np.arange(12, dtype=np.float64).reshape(4, 3) + 0.5
TABLE = "name,f0,f1,y\nant,0.5,1,3\nowl,2,-1e-3,1\n"


def write(folder: Path, text: str, name: str = "a.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_by_name_list_and_wildcard(tmp_path):
    path = write(tmp_path, TABLE)
    labels = read_array(path, "y")
    assert labels.tolist() == [3, 1] and labels.dtype == np.int64
    assert read_array(path, "f*").tolist() == [[0.5, 1], [2, -1e-3]]
    assert read_array(path, "f1, y").tolist() == [[1, 3], [-1e-3, 1]]
    assert read_array(path, "name").tolist() == ["ant", "owl"]
    assert read_array(path, "name,y").tolist() == [["ant", "3"], ["owl", "1"]]


def test_an_unknown_column_and_none_are_refused_with_those_there(tmp_path):
    path = write(tmp_path, TABLE)
    with pytest.raises(
        ValueError, match=r"a\.csv: expected one of its columns, name, f0, f1, y, got 'z'"
    ):
        read_array(path, "z")
    with pytest.raises(ValueError, match=r"a\.csv: .* name of one of its columns, name, f0"):
        read_array(path)
    with pytest.raises(ValueError, match="expected distinct names of columns, got 2 times 'a'"):
        read_array(write(tmp_path, "a,a\n1,2\n"), "a,a")


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_line_ends_and_quotes(tmp_path, ending, newline, mark):
    between = "," if ending == ".csv" else "\t"
    lines = [["y", "text"], ["1", f'"a{between}b"'], ["2", '"say ""x"""']]
    text = mark + newline.join(between.join(line) for line in lines) + newline * 3
    path = write(tmp_path, text, "a" + ending)
    assert read_array(path, "y").tolist() == [1, 2]
    assert read_array(path, "text").tolist() == [f"a{between}b", 'say "x"']


def test_semicolons_where_the_first_line_has_no_comma(tmp_path):
    assert read_array(write(tmp_path, "a;b\n1;2\n3;4\n"), "a,b").tolist() == [[1, 2], [3, 4]]


def test_a_table_without_names_needs_no_key_and_counts_its_columns_from_1(tmp_path):
    path = tmp_path / "a.csv"
    np.savetxt(path, X, delimiter=",")
    np.testing.assert_array_equal(read_array(path), X)
    np.testing.assert_array_equal(read_array(path, "3"), X[:, 2])
    np.testing.assert_array_equal(read_array(path, "3,1"), X[:, [2, 0]])


@pytest.mark.parametrize("index", [True, False])
def test_what_pandas_writes(tmp_path, index):
    """Its names are 0, 1, … by default, and a column without a name is its index."""
    pandas = pytest.importorskip("pandas", reason="writes the tables of this test")
    path = tmp_path / "a.csv"
    pandas.DataFrame(X).to_csv(path, index=index)
    np.testing.assert_array_equal(read_array(path, "*"), X)
    frame = pandas.DataFrame({"y": pandas.array([3, None, 1], "Int64"), "n": ["a", None, "NA"]})
    frame.to_csv(path, index=index)
    np.testing.assert_array_equal(read_array(path, "y"), [3, np.nan, 1])
    assert read_array(path, "n").tolist() == ["a", "", "NA"]


def test_what_polars_writes(tmp_path):
    polars = pytest.importorskip("polars", reason="writes the table of this test")
    path = tmp_path / "a.csv"
    polars.DataFrame({"x": X[:, 0], "s": ["a,b", "", None, "ü"]}).write_csv(path)
    np.testing.assert_array_equal(read_array(path, "x"), X[:, 0])
    assert read_array(path, "s").tolist() == ["a,b", "", "", "ü"]


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NaN", "null", "None", "n/a"])
def test_missing_numbers_are_nan(tmp_path, missing):
    found = read_array(write(tmp_path, f"x,y\n1,2\n3,{missing}\n"), "y")
    np.testing.assert_array_equal(found, [2, np.nan])


def test_an_empty_line_of_one_column_is_an_empty_cell_and_no_shift(tmp_path):
    assert read_array(write(tmp_path, "y\nant\n\nowl\n\n\n")).tolist() == ["ant", "", "owl"]
    assert read_array(write(tmp_path, "x,y\n1,2\n\n3,4\n"), "y").tolist() == [2, 4]


def test_large_ids_are_exact_or_refused(tmp_path):
    ids = [2**53, 2**53 + 1, 2**63 - 1]
    lines = "".join(f"{one}\n" for one in ids)
    assert read_array(write(tmp_path, "y\n" + lines)).tolist() == ids
    with pytest.raises(ValueError, match="above 2⁵³ beside fractions or empty cells"):
        read_array(write(tmp_path, f"y,z\n{ids[1]},1\n,1\n"), "y")


@pytest.mark.parametrize("batch", [1, 2, 2**18])
def test_words_and_fractions_after_the_first_batch(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(tables, "CELLS", batch)
    assert read_array(write(tmp_path, "y\n1\n2\nowl\n")).tolist() == ["1", "2", "owl"]
    assert read_array(write(tmp_path, "y\n007\n2\n1_0\n")).tolist() == ["007", "2", "1_0"]
    found = read_array(write(tmp_path, "y\n1\n2\n0.5\n"))
    assert found.tolist() == [1, 2, 0.5] and found.dtype == np.float64
    with pytest.raises(ValueError, match="above 2⁵³"):
        read_array(write(tmp_path, f"y\n{2**53 + 1}\n2\n0.5\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "line 3: expected 2 cells, as in the first line, got 1"),
        (b"a,b\n1,2\n3,4,5\n", "line 3: expected 2 cells, as in the first line, got 3"),
        (b"", "expected a table with at least one line"),
        (b"\n\n", "expected a table with at least one line"),
        (b'a,b\n1,"2\n3,4\n', "expected .csv, got a damaged"),
        ("a,b\n1,2\n".encode("utf-16"), "expected .csv, got a damaged"),
        (b"a,b\n1," + b"9" * 200_000 + b"\n", "expected .csv, got a damaged"),
    ],
    ids=["short", "long", "empty", "blank", "open quote", "UTF-16", "huge cell"],
)
def test_what_is_no_table_is_refused_and_named(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv.*{message}"):
        read_array(path, "a,b")


def test_a_column_without_rows_is_empty(tmp_path):
    assert read_array(write(tmp_path, "a,b\n"), "a").shape == (0,)


def test_many_short_words_beside_a_long_one_are_refused(tmp_path):
    """Every string of an array takes the room of the longest."""
    path = write(tmp_path, "y\n" + "a" * 100_000 + "\n" + "b\n" * 10_000)
    with pytest.raises(ValueError, match=r"a\.csv: an array of .* would take"):
        read_array(path)
