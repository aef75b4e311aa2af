"""Files as other programs write them: each is read to its right value, or refused with a remedy.

Every case goes in by :func:`read_array` and by a manifest.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_matlab5_files import compressed, doubles, element, integers, matrix
from test_matlab5_files import write as write_matlab5

from drcl import DRCL
from drcl.cli import main
from drcl.data import load_manifest
from drcl.data.files import read_array
from drcl.run.added import read_features

h5py = pytest.importorskip("h5py", reason="HDF5 and MATLAB v7.3 files need h5py")
scipy_io = pytest.importorskip("scipy.io", reason="writes MATLAB files")
sparse = pytest.importorskip("scipy.sparse", reason="writes sparse matrices")

X = np.where(np.arange(40 * 5).reshape(40, 5) % 3, 0, np.arange(200).reshape(40, 5)) / 2
Y = np.arange(40) % 2


def load(path: Path, entry: str, extra: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a manifest's one table, all rows."""
    np.save(path.parent / "y.npy", Y)
    toml = path.parent / "a.toml"
    text = f'[train.image]\nfeatures = "{entry}"\nlabels = "y.npy"\n{extra}'
    toml.write_text(text + '[validation.image]\nfeatures = "x.npy"\n')
    np.save(path.parent / "x.npy", X)
    return load_manifest(toml).train["image"]


def holds(path: Path, key: str | None, expected: np.ndarray = X) -> None:
    """The array is there by itself, in a manifest and as the features of a command."""
    np.testing.assert_array_equal(read_array(path, key), expected)
    entry = path.name if key is None else f"{path.name}:{key}"
    features, labels = load(path, entry)
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(labels, Y)
    np.testing.assert_array_equal(read_features(f"{path.parent}/{entry}"), expected)


def refused(path: Path, key: str | None, *messages: str) -> None:
    entry = path.name if key is None else f"{path.name}:{key}"
    for read in (
        lambda: read_array(path, key),
        lambda: load(path, entry),
        lambda: read_features(f"{path.parent}/{entry}"),
    ):
        with pytest.raises(ValueError) as caught:
            read()
        for message in (path.name, *messages):
            assert message in str(caught.value)
        assert "damaged" not in str(caught.value)


# --- SciPy's own test files -----------------------------------------------------------------

SCIPY = Path(scipy_io.__file__).with_name("matlab") / "tests" / "data"


@pytest.mark.parametrize(
    "pattern",
    [
        *("logical_sparse", "test*sparse_*", "testsparsefloat*", "testdouble*", "testmatrix*"),
        *("testmulti*", "testminus*", "testvec*", "test_mat4*", "test3d*", "teststringarray*"),
    ],
)
def test_the_matlab_files_that_scipy_is_tested_with(pattern):
    """Versions 4, 5, 6 and 7 of MATLAB, of either byte order."""
    files = sorted(SCIPY.glob(f"{pattern}.mat"))
    if not SCIPY.is_dir():
        pytest.skip("this SciPy is installed without its tests")
    assert files
    for path in files:
        for name, expected in scipy_io.loadmat(path).items():
            if not name.startswith("__"):
                dense = expected.toarray() if sparse.issparse(expected) else expected
                np.testing.assert_array_equal(read_array(path, name), dense, err_msg=path.name)


# --- tables as text, SciPy's npz --------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_table_as_text(tmp_path, ending):
    path, between = tmp_path / f"a{ending}", "," if ending == ".csv" else "\t"
    head = between.join(["f0", "f1", "f2", "f3", "f4", "kind"])
    lines = [
        between.join([*map(str, row), "ant" if y else "owl"])
        for row, y in zip(X.tolist(), Y, strict=True)
    ]
    path.write_text("\n".join([head, *lines]) + "\n")
    holds(path, "f*")
    assert read_array(path, "kind").tolist() == np.where(Y, "ant", "owl").tolist()


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csr_array])
@pytest.mark.parametrize("compress", [True, False])
def test_a_sparse_matrix_of_scipy(tmp_path, form, make, compress):
    sparse.save_npz(tmp_path / "a.npz", make(X).asformat(form), compressed=compress)
    holds(tmp_path / "a.npz", None)


