"""Ops called from many threads, after a fork, in DataLoader workers and in spawned processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch

from drcl import DRCL, Encoder, backends
from drcl.metrics import average_precision
from drcl.ops import inner_products
from drcl.precision import product_precision

LIMIT = 300  # seconds, many times what a scenario takes: whatever needs more waits for ever


@pytest.mark.parametrize(
    "scenario",
    [
        "threads",
        "fork",
        "fork loader",
        pytest.param("spawn loader", marks=pytest.mark.long),
        pytest.param("spawn", marks=pytest.mark.long),
    ],
)
def test_every_op_gives_the_same_bits(scenario: str) -> None:
    script = Path(__file__).with_name("thread_scenarios.py")
    with subprocess.Popen(
        [sys.executable, script, scenario],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # with its workers, which may be what hangs
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{scenario}: not done after {LIMIT} s")
    assert process.returncode == 0, output


def test_threads_load_the_ops_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Torch sets the process's flags for opening libraries while it loads one, and sets them back:
    two that overlap would leave them changed."""
    inside, most = [], []

    def load_library(library: str) -> None:
        inside.append(library)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    (tmp_path / "_ops.so").touch()
    monkeypatch.setattr(backends, "_ops_library", lambda: tmp_path / "_ops.so")
    monkeypatch.setattr(torch.ops, "load_library", load_library)
    monkeypatch.setattr(backends, "_compiled", dict)
    load = backends.load_ops.__wrapped__  # not what is remembered of the first time
    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda _: (together.wait(), load())[1], range(8)))
    assert reasons == [""] * 8 and max(most) == 1


@pytest.fixture
def medium() -> Iterator[None]:
    """The user's precision of products, which is none that a ranking asks for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("medium")
def test_threads_rank_in_the_precision_that_each_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, found, product = threading.local(), [], torch.mm

    def mm(*arguments: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            found.append((asked.precision, torch.get_float32_matmul_precision()))
            time.sleep(0.005)
        return product(*arguments, out=out)

    def rank(precision: str) -> None:
        asked.precision = precision
        for _ in range(3):
            average_precision(x, x, torch.arange(4), torch.arange(4), precision=precision)

    x = torch.eye(4)
    # products of our own, which have one precision, are not by torch.mm
    monkeypatch.setattr(inner_products, "multiplies_panels", lambda: False)
    monkeypatch.setattr(torch, "mm", mm)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(rank, ["highest", "high"] * 4))
    assert set(found) == {("highest", "highest"), ("high", "high")}
    assert torch.get_float32_matmul_precision() == "medium"


def at_a_product(precision: str, entered: threading.Event, leave: threading.Event) -> str:
    with product_precision(precision):
        entered.set()
        assert leave.wait(LIMIT)
        return torch.get_float32_matmul_precision()


@pytest.mark.usefixtures("medium")
def test_the_last_thread_at_a_product_restores_the_precision() -> None:
    entered, left = threading.Event(), threading.Event()

    with ThreadPoolExecutor(1) as pool:
        with product_precision("highest"):
            during = pool.submit(at_a_product, "highest", entered, left)
            assert entered.wait(LIMIT)
        left.set()
        assert during.result() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("medium")
def test_a_relevance_function_may_rank_in_another_precision() -> None:
    x, found = torch.eye(4), []

    def relevance(rows: torch.Tensor) -> torch.Tensor:
        found.append(torch.get_float32_matmul_precision())
        average_precision(x, x, torch.arange(4), torch.arange(4), precision="high")
        return torch.eye(4).bool()[rows]

    def rank() -> None:
        average_precision(x, x, relevance=relevance, precision="highest")
        found.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=rank, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert found == ["medium", "medium"]


@pytest.mark.usefixtures("medium")
def test_a_fork_does_not_wait_for_the_products_of_other_threads() -> None:
    entered, forked = threading.Event(), threading.Event()

    with ThreadPoolExecutor(1) as pool:
        during = pool.submit(at_a_product, "high", entered, forked)
        assert entered.wait(LIMIT)
        if (child := os.fork()) == 0:
            signal.alarm(LIMIT)  # which ends it
            before = torch.get_float32_matmul_precision()
            with product_precision("highest"):
                inside = torch.get_float32_matmul_precision()
            after = torch.get_float32_matmul_precision()
            os._exit(0 if (before, inside, after) == ("medium", "highest", "medium") else 1)
        forked.set()
        during.result()
        assert os.waitpid(child, 0)[1] == 0


def test_models_trained_in_threads_are_those_trained_alone() -> None:
    """While others seed and draw from torch's global generator, which is one for the process."""
    train = tiny.split()

    def fit(seed: int) -> torch.Tensor:
        model = DRCL(**{**tiny.SETTINGS, "seed": seed}).fit(train, progress=False)
        return torch.cat([model.encode(name, train[name][0]) for name in train])

    alone = [fit(seed) for seed in range(4)]
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(fit, range(4)))
    finally:
        sys.setswitchinterval(0.005)
    assert [torch.equal(*pair) for pair in zip(together, alone, strict=True)] == [True] * 4


def test_an_encoder_draws_from_the_generator_it_is_given_alone() -> None:
    before = torch.get_rng_state()
    one, two = (
        Encoder(3, dim=2, hidden=(4,), generator=torch.Generator().manual_seed(9)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    default = Encoder(3, dim=2, hidden=(4,))
    torch.set_rng_state(before)
    for ours, again, same in zip(*(e.parameters() for e in (one, two, default)), strict=True):
        assert torch.equal(ours, again) and torch.equal(ours, same)
