"""Files from strangers: what is promised in SECURITY.md, format by format.

Every refusal is a ValueError or an OSError that names the file; nothing is allocated on a file's
word; no other file is read.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from conftest import ROOT
from fault_injection import in_child

from drcl import DRCL
from drcl.cli import main
from drcl.data import load_manifest
from drcl.data.files import read_array
from drcl.data.formats import hdf5
from drcl.data.formats import limits as sizes
from drcl.storage.files import write_bytes

h5py = pytest.importorskip("h5py", reason="HDF5 and MATLAB v7.3 files need h5py")

X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def small_limits(monkeypatch):
    """So that a bomb of a few kilobytes is one."""
    monkeypatch.setattr(sizes, "FLOOR", 2**16)
    monkeypatch.setattr(sizes, "RATIO", 10)


def refused(path: Path, key: str | None = None) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_array(path, key)
    return str(caught.value)


# --- sizes are checked before anything is allocated -------------------------------------------


def npy(shape: str, dtype: str = "<f4", values: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values


@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000000000,)", values=bytes(64)),
        npy("(-1,)", values=bytes(64)),
        npy("(10,)", values=bytes(39)),
        npy("(1000000000,)", "<U0"),
        npy("(1000000000000,)", "|V0"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1) + b"x",
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    ],
    ids=["huge", "negative", "short", "empty strings", "void", "header length", "nested header"],
)
def test_npy_must_be_as_large_as_its_header_says(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    refused(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    refused(tmp_path / "a.npz", "x")


def test_rows_without_columns_are_no_modality(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy("(1000000000000, 0)"))
    (tmp_path / "a.toml").write_text('[train.image]\nfeatures = "a.npy"\n')
    with pytest.raises(ValueError, match=r"a\.toml.*features: expected at least one value"):
        load_manifest(tmp_path / "a.toml")


def test_bombs_are_refused(tmp_path, small_limits):
    zeros = np.zeros((100, 1000), np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=zeros)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=zeros, compression="gzip")
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file.create_dataset("x", data=zeros, compression="gzip")
        references = np.empty((3000, 1), h5py.ref_dtype)
        references[:] = file.create_dataset("#refs#/a", data=X).ref
        file.create_dataset("cells", data=references)
    scipy_io = pytest.importorskip("scipy.io", reason="makes the MATLAB file of this test")
    sparse = pytest.importorskip("scipy.sparse")
    table = {"x": zeros, "thin": sparse.csc_array((1000, 1000))}
    scipy_io.savemat(tmp_path / "a.mat", table, do_compression=True)
    bombs = [("a.npz", "x"), ("a.h5", "x"), ("b.mat", "x"), ("b.mat", "cells"), ("a.mat", "x")]
    for name, key in [*bombs, ("a.mat", "thin")]:
        assert "at most 1 GiB or 10 times the file is read" in refused(tmp_path / name, key)


def test_sparse_matrices_are_refused_by_what_they_come_to(tmp_path, small_limits):
    """A few places in a matrix of any size, in each format that has such."""
    sparse = pytest.importorskip("scipy.sparse", reason="makes the files of this test")
    scipy_io = pytest.importorskip("scipy.io", reason="makes the MATLAB file of this test")
    thin, limit = sparse.csc_matrix((30_000, 30_000)), "at most 1 GiB or 10 times the file is read"
    for form in ("csr", "csc", "coo"):
        sparse.save_npz(tmp_path / "a.npz", thin.asformat(form))
        assert limit in refused(tmp_path / "a.npz")
    scipy_io.savemat(tmp_path / "4.mat", {"x": thin}, format="4")
    assert limit in refused(tmp_path / "4.mat", "x")
    with h5py.File(tmp_path / "73.mat", "w", userblock_size=512) as file:
        file["x/jc"] = np.zeros(100, np.uint64)
        file["x"].attrs["MATLAB_sparse"] = np.uint64(2**62)
    assert limit in refused(tmp_path / "73.mat", "x")


SPARSE = {
    "format": "csr",
    "shape": [4, 3],
    "data": [1.0],
    "indices": [2],
    "indptr": [0, 1, 1, 1, 1],
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("indices", [3]),
        ("indices", [-1]),
        ("indices", [0.5]),
        ("indices", [[2]]),
        ("indices", []),
        ("data", []),
        ("data", ["owl"]),
        ("data", [[1.0]]),
        ("data", 1.0),
        ("indptr", [0, 2, 1, 1, 1]),
        ("indptr", [0, 1, 1, 1, 9]),
        ("indptr", [1, 1, 1, 1, 1]),
        ("indptr", [0, 1, 1, 1]),
        ("indptr", []),
        ("indptr", 5),
        ("shape", [-4, -3]),
        ("shape", [4]),
        ("shape", [4, 3, 2]),
        ("shape", [2**40, 2**40]),
        ("shape", ["a", "b"]),
        ("shape", []),
        ("format", "xyz"),
        ("format", [[1.5]]),
        ("format", []),
    ],
)
def test_no_part_of_a_sparse_matrix_is_trusted(tmp_path, name, part):
    path = tmp_path / "a.npz"
    np.savez(path, **SPARSE)
    assert read_array(path).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.savez(path, **SPARSE | {name: np.array(part)})
    refused(path)
    left = {key: value for key, value in SPARSE.items() if key != name}
    np.savez(path, **left)
    refused(path)


@pytest.mark.parametrize("part", ["ir", "data", "jc"])
@pytest.mark.parametrize("fault", ["group", "outside", "link", "text", "values"])
def test_no_part_of_a_sparse_matrix_of_matlab_is_trusted(tmp_path, part, fault):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("x")
        group.attrs["MATLAB_sparse"] = np.uint64(3)
        for name, numbers in {"ir": [0, 2], "jc": [0, 1, 2], "data": [1, 2]}.items():
            if name != part:
                group[name] = np.array(numbers, np.uint64)
            elif fault == "group":
                group.create_group(name)
            elif fault == "outside":
                group.create_dataset(name, (2,), "u8", external=[("/etc/passwd", 0, 16)])
            elif fault == "link":
                group[name] = h5py.ExternalLink("/etc/passwd", "/x")
            elif fault == "text":
                group[name] = ["owl", "eel"]
            else:
                numbers = np.array([2**63, 2**64 - 1, 7], np.uint64)
                group[name] = numbers if name != "data" else numbers * 1j
    refused(path, "x")


def test_many_arrays_of_one_file_are_counted_together(tmp_path, small_limits):
    """Each is allowed, all are not: references to one data set, and sparse cells, cost little."""
    for count in (3, 30):
        with h5py.File(tmp_path / f"{count}.mat", "w", userblock_size=512) as file:
            held = file.create_dataset("#refs#/a", data=np.zeros((64, 32)), compression="gzip")
            references = np.full((count, 1), held.ref, h5py.ref_dtype)
            file.create_dataset("x", data=references)
    assert read_array(tmp_path / "3.mat", "x{2}").shape == (32, 64)
    assert "with those before it" in refused(tmp_path / "30.mat", "x{2}")
    scipy_io = pytest.importorskip("scipy.io", reason="makes the MATLAB file of this test")
    sparse = pytest.importorskip("scipy.sparse")
    for count in (3, 30):
        cells = np.empty((1, count), object)
        cells[0, :] = [sparse.csc_array((1000, 2))] * count
        scipy_io.savemat(tmp_path / "a.mat", {"x": cells}, do_compression=True)
        if count == 3:
            assert read_array(tmp_path / "a.mat", "x{2}").shape == (1000, 2)
    assert "with those before it" in refused(tmp_path / "a.mat", "x{2}")


def test_parquet_bombs_are_refused(tmp_path, small_limits):
    pa = pytest.importorskip("pyarrow", reason="makes the parquet files of this test")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {
        "equal": np.zeros(100_000, np.float32),
        "strings": ["a" * 1000] * 1000,
        "longest": ["a"] * 999 + ["a" * 1000],
        "lists": [np.zeros(100, np.float32)] * 1000,
    }
    for name, column in columns.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"x": pa.array(column)}), path, compression="zstd")
        assert "would take" in refused(path, "x")


def test_parquet_columns_are_counted_together(tmp_path, small_limits):
    """Side by side every string takes the room of the longest, and so does every number."""
    pa = pytest.importorskip("pyarrow", reason="makes the parquet files of this test")
    pq = pytest.importorskip("pyarrow.parquet")
    path, words = tmp_path / "a.parquet", ["a" * 50] * 200
    table = dict.fromkeys("abcd", words) | {"long": ["a" * 80] + [""] * 199}
    table |= {"bits": np.zeros(200, bool), "lists": list(np.zeros((200, 50), bool))}
    pq.write_table(pa.table(table), path, compression="zstd")
    for key in table:
        assert len(read_array(path, key)) == 200
    assert "with those before it" in refused(path, "a, b, c, d")
    assert "would take" in refused(path, "bits, long")
    assert "would take" in refused(path, "lists, a")


def test_long_parquet_lists_are_read_a_few_rows_at_once(tmp_path, small_limits, monkeypatch):
    """What says that it is too long is not read at all."""
    pa = pytest.importorskip("pyarrow", reason="makes the parquet files of this test")
    pq = pytest.importorskip("pyarrow.parquet")
    from drcl.data.formats import parquet

    lists, sizes, read = list(np.zeros((100, 100), np.float32)), [], pq.ParquetFile.iter_batches
    pq.write_table(pa.table({"x": lists, "y": lists, "z": lists}), tmp_path / "a.parquet")

    def spied(file, size, row_groups=None, columns=None):
        sizes.append(size)
        return read(file, size, row_groups, columns)

    monkeypatch.setattr(parquet, "VALUES", 1000, raising=False)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spied)
    assert read_array(tmp_path / "a.parquet", "x").shape == (100, 100)
    assert sizes == [1, 10]
    assert "with those before it" in refused(tmp_path / "a.parquet", "x, y")
    assert sizes == [1, 10, 1, 1]


def test_damage_to_what_parquet_says_of_its_lists(tmp_path):
    """Some of it makes the library end the process that looks at it: so in a child process."""
    pa = pytest.importorskip("pyarrow", reason="makes the parquet files of this test")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": list(X)}), path, store_schema=False)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")

    def read_all():
        for at in range(footer, len(whole)):
            for value in (0, 60, 255):
                path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
                with contextlib.suppress(ValueError):
                    read_array(path, "x")

    assert in_child(read_all, limit=60.0) == 0


def test_parquet_objects_are_refused_before_there_are_many(tmp_path):
    """Two bytes in the file become forty of an object."""
    pa = pytest.importorskip("pyarrow", reason="makes the parquet files of this test")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [b"ab"] * 200_000}), path, compression="zstd")
    tracemalloc.start()
    try:
        assert "column 'x' is object: expected numbers or strings" in refused(path, "x")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_hdf5_declares_no_more_than_it_holds(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("huge", (10**9, 10**3), "f4", chunks=(1000, 1000), fillvalue=1)
        file.create_dataset("chunk", (4,), "f4", chunks=(10**9,), maxshape=(None,))
        file.create_dataset("crumbs", (2**14, 2**14), "u1", chunks=(1, 1))
        file.create_dataset("letters", (4,), "S1000000000")
    assert "would take" in refused(path, "huge")
    assert "would take" in refused(path, "chunk")
    assert "would take" in refused(path, "letters")
    assert "is cut into 268435456 chunks" in refused(path, "crumbs")


def test_hdf5_groups_in_groups(tmp_path):
    """The library's own visit crashes the process from some 16 000 levels on."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["x"], group["again"], group["top"] = X, group, file["/"]
    np.testing.assert_array_equal(read_array(path), X)
    with h5py.File(path, "a") as file:
        file["/".join("b" * 102)] = X
    assert "groups in groups, more than 100 deep" in refused(path, "a/x")


