"""What a search and an evaluation allocate, beside inputs and results, is within ``max_bytes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from drcl.backends import probe_native
from drcl.dispatch import use_backend
from drcl.metrics import nearest, retrieval_metrics

MIB = 2**20
NATIVE = probe_native()
PER_ITEM = 40  # bytes, which are not counted in max_bytes


def peak(work: Callable[[], Any]) -> tuple[int, Any]:
    """The most bytes of tensors that there were at a time beyond those before, and the result."""
    with profile(profile_memory=True) as found:
        result = work()
    events = [e for e in found.kineto_results.events() if e.name() == "[memory]"]
    used = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        used += event.nbytes()
        most = max(most, used)
    return most, result


def embeddings(count: int, width: int, form: str) -> Any:
    if form == "codes":
        return torch.randint(256, (count, width // 8), dtype=torch.uint8)
    x = torch.randn(count, width)
    if form == "chunks":
        return [part.half() for part in x.split(max(1, count // 3))]
    if form == "columns":
        return x.T.contiguous().T
    if form == "long":
        return x * 1e17
    return x.to(getattr(torch, form))


FORMS = ["float32", "float16", "float64", "long", "columns", "chunks", "codes"]


@pytest.fixture(params=["native", "eager"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and not NATIVE.available:
        pytest.skip(f"native: {NATIVE.reason}")
    return str(request.param)


def metrics_of(form: str) -> list[str]:
    return ["hamming"] if form == "codes" else ["dot", "cosine", "euclidean"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("queries", "items", "width"), [(100, 600, 2_048), (1, 20_000, 256)])
def test_a_search_takes_no_more_than_it_may(
    queries: int, items: int, width: int, form: str, backend: str
) -> None:
    query, gallery = embeddings(queries, width, form), embeddings(items, width, form)
    for metric in metrics_of(form):
        if form == "long" and metric == "euclidean":
            continue  # it has no such queries

        def search(metric: str = metric) -> Any:
            return nearest(query, gallery, 10, metric=metric, max_bytes=2 * MIB)

        with use_backend(backend):
            used, found = peak(search)
        used -= found.scores.nbytes + found.indices.nbytes + PER_ITEM * items
        assert used <= 2 * MIB, metric


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("queries", "items", "width"), [(100, 600, 2_048), (300, 8_000, 128)])
@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
def test_an_evaluation_takes_no_more_than_it_may(
    queries: int, items: int, width: int, form: str
) -> None:
    """Compiled: the profiler takes minutes for the many small steps of the other form."""
    query, gallery = embeddings(queries, width, form), embeddings(items, width, form)
    labels = torch.randint(9, (queries,)), torch.randint(9, (items,))
    some = labels[0], torch.where(torch.rand(items) < 0.1, -1, labels[1])
    for metric in metrics_of(form):
        if form == "long" and metric == "euclidean":
            continue
        for given, k in ((labels, None), (some, 10)):

            def evaluate(
                given: tuple[Tensor, Tensor] = given, k: int | None = k, metric: str = metric
            ) -> Any:
                return retrieval_metrics(
                    query, gallery, *given, metric=metric, ks=(k,), max_bytes=4 * MIB
                )

            with use_backend("native"):
                used, _ = peak(evaluate)
            assert used - 64 * queries - PER_ITEM * items <= 4 * MIB, (metric, k)


def test_the_result_is_there_once() -> None:
    """Its parts are not kept beside it."""
    used, found = peak(lambda: nearest(torch.randn(20_000, 4), torch.randn(300, 4), 200))
    result = found.scores.nbytes + found.indices.nbytes
    once, _ = peak(lambda: nearest(torch.randn(1024, 4), torch.randn(300, 4), 200))
    assert used < result + once + 2**22
