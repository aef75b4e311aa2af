"""One reader for every format: what it returns, and what it says of files it cannot read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drcl.data.files import read_array

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([3, 1, 3, 2])

h5py = pytest.importorskip("h5py", reason="HDF5 and MATLAB v7.3 files need h5py")
pa = pytest.importorskip("pyarrow", reason="parquet files need pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="parquet files need pyarrow")
scipy_io = pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")


def write_mat73(path: Path, arrays: dict, cells: dict | None = None) -> None:
    """As MATLAB does: 512 bytes of header, arrays transposed, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array).T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        for name, values in (cells or {}).items():
            references = np.empty((len(values), 1), h5py.ref_dtype)  # a 1×n cell, transposed
            for index, value in enumerate(values):
                if isinstance(value, str | tuple):  # a tuple: the rows of a character matrix
                    rows = [value] if isinstance(value, str) else value
                    units = [np.frombuffer(row.encode("utf-16-le"), "<u2") for row in rows]
                    empty = not len(units[0])  # then MATLAB writes the shape
                    held = np.zeros(2, np.uint64) if empty else np.stack(units, axis=1)
                    item = file.create_dataset(f"#refs#/{name}{index}", data=held)
                    item.attrs["MATLAB_class"] = np.bytes_("char")
                    if empty:
                        item.attrs["MATLAB_empty"] = np.uint8(1)
                else:
                    item = file.create_dataset(f"#refs#/{name}{index}", data=np.asarray(value).T)
                references[index, 0] = item.ref
            file.create_dataset(name, data=references)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write(path: Path) -> str:
    """X and Y in the format of the path's ending; returns the key of X."""
    from safetensors.numpy import save_file

    match path.suffix:
        case ".npz":
            np.savez(path, x=X, y=Y)
        case ".mat" if path.stem == "v5":
            scipy_io.savemat(path, {"x": X, "y": Y})
        case ".mat":
            write_mat73(path, {"x": X, "y": Y[:, None]})
        case ".h5" | ".hdf5" | ".h5py":
            with h5py.File(path, "w") as file:
                file["deep/x"], file["y"] = X, Y
            return "deep/x"
        case ".parquet":
            pq.write_table(pa.table({"x": list(X), "y": Y}), path)
        case ".safetensors":
            save_file({"x": X, "y": Y}, path)
    return "x"


NAMES = ["a.npz", "v5.mat", "v73.mat", "a.h5", "a.hdf5", "a.h5py", "a.parquet", "a.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_back_the_array_in_its_own_orientation(tmp_path, name):
    key = write(tmp_path / name)
    found = read_array(tmp_path / name, key)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X)
    np.testing.assert_array_equal(read_array(tmp_path / name, "y").ravel(), Y)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_lists_those_there(tmp_path, name):
    key = write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: expected one of its \w+, {key}, y, got 'z'"):
        read_array(tmp_path / name, "z")
    with pytest.raises(ValueError, match=rf"the name of one of its \w+, {key}, y, got none"):
        read_array(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 10, 0.6])
@pytest.mark.parametrize("name", [*NAMES, "a.npy"])
def test_a_truncated_file_is_named(tmp_path, name, keep):
    path = tmp_path / name
    big = np.random.default_rng(0).standard_normal((400, 30))
    match path.suffix:
        case ".npy":
            np.save(path, big)
        case ".mat" if path.stem == "v5":
            scipy_io.savemat(path, {"x": big})
        case ".mat":
            write_mat73(path, {"x": big})
        case ".parquet":
            pq.write_table(pa.table({"x": list(big)}), path)
        case ".npz":
            np.savez(path, x=big)
        case ".safetensors":
            from safetensors.numpy import save_file

            save_file({"x": big}, path)
        case _:
            with h5py.File(path, "w") as file:
                file["x"] = big
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep in (0, 10) else int(len(whole) * keep)])
    with pytest.raises(ValueError, match=rf"{name}: expected .*truncated"):
        read_array(path, None if name.endswith(".npy") else "x")


def test_npy_holds_one_array_and_takes_no_key(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), X)
    with pytest.raises(ValueError, match=r"expected no key.*got 'x'"):
        read_array(tmp_path / "a.npy", "x")


def test_a_single_array_needs_no_key(tmp_path):
    np.savez(tmp_path / "a.npz", only=X)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz"), X)


