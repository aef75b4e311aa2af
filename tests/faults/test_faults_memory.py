"""Memory that ends, on the host and (played) on a device: smaller pieces, or a size that fits."""

from __future__ import annotations

import contextlib
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fault_injection import in_child, refused
from torch import Tensor, nn

from drcl import DRCL, use_backend
from drcl.encoder import Encoder
from drcl.metrics import retrieval_metrics
from drcl.metrics.scores import Scorer
from drcl.out_of_memory import in_pieces, is_out_of_memory
from drcl.train.perceptron import Perceptron

REFUSALS = {
    "host, Python": lambda: MemoryError("Unable to allocate 7 GiB"),
    "host, PyTorch": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: …"),
    "device": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB."),
}


def test_out_of_memory_errors_of_allocators_are_recognized():
    for allocate in (np.empty, torch.empty, bytearray):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate(10**15)
        assert is_out_of_memory(caught.value), caught.value
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("fits", [1, 3, 7, 100])
def test_pieces_cover_everything_once_and_none_is_tiny(fits):
    asked = []

    def work(start: int, stop: int) -> range:
        asked.append(stop - start)
        if stop - start > fits:
            raise MemoryError
        return range(start, stop)

    found = list(in_pieces(work, 101, 64))
    assert [row for piece in found for row in piece] == list(range(101))
    sizes = [len(piece) for piece in found]
    assert max(sizes) <= fits and (fits > 64 or min(sizes) > fits / 4)


def test_one_row_too_large_for_memory_is_an_error():
    def work(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nand much more")

    with pytest.raises(
        MemoryError, match=r"^not even one row at a time fits: CUDA out of memory\.$"
    ):
        list(in_pieces(work, 10, 8))


def test_other_errors_are_not_tried_again():
    calls = []

    def work(start: int, stop: int) -> None:
        calls.append(start)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_pieces(work, 10, 8))
    assert calls == [0]


# --- evaluation


