"""What the kernels' tests share: where they run, poisoned outputs, the accuracy rule."""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "no CUDA device; test_kernels_interpreted.py runs this file under Triton's interpreter",
        allow_module_level=True,
    )
pytest.importorskip("triton", reason="Triton is not installed")

if INTERPRETED:
    import quick_interpreter  # noqa: F401

on_gpu_only = pytest.mark.skipif(INTERPRETED, reason="too large for Triton's interpreter")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Every tensor a launcher allocates starts as NaN, so that what a kernel leaves out shows."""
    new_empty = torch.Tensor.new_empty

    def poison(self, *size, **options):
        tensor = new_empty(self, *size, **options)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.fill_(-(2**40))

    monkeypatch.setattr(torch.Tensor, "new_empty", poison)


def assert_as_exact(ours, literal, oracle, dtype=torch.float32):
    """No further from float64 than four times the literal float32 form, plus 1e-6, in norm.

    Results in a narrower dtype may add what rounding into it costs.
    """
    ours, literal = ours.double().cpu(), literal.double().cpu()
    rounding = 0.0 if dtype == torch.float32 else 0.5 * torch.finfo(dtype).eps
    assert ours.isfinite().all()
    allowed = 4 * (literal - oracle).norm() + (1e-6 + rounding) * oracle.norm()
    error = (ours - oracle).norm()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}, norm {oracle.norm():.3g}"
