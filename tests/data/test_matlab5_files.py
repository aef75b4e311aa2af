"""The reader of MATLAB v5 files: SciPy's answer where the file is whole, else a refusal."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from drcl.data.files import read_array

HEAD = b"MATLAB 5.0 MAT-file".ljust(124)


def element(kind: int, payload: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(payload)) + payload + bytes(-len(payload) % 8)


def matrix(
    kind: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"x", order="<"
) -> bytes:
    head = element(6, struct.pack(f"{order}II", kind, 0), order)
    head += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, head + element(1, name, order) + b"".join(parts), order)


def doubles(*values: float, order: str = "<") -> bytes:
    return element(9, struct.pack(f"{order}{len(values)}d", *values), order)


def integers(*values: int) -> bytes:
    return element(5, struct.pack(f"<{len(values)}i", *values))


def compressed(content: bytes) -> bytes:
    content = zlib.compress(content)
    return struct.pack("<II", 15, len(content)) + content


def write(path: Path, *variables: bytes, order: str = "<") -> Path:
    marks = {"<": b"\x00\x01IM", ">": b"\x01\x00MI"}
    path.write_bytes(HEAD + marks[order] + b"".join(variables))
    return path


NUMBERS = st.sampled_from(["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])


@settings(max_examples=30)
@given(NUMBERS.flatmap(lambda dtype: arrays(dtype, array_shapes(min_side=0))), st.booleans())
def test_numbers_are_those_that_scipy_reads(tmp_path_factory, array, compress):
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is the oracle")
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    scipy_io.savemat(path, {"other": [1.0], "x": array}, do_compression=compress)
    found, expected = read_array(path, "x"), scipy_io.loadmat(path)["x"]
    assert found.dtype == expected.dtype and found.flags.writeable
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30)
@given(st.data(), st.booleans())
def test_sparse_matrices_are_those_that_scipy_reads(tmp_path_factory, data, compress):
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is the oracle")
    sparse = pytest.importorskip("scipy.sparse")
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=6))
    dense = data.draw(arrays("f8", shape, elements=st.sampled_from([0.0, 0.0, 1.5, -2.0])))
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    scipy_io.savemat(path, {"x": sparse.csc_array(dense)}, do_compression=compress)
    np.testing.assert_array_equal(read_array(path), dense)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_text_is_what_was_written(tmp_path_factory, words):
    scipy_io = pytest.importorskip("scipy.io", reason="writes the files")
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    scipy_io.savemat(path, {"cells": np.array([*words, "x"], object), "row": words[0]})
    assert read_array(path, "cells").tolist() == [*words, "x"]
    assert read_array(path, "row").tolist() == [words[0]]


def test_real_files_are_those_that_scipy_reads(data_root):
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is the oracle")
    files = sorted(data_root.rglob("*.mat"))
    if not files:
        pytest.skip(f"no .mat file in {data_root}")
    for path in files:
        for name, expected in scipy_io.loadmat(path).items():
            if not name.startswith("__"):
                found = read_array(path, name)
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("order", "<>")
def test_either_byte_order(tmp_path, order):
    variable = matrix(6, (2, 2), doubles(1, 2, 3, 4, order=order), order=order)
    path = write(tmp_path / "a.mat", variable, order=order)
    assert read_array(path).tolist() == [[1, 3], [2, 4]]


def test_a_cell_that_nothing_was_put_in_is_empty(tmp_path):
    cells = matrix(6, (1, 1), doubles(7)), element(14, b"")
    path = write(tmp_path / "a.mat", matrix(1, (1, 2), *cells))
    assert read_array(path, "x{1}").tolist() == [[7]]
    assert read_array(path, "x{2}").shape == (0, 0)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_an_empty_string_is_a_string_of_any_empty_shape(tmp_path, shape):
    """MATLAB's '' has neither rows nor columns."""
    text = matrix(4, shape, element(17, b""))
    word = matrix(4, (1, 3), element(17, "owl".encode("utf-16-le")))
    path = write(tmp_path / "a.mat", matrix(1, (1, 2), text, word))
    assert read_array(path, "x").tolist() == ["", "owl"]


