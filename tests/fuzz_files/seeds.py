"""Small valid files of every format, made by the libraries that write them: what fuzzing starts
from."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([1, 2, 1, 2])


def npy() -> Iterator[bytes]:
    for array in (X, X.astype(">f8", order="F"), np.array(["owl", "sparrow"]), Y > 1):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        yield buffer.getvalue()


def npz() -> Iterator[bytes]:
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=X, y=Y)
        yield buffer.getvalue()
    from scipy import sparse

    for form in ("csr", "csc", "coo"):
        buffer = io.BytesIO()
        sparse.save_npz(buffer, sparse.csr_matrix(X).asformat(form), compressed=form != "csr")
        yield buffer.getvalue()


def csv() -> Iterator[bytes]:
    yield b'x,y,word\n0.5,1,owl\n-2,NA,"a, b"\n1e3,2,\n'
    yield b"\xef\xbb\xbfx;y\r\n1;2\r\n\r\n3;4\r\n"
    yield b"0,1,2\n3,4,5\n"
    yield b"x\nant\n\nowl\n"


def mat4() -> Iterator[bytes]:
    from scipy.io import savemat
    from scipy.sparse import csc_array

    for variables in (
        {"x": X, "y": Y.astype(np.float64)},
        {"x": csc_array(X)},
        {"x": np.array(["owl", "eel"])},
        {"x": X + 1j},
    ):
        buffer = io.BytesIO()
        savemat(buffer, variables, format="4")
        yield buffer.getvalue()


def mat() -> Iterator[bytes]:
    from scipy.io import savemat
    from scipy.sparse import csc_array

    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = X, X[:2, :2]
    nested = np.empty((1, 1), object)
    nested[0, 0] = cells
    for variables in (
        {"x": X, "y": Y},
        {"x": np.tile(X.astype(np.float64), (8, 8))},
        {"x": cells},
        {"x": nested},
        {"x": csc_array(X)},
        {"x": csc_array(X > 5)},
        {"x": np.array(["owl", "sparrow"], object)},
        {"x": "owl", "y": np.array(["owl", "eel"])},
        {"x": {"field": X}, "y": X > 3},
        {"x": X + 1j},
    ):
        for compressed in (False, True):
            buffer = io.BytesIO()
            savemat(buffer, variables, do_compression=compressed)
            yield buffer.getvalue()


def mat73() -> Iterator[bytes]:
    import h5py

    for options in ({}, {"chunks": (2, 2), "compression": "gzip"}):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.mat")
            with h5py.File(path, "w", userblock_size=512) as file:
                file.create_dataset("y", data=X.T, **options)
                file["y"].attrs["MATLAB_class"] = np.bytes_("double")
                held = file.create_dataset("#refs#/a", data=X.T)
                text = file.create_dataset("#refs#/b", data=np.array([[111], [119]], np.uint16))
                text.attrs["MATLAB_class"] = np.bytes_("char")
                references = np.empty((2, 1), h5py.ref_dtype)
                references[0, 0], references[1, 0] = held.ref, text.ref
                file.create_dataset("x/field" if options else "x", data=references)
            content = bytearray(path.read_bytes())
        content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        yield bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.mat")
        with h5py.File(path, "w", userblock_size=512) as file:
            group = file.create_group("x")
            group.attrs["MATLAB_class"] = np.bytes_("double")
            group.attrs["MATLAB_sparse"] = np.uint64(3)
            for part, numbers in {"data": [1.5, 2], "ir": [0, 2], "jc": [0, 1, 2]}.items():
                group[part] = np.array(numbers, None if part == "data" else np.uint64)
            held = np.array([[3707764736, 2, 1, 1, 1, 1]], np.uint32)
            thing = file.create_dataset("y", data=held)
            thing.attrs["MATLAB_class"] = np.bytes_("string")
            thing.attrs["MATLAB_object_decode"] = np.int32(3)
        yield path.read_bytes()


def h5() -> Iterator[bytes]:
    import h5py

    for version in ("earliest", "latest"):
        for options in ({}, {"chunks": (2, 2), "compression": "gzip", "shuffle": True}):
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver=version) as file:
                file.create_dataset("group/x", data=X, **options)
                file["x"] = ["owl", "sparrow"]
                file["y"] = np.array([b"owl", b"sparrow"])
            yield buffer.getvalue()


def parquet() -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    fixed = pa.array(list(X), pa.list_(pa.float32(), 3))
    for table, options in (
        ({"x": list(X), "y": Y}, {}),
        ({"x": fixed, "y": ["a", None, "b", "a"]}, {"compression": "none"}),
        ({"x": X[:, 0], "y": Y > 1}, {"use_dictionary": False, "row_group_size": 3}),
        ({"x": X[:, 0], "y": ["a", "b", "b", "a"]}, {"compression": "gzip"}),
        ({"x": X[:, 0]}, {"compression": "zstd", "data_page_version": "2.0"}),
    ):
        buffer = io.BytesIO()
        write_table(pa.table(table), buffer, **options)
        yield buffer.getvalue()


def safetensors() -> Iterator[bytes]:
    import torch
    from safetensors.torch import save

    yield save({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)})
    yield save({"x": torch.from_numpy(X).bfloat16()})
    yield save({"x": torch.from_numpy(X).to(torch.float8_e4m3fn), "y": torch.ones(())})


def checkpoint() -> Iterator[bytes]:
    import torch

    from drcl.storage.sealed import pack

    yield pack({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, {"epoch": 7, "lr": [0.1]})


def manifest() -> Iterator[bytes]:
    yield b"""name = "birds"
classes = ["sparrow", "owl"]
validation_share = 0.5
seed = 3
[train.image]
features = "a.npz:x"
labels = "a.npz:y"
rows = "0:4"
[test.image]
features = "b.npy"
"""
    yield b"""classes = { 1 = "sparrow", 2 = "owl" }
train.image = { features = "a.npz:x", labels = "a.npz:y" }
validation.image = { features = "a.npz:x", labels = "a.npz:y", rows = "-2:" }
"""


def lists() -> Iterator[bytes]:
    yield b"text1\timage1\t1\ntext2\timage2\t10\n"


def model() -> Any:
    """A trained model of two modalities, as small as can be."""
    from drcl import DRCL

    settings = {"dim": 4, "hidden": (3,), "epochs": 1, "prior_epochs": 1, "device": "cpu"}
    pair = (X, Y)
    return DRCL(**settings).fit({"image": pair, "text": pair}, progress=False)


def config() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        model().save(folder)
        yield Path(folder, "config.json").read_bytes()


def run() -> Iterator[bytes]:
    from drcl import Config
    from drcl.run import AddedModality, Run
    from drcl.run.record import record_content

    added = {"song": AddedModality(("song.npy", "label.npy"), None, ("a.npz:x", "a.npz:y"))}
    settings = json.loads(json.dumps(Config(lr={"image": 1e-3}).to_dict()))
    entries = ("birds.toml", "data", ("owl", "eel"), settings, {"torch": "2"}, {"prior": 1.5})
    yield record_content(Run(*entries, added))


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "npy": npy,
    "npz": npz,
    "csv": csv,
    "mat": mat,
    "mat4": mat4,
    "mat73": mat73,
    "h5": h5,
    "parquet": parquet,
    "safetensors": safetensors,
    "checkpoint": checkpoint,
    "manifest": manifest,
    "lists": lists,
    "config": config,
    "run": run,
}
