"""Large blocks that are kept from one step to the next, and never shared by two tensors in use."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from drcl import Prior, functional, kept_memory, use_backend

B, D, C = 40, 24, 3


@pytest.fixture(autouse=True)
def _small_blocks_are_large(monkeypatch):
    monkeypatch.setattr(kept_memory, "HEAP", 1)
    kept_memory.release()
    yield
    kept_memory.release()


def step(x: Tensor, prior: Prior, *, mixed: bool = False) -> Tensor:
    order = torch.arange(B).flip(0) if mixed else None
    parts = functional.reversible_consistency_loss(
        x, torch.arange(B) % C, prior, lam=0.7 if mixed else 1.0, permutation=order
    )
    return torch.autograd.grad(parts.total, x)[0]


def test_memory_is_used_again_once_nothing_holds_it():
    first = kept_memory.new(torch.zeros(1), 4, 5)
    place, part = first.data_ptr(), first[1:]
    assert place % 64 == 0 and first.shape == (4, 5) and first.is_contiguous()
    del first
    assert kept_memory.new(torch.zeros(1), 4, 5).data_ptr() != place  # a view still reads it
    del part
    assert kept_memory.new(torch.zeros(1), 10, 2).data_ptr() == place
    assert kept_memory.new(torch.zeros(1), 4, 6).data_ptr() != place
    assert kept_memory.new(torch.zeros(1, dtype=torch.float64), 2, 5).dtype == torch.float64


@pytest.mark.parametrize("holder", ["numpy", "detached", "storage", "dlpack"])
def test_whatever_reads_the_memory_holds_it(holder):
    one = kept_memory.new(torch.zeros(1), 4, 5).fill_(7.0)
    held = {
        "numpy": one.numpy,
        "detached": one.detach,
        "storage": one.untyped_storage,
        "dlpack": functools.partial(np.from_dlpack, one),
    }[holder]()
    place = one.data_ptr()
    del one
    assert kept_memory.new(torch.zeros(1), 4, 5).data_ptr() != place
    del held
    assert kept_memory.new(torch.zeros(1), 4, 5).data_ptr() == place


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("rows", ["more than columns", "fewer"])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_that_a_caller_keeps_are_left_alone(backend, rows, mixed, monkeypatch):
    from drcl.native import reversible_consistency as native

    monkeypatch.setattr(native, "is_small", lambda *_: False)  # in stages, not at once
    width = D if rows == "more than columns" else 2 * B
    prior = Prior.orthogonal(dim=width, classes=C)
    batches = [torch.randn(B, width, requires_grad=True) for _ in range(5)]
    with monkeypatch.context() as as_before, use_backend(backend):
        as_before.setattr(kept_memory, "HEAP", 2**40)
        expected = [step(x, prior, mixed=mixed) for x in batches]
        as_before.setattr(kept_memory, "HEAP", 1)
        kept = [step(x, prior, mixed=mixed) for x in batches]
        assert all(map(torch.equal, kept, expected))
        for x, right in zip(batches, expected, strict=True):  # now in memory used before
            assert torch.equal(step(x, prior, mixed=mixed), right)
        assert all(map(torch.equal, kept, expected))


def test_a_retained_graph_keeps_what_it_saved():
    prior, x = Prior.orthogonal(dim=D, classes=C), torch.randn(B, D, requires_grad=True)
    total = functional.reversible_consistency_loss(x, torch.arange(B) % C, prior).total
    (first,) = torch.autograd.grad(total, x, retain_graph=True)
    for _ in range(5):
        step(torch.randn(B, D, requires_grad=True), prior)
    assert torch.equal(torch.autograd.grad(total, x)[0], first)


def test_threads_at_once_get_memory_of_their_own():
    wrong = []

    def work(value: float) -> None:
        for _ in range(300):
            own = kept_memory.new(torch.zeros(1), 64, 64).fill_(value)
            if not bool((own == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_more_than_four_blocks_are_kept_and_none_after_release():
    held = [kept_memory.new(torch.zeros(1), 3, size) for size in range(1, 9)]
    assert len(kept_memory._blocks) == kept_memory.KEPT == 4
    held[0].fill_(1.0)
    kept_memory.release()
    assert not kept_memory._blocks and held[0].sum() == 3.0


def test_a_refusal_gives_back_what_is_kept_and_is_pytorch_s_error():
    kept_memory.new(torch.zeros(1), 2, 2)
    with pytest.raises(RuntimeError, match="memory"):
        kept_memory.new(torch.zeros(1), 2**30, 2**30)
    assert not kept_memory._blocks


def test_other_dtypes_and_tensors_of_other_kinds_are_new_as_ever():
    class Own(Tensor):
        pass

    assert kept_memory.new(torch.zeros(1, dtype=torch.bfloat16), 2).dtype == torch.bfloat16
    assert type(kept_memory.new(torch.zeros(1).as_subclass(Own), 2)) is Own
    assert not kept_memory._blocks