def sets(queries: int = 333, items: int = 1000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(queries + items, 24, generator=generator)
    labels = torch.randint(7, (queries + items,), generator=generator)
    return {
        "query": rows[:queries],
        "gallery": rows[queries:],
        "query_labels": labels[:queries],
        "gallery_labels": labels[queries:],
    }


def numbers(found: Any) -> list[Tensor]:
    curves = [found.interpolated, found.raw]
    measures = [value for value in vars(found).values() if isinstance(value, Tensor)]
    return [*measures, *(curve.precision for curve in curves)]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("backend", ["native", "eager"])
def test_ranking_takes_smaller_blocks_with_the_same_bits(monkeypatch, refusal, backend):
    options = {"ks": (5, None), "ndcg": True, "recall_levels": 5, **sets()}
    with use_backend(backend):
        whole = numbers(retrieval_metrics(**options))
        real, sizes = Scorer.block, []

        def block(scorer: Scorer, rows: Tensor) -> Tensor:
            if len(rows) > 20:
                raise REFUSALS[refusal]()
            sizes.append(len(rows))
            return real(scorer, rows)

        monkeypatch.setattr(Scorer, "block", block)
        found = numbers(retrieval_metrics(**options))
    assert max(sizes) <= 20 and sum(sizes) == 333
    assert all(torch.equal(ours, value) for ours, value in zip(found, whole, strict=True))


TAKEN: list[bytearray] = []


def memory_left(extra: int) -> None:
    """From here on this process may take so many bytes more, and what it had freed is taken."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for more in (0, extra):
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with contextlib.suppress(MemoryError):
            while more == 0:
                TAKEN.append(bytearray(2**20))


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the system does not tell how much is taken"
)


@needs_proc
def test_ranking_and_search_under_a_real_limit():
    options = sets(queries=400, items=8000)
    whole = retrieval_metrics(**options).average_precision
    model = DRCL(**{**tiny.SETTINGS, "epochs": 1, "prior_epochs": 1}).fit(
        tiny.split(), progress=False
    )
    queries, gallery = tiny.samples("image", 100)[0], tiny.samples("text", 8000)[0]
    nearest = model.search("image", queries, "text", gallery, k=3)

    def limited() -> None:
        memory_left(8 * 2**20)  # the scores alone take 12.8 MB
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(400, 8000)
        assert torch.equal(retrieval_metrics(**options).average_precision, whole)
        found = model.search("image", queries, "text", gallery, k=3)
        assert torch.equal(found.scores, nearest.scores)
        assert torch.equal(found.indices, nearest.indices)

    assert in_child(limited) == 0


class Narrow(nn.Module):
    """An encoder with memory for so many rows; a batch in training counts double."""

    def __init__(self, width: int, rows: int, refusal: str = "device") -> None:
        super().__init__()
        torch.manual_seed(width)
        self.encoder = Encoder(width, dim=16, hidden=(24,))
        self.rows, self.refusal = rows, refusal

    def forward(self, features: Tensor) -> Tensor:
        if len(features) * (2 if self.training else 1) > self.rows:
            raise REFUSALS[self.refusal]()
        return self.encoder(features)


def narrow(rows: int, refusal: str = "device") -> dict[str, nn.Module]:
    return {m: Narrow(tiny.WIDTHS[m], rows, refusal) for m in ("image", "text")}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_encoding_and_judging_take_smaller_chunks_with_the_same_bits(refusal):
    train, held_out = tiny.split(), tiny.split(seed=1, image=90, text=70)
    settings = {**tiny.SETTINGS, "epochs": 3, "prior_epochs": 2}
    models = [
        DRCL(networks=narrow(rows, refusal), **settings).fit(train, held_out, progress=False)
        for rows in (10_000, 32)
    ]
    whole, ours = [model.encode("image", held_out["image"][0]) for model in models]
    assert torch.equal(ours, whole)
    assert models[0].evaluate(held_out) == models[1].evaluate(held_out)
    losses = [[(r["loss"], r.get("validation_map")) for r in m.history] for m in models]
    assert losses[0] == losses[1]


def test_the_package_s_own_forward_pass_is_split_too(monkeypatch):
    train, held_out = tiny.split(), tiny.split(seed=1, image=90, text=70)
    settings = {**tiny.SETTINGS, "prior": "orthogonal"}
    whole = DRCL(**settings).fit(train, held_out, progress=False).history
    real = Perceptron.forward

    def forward(self: Perceptron, features: Tensor) -> Tensor:
        if len(features) > 16:  # the batch
            raise MemoryError
        return real(self, features)

    monkeypatch.setattr(Perceptron, "forward", forward)
    ours = DRCL(**settings).fit(train, held_out, progress=False).history
    assert [r["validation_map"] for r in ours] == [r["validation_map"] for r in whole]


# --- training


@pytest.mark.parametrize("refusal", REFUSALS)
def test_training_says_which_batch_size_fits(refusal):
    settings = {**tiny.SETTINGS, "batch_size": 32}
    with pytest.raises(MemoryError) as caught:
        DRCL(networks=narrow(20, refusal), **settings).fit(tiny.split(), progress=False)
    message = str(caught.value)
    assert message.startswith("prior image: out of memory on cpu with batch_size 32 (")
    assert message.endswith("; 8 fits") and "llocate" in message
    settings["batch_size"] = 8
    DRCL(networks=narrow(20, refusal), **settings).fit(tiny.split(), progress=False)


def test_training_says_when_no_batch_fits():
    with pytest.raises(MemoryError, match="not even one row fits: take a smaller network"):
        DRCL(networks=narrow(1), **tiny.SETTINGS).fit(tiny.split(), progress=False)


@contextlib.contextmanager
def little_memory_for(rows: int) -> Iterator[None]:
    real: Callable[[Perceptron, Tensor], Tensor] = Perceptron.forward

    def forward(self: Perceptron, features: Tensor) -> Tensor:
        if len(features) > rows:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return real(self, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Perceptron, "forward", forward)
        yield


def test_the_command_says_it_in_one_line(tmp_path):
    small = ["--dim=16", "--hidden=16", "--epochs=1", "--prior-epochs=1", "--batch-size=100"]
    with little_memory_for(30):
        message = refused("train", "synthetic", "--out", tmp_path / "run", "--no-progress", *small)
    assert message.startswith("prior image: out of memory on cpu with batch_size 100")
    assert message.endswith("; 25 fits\n") and message.count("\n") == 1


@needs_proc
def test_the_size_that_training_names_fits_a_real_limit():
    rng = np.random.default_rng(0)
    train = {"image": (rng.normal(size=(32768, 8)).astype(np.float32), np.arange(32768) % 3)}
    settings: dict[str, Any] = {**tiny.SETTINGS, "hidden": (2048,), "prior": "orthogonal"}
    settings |= {"epochs": 1}

    def fit(batch_size: int) -> None:
        DRCL(**{**settings, "batch_size": batch_size}).fit(train, progress=False)

    def limited() -> None:
        # A batch's hidden layer and its gradient take 16 KB a row: 512 MB. That is far above what
        # earlier tests in this process may have left in the heap.
        memory_left(192 * 2**20)
        with pytest.raises(MemoryError, match=r"batch_size 32768 \(.*; \d+ fits") as caught:
            fit(32768)
        size = int(str(caught.value).split("; ")[1].split()[0])
        assert 1024 <= size <= 16384
        del caught  # its frames hold what the failed training had made
        gc.collect()
        fit(size)

    assert in_child(limited) == 0
