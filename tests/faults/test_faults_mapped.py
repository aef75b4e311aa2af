"""Features on a disk, in a file that becomes shorter or vanishes while it is trained on."""

from __future__ import annotations

import ctypes
import faulthandler
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from fault_injection import in_child

from drcl import DRCL, metrics
from drcl.storage import mmap as pages
from drcl.storage.mmap import MappedRows, read_rows

ROWS = 4000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", tiny.samples("image", ROWS)[0])
    return tmp_path / "x.npy"


def fit(features: np.ndarray, **options) -> DRCL:
    settings = {**tiny.SETTINGS, "epochs": 3, "prior": "orthogonal", "batch_size": 500}
    train = {"image": (features, tiny.samples("image", ROWS)[1])}
    return DRCL(**settings).fit(train, progress=False, **options)


needs_call = pytest.mark.skipif(
    pages._copy is None, reason="the system has no process_vm_readv: such files kill the process"
)


@needs_call
def test_a_file_that_becomes_shorter_is_an_error_that_names_it(file, monkeypatch):
    features, read = np.load(file, mmap_mode="r"), []
    real = MappedRows.__getitem__

    def shortened(rows: MappedRows, wanted):
        read.append(wanted)
        if len(read) == 12:  # in the second epoch
            os.truncate(file, 40_000)
        return real(rows, wanted)

    monkeypatch.setattr(MappedRows, "__getitem__", shortened)

    def train() -> None:
        with pytest.raises(OSError, match=r"x\.npy: the mapped file has become shorter"):
            fit(features)
        assert len(read) >= 12

    assert in_child(train) == 0  # and not −SIGBUS


@needs_call
def test_without_the_system_s_call_reading_a_truncated_file_kills_the_process(file, monkeypatch):
    features = np.load(file, mmap_mode="r")
    os.truncate(file, 40_000)

    def read() -> None:
        for rows in (slice(ROWS - 5, ROWS), np.array([0, ROWS - 1])):
            with pytest.raises(OSError, match="has become shorter"):
                read_rows(features, rows)

    assert in_child(read) == 0
    monkeypatch.setattr(pages, "_copy", None)

    def end() -> None:
        faulthandler.disable()  # it would tell pytest's whole stack
        read_rows(features, slice(ROWS - 5, ROWS))

    assert in_child(end) < 0


def test_a_few_bytes_less_are_not_read_as_zeros(file):
    features = np.load(file, mmap_mode="r")
    os.truncate(file, file.stat().st_size - 4)  # their page is there, and the system fills it up
    assert features[-1, -1] == 0
    with pytest.raises(OSError, match=r"x\.npy: the mapped file has become shorter"):
        MappedRows(features)[:1]


def test_a_file_that_is_unlinked_is_read_to_the_end(file):
    features = np.load(file, mmap_mode="r")
    whole = fit(features).history[-1]["loss"]
    file.unlink()
    assert fit(features).history[-1]["loss"] == whole


def test_a_file_that_is_replaced_is_not_looked_at(file):
    features = np.load(file, mmap_mode="r")
    whole = fit(features).history[-1]["loss"]
    np.save(file.with_name("y.npy"), np.zeros((ROWS, 8), np.float32))
    os.replace(file.with_name("y.npy"), file)
    assert fit(features).history[-1]["loss"] == whole


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(
    "view",
    ["rows", "reversed", "every third", "columns", "transposed", "big endian", "cube", "no rows"],
)
def test_rows_of_any_view_are_read_as_numpy_reads_them(tmp_path, monkeypatch, view, allowed):
    if not allowed:  # as in a sandbox that forbids the call
        monkeypatch.setattr(pages, "_filled", lambda *_: False)
    order = ">f8" if view == "big endian" else "<f4"
    np.save(tmp_path / "x.npy", np.arange(3000 * 6).reshape(3000, 6).astype(order))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    array = {
        "reversed": mapped[::-1],
        "every third": mapped[1::3],
        "columns": mapped[:, 1:3],
        "transposed": mapped.T,
        "cube": mapped.reshape(3000, 2, 3),
        "no rows": mapped[:0],
    }.get(view, mapped)
    draw = np.random.default_rng(0)
    count = len(array)
    wanted = [slice(0, count), slice(count // 3, count // 2), slice(1, count, 2), slice(5, 5)]
    wanted += [draw.integers(0, max(count, 1), size=size if count else 0) for size in (0, 1, 2500)]
    for rows in wanted:
        found = read_rows(array, rows)
        np.testing.assert_array_equal(found, array[rows])
        assert found.dtype == array.dtype and not np.shares_memory(found, mapped)


@needs_call
@pytest.mark.parametrize("most", [24, 1000, 24 * 1500])
def test_the_system_may_copy_less_in_one_call_than_was_asked_for(tmp_path, monkeypatch, most):
    """At most 2 GiB on Linux, whatever is asked for."""
    np.save(tmp_path / "x.npy", np.arange(3000 * 6).reshape(3000, 6).astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    real, calls = pages._copy, []

    def copy(process, target, targets, *sources_and_flags):
        place, size = np.ctypeslib.as_array((ctypes.c_int64 * 2).from_address(target))
        calls.append(size)
        less = np.array([place, min(size, most)])
        return real(process, less.ctypes.data, targets, *sources_and_flags)

    monkeypatch.setattr(pages, "_copy", copy)
    some = np.random.default_rng(0).permutation(3000)[:500]
    for rows in (slice(0, 3000), slice(7, 2000, 3), some):
        np.testing.assert_array_equal(read_rows(mapped, rows), mapped[rows])
    assert len(calls) > 3


@pytest.mark.parametrize("side", ["query", "gallery"])
@pytest.mark.parametrize("fits", [True, False])
def test_the_metrics_refuse_a_mapped_file_that_has_become_shorter(file, side, fits):
    """Before anything is read, and in the middle: the second block of queries finds it shorter."""
    features, labels = np.load(file, mmap_mode="r"), np.arange(ROWS) % 3
    memory = 2**28 if fits else 2**20  # whether the gallery is read once or once a block
    given = {"query": np.array(features), "gallery": np.array(features), side: features}
    blocks = []

    def relevance(rows: torch.Tensor) -> torch.Tensor:
        if blocks:
            os.truncate(file, 40_000)
        blocks.append(len(rows))
        return torch.from_numpy(labels)[rows][:, None] == torch.from_numpy(labels)

    def measure() -> None:
        for place in ("in the middle", "at the start"):
            with pytest.raises(OSError, match=r"x\.npy: the mapped file has become shorter"):
                metrics.retrieval_metrics(**given, relevance=relevance, max_bytes=memory)
            assert len(blocks) > 1, place

    assert in_child(measure) == 0  # and not −SIGBUS