def test_an_empty_matlab_array_is_empty(tmp_path):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, shape in {"none": [0, 7], "huge": [10**6, 10**6]}.items():
            file[name] = np.array(shape, np.uint64)
            file[name].attrs["MATLAB_empty"] = np.uint8(1)
    assert read_array(path, "none").shape == (0, 7)
    assert "said to be empty" in refused(path, "huge")


def test_a_heap_of_strings_that_never_ends(tmp_path):
    """The HDF5 library reads an object of number 0 and size 0 for ever: so in a child process."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["names"] = ["owl", "sparrow"]
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    code = "import sys; from drcl.data.files import read_array; read_array(sys.argv[1], 'names')"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=60)
    assert b"a heap of strings with an object of 0 bytes" in done.stderr


@pytest.mark.parametrize("shape", [(60,), (1, 60), (60, 1)])
def test_many_references_to_one_string(tmp_path, small_limits, monkeypatch, shape):
    """Sixteen bytes each: they are refused with the first few that were read."""
    path, read = tmp_path / "a.h5", []
    with h5py.File(path, "w") as file:
        names = file.create_dataset("x", shape, h5py.string_dtype())
        names[...] = np.array(["owl" * 1000] + ["eel"] * 59, object).reshape(shape)
        file.flush()
        at = names.id.get_offset()
        expected = names.asstr()[()].tolist()
    monkeypatch.setattr(hdf5, "PIECE", 5 * 3000, raising=False)
    monkeypatch.setattr(hdf5, "allow", lambda *args: [read.append(args[1]), sizes.allow(*args)])
    content = path.read_bytes()
    reference = content[at : at + 16]
    path.write_bytes(content[:at] + reference * 60 + content[at + 16 * 60 :])
    assert "an array of (60, 3000) would take" in refused(path, "x")
    assert read == [(), (60, 3000)]
    monkeypatch.setattr(sizes, "FLOOR", 2**30)
    path.write_bytes(content)
    assert read_array(path, "x").tolist() == expected
    assert len(read) == 2 + 1 + 12


# --- no other file is read --------------------------------------------------------------------


def test_hdf5_reads_no_other_file(tmp_path):
    secret, path = tmp_path / "secret.bin", tmp_path / "a.h5"
    secret.write_bytes(b"secret" * 4)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = X
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", X.shape)
    with h5py.File(path, "w") as file:
        file.create_dataset("outside", (24,), "u1", external=[(str(secret), 0, 24)])
        file.create_virtual_dataset("virtual", layout)
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        file["loop"] = h5py.SoftLink("/loop")
    for key in ("outside", "virtual"):
        assert "in other files, which are not read" in refused(path, key)
    for key in ("link", "loop", "../other.h5", "link/x"):
        assert "its arrays, outside, virtual" in refused(path, key)
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        held = file.create_dataset("#refs#/a", (24,), "u1", external=[(str(secret), 0, 24)])
        references = np.empty((1, 1), h5py.ref_dtype)
        references[0, 0] = held.ref
        file.create_dataset("x", data=references)
    assert "in other files, which are not read" in refused(tmp_path / "a.mat", "x{1}")


def test_named_pipes_are_not_waited_for(tmp_path):
    data = tiny.split()
    settings = tiny.SETTINGS | {"epochs": 1, "prior_epochs": 1}
    folder = DRCL(**settings).fit(data, progress=False).save(tmp_path / "model")
    (part,) = folder.glob("prior.*")
    pipes = [
        (part, lambda: DRCL.load(folder)),
        (folder / "config.json", lambda: DRCL.load(folder)),
        (tmp_path / ".x.drcl-partial", lambda: write_bytes(tmp_path / "a", b"content")),
        (tmp_path / "c" / "prior-image.safetensors", lambda: DRCL(**settings).fit(
            data, checkpoints=tmp_path / "c", progress=False
        )),
    ]  # fmt: skip
    for path, work in pipes:
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)

        def quietly(work=work):
            with contextlib.suppress(ValueError, OSError):
                work()

        assert in_child(quietly, limit=20.0) == 0, path


@pytest.mark.parametrize(
    "features",
    ["../secret.npy", "/etc/passwd", "link.npy", "folder/../../secret.npy", "linked/secret.npy"],
)
def test_a_manifest_reads_nothing_outside_its_folder(tmp_path, features):
    inside = tmp_path / "inside"
    inside.mkdir()
    np.save(tmp_path / "secret.npy", X)
    (inside / "link.npy").symlink_to(tmp_path / "secret.npy")
    (inside / "linked").symlink_to(tmp_path)
    path = inside / "a.toml"
    path.write_text(f'[train.image]\nfeatures = "{features}"\n')
    with pytest.raises(ValueError, match=r"a\.toml: .*a file beside the manifest or below it"):
        load_manifest(path)


# --- what TOML and text may hold --------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "classes = " + "[" * 100_000,
        "train.image.features" + ".a" * 3000 + " = 1",
        '[train.image]\nfeatures = "a\\u0000.npy"',
        '[train.image]\nfeatures = "' + "a" * 5000 + '.npy"',
        "seed = " + "9" * 5000,
        "validation_share = nan",
        "train = 1",
        "name = 'a'\nname = 'b'",
        '[train.image]\nfeatures = "a.npy"\nrows = "' + "9" * 5000 + ':"',
        "\ufeff\x00",
    ],
    ids=[
        "brackets",
        "dots",
        "NUL",
        "long name",
        "long number",
        "nan",
        "type",
        "twice",
        "rows",
        "x",
    ],
)
def test_invalid_manifests_are_refused(tmp_path, text):
    np.save(tmp_path / "a.npy", X)
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=r"a\.toml|aaa\.npy"):
        load_manifest(path)


@pytest.mark.parametrize("where", ["name = ", "classes = ['owl', ", "train."])
def test_names_cannot_act_on_the_terminal(tmp_path, where):
    np.savez(tmp_path / "a.npz", x=X, y=[0, 0, 1, 1])
    name = '"\\u001b]0;owned\\u0007"'
    text = {
        "name = ": f"name = {name}\nclasses = ['owl', 'eel']\ntrain.image = ",
        "classes = ['owl', ": f"classes = ['owl', {name}]\ntrain.image = ",
        "train.": f"classes = ['owl', 'eel']\ntrain.{name} = ",
    }[where]
    path = tmp_path / "a.toml"
    path.write_text(text + '{ features = "a.npz:x", labels = "a.npz:y" }\n')
    with pytest.raises(ValueError, match=r"a\.toml: .*without control characters"):
        load_manifest(path)
    found = CliRunner().invoke(main, ["train", str(path), "--out", str(tmp_path / "run")])
    assert found.exit_code == 1 and "\x1b" not in found.output and "\x07" not in found.output


def test_what_the_command_line_says_of_a_stranger_s_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("\x1b[2Jgone\r.npy", npy("(1,)", values=bytes(4)))
    (tmp_path / "a.toml").write_text('[train.image]\nfeatures = "a.npz:x"\n')
    found = CliRunner().invoke(
        main, ["train", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run")]
    )
    assert found.exit_code == 1 and "Traceback" not in found.output
    assert r"its arrays, \x1b[2Jgone\r" in found.output
    assert "\x1b" not in found.output and "\r" not in found.output


def test_memory_that_is_not_there_is_said_in_a_line(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.toml").write_text('[train.image]\nfeatures = "a.npy"\n')

    def full(*_, **__):
        raise MemoryError("Unable to allocate 3.64 TiB")

    monkeypatch.setattr(np.lib.format, "read_array", full)
    found = CliRunner().invoke(
        main, ["train", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run")]
    )
    assert found.exit_code == 1 and isinstance(found.exception, SystemExit)
    assert "a.npy: needs more memory than there is (Unable" in found.output


@pytest.mark.parametrize("labels", [np.uint64([2**64 - 1]), [1e300], [2.0**63], [-(2.0**64)]])
def test_labels_beyond_int64_do_not_become_others(tmp_path, labels):
    """2⁶⁴−1 as int64 is −1, which would mean unlabelled."""
    np.savez(tmp_path / "a.npz", x=X[:1], y=labels)
    path = tmp_path / "a.toml"
    path.write_text('[train.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n')
    with pytest.raises(ValueError, match=r"a\.toml: .* in row 0 is not a whole number"):
        load_manifest(path)


@pytest.mark.parametrize(
    "line", ["a\tb\t" + "9" * 30, "a\tb\t" + "9" * 5000, "a\tb", "a\tb\tcat", "\x00"]
)
def test_lists_of_the_wikipedia_set(tmp_path, line):
    from drcl.data.sets.wikipedia import _read_list

    path = tmp_path / "a.list"
    path.write_text(f"a\tb\t1\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.list, line 2: "):
        _read_list(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a\.list, line 1: expected text in UTF-8"):
        _read_list(path)


# --- npz --------------------------------------------------------------------------------------


def test_npz_members_must_be_arrays_whole_and_written_by_numpy(tmp_path):
    path = tmp_path / "a.npz"
    whole = io.BytesIO()
    np.savez(whole, x=X)
    content = bytearray(whole.getvalue())
    content[content.index(X.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    assert "CRC" in refused(path, "x")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("(1,)", values=bytes(4)))
    assert "in a way that NumPy does not write" in refused(path, "x")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"hello")
        archive.writestr("y.npy", npy("(1,)", values=bytes(5)))
    refused(path, "x")
    assert "more bytes than its header says" in refused(path, "y")


# --- nothing that runs code -------------------------------------------------------------------


def test_no_module_can_run_what_a_file_says():
    """No pickle and its kin, no eval, no torch.load, no np.load that may unpickle, no YAML, and no
    module whose name is not written out."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    sources = [path for part in ("drcl", "kernels") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 90
    found = []
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.partition(".")[0] in modules for name in names):
                found.append(f"{path}:{node.lineno}: imports {names}")
            if isinstance(node, ast.Call) and (fault := _unsafe(node)):
                found.append(f"{path}:{node.lineno}: {fault}")
    assert not found