def test_places_given_twice_are_added_up(tmp_path):
    twice = sparse.coo_matrix(([1.0, 2.0], ([1, 1], [2, 2])), shape=(3, 4))
    sparse.save_npz(tmp_path / "a.npz", twice)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz"), twice.toarray())


@pytest.mark.parametrize("form", ["bsr", "dia"])
def test_other_sparse_forms_are_refused_by_name(tmp_path, form):
    sparse.save_npz(tmp_path / "a.npz", sparse.csr_matrix(X).asformat(form))
    refused(tmp_path / "a.npz", None, f"of the format '{form}'", "save matrix.tocsr()")


# --- NumPy, parquet, safetensors ---------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_objects_say_how_to_save_strings(tmp_path, ending):
    path, names = tmp_path / f"a{ending}", np.array(["ant", "owl"], dtype=object)
    if ending == ".npy":
        np.save(path, names, allow_pickle=True)
    else:
        np.savez(path, x=names)
    message = "np.array(names, dtype=str)"
    refused(path, None if ending == ".npy" else "x", "never unpickled", message)


@pytest.mark.parametrize("kind", ["string", "string_view", "large_string"])
def test_parquet_strings_of_every_kind(tmp_path, kind):
    pa = pytest.importorskip("pyarrow", reason="parquet files need pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    names = pa.array(["ant", None, "a longer word than twelve", "ant"]).cast(getattr(pa, kind)())
    pq.write_table(pa.table({"kind": names}), tmp_path / "a.parquet")
    expected = ["ant", "", "a longer word than twelve", "ant"]
    assert read_array(tmp_path / "a.parquet", "kind").tolist() == expected


def test_parquet_numbers_with_gaps(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="parquet files need pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {"yes": [True, None, False], "id": [7, None, 3], "large": [2**53 + 1, None, 3]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_array(tmp_path / "a.parquet", "yes"), [1, np.nan, 0])
    np.testing.assert_array_equal(read_array(tmp_path / "a.parquet", "id"), [7, np.nan, 3])
    refused(tmp_path / "a.parquet", "large", "above 2⁵³")


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_is_refused_by_name(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.from_numpy(X).to(getattr(torch, kind))
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "x", f"'x' is torch.{kind}", "float16 or float32")


# --- MATLAB: structs, objects, sparse matrices -------------------------------------------------


def mat73(path: Path, **groups: dict) -> Path:
    """Groups of data sets with their attributes, as MATLAB v7.3 writes them."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, group in groups.items():
            item = file.create_group(name)
            for key, value in group["attrs"].items():
                item.attrs[key] = value
            for key, value in group.items():
                if key != "attrs":
                    item[key] = value
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("version", ["v5", "v5 compressed", "v73"])
def test_fields_of_structs(tmp_path, version):
    path = tmp_path / "a.mat"
    names = np.array(["owl", "ant"], dtype=object)
    data = {"X": X, "inner": {"deep": {"X": X + 1}}, "names": names, "s": "text"}
    if version == "v73":
        with h5py.File(path, "w", userblock_size=512) as file:
            file["data/X"], file["data/inner/deep/X"] = X.T, X.T + 1
    else:
        scipy_io.savemat(path, {"data": data}, do_compression=version != "v5")
    holds(path, "data.X")
    holds(path, "data.inner.deep.X", X + 1)
    if version == "v73":
        holds(path, "data/X")
        refused(path, "data", "its arrays, data.X, data.inner.deep.X")
        return
    assert read_array(path, "data.names").tolist() == ["owl", "ant"]
    assert read_array(path, "data.s").tolist() == ["text"]
    refused(path, "data", "name one of its fields, data.X, data.inner, data.names, data.s")
    refused(path, "data.inner", "'data.inner' is a struct", "data.inner.deep")
    refused(path, "data.Z", "no field 'Z' in 'data'; it holds X, inner, names, s")
    refused(path, "data.X.Y", "'data.X' is no struct")


def test_cells_of_fields(tmp_path):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = X, X + 1
    scipy_io.savemat(tmp_path / "a.mat", {"data": {"train": cells}})
    holds(tmp_path / "a.mat", "data.train{2}", X + 1)


def test_a_struct_array_is_no_struct(tmp_path):
    array = np.zeros((1, 3), [("X", object)])
    scipy_io.savemat(tmp_path / "a.mat", {"data": array})
    refused(tmp_path / "a.mat", "data.X", "'data' is a struct array of (1, 3): expected one")


def opaque(name: bytes, kind: bytes) -> bytes:
    """An object, as MATLAB writes it: no shape, but the name, a system and a class."""
    flags = element(6, struct.pack("<II", 17, 0))
    words = b"".join(element(1, word) for word in (name, b"MCOS", kind))
    held = struct.pack("<6I", 3707764736, 2, 1, 1, 1, 1)
    numbers = element(6, struct.pack("<II", 13, 0)) + element(5, struct.pack("<2i", 6, 1))
    return element(14, flags + words + element(14, numbers + element(1, b"") + element(6, held)))


CLASSES = {
    "string": "cellstr(x)",
    "categorical": "categories(x)",
    "table": "table2array(x)",
    "datetime": "posixtime(x)",
    "dictionary": "keys(x) and values(x)",
    "MyClass": "save what it holds as arrays",
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", ["s", "names", "n" * 32, "n" * 33, "n" * 63])
@pytest.mark.parametrize("pack", [lambda content: content, compressed])
def test_objects_of_version_5_are_refused_by_name_and_hide_no_other(tmp_path, kind, name, pack):
    held = pack(opaque(name.encode(), kind.encode()))
    numbers = pack(matrix(6, (2, 1), doubles(1, 2)))
    path = write_matlab5(tmp_path / "a.mat", held, numbers)
    refused(path, name, f"'{name}' is an object of MATLAB's class '{kind}'", CLASSES[kind])
    refused(path, None, f"the name of one of its arrays, {min(name, 'x')}")
    assert read_array(path, "x").tolist() == [[1], [2]]


def test_an_object_in_a_cell_and_in_a_struct_of_version_5(tmp_path):
    cells = matrix(1, (1, 1), opaque(b"", b"string"))
    assert "a cell is an object" in message_of(write_matlab5(tmp_path / "a.mat", cells), "x{1}")
    names = element(5, struct.pack("<i", 2)), element(1, b"s\0")
    held = matrix(2, (1, 1), *names, opaque(b"", b"string"))
    assert "'x.s' is an object" in message_of(write_matlab5(tmp_path / "b.mat", held), "x.s")


def message_of(path: Path, key: str) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_array(path, key)
    return str(caught.value)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("inside", [False, True])
def test_objects_of_version_73_are_refused_by_name_and_hide_no_other(tmp_path, kind, inside):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        held = np.array([[3707764736, 2, 1, 1, 1, 1]], np.uint32)
        item = file.create_dataset("#refs#/b" if inside else "v", data=held)
        item.attrs["MATLAB_class"] = np.bytes_(kind)
        item.attrs["MATLAB_object_decode"] = np.int32(3)
        if inside:
            file.create_dataset("v", data=np.array([[item.ref]], h5py.ref_dtype))
        file["#subsystem#/MCOS"] = np.zeros((1, 3), np.uint32)
        file["x"] = X.T
    found = "a cell" if inside else "'v'"
    key = "v{1}" if inside else "v"
    refused(path, key, f"{found} is an object of MATLAB's class '{kind}'", CLASSES[kind])
    refused(path, None, "its arrays, v, x")
    holds(path, "x")


def sparse73(matrix: np.ndarray, kind: str) -> dict:
    held = sparse.csc_matrix(matrix)
    group = {"jc": held.indptr.astype(np.uint64)}
    if held.nnz:
        group |= {"ir": held.indices.astype(np.uint64), "data": held.data}
    return group | {
        "attrs": {"MATLAB_class": np.bytes_(kind), "MATLAB_sparse": np.uint64(len(matrix))}
    }


def test_sparse_matrices_of_version_73(tmp_path):
    none = np.zeros((40, 5))
    path = mat73(
        tmp_path / "a.mat",
        numbers=sparse73(X, "double"),
        bits=sparse73((X > 0).astype(np.uint8), "logical"),
        none=sparse73(none, "double"),
    )
    holds(path, "numbers")
    holds(path, "bits", X > 0)
    holds(path, "none", none)
    refused(path, None, "its arrays, bits, none, numbers")


def test_a_logical_sparse_matrix_that_says_it_holds_doubles(tmp_path):
    flags = element(6, struct.pack("<II", 5 | 0x0200, 4))
    head = flags + element(5, struct.pack("<2i", 3, 2)) + element(1, b"x")
    parts = integers(0, 2, 1) + integers(0, 2, 3) + element(9, b"\1\1\1")
    path = write_matlab5(tmp_path / "a.mat", element(14, head + parts))
    assert read_array(path, "x").tolist() == [[1, 0], [0, 1], [1, 0]]


def test_version_4(tmp_path):
    held = {"x": X, "bow": sparse.csc_matrix(X), "names": np.array(["owl", "ant"])}
    scipy_io.savemat(tmp_path / "a.mat", held, format="4")
    holds(tmp_path / "a.mat", "x")
    holds(tmp_path / "a.mat", "bow")
    assert read_array(tmp_path / "a.mat", "names").tolist() == ["owl", "ant"]
    scipy_io.savemat(tmp_path / "b.mat", {"z": X + 1j}, format="4")
    refused(tmp_path / "b.mat", "z", "'z' is complex: expected real numbers, so save real(x)")


# --- how arrays lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npz", ".mat", ".h5"])
def test_features_stored_by_column_are_turned_by_the_manifest(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".npz":
        np.savez(path, x=X.T)
    elif ending == ".mat":
        scipy_io.savemat(path, {"x": X.T})
    else:
        with h5py.File(path, "w") as file:
            file["x"] = X.T
    features, labels = load(path, f"{path.name}:x", "transpose = true\n")
    np.testing.assert_array_equal(features, X)
    np.testing.assert_array_equal(labels, Y)
    with pytest.raises(ValueError, match=r"features of shape \(5, 40\) have labels .* \(40,\).*"
                       r"stored \(d, N\), write transpose = true"):  # fmt: skip
        load(path, f"{path.name}:x")
    with pytest.raises(ValueError, match=r"transpose in .*: expected true or false, got 'yes'"):
        load(path, f"{path.name}:x", 'transpose = "yes"\n')


def test_rows_of_transposed_features_are_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.T)
    features, labels = load(tmp_path / "a.npz", "a.npz:x", 'transpose = true\nrows = "7:30"\n')
    np.testing.assert_array_equal(features, X[7:30])
    np.testing.assert_array_equal(labels, Y[7:30])


HOT = np.eye(3, dtype=np.uint8)[np.arange(40) % 3]


@pytest.mark.parametrize("ending", [".npy", ".mat"])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [(Y[None], Y), (Y[:, None], Y), (HOT, HOT), (HOT.T, HOT)],
    ids=["(1, N)", "(N, 1)", "(N, C)", "(C, N)"],
)
def test_labels_lie_as_they_may(tmp_path, ending, stored, expected):
    np.save(tmp_path / "x.npy", X)
    path = tmp_path / f"labels{ending}"
    if ending == ".npy":
        np.save(path, stored)
    else:
        scipy_io.savemat(path, {"y": stored})
    toml = tmp_path / "a.toml"
    table = f'features = "x.npy"\nlabels = "{path.name}{":y" if ending == ".mat" else ""}"\n'
    toml.write_text(f"[train.image]\n{table}[validation.image]\n{table}")
    np.testing.assert_array_equal(load_manifest(toml).train["image"].labels, expected)


def test_labels_of_an_added_modality_lie_as_they_may(tmp_path):
    """What ``drcl add-modality`` is given."""
    from drcl.run.added import AddedModality, read_added

    np.savez(tmp_path / "a.npz", x=X, hot=HOT.T, ids=np.arange(40)[None] % 3, turned=X.T)
    toml = tmp_path / "a.toml"
    toml.write_text('[train.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:ids"\n')
    data, file = load_manifest(toml), f"{tmp_path}/a.npz"
    for key in ("hot", "ids"):
        pair = (f"{file}:x", f"{file}:{key}")
        found = read_added(AddedModality(pair, pair, None), data)["train"]
        assert found.labels.tolist() == (HOT.tolist() if key == "hot" else HOT.argmax(1).tolist())
    with pytest.raises(ValueError, match=r"stored \(d, N\), save the transpose of"):
        read_added(AddedModality((f"{file}:turned", f"{file}:ids"), None, None), data)


def test_pictures_go_from_a_file_to_a_network(tmp_path):
    torch = pytest.importorskip("torch")

    pictures = np.random.default_rng(0).random((40, 4, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=pictures, y=Y)
    toml = tmp_path / "a.toml"
    toml.write_text('[train.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n')
    data = load_manifest(toml)
    assert data.train["image"].features.shape[1:] == (4, 6, 3)
    assert "4×6×3" in data.describe()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(72, 8))
    settings = {"dim": 8, "epochs": 1, "prior_epochs": 1, "device": "cpu"}
    model = DRCL(**settings, networks={"image": network}).fit(
        data.train, data.validation, progress=False
    )
    assert model.encode("image", pictures).shape == (40, 8)
    with pytest.raises(ValueError, match="pass a network for this modality"):
        DRCL(**settings).fit(data.train, progress=False)
    toml.write_text(toml.read_text() + "transpose = true\n")
    with pytest.raises(ValueError, match=r"expected shape \(width, samples\), got \(40, 4, 6, 3\)"):
        load_manifest(toml)


# --- byte order marks and blank lines ----------------------------------------------------------


def test_a_manifest_with_a_byte_order_mark(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    toml = tmp_path / "a.toml"
    text = '[train.image]\nfeatures = "a.npz:x"\nlabels = "a.npz:y"\n'
    toml.write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    assert len(load_manifest(toml).train["image"].features) == 36


def test_a_byte_order_mark_where_tables_were_joined_makes_no_class_of_its_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffclass,n\noak,0\n\ufeffoak,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: expected no byte order mark"):
        read_array(path, "class")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n \r\n"])
def test_lists_with_blank_lines_at_the_end_and_a_byte_order_mark(tmp_path, mark, end):
    from drcl.data.sets.wikipedia import _read_list

    path = tmp_path / "a.list"
    path.write_bytes(f"{mark}a\tb\t3\nc\td\t10{end}".encode())
    assert _read_list(path).tolist() == [3, 10]
    path.write_text("a\tb\t3\n\nc\td\t10\n")
    with pytest.raises(ValueError, match=r"a\.list, line 2: "):
        _read_list(path)


# --- the command line --------------------------------------------------------------------------


def test_training_adding_and_encoding_from_such_files(tmp_path):
    """Tables as text, transposed features, turned labels and sparse matrices, end to end."""
    random = np.random.default_rng(0)
    ids, x = np.arange(60) % 3, random.normal(size=(60, 4)) + 3 * np.eye(3, 4)[np.arange(60) % 3]
    header = "f0,f1,f2,f3,kind"
    lines = [
        ",".join([*map(str, row), ["ant", "eel", "owl"][y]])
        for row, y in zip(x.tolist(), ids.tolist(), strict=True)
    ]
    (tmp_path / "image.csv").write_text("\ufeff" + "\n".join([header, *lines]) + "\n\n")
    scipy_io.savemat(
        tmp_path / "text.mat", {"data": {"X": x[:, :3].T, "hot": np.eye(3)[ids].T}}, format="5"
    )
    sparse.save_npz(tmp_path / "sound.npz", sparse.csr_matrix(np.where(x > 0, x, 0)))
    image = 'features = "image.csv:f*"\nlabels = "image.csv:kind"\n'
    text = 'features = "text.mat:data.X"\nlabels = "text.mat:data.hot"\ntranspose = true\n'
    toml = tmp_path / "birds.toml"
    toml.write_text(
        "\ufeff"
        + "classes = ['ant', 'eel', 'owl']\n"
        + "".join(
            f"[{split}.image]\n{image}[{split}.text]\n{text}" for split in ("train", "validation")
        ),
        encoding="utf-8",
    )
    run, sizes = tmp_path / "run", ("--dim", "8", "--hidden", "8", "--device", "cpu")
    short = ("--epochs", "2", "--prior-epochs", "2", "--no-progress", "--no-report")
    table = f"{tmp_path}/image.csv:kind"
    for arguments in (
        ("train", toml, "--out", run, *sizes, *short),
        ("add-modality", run, "sound", tmp_path / "sound.npz", table, "--no-progress"),
        ("encode", run, "image", f"{tmp_path}/image.csv:f*", "--out", tmp_path / "z.npy"),
    ):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "z.npy").shape == (60, 8)
    assert set(DRCL.load(run).modalities) == {"image", "text", "sound"}