@pytest.mark.parametrize("order", "<>")
def test_letters_of_two_units_in_a_character_matrix(tmp_path, order):
    """Column by column, so that their halves lie apart."""
    rows = ["\U0001f989ab", "\U0001f431cd"]
    units = np.stack([np.frombuffer(row.encode("utf-16-le"), "<u2") for row in rows])
    letters = units.astype(f"{order}u2").tobytes(order="F")
    text = matrix(4, units.shape, element(17, letters, order), order=order)
    assert read_array(write(tmp_path / "a.mat", text, order=order)).tolist() == rows
    one = matrix(4, (1, 4), element(16, rows[0].encode()))
    assert read_array(write(tmp_path / "b.mat", one)).tolist() == rows[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (element(14, b"") * 200_000, "not 1 cells in a cell array"),
        (
            element(14, element(6, bytes(8)) + element(1, bytes(2**20)) + element(1, b"")),
            "a matrix of shape",
        ),
    ],
    ids=["cells", "dimensions"],
)
def test_what_is_too_many_is_not_read(tmp_path, content, message):
    """What takes 1 or 8 bytes before compression takes 8 or 100 and more as Python's objects."""
    path = write(tmp_path / "a.mat", compressed(matrix(1, (1, 1), content)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"a\.mat: .*{message}"):
            read_array(path, "x{1}")
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def nested(depth: int) -> bytes:
    content, shell = matrix(6, (1, 1), doubles(1)), matrix(1, (1, 1))
    outside, length = [], len(content)
    for _ in range(depth):  # from the inside out; copying all at each would take minutes
        length += len(shell)
        outside.append(struct.pack("<II", 14, length - 8) + shell[8:])
    return b"".join(reversed(outside)) + content


whole = matrix(6, (2, 1), doubles(1, 2))
DAMAGED = {
    "numbers of an unknown type": matrix(6, (1, 1), element(200, bytes(8))),
    "numbers of type 8": matrix(6, (1, 1), element(8, bytes(8))),
    "more rows than numbers": matrix(6, (2**31 - 1, 2**31 - 1), doubles(1)),
    "rows below zero": matrix(6, (-1, -1), doubles(1)),
    "one dimension": matrix(6, (1,), doubles(1)),
    "no numbers": matrix(6, (1, 1)),
    "a size beyond the file": whole[:4] + b"\xff\xff\xff\x7f" + whole[8:],
    "a size beyond the matrix": whole.replace(struct.pack("<II", 9, 16), struct.pack("<II", 9, 24)),
    "a small element of 5 bytes": matrix(6, (1, 1), struct.pack("<HHI", 9, 5, 0)),
    "no matrix": element(9, bytes(8)),
    "no flags": element(14, integers(1, 1)),
    "a matrix of nothing": element(14, b""),
    "two million million cells": matrix(1, (2**20, 2**20)),
    "fewer cells than said": matrix(1, (1, 3), whole),
    "a cell that is no matrix": matrix(1, (1, 1), doubles(1)),
    "cells in cells": nested(2),
    "cells in cells in cells": nested(50_000),
    "a row below the matrix": matrix(5, (2, 1), integers(2), integers(0, 1), doubles(1)),
    "a row above the matrix": matrix(5, (2, 1), integers(-1), integers(0, 1), doubles(1)),
    "columns that go back": matrix(5, (2, 2), integers(0, 1), integers(0, 2, 1), doubles(1, 2)),
    "columns beyond the values": matrix(5, (2, 1), integers(0), integers(0, 9), doubles(1)),
    "too few columns": matrix(5, (2, 3), integers(0), integers(0, 1), doubles(1)),
    "rows that are fractions": matrix(5, (2, 1), doubles(0.5), integers(0, 1), doubles(1)),
    "a sparse matrix of terabytes": matrix(5, (2**30, 1), integers(0), integers(0, 1), doubles(1)),
    "text with letters missing": matrix(4, (2, 2), element(16, b"abc")),
    "text of no encoding": matrix(4, (1, 1), element(9, bytes(8))),
    "text that is not UTF-8": matrix(4, (1, 2), element(16, b"\xff\xfe")),
    "a struct": matrix(2, (1, 1), integers(32)),
    "a struct of names of no letters": matrix(2, (1, 1), integers(0), element(1, b"a\0")),
    "a struct of names cut short": matrix(2, (1, 1), integers(2), element(1, b"a\0b")),
    "a struct of names below zero": matrix(2, (1, 1), integers(-2), element(1, b"a\0")),
    "a struct of millions of fields": matrix(2, (1, 1), integers(1), element(1, b"a" * 2**17)),
    "a struct whose field is no matrix": matrix(
        2, (1, 1), integers(2), element(1, b"a\0"), whole[8:]
    ),
    "a struct without its field": matrix(2, (1, 1), integers(2), element(1, b"a\0")),
    "an object without a class": element(
        14, element(6, struct.pack("<II", 17, 0)) + element(1, b"x")
    ),
    "a function": matrix(16, (1, 1)),
    "zlib that is none": element(15, b"hello"),
    "zlib cut short": compressed(whole)[:-6],
    "zlib of another checksum": compressed(whole)[:-1] + b"!",
    "zlib of zlib": compressed(compressed(whole)),
    "zlib with more in it": compressed(whole + whole),
    "zlib of nothing": compressed(element(14, b"")),
    "zlib said to be of 4 GB": compressed(whole[:4] + b"\xff\xff\xff\xff" + whole[8:]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(tmp_path, name):
    path = write(tmp_path / "a.mat", DAMAGED[name])
    for key in (None, "x", "x{1}", "x.a", "x.a.a"):
        with pytest.raises(ValueError, match=r"a\.mat"):
            read_array(path, key)


def test_other_versions_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(HEAD + b"\x00\x03IM" + whole)
    with pytest.raises(ValueError, match=r"a\.mat: .*no MATLAB file of version 5 or 7\.3"):
        read_array(path)


def version4(kind: int, rows: int, columns: int, content: bytes, complex: int = 0) -> bytes:
    return struct.pack("<5I", kind, rows, columns, complex, 2) + b"x\0" + content


def sparse4(*entries: float) -> bytes:
    return version4(2, len(entries) // 3, 3, struct.pack(f"<{len(entries)}d", *entries))


DAMAGED4 = {
    "more numbers than bytes": version4(0, 2**30, 2**30, bytes(200)),
    "a number type of 6": version4(60, 1, 1, bytes(8)),
    "a variable of no name": struct.pack("<5I", 0, 1, 1, 0, 0) + bytes(8),
    "a name beyond the file": struct.pack("<5I", 0, 1, 1, 0, 2**31) + bytes(8),
    "half a variable after it": version4(0, 1, 1, bytes(8)) + bytes(7),
    "letters that are none": version4(1, 1, 1, struct.pack("<d", 0.5)),
    "letters beyond Latin-1": version4(1, 1, 1, struct.pack("<d", 256)),
    "a row outside": sparse4(6, 3, 2, 1, 1, 1, 5, 5, 0),
    "a row 0": sparse4(0, 5, 1, 5, 5, 0),
    "a row that is a fraction": sparse4(1.5, 5, 1, 5, 5, 0),
    "a row that is not finite": sparse4(float("nan"), 5, 1, 5, 5, 0),
    "a sparse matrix of terabytes": sparse4(1, 2**20, 1, 2**20, 1, 0),
    "a sparse matrix of nothing": version4(2, 0, 3, b""),
    "a sparse matrix of two columns": version4(2, 1, 2, bytes(16)),
}


@pytest.mark.parametrize("name", DAMAGED4)
def test_damage_to_version_4_is_refused(tmp_path, name):
    path = tmp_path / "a.mat"
    path.write_bytes(DAMAGED4[name])
    for key in (None, "x"):
        with pytest.raises(ValueError, match=r"a\.mat"):
            read_array(path, key)


def test_every_truncation_is_refused(tmp_path):
    content = write(tmp_path / "a.mat", compressed(whole), whole).read_bytes()
    for size in range(len(content)):
        if size != len(write(tmp_path / "a.mat", compressed(whole)).read_bytes()):
            (tmp_path / "a.mat").write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"a\.mat"):
                read_array(tmp_path / "a.mat", "x")