def test_pickled_contents_are_refused(tmp_path):
    objects = np.array([{"run": "me"}, None], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    with pytest.raises(ValueError, match=r"a\.npy: an array of Python objects, which are never"):
        read_array(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npz: an array of Python objects, which are never"):
        read_array(tmp_path / "a.npz", "x")


@pytest.mark.parametrize("version", ["v5", "v73"])
def test_matlab_cells_are_named_by_number_from_1(tmp_path, version):
    path = tmp_path / f"{version}.mat"
    other = X[:2, :2] + 100
    if version == "v5":
        cells = np.empty((1, 2), object)
        cells[0, 0], cells[0, 1] = X, other
        scipy_io.savemat(path, {"train": cells, "x": X})
    else:
        write_mat73(path, {"x": X}, {"train": [X, other]})
    np.testing.assert_array_equal(read_array(path, "train{1}"), X)
    np.testing.assert_array_equal(read_array(path, "train{2}"), other)
    with pytest.raises(ValueError, match=r"a cell from 1 to 2 .*got 3"):
        read_array(path, "train{3}")
    with pytest.raises(ValueError, match=r"the name of one cell, train\{1\} to train\{2\}"):
        read_array(path, "train")
    with pytest.raises(ValueError, match=r"a cell array as 'x', got an array of shape \(4, 3\)"):
        read_array(path, "x{1}")


@pytest.mark.parametrize("version", ["v5", "v73"])
def test_a_matlab_cell_array_of_strings_is_an_array_of_strings(tmp_path, version):
    path = tmp_path / f"{version}.mat"
    if version == "v5":
        scipy_io.savemat(path, {"names": np.array(["owl", "sparrow"], dtype=object)})
    else:
        write_mat73(path, {}, {"names": ["owl", "sparrow"]})
    assert read_array(path, "names").tolist() == ["owl", "sparrow"]


OWL = "\U0001f989"


@pytest.mark.parametrize("version", ["v5", "v73"])
def test_strings_in_matlab_cells_are_empty_or_beyond_two_bytes_too(tmp_path, version):
    path, names = tmp_path / f"{version}.mat", ["cat", "", OWL + "!"]
    if version == "v5":
        scipy_io.savemat(path, {"names": np.array(names, dtype=object)})
    else:
        write_mat73(path, {}, {"names": names})
    assert read_array(path, "names").tolist() == names


@pytest.mark.parametrize("version", ["v5", "v73"])
@pytest.mark.parametrize("rows", [("cat", "dog"), ("c", "d"), (OWL + "a", OWL + "b")])
def test_a_matlab_character_matrix_is_its_rows(tmp_path, version, rows):
    path = tmp_path / f"{version}.mat"
    if version == "v5":
        cells = np.empty((1, 2), object)
        cells[0, :] = [np.array(rows), X]
        scipy_io.savemat(path, {"names": cells})
    else:
        write_mat73(path, {}, {"names": [rows, X]})
    assert read_array(path, "names{1}").tolist() == list(rows)
    np.testing.assert_array_equal(read_array(path, "names{2}"), X)


def test_sparse_matlab_matrices_come_dense(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    scipy_io.savemat(tmp_path / "a.mat", {"bow": sparse.csc_array(X)})
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", "bow"), X)


def test_safetensors_in_bfloat16_are_read_exactly(tmp_path):
    torch = pytest.importorskip("torch", reason="bfloat16 tensors are made with torch")
    from safetensors.torch import save_file

    save_file({"x": torch.from_numpy(X).bfloat16()}, tmp_path / "a.safetensors")
    found = read_array(tmp_path / "a.safetensors", "x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X)  # small whole numbers, exact in bfloat16


def test_h5_strings_are_strings(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["variable"] = ["owl", "sparrow"]
        file["fixed"] = np.array([b"owl", b"sparrow"])
    for key in ("variable", "fixed"):
        assert read_array(tmp_path / "a.h5", key).tolist() == ["owl", "sparrow"]


def test_parquet_takes_columns_patterns_and_lists(tmp_path):
    table = {"f0": X[:, 0], "f1": X[:, 1], "f2": X[:, 2], "kind": ["a", None, "b", "a"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=3)
    np.testing.assert_array_equal(read_array(tmp_path / "a.parquet", "f*"), X)
    np.testing.assert_array_equal(read_array(tmp_path / "a.parquet", "f2, f0"), X[:, [2, 0]])
    assert read_array(tmp_path / "a.parquet", "kind").tolist() == ["a", "", "b", "a"]
    fixed = pa.array(list(X), pa.list_(pa.float32(), 3))
    pq.write_table(pa.table({"x": fixed}), tmp_path / "b.parquet", row_group_size=3)
    np.testing.assert_array_equal(read_array(tmp_path / "b.parquet", "x"), X)


@pytest.mark.parametrize(
    ("column", "message"),
    [([[1, 2], [3]], "lists of 1 to 2 values"), ([[1, 2], None], "rows without a list")],
)
def test_parquet_lists_must_be_of_one_length(tmp_path, column, message):
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        read_array(tmp_path / "a.parquet", "x")


def test_parquet_lists_are_compared_beyond_a_batch(tmp_path):
    column = [[1, 2]] * 20_000 + [[3]] * 20_000
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'x' holds lists of 1 to 2 values"):
        read_array(tmp_path / "a.parquet", "x")


def test_parquet_without_rows_is_empty(tmp_path):
    kinds = {"list": pa.list_(pa.float32()), "number": pa.int16(), "name": pa.string()}
    table = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    found = {name: read_array(tmp_path / "a.parquet", name) for name in kinds}
    assert found["list"].shape == (0, 0) and found["list"].dtype == np.float32
    assert found["number"].shape == (0,) and found["number"].dtype == np.int16
    assert found["name"].tolist() == []


def test_missing_files_and_unknown_endings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.npz"):
        read_array(tmp_path / "nothing.npz")
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.pkl: expected a file ending in \.npz"):
        read_array(tmp_path / "a.pkl")


def test_contents_must_be_numbers_or_strings(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, "datetime64[s]"))
    with pytest.raises(ValueError, match="expected numbers or strings"):
        read_array(tmp_path / "a.npy")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"needs h5py, which is not installed.*data extra"):
        read_array(tmp_path / "a.h5", "x")
