"""The table of ids and names: the right cells, or an error with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from drcl.cli.names import read_names

EXPECTED = (["p0", "p1"], {"name": ["Oak, old", "Elm"], "text": ["", 'so "big"']})
GOOD = {
    "commas": 'id,name,text\np0,"Oak, old",\np1,Elm,"so ""big"""\n',
    "no last newline": 'id,name,text\np0,"Oak, old",\np1,Elm,"so ""big"""',
    "blank lines at the end": 'id,name,text\np0,"Oak, old",\np1,Elm,"so ""big"""\n\n  \n\n',
    "carriage returns": 'id,name,text\r\np0,"Oak, old",\r\np1,Elm,"so ""big"""\r\n\r\n',
    "byte order mark": '\ufeffid,name,text\np0,"Oak, old",\np1,Elm,"so ""big"""\n',
    "semicolons": 'id;name;text\np0;Oak, old;\np1;Elm;"so ""big"""\n',
    "tabs": 'id\tname\ttext\np0\tOak, old\t\np1\tElm\t"so ""big"""\n',
    "blanks": 'id, name , text\np0 , "Oak, old", \n p1, Elm , "so ""big"""\n',
    "id in the middle": 'name,id,text\n"Oak, old",p0,\nElm,p1,"so ""big"""\n',
    "ID in capitals": 'name,ID,text\n"Oak, old",p0,\nElm,p1,"so ""big"""\n',
    "another first name": 'leaf,name,text\np0,"Oak, old",\np1,Elm,"so ""big"""\n',
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_the_same_table_however_it_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read_names(tmp_path / "t.csv", 2) == EXPECTED


def test_cells_may_have_lines_and_131072_letters(tmp_path: Path) -> None:
    long = "x" * 131_072
    (tmp_path / "t.csv").write_text(f'id,text\n1,"a\nb"\n2,{long}\n')
    assert read_names(tmp_path / "t.csv", 2) == (["1", "2"], {"text": ["a\nb", long]})


def test_ids_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\nx\ny\n\n")
    assert read_names(tmp_path / "t.csv", 2) == (["x", "y"], {})


def test_a_column_id_goes_before_one_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ID,id\nx,1\ny,2\n")
    assert read_names(tmp_path / "t.csv", 2) == (["1", "2"], {"ID": ["x", "y"]})


def test_pictures_are_found_from_the_folder_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,picture\n1,a/b.png\n2,\n3,/c.png\n")
    _, columns = read_names(tmp_path / "t.csv", 3)
    assert columns["picture"] == [str(tmp_path.resolve() / "a" / "b.png"), "", "/c.png"]


BAD = {
    'id,name\n1,a\n2,"b\n': "line 3: a quote is not closed",
    'id,name\n1,"a\n2,b\n3,c\n': "line 2: a quote is not closed",
    "id,name\n1,a\n2," + "x" * 131_073: "line 3: a cell has more than 131,072 letters",
    'id,name\n1,"a\n' + "2,b\n" * 40_000: "line 2: a cell has more than 131,072 letters",
    'id,name\n1,"a"b\n2,c\n': "line 2: ',' expected after '\"'",
    "id,name\n1,a\n\n2,b\n": "expected 2 columns, got none in line 3",
    "id,name\n1,a\n2\n": "expected 2 columns, as named, got 1 in line 3",
    "id,name\n1,a\n2,b,c\n": "expected 2 columns, as named, got 3 in line 3",
    'id,name\n1,"a\nb"\n2\n': "expected 2 columns, as named, got 1 in line 4",
    "id,name\n1,a\n ,b\n": "expected an id, got an empty cell in line 3",
    "name,id\na,1\nb,1\n": "expected unique ids, got '1' twice",
    "id\n1\n\n2\n": "expected 1 columns, got none in line 3",
    "id,name\n1,a\n": "expected 2 lines under the names, id,name, got 1; is its first line no line",
    "id\n": "expected 2 lines under the names, id, got 0",
    "": "expected a line of column names, all different, got []",
    "id,\n1,a\n2,b\n": "expected a line of column names, all different, got ['id', '']",
    "id, id\n1,a\n2,b\n": "expected a line of column names, all different, got ['id', 'id']",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_named_with_its_file_and_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_names(file, 2)
    assert str(caught.value).startswith(f"{file}: {BAD[text]}")


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,name\n1,\u00f6\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv: expected a CSV file in UTF-8"):
        read_names(tmp_path / "t.csv", 1)


def test_a_byte_order_mark_where_files_were_joined_is_no_part_of_an_id(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("\ufeffid,name\na,1\n\ufeffb,2\n")
    with pytest.raises(
        ValueError, match=r"t\.csv, line 3: expected no byte order mark but the firs"
    ):
        read_names(file, 2)


def test_commas_in_quoted_names_part_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('"name, full";id\nOak, old;p0\n')
    assert read_names(file, 1) == (["p0"], {"name, full": ["Oak, old"]})
