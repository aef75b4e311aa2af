"""What all tests share: the seed, the tolerances, where real data lies."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DRCL_DATA", ROOT.parent / "shared" / "data"))

# How far two correct ways to compute the same thing may differ, per dtype: about 100 roundings of
# values around 1. A test that needs more has found something, or says why in its own place.
TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float16: {"rtol": 1e-2, "atol": 1e-3},
    torch.bfloat16: {"rtol": 5e-2, "atol": 1e-2},
}

# The first imports atheris and runs under it alone; the others change their process: another
# system, another device.
collect_ignore = ["fuzz_files/fuzz.py", "portable_scenario.py", "device_scenario.py"]

# Timings on a busy machine must not fail a property; CI repeats the same examples in every run.
settings.register_profile("drcl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("drcl")


def pytest_configure(config: pytest.Config) -> None:
    # What a script starts in the background ignores Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first: with short ones left to the end, all workers end at once.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    # A million objects of imports and tests stay to the end: no collection need go through them.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _device_memory_given_back() -> Iterator[None]:
    """Also what the allocator keeps for later: other workers share the card."""
    yield
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.fixture
def tolerance() -> Callable[[torch.dtype], dict[str, float]]:
    """``torch.testing.assert_close(ours, oracle, **tolerance(dtype))``."""
    return TOLERANCES.__getitem__


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; the test is skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip(
            f"no data folder at {DATA}: set DRCL_DATA to the folder with the real data sets"
        )
    return DATA