def _unsafe(call: ast.Call) -> str | None:
    name = ast.unparse(call.func)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("eval", "exec", "compile", "__import__", "os.system", "torch.hub.load"):
        return name
    if name.rpartition(".")[2] in ("import_module", "run_path", "run_module", "_library"):
        # Hand on names: `_library` of drcl/data/files.py, `check_installed` of drcl/checks.py,
        # drcl/_moved.py and drcl/_later.py, those of their own tables, and drcl/dispatch.py, an op
        # family's.
        written_out = isinstance(call.args[0], ast.Constant)
        handed_on = ast.unparse(call) == "importlib.import_module(name)"
        return None if written_out or handed_on else f"imports {ast.unparse(call)}"
    if name == "torch.load" and arguments.get("weights_only") != "True":
        return "torch.load without weights_only"
    if name in ("np.load", "numpy.load") and arguments.get("allow_pickle") != "False":
        return "np.load without allow_pickle=False"
    return "unpickles" if arguments.get("allow_pickle", "False") != "False" else None


# --- random damage, and a coverage-guided search ----------------------------------------------

FUZZ = Path(__file__).parents[1] / "fuzz_files"
FORMATS = [
    *("npy", "npz", "csv", "mat", "mat4", "mat73", "h5", "parquet", "safetensors", "checkpoint"),
    *("manifest", "lists", "config", "run"),
]


def replay(cases: int, *formats: str, timeout: float) -> None:
    """Damaged files in one child process: a crash of it is a failure here, and no more."""
    child = subprocess.run(
        [sys.executable, FUZZ / "replay.py", str(cases), *formats],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr[-3000:]
    assert child.stdout.splitlines()[-1] == f"{cases} cases each of {' '.join(formats)}"


def test_damaged_files_are_refused_or_read():
    pytest.importorskip("pyarrow", reason="writes the parquet files")
    pytest.importorskip("scipy", reason="writes the MATLAB files")
    replay(15, *FORMATS, timeout=300)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name):
    replay(int(os.environ.get("DRCL_FUZZ_CASES", 100_000)), name, timeout=24 * 3600)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_coverage_guided_fuzzing(name, tmp_path):
    pytest.importorskip("atheris", reason="pip install 'drcl[fuzz]' brings the fuzzer")
    runs = os.environ.get("DRCL_FUZZ_CASES", "100000")
    child = subprocess.run(
        [sys.executable, FUZZ / "fuzz.py", name, f"-runs={runs}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr[-3000:]
