"""What test_threads.py runs in processes of their own, so that a deadlock there ends with a limit.

    python tests/thread_scenarios.py SCENARIO

Exits with 0 when every op gave, everywhere, the bits that it gives alone in one thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn as spawn_processes
from torch.utils.data import DataLoader, Dataset

THREADS = 8
Results = dict[str, list[Tensor]]


def every_op() -> Results:
    """Values and gradients of every op, on inputs that are always the same."""
    from drcl import Prior, functional, metrics, use_backend

    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    prior = Prior.orthogonal(dim=24, classes=6)
    ids = torch.arange(90) % 6
    order = torch.randperm(90, generator=draw)
    scores, relevant = normal(40, 3000).mul(9).round(), normal(40, 3000) > 1
    found: Results = {}

    for rows in (90, 20):  # more and fewer rows than columns: D×D and B×B matrices
        x = torch.nn.functional.normalize(normal(rows, 24)).requires_grad_()
        swap = order[order < rows]
        loss = functional.reversible_consistency_loss(
            x, ids[:rows], prior, q=0.5, lam=0.9, permutation=swap
        )
        loss.total.backward()
        assert x.grad is not None
        found[f"reversible_consistency {rows}"] = [*map(Tensor.detach, loss), x.grad]

    x, w = normal(90, 24).requires_grad_(), normal(24, 6).requires_grad_()
    similarity = functional.prior_similarity(x, w, ids, q=0.5)
    assert similarity.loss is not None
    similarity.loss.backward()
    assert x.grad is not None and w.grad is not None
    found["prior_similarity"] = [similarity.probabilities.detach(), x.grad, w.grad]

    logits = normal(90, 6).requires_grad_()
    functional.generalized_cross_entropy(logits, ids, q=0.3).backward()
    assert logits.grad is not None
    found["generalized_cross_entropy"] = [logits.grad]

    x = normal(90, 24).requires_grad_()
    mixed, targets = functional.mixup(x, ids, classes=6, permutation=order)
    mixed.square().sum().backward()
    assert x.grad is not None
    found["mixup"] = [mixed.detach(), targets, x.grad]

    for backend in backends():
        with use_backend(backend):
            value = functional.average_precision(scores, relevant, k=50)
            tied = functional.average_precision(scores[:4], relevant[:4], ties="average")
            table = metrics.retrieval_metrics(
                normal(30, 8), normal(500, 8), ids[:30], torch.arange(500) % 6, ks=(10, None)
            )
        found[f"average_precision {backend}"] = [value, tied, table.average_precision]
    return found


def backends() -> list[str]:
    from drcl.backends import probe_native

    return ["native", "eager"] if probe_native().available else ["eager"]


def assert_same(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        for ours, theirs in zip(found[name], tensors, strict=True):
            assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7)), name


def at_once(work: Callable[[int], object]) -> None:
    """``work(i)`` in THREADS threads that start together; an exception in one is raised here."""
    together = threading.Barrier(THREADS)

    def run(i: int) -> None:
        together.wait()
        work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


def threads() -> None:
    """The first import and the first use of everything by many threads at once; then once more."""
    assert "drcl" not in sys.modules
    sys.setswitchinterval(1e-5)
    found: list[Results] = [{}] * THREADS

    def first(i: int) -> None:
        found[i] = every_op()

    at_once(first)
    expected = every_op()
    for mine in found:
        assert_same(mine, expected)

    from drcl import functional, use_backend
    from drcl.dispatch import choose

    cpu = torch.device("cpu")
    with use_backend("eager"):
        eager = every_op()
    apart = threading.Barrier(THREADS)

    def own_backend(i: int) -> None:
        assert choose("mixup", cpu) == "eager"  # not that of the thread which started this one
        name = ("reference", "eager")[i % 2]
        with use_backend(name):
            apart.wait()
            assert choose("mixup", cpu) == name
            if name == "eager":
                assert_same(every_op(), eager)
            apart.wait()
            assert choose("mixup", cpu) == name

    with use_backend("reference"):
        at_once(own_backend)
        assert choose("mixup", cpu) == "reference"

    # A graph made here, gone through backwards elsewhere, with the backend of the forward pass.
    x = torch.randn(90, 24, requires_grad=True)
    order = torch.randperm(90)
    mixed, _ = functional.mixup(x, torch.arange(90) % 6, classes=6, permutation=order)
    (here,) = torch.autograd.grad(mixed.square().sum(), x, retain_graph=True)
    thread = threading.Thread(target=lambda: mixed.square().sum().backward())
    thread.start()
    thread.join()
    assert x.grad is not None and torch.equal(x.grad, here)


def after_use() -> Results:
    """What every op gives in one thread; then OpenMP has threads, which a fork does not take on."""
    torch.set_num_threads(1)
    expected = every_op()
    torch.set_num_threads(2)
    every_op()
    large = torch.randn(2000, 2000)  # surely divided among threads, in the child as well
    assert bool((large + large == 2 * large).all())
    return expected


def fork() -> None:
    """Forks of a process that has used the ops, from its main thread and from another."""
    expected = after_use()

    def child() -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert bool((torch.ones(2000, 2000) + 1 == 2).all())
                assert_same(every_op(), expected)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    child()
    with ThreadPoolExecutor(1) as another:
        another.submit(child).result()
    child()
    assert torch.get_num_threads() == 2  # the parent keeps its own


class EveryOp(Dataset[Results]):
    """A data set whose samples are computed by the ops."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Results:
        return every_op()


def loader(method: str) -> None:
    expected = after_use()
    samples = DataLoader(EveryOp(), batch_size=None, num_workers=2, multiprocessing_context=method)
    seen = 0
    for found in samples:
        assert_same(found, expected)
        seen += 1
    assert seen == 4


def check_against(_: int, expected: Results) -> None:
    torch.set_num_threads(1)
    assert_same(every_op(), expected)


def spawn() -> None:
    spawn_processes(check_against, args=(after_use(),), nprocs=2)


SCENARIOS: dict[str, Callable[[], None]] = {
    "threads": threads,
    "fork": fork,
    "fork loader": lambda: loader("fork"),
    "spawn loader": lambda: loader("spawn"),
    "spawn": spawn,
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
